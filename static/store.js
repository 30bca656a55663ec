// What the page knows of one collection, and the user's writes to it. Pure: no DOM, no network, no clock.
import { compact } from "./json.js";

/// The documents of one subscription, in the order of their ids.
export class Documents {
  #docs = new Map();
  #ids = null;
  #texts = null;
  #incoming = null;
  loaded = false;

  /// A new snapshot follows. What is shown stays until the snapshot is whole, so that the page does not flash.
  restart() {
    this.#incoming = new Map();
  }

  /// Takes one part of a snapshot; returns whether it is whole now.
  snapshot(docs, more) {
    this.#incoming ??= new Map();
    for (const doc of docs) this.#incoming.set(doc.id, this.#entry(doc));
    if (more) return false;
    this.#docs = this.#incoming;
    this.#incoming = null;
    this.#ids = this.#texts = null;
    this.loaded = true;
    return true;
  }

  change(doc) {
    const docs = this.#incoming ?? this.#docs;
    if (doc.text === true || docs.get(doc.id)?.isText) this.#texts = null;
    if (doc.deleted || doc.removed) docs.delete(doc.id);
    else docs.set(doc.id, this.#entry(doc));
    // Put in order when next shown: once a drawing, however many changes came.
    if (docs.size !== this.#ids?.length) this.#ids = null;
  }

  get(id) {
    return this.#docs.get(id);
  }

  get size() {
    return this.#docs.size;
  }

  /// The first `max` ids, and those of `pinned` wherever they are.
  ids(max, pinned) {
    this.#ids ??= [...this.#docs.keys()].sort();
    const shown = this.#ids.slice(0, max);
    const extra = pinned.filter((id) => !shown.includes(id));
    return extra.length === 0 ? shown : [...shown, ...extra].sort();
  }

  /// The ids of those that are texts, in order.
  texts() {
    return (this.#texts ??= [...this.#docs.values()].filter(({ isText }) => isText).map(({ id }) => id).sort());
  }

  /// `lit` counts the changes seen here, so that a view can mark a fresh one; `text` is made once, when first shown.
  #entry(doc) {
    const before = this.#docs.get(doc.id);
    const lit = !this.loaded ? 0 : before?.version === doc.version ? before.lit : (before?.lit ?? 0) + 1;
    let text;
    return { id: doc.id, version: doc.version, stamp: doc.stamp, status: doc.status, value: doc.value, isText: doc.text === true, lit, get text() { return (text ??= compact(doc.value)); } };
  }
}

/// The editors open on the page: what was typed, which version it began from, and what has happened meanwhile.
export class Edits {
  #edits = new Map();

  open(collection, doc, text) {
    const edit = { collection, id: doc.id, base: doc.version, text, error: null, busy: false, theirs: null };
    this.#edits.set(`${collection}/${doc.id}`, edit);
    return edit;
  }

  get(collection, id) {
    return this.#edits.get(`${collection}/${id}`);
  }

  close(edit) {
    this.#edits.delete(`${edit.collection}/${edit.id}`);
  }

  of(collection) {
    return [...this.#edits.values()].filter((edit) => edit.collection === collection);
  }
}

/// The document as it now is, against what an editor began from: sets or clears the conflict. `doc` is null if deleted.
export function meet(edit, doc) {
  if (doc === null) edit.theirs = edit.base === null ? null : { deleted: true };
  else edit.theirs = doc.version === edit.base ? null : doc;
}

/// The user agrees to write over what came meanwhile: the editor now begins from there. A null base means absent.
export function overwrite(edit) {
  edit.base = edit.theirs.deleted ? null : edit.theirs.version;
  edit.theirs = null;
}

/// The guard with which an edit is saved.
export function guardOf({ collection, id, base }) {
  return base === null ? { absent: { collection, id } } : { version: { collection, id, version: base } };
}

/// The last writes made on this page. A tentative one can become final or rejected later; the log tells.
export class Writes {
  #writes = [];

  add(verb, receipt) {
    const { op, stamp, status } = receipt;
    // The document is read from the list: over the WebSocket, the id at the top is that of the message.
    const { collection, id } = receipt.docs[0];
    this.#writes.unshift({ verb, op, stamp, status, target: `${collection}/${id}` });
    this.#writes.length = Math.min(this.#writes.length, 20);
  }

  learn(ops) {
    const heard = new Map(ops.map((op) => [op.op, op]));
    for (const write of this.#writes) {
      const op = heard.get(write.op);
      if (!op) continue;
      write.status = op.verdict === "rejected" ? "rejected" : op.status;
    }
  }

  /// The latest write, and any that was accepted here but lost its place since.
  shown() {
    return this.#writes.filter((write, place) => place === 0 || write.status === "rejected");
  }

  dismiss(op) {
    this.#writes = this.#writes.filter((write) => write.op !== op);
  }
}

const collectionName = /^[A-Za-z0-9_][A-Za-z0-9_.-]{0,63}$/;
export const isCollection = (name) => collectionName.test(name);

/// What is wrong with a document id as typed; null if nothing is.
export function idFault(id) {
  if (id === "." || id === "..") return "An id cannot be . or ..";
  if (/\p{Cc}/u.test(id)) return "An id cannot hold control characters.";
  if (id.isWellFormed?.() === false) return "An id must be well-formed text.";
  if (new TextEncoder().encode(id).length > 256) return "An id is at most 256 bytes long.";
  return null;
}
