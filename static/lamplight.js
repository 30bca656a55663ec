// The client of a Lamplight pool, for browsers and Node: one connection to any of its nodes, live queries, writes that
// survive being offline, and presence. This module alone is imported; what it is made of lies beside it. docs/client.md
// shows its use, lamplight.d.ts has its types.
import { authorization, showing } from "./bearer.js";
import { Dial } from "./dial.js";
import { docPath, nodeOf, versionIn } from "./http.js";
import { LiveQuery } from "./live-query.js";
import { overlaid } from "./overlay.js";
import { LamplightError } from "./problem.js";
import { Queue, partOf } from "./queue.js";
import { Room } from "./room.js";
import { SharedText } from "./shared-text.js";
import { IndexedDbStorage, MemoryStorage } from "./storage.js";
import { Sightings } from "./sightings.js";
import { Tabs } from "./tabs.js";
import { newId } from "./write.js";

export { LamplightError, MemoryStorage };

const QUEUE_MAX = 10_000;
const REQUEST_WITHIN_MS = 10_000;
/// Most guards and commands of one write.
const STEPS_MAX = 1_000;

/// Connects to a pool through any of its nodes, given by their URLs; in a browser, by default to the page's own.
export function connect(urls = ownNode(), options = {}) {
  const list = [urls ?? []].flat();
  if (list.length === 0) throw new TypeError("connect() needs the URL of a node, such as http://127.0.0.1:7171");
  const nodes = list.map((url) => {
    if (!/^https?:$/.test(new URL(url).protocol)) throw new TypeError(`${url}: a node's URL begins with http:// or https://`);
    return String(url).replace(/\/+$/, "");
  });
  const Plain = options.WebSocket ?? globalThis.WebSocket;
  if (!Plain) {
    throw new TypeError("there is no WebSocket here: run node --experimental-websocket (Node 22 has one without that), " +
      "or pass a class, connect(urls, { WebSocket }), for example that of the package ws");
  }
  const token = tokenOf(options.token);
  // What is no token is told at once.
  token();
  const WebSocket = options.token === undefined ? Plain : showing(token, Plain);
  return new Pool(nodes, { ...options, WebSocket, authorization: () => authorization(token()), fetch: options.fetch ?? globalThis.fetch?.bind(globalThis) });
}

/// The node that served the page, where it also served this module: maybe below a prefix that a proxy has given it.
function ownNode() {
  const origin = globalThis.location?.origin;
  const { origin: from, pathname } = new URL(import.meta.url);
  return from === origin && pathname.endsWith("/static/lamplight.js") ? nodeOf(import.meta.url) : origin;
}

/// The token is asked for at each opening and request, so that a function may give a newer one.
function tokenOf(given) {
  return () => {
    const token = typeof given === "function" ? given() : given;
    if (token !== undefined && token !== null && !/^[!-~]+$/.test(token)) {
      throw new TypeError("a token is a string of visible ASCII, without blanks, or a function that gives one");
    }
    return token;
  };
}

export class Pool {
  #dial;
  #queue;
  #tabs = null;
  #queries = new Map();
  #rooms = new Map();
  #texts = new Set();
  #serial = 0;
  #options;
  #sightings = new Sightings();
  /// Called with "connecting", "online", "offline" or "closed".
  onstate;
  /// Called with the error and the write, `{ guards, commands, key }`, when a write was refused, at once or at its final
  /// place. It hears of writes of earlier pages, too, which nobody awaits any more.
  onrejected;
  /// Called with the reason when a node does not take the token, or asks for one. It is dialled again all the same: what
  /// `token` gives then may be taken.
  onrefused;

