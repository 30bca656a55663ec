// A collaborative text: the one text of a Yjs document, for any number of editors that exchange updates in any order.
// Positions and lengths are in UTF-16 units, as JavaScript's own. An embed of another editor is one unit, a formatting
// mark none. Formatting and other types are kept and passed on, but not edited. No DOM, no network, no clock.
//
// Absent on purpose: making embeds, formats, and other types; passing on updates that still wait for others (whoever
// sent them has them). Known cost: N concurrent inserts at one same place take N² steps in the worst case, as in Yjs.
import { Change, Items } from "./text-items.js";
import { Item, Kind, isHighSurrogate, sliceContent } from "./text-item.js";
import { Places } from "./text-places.js";
import { Ranges, decodeStateVector, decodeUpdate, encodeStateVector } from "./text-update.js";
import { Waiting } from "./text-waiting.js";

export { BrokenBytes } from "./text-bytes.js";

/// Stands for an embed in the texts of deltas, so that their lengths are right.
export const EMBED = "\uFFFC";

const utf8 = new TextEncoder();
const fromUtf8 = new TextDecoder("utf-8", { ignoreBOM: true });

export class Text {
  #root;
  #client;
  #items = new Items();
  #branch;
  #waiting = new Waiting();
  #listeners = new Set();

  /// `root` is the name of the text in the document. A `client` that has been used before with this document breaks it.
  constructor({ root = "text", client = randomClient() } = {}) {
    this.#root = root;
    this.#client = client;
    this.#branch = this.#items.root(root);
    this.#branch.places = new Places();
  }

  get client() {
    return this.#client;
  }

  get length() {
    return this.#branch.places.length;
  }

  /// The text without its embeds, as Yjs gives it; or with `embed` for each of them.
  toString(embed = "") {
    let text = "";
    for (let item = this.#branch.start; item !== null; item = item.right) {
      if (item.visible > 0) text += shown(item, embed);
    }
    return text;
  }

  /// Calls `listener` after every change with `{ update, delta, local, origin }`: the update's bytes, what happened to the
  /// text as `[{ retain }, { insert }, { delete }]`, and the `origin` that the change was made with. A local one also has
  /// what `revert` takes. An update that leaves the text as it is tells nobody. Returns a function that ends it.
  subscribe(listener) {
    this.#listeners.add(listener);
    return () => this.#listeners.delete(listener);
  }

  // ---- Editing ----

  insert(index, string, origin = null) {
    this.replace(index, 0, string, origin);
  }

  delete(index, length, origin = null) {
    this.replace(index, length, "", origin);
  }

  /// Replaces `length` units at `index`, as one edit. Surrogate pairs stay whole: a position within one means the pair.
  replace(index, length, string, origin = null) {
    if (!Number.isInteger(index) || !Number.isInteger(length) || index < 0 || length < 0 || index + length > this.length) {
      throw new RangeError(`There is no range of ${length} at ${index} in a text of ${this.length}.`);
    }
    const begin = this.#isWithinPair(index) ? index - 1 : index;
    const end = length === 0 ? begin : index + length + (this.#isWithinPair(index + length) ? 1 : 0);
    const text = wellFormed(string);
    if (end === begin && text === "") return;
    this.#edit(origin, (change) => {
      let left = this.#leftOf(begin, change);
      this.#deleteAfter(left, end - begin, change);
      if (text === "") return;
      // Behind what is deleted, as Yjs does it: what is typed and deleted by turns then stays in order and merges well.
      for (let next = this.#after(left); next?.deleted; next = next.right) left = next;
      this.#insertAfter(left, { kind: Kind.STRING, text }, text.length, change);
    });
  }

