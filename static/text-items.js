// All items of a Yjs document, by client and in their lists, and the rules by which a new one finds its place (YATA, with
// exactly the rules of Yjs: any two documents that hold the same items show the same).
// Items of other types than the edited text are held too and have their effect on each other, so that nothing is lost
// when this document is passed on. Whoever calls says in which `Change` things happen and settles it in the end.
import { Branch, DELETED, GONE, Kind, sameId } from "./text-item.js";
import { Ranges, encodeUpdate } from "./text-update.js";

/// What one edit or one update did.
export class Change {
  /// The items of the text that it inserted or deleted, as their `change` says.
  text = [];
  /// All items it deleted.
  deleted = [];
  deletes = new Ranges();
  /// Where items may have come to be mergeable: by client, the least and the greatest clock.
  spans = new Map();

  touch(item) {
    const span = this.spans.get(item.client);
    if (!span) this.spans.set(item.client, { low: item.clock, high: item.clock });
    else {
      span.low = Math.min(span.low, item.clock);
      span.high = Math.max(span.high, item.clock);
    }
  }
}

export class Items {
  /// By client, its items in the order of their clocks, without gaps.
  #clients = new Map();
  #roots = new Map();

  root(name) {
    if (!this.#roots.has(name)) this.#roots.set(name, new Branch(name, null));
    return this.#roots.get(name);
  }

  /// How many units of a client are held.
  state(client) {
    const items = this.#clients.get(client);
    return items ? items[items.length - 1].end : 0;
  }

  stateVector() {
    return new Map([...this.#clients.keys()].map((client) => [client, this.state(client)]));
  }

  /// The item that holds a unit; there must be one.
  at({ client, clock }) {
    const items = this.#clients.get(client);
    return items[find(items, clock)];
  }

  /// The items that hold a range of units, as far as they are here.
  *range(client, clock, length) {
    const items = this.#clients.get(client) ?? [];
    for (let place = find(items, clock); place < items.length && items[place].clock < clock + length; place++) yield items[place];
  }

  /// What must be held before the item can be placed, as an id that is missing; null if nothing is.
  missing(item) {
    // Units of one client come in order.
    if (item.clock > this.state(item.client)) return { client: item.client, clock: item.clock - 1 };
    for (const id of [item.origin, item.rightOrigin, item.parent]) {
      if (id?.client !== undefined && id.clock >= this.state(id.client)) return id;
    }
    return null;
  }

  // ---- Placing ----

  /// Places an item of which nothing is missing and some units are new.
  place(item, change) {
    const held = this.state(item.client) - item.clock;
    if (held > 0) item = item.cut(held);
    this.#resolve(item, change);
    const items = this.#clients.get(item.client);
    if (items) items.push(item);
    else this.#clients.set(item.client, [item]);
    change.touch(item);
    if (item.isGone) return this.#noteDeleted(item, change);

    const { parent, sub } = item;
    this.#link(item, change);
    if (item.content.kind === Kind.TYPE) item.content = { ...item.content, branch: new Branch(null, item) };
    if (item.content.kind === Kind.DELETED) {
      item.deleted = true;
      this.#noteDeleted(item, change);
    }
    if (sub === null && parent.places !== null) {
      parent.places.add(item);
      item.change = "insert";
      change.text.push(item);
    }
    // A value that is not the last of its key has been replaced already.
    if (parent.item?.deleted || (sub !== null && item.right !== null)) this.delete(item, change);
  }

  /// Finds the neighbours and the parent. An item whose surroundings are gone is gone as well.
  #resolve(item, change) {
    if (item.isGone) return;
    const left = item.origin && this.endingAt(item.origin, change);
    const right = item.rightOrigin && this.#startingAt(item.rightOrigin, change);
    const beside = left ?? right;
    if (left?.isGone || right?.isGone) item.parent = null;
    else if (beside !== null) [item.parent, item.sub] = [beside.parent, beside.sub];
    else if (typeof item.parent === "string") item.parent = this.root(item.parent);
    else item.parent = this.at(item.parent).content.branch ?? null;
    item.left = left;
    item.right = right;
    if (item.parent !== null) return;
    item.content = GONE;
    item.origin = item.rightOrigin = item.left = item.right = item.sub = null;
  }

  #link(item, change) {
    const { parent, sub } = item;
    const isBetween = item.left === null ? item.right !== null && item.right.left === null : item.left.right === item.right;
    if (!isBetween) item.left = this.#leftAmongRivals(item);
    item.right = item.left === null ? firstOf(parent, sub) : item.left.right;
    if (item.left !== null) item.left.right = item;
    else if (sub === null) parent.start = item;
    if (item.right !== null) item.right.left = item;
    else if (sub !== null) {
      parent.map.set(sub, item);
      if (item.left !== null) this.delete(item.left, change);
    }
  }

  /// The left neighbour of an item that meets others between its origins: items inserted there concurrently.
  #leftAmongRivals(item) {
    let { left } = item;
    // All items passed so far, and those among them that are passed since `left` was set.
    const passed = new Set();
    const undecided = new Set();
    for (let other = left === null ? firstOf(item.parent, item.sub) : left.right; other !== null && other !== item.right; other = other.right) {
      passed.add(other);
      undecided.add(other);
      if (sameId(item.origin, other.origin)) {
        if (other.client < item.client) {
          left = other;
          undecided.clear();
        } else if (sameId(item.rightOrigin, other.rightOrigin)) {
          break;
        }
        // Otherwise it can belong to one that comes before this item: those that follow tell.
      } else {
        const origin = other.origin && this.at(other.origin);
        if (origin === null || !passed.has(origin)) break;
        if (!undecided.has(origin)) {
          left = other;
          undecided.clear();
        }
      }
    }
    return left;
  }