  constructor(nodes, options) {
    const { storage, parse = JSON.parse, name = "lamplight", queueMax = QUEUE_MAX, WebSocket, fetch, authorization } = options;
    this.onrefused = options.onrefused ?? null;
    this.#options = { nodes, parse, fetch, WebSocket, hasOthers: nodes.length > 1 };
    this.onstate = options.onstate ?? null;
    this.onrejected = options.onrejected ?? null;
    const place = storage ?? (globalThis.indexedDB ? new IndexedDbStorage(name) : new MemoryStorage());
    this.#queue = new Queue({ storage: place, parse, max: queueMax }, {
      send: (message) => this.#dial.send(message),
      post: (message) => this.#tabs?.post(message),
      onchange: (write) => this.#onChange(write),
      onaccepted: (write) => this.#onAccepted(write),
      onrejected: (error, write) => this.#onRejected(error, write),
      onawaited: (bytes) => this.#dial.owe(bytes),
      onpaused: () => { if (this.#options.hasOthers) this.#dial.leave(); },
      mayYield: () => [...this.#queries.values()].every((query) => query.isWhole || query.error),
    });
    this.#dial = new Dial(nodes, { WebSocket, fetch, parse, authorization }, {
      onrefused: (reason) => this.onrefused?.(reason),
      onstate: (state) => this.#onState(state),
      onwelcome: (clock, keySpan) => this.#onWelcome(clock, keySpan),
      onmessage: (message) => this.#onMessage(message),
    });
    if (place.isShared) {
      this.#queue.load(false);
      const onsender = () => this.#queue.load(true);
      this.#tabs = new Tabs(name, { onsender, onmessage: (message) => this.#queue.onposted(message) });
    } else {
      this.#queue.load(true);
    }
    this.#dial.connect();
  }

  get state() {
    return this.#dial.state;
  }

  /// The node that is dialled or connected.
  get url() {
    return this.#dial.url;
  }

  /// How many writes no node has accepted yet.
  get queued() {
    return this.#queue.size;
  }

  /// Kept once that is none.
  settled() {
    return this.#queue.settled();
  }

  /// Dials now, without waiting for the next try.
  reconnect() {
    this.#dial.connect();
  }

  /// Leaves this node for the next.
  leave() {
    this.#dial.leave();
  }

  collection(name) {
    return new Collection(this, name);
  }

  /// One operation over many documents, wholly or not at all.
  tx(commands, { guards = [], wait } = {}) {
    const seen = this.#guardsOfMerges(commands, guards);
    return this.#queue.write({ guards: [...guards, ...seen], commands, wait }, this.onrejected !== null);
  }

  /// A room of those who are here; `join` enters it.
  room(name) {
    const join = (state = null) => {
      const id = this.#nextId("p");
      const room = new Room(id, name, {
        send: (message) => this.#dial.send(message),
        onleave: () => {
          this.#rooms.delete(id);
          this.#dial.send({ type: "unsubscribe", id });
        },
      });
      this.#rooms.set(id, room);
      return room.set(state);
    };
    return { join };
  }

  /// The text document `collection/id`, which several edit at once.
  async text(collection, id) {
    const { nodes, WebSocket } = this.#options;
    const onclose = (text) => this.#texts.delete(text);
    const text = await SharedText.open(nodes, collection, id, { WebSocket, onclose });
    this.#texts.add(text);
    return text;
  }

  /// Live documents; use it through a collection.
  watch(collection, options, tell) {
    const id = this.#nextId("q");
    const query = new LiveQuery(id, collection, options, this.#queue, {
      tell,
      send: (message) => this.#dial.send(message),
      isOnline: () => this.#dial.isOnline,
      onwhole: () => this.#queue.yield(),
      onclose: () => {
        this.#queries.delete(id);
        this.#dial.send({ type: "unsubscribe", id });
        this.#queue.yield();
      },
    });
    this.#queries.set(id, query);
    query.adopt(this.#queue.all());
    query.subscribe();
    return query;
  }

  /// One document; use it through a collection.
  async get(collection, id) {
    const writes = () => this.#queue.on(`${collection}/${id}`);
    if (!this.#dial.isOnline) {
      const held = [...this.#queries.values()].find((query) => query.collection === collection && (query.get(id) || (query.isWhole && !query.filter)));
      const view = held ? held.get(id) ?? null : overlaid(null, writes(), collection, id);
      if (held || view) return view;
      throw LamplightError.local("offline", `no node is reached, and no live query holds ${collection}/${id}: await it again when the pool is online`);
    }
    const base = await this.#read(collection, id);
    this.#sightings.note(collection, id, base !== null);
    return overlaid(base, writes(), collection, id);
  }

  /// Ends the connection, the live queries and the rooms. Queued writes stay in the browser's storage.
  close() {
    for (const part of [...this.#queries.values()]) part.close();
    for (const room of [...this.#rooms.values()]) room.leave();
    for (const text of [...this.#texts]) text.close();
    this.#queue.close();
    this.#tabs?.close();
    this.#dial.close();
  }

  async #read(collection, id) {
    const { url } = this.#dial;
    const path = docPath(collection, id);
    const signal = AbortSignal.timeout(REQUEST_WITHIN_MS);
    const answer = await this.#options.fetch(url + path, { headers: this.#dial.headers, cache: "no-store", signal });
    this.#dial.keep(answer.headers, url);
    const text = await answer.text();
    let value;
    try {
      value = this.#options.parse(text);
    } catch {
      throw LamplightError.local("no-node", `${url} answered ${answer.status} with something that is not JSON: is there a proxy before the node?`);
    }
    if (answer.ok) {
      const [tag, stamp, status] = ["ETag", "Lamplight-Stamp", "Lamplight-Status"].map((name) => answer.headers.get(name));
      return { collection, id, version: versionIn(tag), stamp, status, value, pending: false };
    }
    if (answer.status === 404 && value.type?.endsWith(":not-found")) return null;
    throw new LamplightError(value);
  }

  /// Guards of merges of documents that are there as far as the pool knows. A merge says what to change: if another has
  /// deleted the document meanwhile, it must not make a fragment of it that nobody wrote.
  #guardsOfMerges(commands, guards) {
    const named = new Set(guards.map(partOf).filter(Boolean).map(([, { collection, id }]) => `${collection}/${id}`));
    const added = [];
    for (const [kind, { collection, id }] of commands.map(partOf).filter(Boolean)) {
      if (named.has(`${collection}/${id}`)) continue;
      // Only the first command of a document meets it as it was.
      named.add(`${collection}/${id}`);
      if (kind === "merge" && this.#isThere(collection, id)) added.push({ exists: { collection, id } });
    }
    return guards.length + commands.length + added.length <= STEPS_MAX ? added : [];
  }

  /// Returns true if the document was there when it was last seen, with the queued writes on it.
  #isThere(collection, id) {
    for (const query of this.#queries.values()) {
      if (query.collection !== collection) continue;
      if (query.get(id)) return true;
      if (query.isWhole && !query.filter) return false;
    }
    return overlaid(this.#sightings.of(collection, id), this.#queue.on(`${collection}/${id}`), collection, id) !== null;
  }

  /// What it has made of its documents is news only now: by the time of its later receipts they may have been read anew.
  #onAccepted(write) {
    if (write.receipt.verdict === "applied") this.#sightings.learn(write.commands);
  }

  #onChange(write) {
    for (const query of this.#queries.values()) query.touch(write);
  }

  #onRejected(error, { text, key }) {
    const { guards, commands } = this.#options.parse(text);
    // A node says which guard did not hold. The documents of the others are there as before.
    const exists = guards[error.problem.guard]?.exists;
    if (exists) this.#sightings.note(exists.collection, exists.id, false);
    this.onrejected?.(error, { guards, commands, key });
  }

  #nextId(kind) {
    this.#serial += 1;
    return `${kind}${this.#serial}`;
  }

  #onState(state) {
    if (state === "offline") this.#queue.onoffline();
    this.onstate?.(state);
  }

  /// The writes go first, so that the documents that come then have them.
  #onWelcome(clock, keySpan) {
    this.#queue.onwelcome(clock, keySpan);
    for (const query of this.#queries.values()) query.subscribe();
    for (const room of this.#rooms.values()) room.enter();
    this.#queue.look();
  }

  #onMessage(message) {
    const { type, id } = message;
    switch (type) {
      case "receipt": return this.#queue.onreceipt(message);
      case "pong": return this.#queue.onpong(id);
      case "error": return this.#onProblem(id, message.problem);
      case "room":
      case "peer": return this.#rooms.get(id)?.onmessage(message);
      default: return this.#queries.get(id)?.onmessage(message);
    }
  }

  #onProblem(id, problem) {
    if (new LamplightError(problem).isOfTheNode) return this.#dial.leave();
    const part = this.#queries.get(id) ?? this.#rooms.get(id);
    if (part) part.onproblem(problem);
    else this.#queue.onproblem(id, problem);
  }
}

