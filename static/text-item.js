// The struct of a Yjs document: an item, which is a run of units that one client inserted at once, with its content.
// Contents that are no text are kept as the bytes they came in: this program gives them on but does not read them.
import { BrokenBytes, Reader } from "./text-bytes.js";

export const Kind = Object.freeze({
  /// Only its length is left: its parent has been deleted. Yjs calls it GC.
  GONE: 0, DELETED: 1, JSON: 2, BINARY: 3, STRING: 4, EMBED: 5, FORMAT: 6, TYPE: 7, ANY: 8, DOC: 9,
  /// In an update only: units that the sender does not have either.
  SKIP: 10,
});

export const GONE = Object.freeze({ kind: Kind.GONE });
export const DELETED = Object.freeze({ kind: Kind.DELETED });

const HAS_ORIGIN = 128;
const HAS_RIGHT_ORIGIN = 64;
const HAS_SUB = 32;

/// A shared type: a list of items, and a map of chains of items whose last one is the value of the key.
export class Branch {
  start = null;
  map = new Map();
  /// Where the visible units are, for the one text that is edited here.
  places = null;

  /// A root type has a name, another one the item it came in.
  constructor(name, item) {
    this.name = name;
    this.item = item;
  }

  /// All its items, deleted ones too.
  *items() {
    for (let item = this.start; item !== null; item = item.right) yield item;
    for (let item of this.map.values()) {
      for (; item !== null; item = item.left) yield item;
    }
  }
}

export class Item {
  left = null;
  right = null;
  deleted = false;
  /// The part of `Places` it is counted in.
  block = null;
  /// What the running change did to it: "insert", "delete", or null.
  change = null;

  /// `origin` and `rightOrigin` are the ids of its neighbours when it was made, or null. `parent` is a branch once the
  /// item is in its place; before that the name of a root, the id of the parent's item, or null: as the neighbours'.
  constructor(client, clock, length, content, origin, rightOrigin, parent, sub) {
    this.client = client;
    this.clock = clock;
    this.length = length;
    this.content = content;
    this.origin = origin;
    this.rightOrigin = rightOrigin;
    this.parent = parent;
    this.sub = sub;
  }

  get end() {
    return this.clock + this.length;
  }

  get isGone() {
    return this.content.kind === Kind.GONE;
  }

  /// How many units of a text it is while it is not deleted.
  get units() {
    const { kind } = this.content;
    return kind === Kind.FORMAT || kind === Kind.DELETED || kind === Kind.GONE ? 0 : this.length;
  }

  get visible() {
    return this.deleted ? 0 : this.units;
  }

  /// Cuts itself to `offset` units and returns the rest as an item of its own, which is linked nowhere yet.
  cut(offset) {
    const origin = { client: this.client, clock: this.clock + offset - 1 };
    const rest = new Item(this.client, this.clock + offset, this.length - offset, null, origin, this.rightOrigin, this.parent, this.sub);
    [this.content, rest.content] = cutContent(this.content, offset);
    this.length = offset;
    rest.deleted = this.deleted;
    rest.change = this.change;
    return rest;
  }

  /// Takes in the item that follows it in its client's list, if the two are as one. Links of `right` stay for the caller.
  join(right) {
    const { content } = this;
    if (content.kind !== right.content.kind) return false;
    if (content.kind !== Kind.GONE) {
      if (this.deleted !== right.deleted || this.right !== right) return false;
      if (!right.origin || right.origin.client !== this.client || right.origin.clock !== this.end - 1) return false;
      if (!sameId(this.rightOrigin, right.rightOrigin)) return false;
      if (content.kind === Kind.STRING) this.content = { kind: Kind.STRING, text: content.text + right.content.text };
      else if (content.kind !== Kind.DELETED) return false;
    }
    this.length += right.length;
    return true;
  }

  /// Writes it without its first `offset` units.
  write(writer, offset) {
    const { content, sub, rightOrigin } = this;
    if (content.kind === Kind.GONE) {
      writer.byte(Kind.GONE);
      return writer.uint(this.length - offset);
    }
    const origin = offset > 0 ? { client: this.client, clock: this.clock + offset - 1 } : this.origin;
    writer.byte(content.kind | (origin ? HAS_ORIGIN : 0) | (rightOrigin ? HAS_RIGHT_ORIGIN : 0) | (sub === null ? 0 : HAS_SUB));
    if (origin) writeId(writer, origin);
    if (rightOrigin) writeId(writer, rightOrigin);
    if (!origin && !rightOrigin) {
      writer.uint(this.parent.item === null ? 1 : 0);
      if (this.parent.item === null) writer.string(this.parent.name);
      else writeId(writer, this.parent.item);
      if (sub !== null) writer.string(sub);
    }
    writeContent(writer, content, this.length, offset);
  }
}

export const sameId = (a, b) => a === b || (a !== null && b !== null && a.client === b.client && a.clock === b.clock);

