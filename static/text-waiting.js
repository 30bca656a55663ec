// What has come before what it depends on: items and deletes that wait. Bounded: past the bound all of it is dropped,
// and the next exchange of state vectors brings it again.
import { Ranges } from "./text-update.js";

/// A long partition brings some thousands at most; this many take some tens of megabytes.
const WAITING_MAX = 100_000;
/// Of all updates that came while something waited, since each may hold a part of it.
const BYTES_MAX = 64 * 2 ** 20;
/// So few are put into their places one by one.
const FEW = 8;

export class Waiting {
  /// By client: its items in order, of which those from `next` on wait.
  #queues = new Map();
  /// By client: the clients whose next item needs one of it.
  #needing = new Map();
  #deletes = new Ranges();
  #bytes = 0;
  #hasDropped = false;

  /// Whether nothing waits, nor has just been dropped. Otherwise there is something to ask others for.
  get isEmpty() {
    return this.#queues.size === 0 && this.#deletes.isEmpty && !this.#hasDropped;
  }

  /// Adds what an update of `length` bytes brought and hands everything to `items` that can be placed now.
  take(update, length, items, change) {
    this.#bytes = this.isEmpty ? length : this.#bytes + length;
    for (const [client, added] of update.items) this.#enqueue(client, added);
    // Higher clients first, as Yjs has it: their items then meet fewer conflicts.
    this.#drain([...update.items.keys()].sort((a, b) => a - b), items, change);
    const deletes = update.deletes;
    for (const [client, ranges] of this.#deletes.clients()) {
      for (const { clock, length } of ranges) deletes.add(client, clock, length);
    }
    this.#deletes = new Ranges();
    items.deleteRanges(deletes, this.#deletes, change);
    this.#hasDropped = this.#count() > WAITING_MAX || (this.#bytes > BYTES_MAX && !this.isEmpty);
    if (this.#hasDropped) {
      this.#queues.clear();
      this.#needing.clear();
      this.#deletes = new Ranges();
      this.#bytes = 0;
    }
  }

  #enqueue(client, added) {
    if (added.length === 0) return;
    const queue = this.#queues.get(client);
    if (!queue) {
      this.#queues.set(client, { items: added, next: 0 });
      return;
    }
    const { items } = queue;
    items.splice(0, queue.next);
    queue.next = 0;
    // What comes shuffled comes one by one; sorting all each time would cost far more.
    if (added.length < FEW) {
      for (const item of added) items.splice(placeOf(items, item.clock), 0, item);
      return;
    }
    const follows = added[0].clock >= items[items.length - 1].clock;
    for (const item of added) items.push(item);
    if (!follows) items.sort((a, b) => a.clock - b.clock);
  }

  /// Places what can be placed of the given clients, and of those that wait for what was placed.
  #drain(clients, items, change) {
    while (clients.length > 0) {
      const client = clients.pop();
      const queue = this.#queues.get(client);
      if (!queue || !this.#placeFrom(queue, items, change)) continue;
      if (queue.next === queue.items.length) this.#queues.delete(client);
      for (const other of this.#needing.get(client) ?? []) clients.push(other);
      this.#needing.delete(client);
    }
  }

  /// Places items of one client until one has to wait. Says whether any was taken from the queue.
  #placeFrom(queue, items, change) {
    const before = queue.next;
    while (queue.next < queue.items.length) {
      const item = queue.items[queue.next];
      if (item.end > items.state(item.client)) {
        const missing = items.missing(item);
        if (missing !== null) {
          if (!this.#needing.has(missing.client)) this.#needing.set(missing.client, new Set());
          this.#needing.get(missing.client).add(item.client);
          break;
        }
        items.place(item, change);
      }
      queue.next += 1;
    }
    return queue.next > before;
  }

  #count() {
    let count = this.#deletes.count();
    for (const { items, next } of this.#queues.values()) count += items.length - next;
    return count;
  }
}

/// The place of the first item that begins after a clock.
function placeOf(items, clock) {
  let low = 0;
  let high = items.length;
  while (low < high) {
    const middle = (low + high) >>> 1;
    if (items[middle].clock > clock) high = middle;
    else low = middle + 1;
  }
  return low;
}