/// The documents of one collection.
export class Collection {
  #pool;

  constructor(pool, name) {
    this.#pool = pool;
    this.name = name;
  }

  /// Creates or replaces a document.
  put(id, value, options) {
    return this.#write("put", id, { value }, options);
  }

  /// Creates a document under a new id, which the promise has as `id`.
  add(value, options) {
    const id = newId();
    return Object.assign(this.put(id, value, { ifAbsent: true, ...options }), { id });
  }

  /// Changes members of a document (RFC 7396).
  merge(id, value, options) {
    return this.#write("merge", id, { value }, options);
  }

  /// Changes places of a document: JSON Patch (RFC 6902), and `{ op: "increment", path, by }`.
  patch(id, patch, options) {
    return this.#write("patch", id, { patch }, options);
  }

  delete(id, options) {
    return this.#write("delete", id, {}, options);
  }

  /// The document, or null.
  get(id) {
    return this.#pool.get(this.name, id);
  }

  /// Live documents: `watch(tell)`, `watch({ filter, sort }, tell)`, or without `tell` to be read by `for await`.
  watch(options = {}, tell = null) {
    return typeof options === "function" ? this.#pool.watch(this.name, {}, options) : this.#pool.watch(this.name, options, tell);
  }

  #write(kind, id, content, { ifAbsent, ifExists, ifVersion, wait } = {}) {
    const target = { collection: this.name, id };
    const guards = [];
    if (ifAbsent) guards.push({ absent: target });
    if (ifExists) guards.push({ exists: target });
    if (ifVersion) guards.push({ version: { ...target, version: ifVersion } });
    return this.#pool.tx([{ [kind]: { ...target, ...content } }], { guards, wait });
  }
}