/// Reads a struct of which `clock` is the first unit. Null if it has no units.
export function readItem(reader, client, clock) {
  const info = reader.byte();
  const kind = info & 31;
  if (kind === Kind.GONE || kind === Kind.SKIP) {
    const content = kind === Kind.GONE ? GONE : { kind };
    return made(new Item(client, clock, reader.uint(), content, null, null, null, null));
  }
  const origin = info & HAS_ORIGIN ? readId(reader) : null;
  const rightOrigin = info & HAS_RIGHT_ORIGIN ? readId(reader) : null;
  let parent = null;
  let sub = null;
  if (!origin && !rightOrigin) {
    parent = reader.uint() === 1 ? reader.string() : readId(reader);
    if (info & HAS_SUB) sub = reader.string();
  }
  const { content, length } = readContent(reader, kind);
  return made(new Item(client, clock, length, content, origin, rightOrigin, parent, sub));
}

function made(item) {
  if (!Number.isSafeInteger(item.end)) throw new BrokenBytes("A clock is larger than 2^53.");
  // A client makes its units in order, so that an item can only refer to earlier ones of its own client.
  for (const id of [item.origin, item.rightOrigin, item.parent]) {
    if (id?.client === item.client && id.clock >= item.clock) throw new BrokenBytes("An item refers to what comes after it.");
  }
  return item.length === 0 ? null : item;
}

function readId(reader) {
  return { client: reader.uint(), clock: reader.uint() };
}

function writeId(writer, { client, clock }) {
  writer.uint(client);
  writer.uint(clock);
}

function readContent(reader, kind) {
  if (kind === Kind.DELETED) return { content: DELETED, length: reader.uint() };
  if (kind === Kind.STRING) {
    const text = reader.string();
    return { content: { kind, text }, length: text.length };
  }
  // A JSON or "any" content is a list, and each of its values is a unit. The number is written from the length.
  const isList = kind === Kind.JSON || kind === Kind.ANY;
  const length = isList ? reader.count(1) : 1;
  const start = reader.at;
  for (let n = 0; n < length; n++) skipValue(reader, kind);
  return { content: { kind, bytes: reader.since(start) }, length };
}

/// Passes over the bytes of one unit.
function skipValue(reader, kind) {
  switch (kind) {
    case Kind.JSON: case Kind.BINARY: case Kind.EMBED: reader.buffer(); break;
    case Kind.FORMAT: reader.buffer(); reader.buffer(); break;
    case Kind.TYPE: skipType(reader); break;
    case Kind.ANY: reader.skipAny(); break;
    case Kind.DOC: reader.buffer(); reader.skipAny(); break;
    default: throw new BrokenBytes(`A content is of the unknown kind ${kind}.`);
  }
}

function skipType(reader) {
  const type = reader.uint();
  if (type > 6) throw new BrokenBytes(`A shared type is of the unknown kind ${type}.`);
  // XML elements and hooks have a name.
  if (type === 3 || type === 5) reader.buffer();
}

function writeContent(writer, content, length, offset) {
  switch (content.kind) {
    case Kind.DELETED: writer.uint(length - offset); break;
    case Kind.STRING: writer.string(offset === 0 ? content.text : content.text.slice(offset)); break;
    case Kind.JSON: case Kind.ANY:
      writer.uint(length - offset);
      writer.raw(content.bytes.subarray(valuesEnd(content, offset)));
      break;
    default: writer.raw(content.bytes);
  }
}

/// Where the first `count` values of a list end in its bytes.
function valuesEnd(content, count) {
  const reader = new Reader(content.bytes);
  for (let n = 0; n < count; n++) skipValue(reader, content.kind);
  return reader.at;
}

function cutContent(content, offset) {
  switch (content.kind) {
    case Kind.STRING: return cutText(content.text, offset).map((text) => ({ kind: Kind.STRING, text }));
    case Kind.JSON: case Kind.ANY: {
      const end = valuesEnd(content, offset);
      return [content.bytes.slice(0, end), content.bytes.slice(end)].map((bytes) => ({ kind: content.kind, bytes }));
    }
    default: return [content, content];
  }
}

/// The units from `from` to `to` of a content that has `length`.
export function sliceContent(content, length, from, to) {
  if (to < length) [content] = cutContent(content, to);
  return from > 0 ? cutContent(content, from)[1] : content;
}

/// Both halves of a text. A surrogate pair has no halves: like in Yjs, each becomes a replacement character.
function cutText(text, offset) {
  if (!isHighSurrogate(text.charCodeAt(offset - 1))) return [text.slice(0, offset), text.slice(offset)];
  return [`${text.slice(0, offset - 1)}\uFFFD`, `\uFFFD${text.slice(offset + 1)}`];
}

export const isHighSurrogate = (unit) => unit >= 0xd800 && unit <= 0xdbff;