  // ---- Cutting ----

  /// The item that begins with a unit; the one that holds the unit is cut if need be. A gone one is never cut.
  #startingAt({ client, clock }, change) {
    const items = this.#clients.get(client);
    const place = find(items, clock);
    const item = items[place];
    if (item.clock === clock || item.isGone) return item;
    const rest = this.cut(item, clock - item.clock, change);
    items.splice(place + 1, 0, rest);
    return rest;
  }

  /// The item that ends with a unit; cut if need be.
  endingAt({ client, clock }, change) {
    const items = this.#clients.get(client);
    const place = find(items, clock);
    const item = items[place];
    if (item.end !== clock + 1 && !item.isGone) items.splice(place + 1, 0, this.cut(item, clock + 1 - item.clock, change));
    return item;
  }

  /// Cuts an item and links the rest, which the caller puts into the client's list.
  cut(item, offset, change) {
    const rest = item.cut(offset);
    rest.left = item;
    rest.right = item.right;
    item.right = rest;
    if (rest.right !== null) rest.right.left = rest;
    else if (rest.sub !== null) rest.parent.map.set(rest.sub, rest);
    if (rest.sub === null) rest.parent.places?.cut(item, rest);
    if (rest.change !== null) change.text.push(rest);
    change.touch(rest);
    return rest;
  }

  // ---- Deleting ----

  /// Deletes an item and all that is in it.
  delete(item, change) {
    // A list instead of recursion: types can be nested deeper than the call stack.
    const doomed = [item];
    while (doomed.length > 0) {
      const one = doomed.pop();
      if (one.deleted) continue;
      if (one.sub === null && one.parent.places !== null) {
        one.parent.places.hide(one);
        // What comes and goes in one change has never been seen.
        if (one.change === null) change.text.push(one);
        one.change = one.change === "insert" ? "none" : "delete";
      }
      one.deleted = true;
      this.#noteDeleted(one, change);
      for (const inner of one.content.branch?.items() ?? []) doomed.push(inner);
    }
  }

  #noteDeleted(item, change) {
    change.deletes.add(item.client, item.clock, item.length);
    change.touch(item);
    if (!item.isGone) change.deleted.push(item);
  }

  /// Deletes what is held of some ranges, and adds the rest to `later`.
  deleteRanges(ranges, later, change) {
    for (const [client, wanted] of ranges.clients()) {
      const state = this.state(client);
      const here = [];
      for (const { clock, length } of wanted) {
        const end = Math.min(clock + length, state);
        if (end > clock) here.push({ clock, end });
        const begin = Math.max(clock, state);
        if (clock + length > begin) later.add(client, begin, clock + length - begin);
      }
      if (here.length > 0) this.#deleteHeld(this.#clients.get(client), here, change);
    }
  }

  /// The list of the client is rebuilt in one go: with many ranges, a splice for each cut would take quadratic time.
  #deleteHeld(items, ranges, change) {
    const from = find(items, ranges[0].clock);
    const rebuilt = [];
    let place = from;
    for (const { clock, end } of ranges) {
      let last = rebuilt[rebuilt.length - 1];
      // The item that the range before ended in may go on.
      if (last && last.end > clock) rebuilt.pop();
      else last = null;
      while (last !== null || (place < items.length && items[place].clock < end)) {
        let item = last ?? items[place++];
        last = null;
        if (!item.deleted && !item.isGone && item.clock < clock && item.end > clock) {
          rebuilt.push(item);
          item = this.cut(item, clock - item.clock, change);
        }
        rebuilt.push(item);
        if (item.deleted || item.isGone || item.end <= clock) continue;
        if (item.end > end) {
          rebuilt.push(this.cut(item, end - item.clock, change));
        }
        this.delete(item, change);
      }
    }
    replaceSlice(items, from, place, rebuilt);
  }

  // ---- Settling ----

  /// Ends a change: frees what was deleted and merges neighbours that are as one.
  settle(change) {
    for (const item of change.text) item.change = null;
    for (const item of change.deleted) this.#free(item, change);
    for (const [client, span] of change.spans) this.#merge(client, span);
  }

  #free(item, change) {
    // Gone with its parent already.
    if (item.isGone) return;
    const inner = item.content.branch ? [...item.content.branch.items()] : [];
    item.content = DELETED;
    while (inner.length > 0) {
      const one = inner.pop();
      for (const deeper of one.content.branch?.items() ?? []) inner.push(deeper);
      change.touch(one);
      one.content = GONE;
      one.origin = one.rightOrigin = one.left = one.right = one.parent = one.sub = null;
    }
  }

  #merge(client, { low, high }) {
    const items = this.#clients.get(client);
    const from = Math.max(0, find(items, low) - 1);
    const to = Math.min(items.length, find(items, high) + 2);
    let kept = from;
    for (let place = from + 1; place < to; place++) {
      const item = items[place];
      if (joined(items[kept], item)) continue;
      kept += 1;
      items[kept] = item;
    }
    if (kept + 1 < to) items.splice(kept + 1, to - kept - 1);
  }

  // ---- Passing on ----

  /// The update with all that a holder of the state vector `known` lacks. By default, with all deletes there are.
  encode(known, deletes = this.#allDeletes()) {
    const parts = [];
    for (const [client, items] of this.#clients) {
      const clock = known.get(client) ?? 0;
      if (clock < this.state(client)) parts.push({ client, clock, items: items.slice(find(items, clock)) });
    }
    return encodeUpdate(parts, deletes);
  }

  #allDeletes() {
    const deletes = new Ranges();
    for (const [client, items] of this.#clients) {
      for (const item of items) {
        if (item.deleted || item.isGone) deletes.add(client, item.clock, item.length);
      }
    }
    return deletes;
  }
}

/// The place of the item that holds a clock, in a client's list; its length for a clock past the end.
function find(items, clock) {
  let low = 0;
  let high = items.length;
  while (low < high) {
    const middle = (low + high) >>> 1;
    if (items[middle].end <= clock) low = middle + 1;
    else high = middle;
  }
  return low;
}

function firstOf(parent, sub) {
  if (sub === null) return parent.start;
  let item = parent.map.get(sub) ?? null;
  while (item !== null && item.left !== null) item = item.left;
  return item;
}

function replaceSlice(items, from, to, wanted) {
  // Few can be passed as arguments, and many are rare.
  if (wanted.length < 1000) {
    items.splice(from, to - from, ...wanted);
    return;
  }
  const tail = items.slice(to);
  items.length = from;
  for (const item of wanted) items.push(item);
  for (const item of tail) items.push(item);
}

/// Merges two items that are neighbours in their client's list, if they are as one.
function joined(left, right) {
  if (!left.join(right)) return false;
  if (left.isGone) return true;
  const { parent, sub } = right;
  if (sub === null) parent.places?.join(left, right);
  else if (parent.map.get(sub) === right) parent.map.set(sub, left);
  left.right = right.right;
  if (right.right !== null) right.right.left = left;
  return true;
}
