// Undo and redo of the edits made here. Others' edits in between stay: what is taken back are the very units that were
// inserted and deleted, wherever they are by now. Holds ids and deleted text, and no copy of the whole text.

const ENTRIES_MAX = 500;
/// Of deleted text that is held to be inserted again, over all entries.
const UNITS_MAX = 4_000_000;
/// Beyond this the oldest edits undo less exactly: what has been deleted and brought back stays.
const MOVED_MAX = 5000;

export class Undo {
  #text;
  #groupMs;
  #now;
  #undone = [];
  #done = [];
  #moved = [];
  /// How many deleted units the entries hold.
  #held = 0;
  #editedAt = -Infinity;
  #end;

  /// Edits that follow each other within `groupMs` are undone together.
  constructor(text, { groupMs = 500, now = () => performance.now() } = {}) {
    this.#text = text;
    this.#groupMs = groupMs;
    this.#now = now;
    this.#end = text.subscribe((event) => {
      if (event.local && event.origin !== this) this.#record(event);
    });
  }

  get canUndo() {
    return this.#done.length > 0;
  }

  get canRedo() {
    return this.#undone.length > 0;
  }

  undo() {
    return this.#revertLast(this.#done, this.#undone);
  }

  redo() {
    return this.#revertLast(this.#undone, this.#done);
  }

  /// The next edit begins a group of its own.
  separate() {
    this.#editedAt = -Infinity;
  }

  destroy() {
    this.#end();
    this.#done = [];
    this.#undone = [];
    this.#moved = [];
    this.#held = 0;
  }

  #record({ inserted, deleted }) {
    const now = this.#now();
    const isGrouped = now - this.#editedAt < this.#groupMs && this.#done.length > 0;
    this.#editedAt = now;
    for (const dropped of this.#undone) this.#held -= unitsOf(dropped.deleted);
    this.#undone = [];
    const entry = isGrouped ? this.#done.pop() : { inserted: [], deleted: [] };
    for (const { client, clock, length } of inserted) {
      const last = entry.inserted[entry.inserted.length - 1];
      if (last?.client === client && last.clock + last.length === clock) last.length += length;
      else entry.inserted.push({ client, clock, length });
    }
    // What came and went within one group is nothing to bring back.
    const lasting = deleted.filter((run) => !entry.inserted.some((range) => holds(range, run)));
    entry.deleted.push(...lasting);
    this.#held += unitsOf(lasting);
    this.#done.push(entry);
    this.#bound();
  }

  /// Says whether anything changed. An entry of which nothing is left, since others deleted it, is passed over.
  #revertLast(from, to) {
    this.separate();
    while (from.length > 0) {
      const entry = from.pop();
      this.#held -= unitsOf(entry.deleted);
      const { inserted, deleted, moved } = this.#text.revert({ ...entry, inserted: this.#withMoved(entry.inserted) }, this);
      this.#moved.push(...moved);
      if (inserted.length === 0 && deleted.length === 0) continue;
      to.push({ inserted, deleted });
      this.#held += unitsOf(deleted);
      this.#bound();
      return true;
    }
    return false;
  }

  /// The ranges, and those in which their units were brought back after a deletion had been undone.
  #withMoved(ranges) {
    const all = [...ranges];
    for (let next = 0; next < all.length; next++) {
      for (const { client, clock, length, to } of this.#moved) {
        const begin = Math.max(clock, all[next].clock);
        const end = Math.min(clock + length, all[next].clock + all[next].length);
        if (client === all[next].client && begin < end) all.push({ client: this.#text.client, clock: to + begin - clock, length: end - begin });
      }
    }
    return all;
  }

  #bound() {
    while (this.#done.length > ENTRIES_MAX || (this.#held > UNITS_MAX && this.#done.length > 0)) this.#held -= unitsOf(this.#done.shift().deleted);
    if (this.#moved.length > MOVED_MAX) this.#moved.splice(0, this.#moved.length - MOVED_MAX);
  }
}

const unitsOf = (runs) => runs.reduce((sum, { length }) => sum + length, 0);
const holds = (range, run) => range.client === run.client && range.clock <= run.clock && run.clock + run.length <= range.clock + range.length;
