// The documents that the pool has seen in no live query: whether each was there. Pure.

/// So many are remembered; the one that was seen longest ago is forgotten first.
const SIGHTINGS_MAX = 10_000;

export class Sightings {
  #there = new Set();

  note(collection, id, isThere) {
    const key = `${collection}/${id}`;
    this.#there.delete(key);
    if (isThere) this.#there.add(key);
    if (this.#there.size > SIGHTINGS_MAX) this.#there.delete(this.#there.values().next().value);
  }

  /// What a write has made of its documents.
  learn(commands) {
    for (const [kind, { collection, id }] of commands.map((command) => Object.entries(command)[0])) this.note(collection, id, kind !== "delete");
  }

  /// The document as `overlaid` takes it, without its value; null if it was not seen, or not there.
  of(collection, id) {
    return this.#there.has(`${collection}/${id}`) ? { collection, id, stamp: "0@", version: undefined, value: null } : null;
  }
}
