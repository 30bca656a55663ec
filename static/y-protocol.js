// The messages of y-websocket, and presence as y-protocols keeps it (its word is awareness): who is here, with what
// state. One message a frame. A broken message throws `BrokenBytes` and changes nothing.
import { BrokenBytes, Reader, Writer } from "./text-bytes.js";

const SYNC = 0;
const PRESENCE = 1;
const AUTH = 2;
const QUERY_PRESENCE = 3;
const SYNC_KINDS = ["step1", "step2", "update"];

/// A state that is not renewed for so long is dropped, and so every client renews its own twice in that time.
const DROP_AFTER_MS = 30_000;
const RENEW_AFTER_MS = DROP_AFTER_MS / 2;
const LOOK_EVERY_MS = 3000;
const CLIENTS_MAX = 1000;
const STATE_BYTES_MAX = 64 * 1024;

/// `kind` is "step1", with an encoded state vector; "step2", its answer, or "update", with an update.
export function encodeSync(kind, bytes) {
  const writer = new Writer();
  writer.uint(SYNC);
  writer.uint(SYNC_KINDS.indexOf(kind));
  writer.buffer(bytes);
  return writer.finish();
}

export function encodePresence(bytes) {
  const writer = new Writer();
  writer.uint(PRESENCE);
  writer.buffer(bytes);
  return writer.finish();
}

/// That the permission is denied, and why.
export function encodeDenied(reason) {
  const writer = new Writer();
  writer.uint(AUTH);
  writer.uint(0);
  writer.string(reason);
  return writer.finish();
}

export const encodeQueryPresence = () => new Uint8Array([QUERY_PRESENCE]);

/// The message in a frame as `{ kind, bytes }`, or `{ kind: "denied", reason }`. What newer servers may add is "unknown".
export function decodeMessage(frame) {
  const reader = new Reader(frame);
  switch (reader.uint()) {
    case SYNC: {
      const kind = SYNC_KINDS[reader.uint()];
      if (kind === undefined) throw new BrokenBytes("A sync message is of an unknown kind.");
      return { kind, bytes: reader.buffer() };
    }
    case PRESENCE: return { kind: "presence", bytes: reader.buffer() };
    case AUTH: return reader.uint() === 0 ? { kind: "denied", reason: reader.string() } : { kind: "unknown" };
    case QUERY_PRESENCE: return { kind: "query" };
    default: return { kind: "unknown" };
  }
}

/// The states of all clients of a document, this one's among them.
export class Presence {
  #own;
  #now;
  /// By client `{ clock, state, at }`; a state of null is of one that has gone, and is kept for its clock.
  #entries = new Map();
  #listeners = new Set();
  #timer;

  constructor(client, { now = () => Date.now() } = {}) {
    this.#own = client;
    this.#now = now;
    this.#timer = setInterval(() => this.#look(), LOOK_EVERY_MS);
  }

  get client() {
    return this.#own;
  }

  /// This client's state, or null.
  get state() {
    return this.#entries.get(this.#own)?.state ?? null;
  }

  /// The states of the others who are here, by client.
  get others() {
    const here = [...this.#entries].filter(([client, { state }]) => state !== null && client !== this.#own);
    return new Map(here.map(([client, { state }]) => [client, state]));
  }

  /// Sets this client's state; null says that it goes.
  set(state) {
    const clock = (this.#entries.get(this.#own)?.clock ?? -1) + 1;
    this.#entries.set(this.#own, { clock, state, at: this.#now() });
    this.#tell([this.#own], true);
  }

  /// Calls `listener` with `{ clients, local }` when states of `clients` have changed or been renewed; `local`: by this one.
  subscribe(listener) {
    this.#listeners.add(listener);
    return () => this.#listeners.delete(listener);
  }

  /// Takes in what others encoded.
  apply(bytes) {
    const changed = [];
    let isContested = false;
    for (const { client, clock, state } of decodeStates(bytes)) {
      const held = this.#entries.get(client);
      const isGoing = state === null && held?.clock === clock && held.state !== null;
      if (held && held.clock >= clock && !isGoing) continue;
      if (!held && this.#entries.size >= CLIENTS_MAX) continue;
      // No other can say that this client has gone, nor what its state is.
      if (client === this.#own && held?.state) {
        held.clock = clock;
        isContested = true;
        continue;
      }
      this.#entries.set(client, { clock, state, at: this.#now() });
      changed.push(client);
    }
    if (isContested) this.set(this.state);
    if (changed.length > 0) this.#tell(changed, false);
  }

  /// The states of some clients, or of all, for others to take in.
  encode(clients = [...this.#entries.keys()]) {
    const writer = new Writer();
    writer.uint(clients.length);
    for (const client of clients) {
      const { clock, state } = this.#entries.get(client);
      writer.uint(client);
      writer.uint(clock);
      writer.string(JSON.stringify(state));
    }
    return writer.finish();
  }

  /// The connection is lost, so that nobody knows who else is here. Their clocks go too: they come back with the same.
  forgetOthers() {
    const gone = [...this.#entries.keys()].filter((client) => client !== this.#own);
    for (const client of gone) this.#entries.delete(client);
    if (gone.length > 0) this.#tell(gone, false);
  }

  destroy() {
    clearInterval(this.#timer);
    this.#listeners.clear();
  }

  #look() {
    const now = this.#now();
    const own = this.#entries.get(this.#own);
    if (own && own.state !== null && now - own.at >= RENEW_AFTER_MS) this.set(own.state);
    const dropped = [];
    for (const [client, entry] of this.#entries) {
      if (client === this.#own || now - entry.at < DROP_AFTER_MS) continue;
      if (entry.state !== null) dropped.push(client);
      // Its clock is kept for a while longer, lest a late message bring it back.
      if (entry.state === null) this.#entries.delete(client);
      else this.#entries.set(client, { clock: entry.clock, state: null, at: now });
    }
    if (dropped.length > 0) this.#tell(dropped, false);
  }

  #tell(clients, local) {
    for (const listener of [...this.#listeners]) listener({ clients, local });
  }
}

function decodeStates(bytes) {
  const reader = new Reader(bytes);
  const states = [];
  for (let count = reader.count(3); count > 0; count--) {
    const client = reader.uint();
    const clock = reader.uint();
    const text = reader.string();
    if (text.length > STATE_BYTES_MAX) throw new BrokenBytes("A presence is larger than 64 KiB.");
    try {
      states.push({ client, clock, state: JSON.parse(text) });
    } catch {
      throw new BrokenBytes("A presence is not JSON.");
    }
  }
  return states;
}
