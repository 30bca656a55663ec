// What the user writes to JSON documents: saving an editor's text, adding and deleting, and meeting what came meanwhile.
// It works on the page's state and draws by what it was given; texts that several write have an editor of their own.
import { request } from "./connection.js";
import { docPath, versionIn } from "./http.js";
import { fault } from "./json.js";
import { guardOf, idFault, meet } from "./store.js";
import { problemWords } from "./words.js";

export class DocumentWriter {
  #state;
  #connection;
  #draw;
  #focus;

  /// `draw()` draws the page; `focus(id, action)` draws it and puts the focus on a part of a document's row, or of the
  /// page if `id` is null.
  constructor({ state, connection, draw, focus }) {
    this.#state = state;
    this.#connection = connection;
    this.#draw = draw;
    this.#focus = focus;
  }

  /// Holds an open editor against a change that arrived. `removed` without a version says only that the filter lost it.
  meetChange(edit, doc) {
    if (doc.deleted) meet(edit, null);
    else if (doc.version !== undefined) meet(edit, { ...doc, isText: doc.text === true, text: JSON.stringify(doc.value) });
    if (doc.deleted && edit.theirs) edit.theirs.stamp = doc.stamp;
  }

  /// Holds all open editors against a snapshot that arrived.
  meetSnapshot() {
    for (const edit of this.#state.edits.of(this.#state.collection)) {
      const doc = this.#state.documents.get(edit.id);
      if (doc) meet(edit, doc);
      // Not in the snapshot: deleted, or only outside the filter. The node knows.
      else if (!edit.busy) this.#readTheirs(edit);
    }
  }

  /// Asks the node how the edited document now is.
  async #readTheirs(edit) {
    try {
      const { content, headers } = await request(docPath(edit.collection, edit.id));
      const isText = headers.get("Content-Type")?.startsWith("text/plain") === true;
      meet(edit, { version: versionIn(headers.get("ETag")), stamp: headers.get("Lamplight-Stamp"), value: content, isText, text: JSON.stringify(content) });
    } catch (problem) {
      if (problem.status === 404) meet(edit, null);
      else edit.error = problemWords(problem);
    }
    this.#draw();
  }

  async save(edit) {
    edit.error = fault(edit.text);
    if (edit.error || edit.busy) return this.#draw();
    edit.busy = true;
    this.#draw();
    try {
      this.#note("Saved", await this.#connection.write([guardOf(edit)], putText(edit.collection, edit.id, edit.text)));
      this.#state.edits.close(edit);
      this.#focus(edit.id, "edit");
    } catch (problem) {
      edit.busy = false;
      if (isConflict(problem)) await this.#readTheirs(edit);
      // A guard that failed without a difference to show would leave the user at a loss; then the node's words are shown.
      if (!edit.theirs) edit.error = problemWords(problem);
    }
    this.#draw();
  }

  /// Adds the document of the form for a new one, whose id was typed as `id`.
  async add(id) {
    const { adding, collection } = this.#state;
    adding.id = id.trim();
    adding.error = idFault(adding.id) ?? fault(adding.text);
    if (adding.error || adding.busy) return this.#draw();
    adding.busy = true;
    this.#draw();
    try {
      const receipt = adding.id === ""
        ? (await request(`/v1/docs/${encodeURIComponent(collection)}`, { method: "POST", body: adding.text, headers: { "Idempotency-Key": adding.key } })).content
        : await this.#connection.write([{ absent: { collection, id: adding.id } }], putText(collection, adding.id, adding.text));
      this.#note("Added", receipt);
      this.#state.adding = null;
      this.#focus(null, "add");
    } catch (problem) {
      adding.busy = false;
      adding.error = isConflict(problem) ? `There is a document ${adding.id} already. Choose another id, or edit that one.` : problemWords(problem);
    }
    this.#draw();
  }

  async remove(id, version) {
    const { collection } = this.#state;
    this.#state.confirming = null;
    this.#draw();
    try {
      this.#note("Deleted", await this.#connection.write([{ version: { collection, id, version } }], JSON.stringify({ delete: { collection, id } })));
    } catch (problem) {
      this.#state.failure = isConflict(problem) ? `${id} was not deleted: it changed meanwhile. Look at it again.` : problemWords(problem);
    }
    this.#focus(null, "add");
    this.#draw();
  }

  #note(verb, receipt) {
    if (receipt.status === "rejected") throw { status: 409, detail: receipt.reason };
    this.#state.failure = null;
    this.#state.writes.add(verb, receipt);
  }
}

/// A put as JSON text, with the value exactly as typed.
const putText = (collection, id, text) => `{"put":{"collection":${JSON.stringify(collection)},"id":${JSON.stringify(id)},"value":${text}}}`;

const isConflict = (problem) => [404, 409, 412].includes(problem?.status);
