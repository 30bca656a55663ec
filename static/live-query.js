// The documents of one collection and filter, kept up to date: the node's word, with the queued writes on it. It keeps
// its documents while there is no connection. A new snapshot replaces them as a whole, so that nothing flickers, and
// only differences are told.
import { overlaid } from "./overlay.js";
import { LamplightError } from "./problem.js";
import { byCodePoint, equal, matches } from "./selector.js";

const byId = (left, right) => byCodePoint(left.id, right.id);

export class LiveQuery {
  #docs = new Map();
  #incoming = null;
  #cursor = undefined;
  #isReady = false;
  #isClosed = false;
  #shown = new Map();
  #dirty = new Set();
  #list = [];
  #before = new Map();
  #told = 0;
  #mustTell = false;
  #timer = null;
  #listeners = [];
  #queue;
  #handlers;
  #becomeReady;
  #failReady;
  /// Kept with the documents once all are there.
  ready = new Promise((resolve, reject) => { this.#becomeReady = resolve; this.#failReady = reject; });
  /// What the node refuses this query for; the documents there were stay.
  error = null;

  /// Handlers: `send(message)`, `onwhole()` when a snapshot is whole, `onclose()`, `isOnline()`; and `tell(docs, meta)`,
  /// the caller's.
  constructor(id, collection, { filter, sort = byId }, queue, handlers) {
    this.id = id;
    this.collection = collection;
    this.filter = filter;
    this.sort = sort;
    this.#queue = queue;
    this.#handlers = handlers;
    this.ready.catch(() => {});
  }

  /// Whether the documents are of one moment: not while a snapshot comes in.
  get isWhole() {
    return this.#isReady && this.#incoming === null;
  }

  /// The documents as they are now, in order.
  get docs() {
    this.#refresh();
    return (this.#list ??= [...this.#shown.values()].sort(this.sort));
  }

  get(id) {
    this.#refresh();
    return this.#shown.get(id);
  }

  /// Asks a node that has just answered for the documents, or for what has changed since.
  subscribe() {
    const { id, collection, filter } = this;
    this.#handlers.send({ type: "subscribe", id, collection, filter, since: this.#cursor });
  }

  onmessage(message) {
    if (message.cursor !== undefined) this.#cursor = message.cursor;
    switch (message.type) {
      case "snapshot":
        this.#incoming ??= new Map();
        for (const doc of message.docs) this.#incoming.set(doc.id, this.#entry(doc));
        if (!message.more) this.#replace();
        break;
      case "change":
        return this.#change(message.doc);
      case "resync":
        this.#incoming = new Map();
        this.#cursor = undefined;
        break;
    }
  }

  onproblem(problem) {
    if (problem.type?.endsWith(":bad-cursor") && this.#cursor !== undefined) {
      this.#incoming = null;
      this.#cursor = undefined;
      return this.subscribe();
    }
    this.error = new LamplightError(problem);
    this.#failReady(this.error);
    this.#mustTell = true;
    this.#tellSoon();
  }

  /// A queued write came, went, or shows otherwise.
  touch({ guards, commands }) {
    for (const part of [...guards, ...commands]) {
      const target = Object.values(part)[0];
      if (target.collection === this.collection) this.#mark(target.id);
    }
  }

  /// Shows at once what the queue holds for this collection from before.
  adopt(writes) {
    for (const write of writes) this.touch(write);
  }

  close() {
    if (this.#isClosed) return;
    this.#isClosed = true;
    clearTimeout(this.#timer);
    this.#failReady(LamplightError.local("closed", "the query was closed"));
    this.#handlers.onclose();
    this.#wake();
  }

  /// The documents after each change; a reader that is slow gets the latest only. Leaving the loop closes the query.
  async *[Symbol.asyncIterator]() {
    let seen = 0;
    try {
      while (!this.#isClosed) {
        if (this.#told === seen) await new Promise((resolve) => this.#listeners.push(resolve));
        if (this.#isClosed) return;
        if (this.error) throw this.error;
        seen = this.#told;
        yield this.docs;
      }
    } finally {
      this.close();
    }
  }

  #entry({ id, version, stamp, status, value }) {
    return { collection: this.collection, id, version, stamp, status, value, pending: false };
  }

  #replace() {
    const before = this.#docs;
    this.#docs = this.#incoming;
    this.#incoming = null;
    for (const id of [...before.keys(), ...this.#docs.keys()]) this.#dirty.add(id);
    this.#mustTell ||= !this.#isReady;
    this.#isReady = true;
    this.error = null;
    this.#handlers.onwhole();
    this.#becomeReady(this.docs);
    this.#tellSoon();
  }

  #change(doc) {
    const docs = this.#incoming ?? this.#docs;
    if (doc.deleted || doc.removed) docs.delete(doc.id);
    else docs.set(doc.id, this.#entry(doc));
    if (docs === this.#docs) this.#mark(doc.id);
  }

  #mark(id) {
    this.#dirty.add(id);
    this.#tellSoon();
  }

  #tellSoon() {
    if (!this.#isClosed) this.#timer ??= setTimeout(() => this.#tell(), 0);
  }

  /// Brings what is shown up to date, and keeps what was last told of it.
  #refresh() {
    for (const id of this.#dirty) {
      const [before, now] = [this.#shown.get(id), this.#view(id)];
      if (now === before) continue;
      if (!this.#before.has(id)) this.#before.set(id, before);
      if (now) this.#shown.set(id, now);
      else this.#shown.delete(id);
      this.#list = null;
    }
    this.#dirty.clear();
  }

  #view(id) {
    const { collection, filter } = this;
    const base = this.#docs.get(id) ?? null;
    const view = overlaid(base, this.#queue.on(`${collection}/${id}`), collection, id);
    if (view === null || (view.pending && filter && !matches(filter, view.value))) return undefined;
    return view;
  }

  #tell() {
    this.#timer = null;
    this.#refresh();
    const changes = [];
    for (const [id, before] of this.#before) {
      const doc = this.#shown.get(id);
      if (isSame(before, doc)) continue;
      changes.push(doc ? { type: before ? "changed" : "added", id, doc, before } : { type: "removed", id, before });
    }
    this.#before.clear();
    if (changes.length === 0 && !this.#mustTell) return;
    this.#mustTell = false;
    this.#told += 1;
    this.#wake();
    this.#handlers.tell?.(this.docs, { changes, ready: this.#isReady, online: this.#handlers.isOnline(), error: this.error });
  }

  #wake() {
    for (const resolve of this.#listeners.splice(0)) resolve();
  }
}

/// Whether a document reads the same. That its status became final is no change of it.
function isSame(left, right) {
  if (!left || !right || left.pending !== right.pending) return left === right;
  return left.pending ? equal(left.value, right.value) : left.version === right.version;
}
