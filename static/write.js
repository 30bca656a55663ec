// One write on its way: what it asks for, under which key, and the promises of its receipts.
import { LamplightError } from "./problem.js";

/// Longest message that a node takes, in bytes.
const MESSAGE_BYTES_MAX = 4 << 20;

/// The longest time for which a node remembers a key, in Lamport times.
export const KEY_SPAN_MAX = 1n << 22n;

export class Write {
  /// "storing", "queued", "sent", "accepted" (a node has it), "over" (final, refused, or given up).
  state = "storing";
  /// The last receipt, once there is one.
  receipt = null;
  /// For how many Lamport times the node that it was accepted by remembers its key.
  keySpan = KEY_SPAN_MAX;
  /// Whether it went to a node that never answered.
  isUncertain = false;
  accepted = deferred();
  final = deferred();

  /// `text` is the JSON of guards, commands and wait: what it was when it was asked for, whatever becomes of the values.
  constructor(key, text, parse) {
    this.key = key;
    this.text = text;
    const { guards, commands, wait } = parse(text);
    this.guards = guards;
    this.commands = commands;
    this.wait = wait;
    /// The documents that it reads or writes, each once.
    this.docs = [...new Set([...guards, ...commands].map((part) => docKey(Object.values(part)[0])))];
    // Who does not ask for the final receipt need not hear that there will be none.
    this.final.promise.catch(() => {});
  }

  get message() {
    return `{"type":"write","id":"${this.key}","key":"${this.key}",${this.text.slice(1)}`;
  }

  get isTooLarge() {
    const { message } = this;
    return message.length * 3 > MESSAGE_BYTES_MAX && new TextEncoder().encode(message).length > MESSAGE_BYTES_MAX;
  }

  /// What the caller gets: the promise of the first receipt that is enough for what it waits for, and `final`, that of
  /// the last.
  promise(isHandled) {
    const { promise } = this.accepted;
    if (isHandled) promise.catch(() => {});
    return Object.assign(promise, { final: this.final.promise, key: this.key });
  }

  learn(receipt) {
    this.receipt = receipt;
    Object.defineProperty(receipt, "final", { value: this.final.promise });
    const isFinal = receipt.status !== "tentative";
    const isHeld = typeof this.wait === "number" && receipt.held_by >= this.wait;
    if (isFinal || isHeld || this.wait === undefined) this.accepted.resolve(receipt);
    if (isFinal) this.final.resolve(receipt);
  }

  fail(error) {
    this.state = "over";
    this.accepted.reject(error);
    this.final.reject(error);
  }

  /// Whether its key, which a node has seen at the time of its receipt, is still remembered at this clock, with a margin: past it,
  /// sending again would write again.
  isRemembered(clock) {
    return BigInt(clock) - BigInt(this.receipt.stamp.split("@")[0]) < this.keySpan / 2n;
  }
}

export const docKey = ({ collection, id }) => `${collection}/${id}`;

function deferred() {
  const made = {};
  made.promise = new Promise((resolve, reject) => Object.assign(made, { resolve, reject }));
  return made;
}

const hex = (bytes) => Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");

/// A key for one write. crypto.randomUUID would do, but exists only on secure origins.
export const newKey = () => hex(crypto.getRandomValues(new Uint8Array(16)));

/// An id for a document, a UUIDv7: those made later sort later.
export function newId() {
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  new DataView(bytes.buffer).setUint32(0, Math.floor(Date.now() / 0x10000));
  new DataView(bytes.buffer).setUint16(4, Date.now() % 0x10000);
  bytes[6] = 0x70 | (bytes[6] & 0x0f);
  bytes[8] = 0x80 | (bytes[8] & 0x3f);
  return hex(bytes).replace(/^(.{8})(.{4})(.{4})(.{4})/, "$1-$2-$3-$4-");
}

export const closed = () =>
  LamplightError.local("closed", "the pool was closed before a node answered; a write in the browser's queue is sent when the pool is opened again");
