// The byte encoding of Yjs: varints, strings, buffers and "any" values. Pure.
// What is read comes from outside: every count is checked against the bytes that are left before anything is made for
// it, and what does not fit throws a `BrokenBytes`.

/// Bytes that are not what they should be. Whoever throws it has changed nothing.
export class BrokenBytes extends Error {}

// Yjs keeps a byte order mark as a character, and so must every peer: positions count it.
const utf8 = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true });
const encoder = new TextEncoder();

export class Reader {
  #bytes;
  #at = 0;

  constructor(bytes) {
    this.#bytes = bytes;
  }

  get at() {
    return this.#at;
  }

  get left() {
    return this.#bytes.length - this.#at;
  }

  byte() {
    if (this.#at >= this.#bytes.length) throw new BrokenBytes("The bytes end too early.");
    return this.#bytes[this.#at++];
  }

  uint() {
    let value = 0;
    for (let scale = 1; scale < 2 ** 56; scale *= 128) {
      const byte = this.byte();
      value += (byte & 127) * scale;
      if (byte < 128) {
        if (value > Number.MAX_SAFE_INTEGER) break;
        return value;
      }
    }
    throw new BrokenBytes("A number is larger than 2^53.");
  }

  /// A number of things that follow, of which each takes at least `bytesEach` bytes.
  count(bytesEach) {
    const count = this.uint();
    if (count > this.left / bytesEach) throw new BrokenBytes("More is announced than there are bytes for.");
    return count;
  }

  /// A view of the next bytes; the caller copies what it keeps.
  take(length) {
    if (length > this.left) throw new BrokenBytes("The bytes end too early.");
    this.#at += length;
    return this.#bytes.subarray(this.#at - length, this.#at);
  }

  buffer() {
    return this.take(this.uint());
  }

  string() {
    const bytes = this.buffer();
    try {
      return utf8.decode(bytes);
    } catch {
      throw new BrokenBytes("A string is not UTF-8.");
    }
  }

  /// A copy of the bytes from `start` to here.
  since(start) {
    return this.#bytes.slice(start, this.#at);
  }

  /// Passes over an "any" value. Nesting is kept in a list and not on the call stack, however deep it is.
  skipAny() {
    const open = [];
    let more = this.#skipAnyHead();
    for (;;) {
      if (more) open.push(more);
      while (open.length > 0 && open[open.length - 1].left === 0) open.pop();
      if (open.length === 0) return;
      const inner = open[open.length - 1];
      inner.left -= 1;
      if (inner.keyed) this.buffer();
      more = this.#skipAnyHead();
    }
  }

  /// Passes over a value, or over the head of an object or array, whose number of entries it returns.
  #skipAnyHead() {
    const kind = this.byte();
    switch (kind) {
      case 127: case 126: case 121: case 120: return null;
      case 125: while (this.byte() >= 128); return null;
      case 124: this.take(4); return null;
      case 123: case 122: this.take(8); return null;
      case 119: case 116: this.buffer(); return null;
      case 118: return { keyed: true, left: this.count(2) };
      case 117: return { keyed: false, left: this.count(1) };
      default: throw new BrokenBytes(`A value is of the unknown kind ${kind}.`);
    }
  }
}

export class Writer {
  #bytes = new Uint8Array(64);
  #length = 0;

  byte(byte) {
    if (this.#length === this.#bytes.length) this.#grow(1);
    this.#bytes[this.#length++] = byte;
  }

  uint(value) {
    while (value > 127) {
      this.byte(128 + (value % 128));
      value = Math.floor(value / 128);
    }
    this.byte(value);
  }

  raw(bytes) {
    if (this.#length + bytes.length > this.#bytes.length) this.#grow(bytes.length);
    this.#bytes.set(bytes, this.#length);
    this.#length += bytes.length;
  }

  buffer(bytes) {
    this.uint(bytes.length);
    this.raw(bytes);
  }

  string(text) {
    this.buffer(encoder.encode(text));
  }

  finish() {
    return this.#bytes.slice(0, this.#length);
  }

  #grow(length) {
    const wider = new Uint8Array(Math.max(this.#bytes.length * 2, this.#length + length));
    wider.set(this.#bytes.subarray(0, this.#length));
    this.#bytes = wider;
  }
}