  /// Takes back a local change, given what was inserted and deleted by it: deletes the one and inserts the other again,
  /// wherever the places are by now. Returns what this inserted and deleted in turn, so that it can be taken back, and as
  /// `moved` which units were inserted anew: `[{ client, clock, length, to: clock }]`.
  revert({ inserted, deleted }, origin = null) {
    const moved = [];
    const done = this.#edit(origin, (change) => {
      const ranges = new Ranges();
      for (const { client, clock, length } of inserted) ranges.add(client, clock, length);
      this.#items.deleteRanges(ranges, new Ranges(), change);
      for (const run of deleted) moved.push(...this.#insertAgain(run, change));
    });
    return { ...done, moved };
  }

  #edit(origin, act) {
    const change = new Change();
    const known = this.#items.stateVector();
    const clock = this.#items.state(this.#client);
    act(change);
    const delta = this.#delta(change);
    const isOfText = (item) => item.parent === this.#branch && item.sub === null;
    const deleted = change.deleted.filter(isOfText).map(({ client, clock, length, content }) => ({ client, clock, length, content }));
    this.#items.settle(change);
    const length = this.#items.state(this.#client) - clock;
    const done = { inserted: length > 0 ? [{ client: this.#client, clock, length }] : [], deleted };
    if (delta.length > 0) this.#tell({ update: this.#items.encode(known, change.deletes), delta, local: true, origin, ...done });
    return done;
  }

  /// The item that ends right before an index, or null.
  #leftOf(index, change) {
    const found = this.#branch.places.before(index);
    return found && this.#items.endingAt({ client: found.item.client, clock: found.item.clock + found.offset - 1 }, change);
  }

  #after(left) {
    return left === null ? this.#branch.start : left.right;
  }

  #deleteAfter(left, length, change) {
    let item = this.#after(left);
    for (; length > 0; item = item.right) {
      if (item.visible === 0) continue;
      if (item.length > length) this.#items.endingAt({ client: item.client, clock: item.clock + length - 1 }, change);
      length -= item.length;
      this.#items.delete(item, change);
    }
  }

  #insertAfter(left, content, length, change) {
    const right = this.#after(left);
    const origin = left && { client: left.client, clock: left.end - 1 };
    const rightOrigin = right && { client: right.client, clock: right.clock };
    const clock = this.#items.state(this.#client);
    this.#items.place(new Item(this.#client, clock, length, content, origin, rightOrigin, this.#root, null), change);
    return clock;
  }

  /// Inserts deleted units again, each run of them behind what is left of it. Others may have inserted in between.
  #insertAgain({ client, clock, length, content }, change) {
    // A shared type is more than its content.
    if (content.kind === Kind.TYPE || content.kind === Kind.DOC) return [];
    const rests = [...this.#items.range(client, clock, length)].filter((item) => !item.isGone);
    const runs = rests.map((item) => ({ from: Math.max(item.clock, clock), to: Math.min(item.end, clock + length) }));
    return runs.map(({ from, to }) => {
      const left = this.#items.endingAt({ client, clock: to - 1 }, change);
      const part = sliceContent(content, length, from - clock, to - clock);
      return { client, clock: from, length: to - from, to: this.#insertAfter(left, part, to - from, change) };
    });
  }

  #isWithinPair(index) {
    const found = this.#branch.places.before(index);
    if (found === null || found.item.content.kind !== Kind.STRING) return false;
    return isHighSurrogate(found.item.content.text.charCodeAt(found.offset - 1));
  }

  // ---- Exchanging ----

  /// Takes in an update of another document. What depends on updates not seen yet waits for them. Throws `BrokenBytes`,
  /// having changed nothing, if it is not a whole update.
  applyUpdate(bytes, origin = null) {
    const update = decodeUpdate(bytes);
    const change = new Change();
    const own = this.#items.state(this.#client);
    this.#waiting.take(update, bytes.length, this.#items, change);
    const delta = this.#delta(change);
    this.#items.settle(change);
    // Somebody else writes under this id, so that its next clocks may be taken.
    if (this.#items.state(this.#client) > own) this.#client = randomClient();
    if (delta.length > 0) this.#tell({ update: bytes, delta, local: false, origin });
  }

  /// Whether updates wait for others, which may have to be asked for.
  get isWaiting() {
    return !this.#waiting.isEmpty;
  }

  encodeStateVector() {
    return encodeStateVector(this.#items.stateVector());
  }

  /// The update with all that a holder of the encoded state vector lacks; with everything if none is given.
  encodeStateAsUpdate(stateVector = null) {
    return this.#items.encode(stateVector === null ? new Map() : decodeStateVector(stateVector));
  }

  // ---- Positions that move with the text ----

  /// A position that stays with the unit after it, or before it if `assoc` is negative, in the form of Yjs in JSON.
  relativePosition(index, assoc = 0) {
    if (!(index >= 0 && index <= this.length)) throw new RangeError(`There is no position ${index} in a text of ${this.length}.`);
    const position = { type: null, tname: this.#root, item: null, assoc };
    const unit = assoc < 0 ? index : index + 1;
    if (unit === 0 || unit > this.length) return position;
    const { item, offset } = this.#branch.places.before(unit);
    return { ...position, item: { client: item.client, clock: item.clock + offset - 1 } };
  }

  /// The index of a relative position, or null if it is none in this text (or of text that has not come yet).
  resolvePosition(position) {
    const { tname, item: id, assoc = 0 } = position ?? {};
    if (!isId(id)) {
      if (tname !== this.#root) return null;
      return assoc < 0 ? 0 : this.length;
    }
    if (id.clock >= this.#items.state(id.client)) return null;
    const item = this.#items.at(id);
    if (item.parent !== this.#branch || item.sub !== null) return null;
    const { index } = this.#branch.places.of(item);
    return item.visible === 0 ? index : index + (id.clock - item.clock) + (assoc < 0 ? 1 : 0);
  }

  // ---- Telling ----

  #delta(change) {
    const { places } = this.#branch;
    const parts = change.text
      .filter((item) => item.change === "delete" ? item.units > 0 : item.change === "insert" && item.visible > 0)
      .map((item) => ({ item, ...places.of(item) }))
      .sort((a, b) => a.order - b.order);
    const delta = [];
    let at = 0;
    for (const { item, index } of parts) {
      if (index > at) delta.push({ retain: index - at });
      at = index;
      const last = delta[delta.length - 1];
      if (item.change === "delete") {
        if (last?.delete) last.delete += item.length;
        else delta.push({ delete: item.length });
        continue;
      }
      if (last?.insert) last.insert += shown(item, EMBED);
      else delta.push({ insert: shown(item, EMBED) });
      at += item.length;
    }
    return delta;
  }

  #tell(event) {
    for (const listener of [...this.#listeners]) listener(event);
  }
}

/// A fresh client id. Yjs has 32 bits of them.
export function randomClient() {
  return crypto.getRandomValues(new Uint32Array(1))[0];
}

function shown(item, embed) {
  return item.content.kind === Kind.STRING ? item.content.text : embed.repeat(item.length);
}

const isId = (id) => Number.isSafeInteger(id?.client) && Number.isSafeInteger(id?.clock) && id.client >= 0 && id.clock >= 0;

/// A lone half of a surrogate pair cannot be encoded: it is replaced here, as it would be on the way to others.
function wellFormed(string) {
  return /\p{Surrogate}/u.test(string) ? fromUtf8.decode(utf8.encode(string)) : string;
}
