// Updates of a Yjs document (encoding v1) and the parts they are made of: items by client, ranges of deleted units,
// and state vectors, which say up to which clock the units of each client are held.
import { BrokenBytes, Reader, Writer } from "./text-bytes.js";
import { Kind, readItem } from "./text-item.js";

/// An item costs some fifty times its smallest encoding, so that this much can become a gigabyte, and not more.
const UPDATE_BYTES_MAX = 32 * 2 ** 20;

/// Ranges of units, by client.
export class Ranges {
  #clients = new Map();

  add(client, clock, length) {
    const ranges = this.#clients.get(client);
    const last = ranges?.[ranges.length - 1];
    if (!ranges) this.#clients.set(client, [{ clock, length }]);
    else if (last.clock + last.length === clock) last.length += length;
    else ranges.push({ clock, length });
  }

  get isEmpty() {
    return this.#clients.size === 0;
  }

  /// Each client with its ranges: ascending, and none touches the next. Peers rely on that order.
  *clients() {
    for (const client of [...this.#clients.keys()].sort((a, b) => b - a)) {
      const ranges = merged(this.#clients.get(client));
      this.#clients.set(client, ranges);
      yield [client, ranges];
    }
  }

  count() {
    let count = 0;
    for (const ranges of this.#clients.values()) count += ranges.length;
    return count;
  }

  static read(reader) {
    const read = new Ranges();
    for (let clients = reader.count(2); clients > 0; clients--) {
      const client = reader.uint();
      for (let ranges = reader.count(2); ranges > 0; ranges--) {
        const clock = reader.uint();
        const length = reader.uint();
        if (!Number.isSafeInteger(clock + length)) throw new BrokenBytes("A deleted range ends past 2^53.");
        if (length > 0) read.add(client, clock, length);
      }
    }
    return read;
  }

  write(writer) {
    writer.uint(this.#clients.size);
    for (const [client, ranges] of this.clients()) {
      writer.uint(client);
      writer.uint(ranges.length);
      for (const { clock, length } of ranges) {
        writer.uint(clock);
        writer.uint(length);
      }
    }
  }
}

function merged(ranges) {
  if (ranges.length === 1) return ranges;
  ranges.sort((a, b) => a.clock - b.clock);
  const result = [ranges[0]];
  for (const range of ranges) {
    const last = result[result.length - 1];
    if (range.clock > last.clock + last.length) result.push(range);
    else last.length = Math.max(last.length, range.clock + range.length - last.clock);
  }
  return result;
}

/// An update as `{ items: Map of client to its items in order, deletes: Ranges }`, or throws `BrokenBytes`.
export function decodeUpdate(bytes) {
  if (bytes.length > UPDATE_BYTES_MAX) throw new BrokenBytes("An update is larger than 32 MiB.");
  const reader = new Reader(bytes);
  const items = new Map();
  for (let clients = reader.count(3); clients > 0; clients--) {
    const structs = reader.count(2);
    const client = reader.uint();
    let clock = reader.uint();
    if (!items.has(client)) items.set(client, []);
    for (let n = 0; n < structs; n++) {
      const item = readItem(reader, client, clock);
      if (item === null) continue;
      clock = item.end;
      if (item.content.kind !== Kind.SKIP) items.get(client).push(item);
    }
  }
  const deletes = Ranges.read(reader);
  if (reader.left > 0) throw new BrokenBytes("An update has bytes after its end.");
  return { items, deletes };
}

/// The update of the parts `[{ client, clock, items }]`, where `clock` lies in the first of the items, and deletes.
export function encodeUpdate(parts, deletes) {
  const writer = new Writer();
  writer.uint(parts.length);
  // Higher clients first, as Yjs has it: their items then meet fewer conflicts.
  for (const { client, clock, items } of [...parts].sort((a, b) => b.client - a.client)) {
    writer.uint(items.length);
    writer.uint(client);
    writer.uint(clock);
    items.forEach((item, place) => item.write(writer, place === 0 ? clock - item.clock : 0));
  }
  deletes.write(writer);
  return writer.finish();
}

/// A state vector as a Map of client to clock, or throws `BrokenBytes`.
export function decodeStateVector(bytes) {
  const reader = new Reader(bytes);
  const vector = new Map();
  for (let clients = reader.count(2); clients > 0; clients--) vector.set(reader.uint(), reader.uint());
  return vector;
}

export function encodeStateVector(vector) {
  const writer = new Writer();
  writer.uint(vector.size);
  for (const [client, clock] of [...vector].sort(([a], [b]) => b - a)) {
    writer.uint(client);
    writer.uint(clock);
  }
  return writer.finish();
}
