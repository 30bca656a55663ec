// The documents of a collection: the table with its editors, the form for a new document, and the receipts of writes.
// Each function builds its whole tree from the state; clicks are told apart by data-action, and app.js acts on them.
import { h, kept } from "./dom.js";
import { clip } from "./json.js";
import { count, isFinal, parseStamp, shortVersion } from "./words.js";
import { stampMark } from "./view-log.js";

/// More rows than this help nobody, and keep a browser busy.
const ROWS_MAX = 200;
const VALUE_SHOWN_MAX = 420;

export function documentRows({ documents, edits, collection, confirming, filtered, nodes, pool }) {
  const open = edits.of(collection);
  const ids = documents.ids(ROWS_MAX, open.map((edit) => edit.id));
  if (!documents.loaded) return h("p", { class: "empty" }, "Waiting for the documents…");
  if (ids.length === 0) {
    return h("p", { class: "empty" }, filtered ? "No document matches this filter." : `Nothing in ${collection} yet. Add the first document.`);
  }
  const hidden = documents.size - ROWS_MAX;
  return [
    h("table", { class: "documents", "aria-labelledby": "documents-title" },
      documentsHead(),
      h("tbody", {}, ids.map((id) => {
        const edit = edits.get(collection, id);
        return edit ? editorRow(edit, documents.get(id), nodes) : documentRow(documents.get(id), confirming, nodes, pool);
      }))),
    hidden > 0 && h("p", { class: "more quiet", key: "more" }, `${count(hidden, "more document")}: narrow the filter.`),
  ];
}

/// The documents as they were at a time past: to be read only.
export function pastRows({ time, documents, hasMore, failure }, collection, nodes) {
  if (failure) return h("p", { class: "empty error", role: "alert" }, failure);
  if (!documents) return h("p", { class: "empty" }, `Asking for the documents at time ${time}…`);
  if (documents.length === 0) return h("p", { class: "empty" }, `Nothing in ${collection} at time ${time} that matches.`);
  return [
    h("table", { class: "documents", "aria-labelledby": "documents-title" },
      documentsHead(),
      h("tbody", {}, documents.map((doc) => h("tr", { key: doc.id, "data-id": doc.id }, idCell(doc.id), valueCell(doc), versionCell(doc, nodes),
        h("td", { class: "actions" }, doc.isText && button("open-text", "Open", `Open ${doc.id}`)))))),
    hasMore && h("p", { class: "more quiet", key: "more" }, "There were more: narrow the filter."),
  ];
}

function documentsHead() {
  return h("thead", {}, h("tr", {},
    ["Id", "Value", "Version"].map((name) => h("th", { scope: "col" }, name)),
    h("th", { scope: "col" }, h("span", { class: "unseen" }, "Actions"))));
}

function valueCell(doc, action) {
  if (doc.isText) return h("td", { class: "value", "data-action": action }, h("span", { class: "badge" }, "text"), h("span", { class: "quiet detail" }, " open it to write together"));
  return h("td", { class: "value", "data-action": action }, h("code", {}, jsonMarks(clip(doc.text, VALUE_SHOWN_MAX))));
}

function documentRow(doc, confirming, nodes, pool) {
  // Two names for one animation: a second change in a row starts it again.
  const lit = doc.lit === 0 ? "" : doc.lit % 2 === 1 ? "lit-odd" : "lit-even";
  const { node } = parseStamp(doc.stamp);
  const memo = [doc.version, doc.stamp, doc.status === "final" || isFinal(doc.stamp, pool), lit, confirming === doc.id, nodes.name(node), nodes.colour(node)].join(" ");
  return kept("tr", doc.id, memo, () => h("tr", { key: doc.id, "data-id": doc.id, class: lit },
    idCell(doc.id),
    valueCell(doc, "edit-by-double-click"),
    versionCell(doc, nodes, pool),
    h("td", { class: "actions" }, confirming === doc.id
      ? [button("delete-yes", "Delete?", `Yes, delete ${doc.id}`, "danger"), button("delete-no", "Keep", `Keep ${doc.id}`)]
      : [doc.isText ? button("open-text", "Open", `Open ${doc.id}`) : button("edit", "Edit", `Edit ${doc.id}`), button("delete", "Delete", `Delete ${doc.id}`)])));
}

function editorRow(edit, doc, nodes) {
  // Encoded, since a space would end a reference from one element to another.
  const field = `editor:${encodeURIComponent(edit.id)}`;
  const fault = `fault:${encodeURIComponent(edit.id)}`;
  const conflict = edit.theirs && !edit.busy;
  return h("tr", { key: edit.id, "data-id": edit.id, class: "editing" },
    idCell(edit.id),
    h("td", { class: "value", colspan: "3" },
      h("label", { class: "unseen", for: field }, `Value of ${edit.id}, JSON`),
      textarea(field, "edit-text", edit, fault, conflict),
      edit.error && h("p", { class: "error", id: fault, role: "alert", key: "error" }, edit.error),
      conflict && conflictNote(edit.theirs, nodes),
      !conflict && h("div", { class: "buttons", key: "buttons" },
        h("button", { type: "button", class: "primary", "data-action": "save", "aria-disabled": edit.busy && "true" }, edit.busy ? "Saving…" : "Save"),
        h("button", { type: "button", "data-action": "cancel" }, "Cancel"),
        h("span", { class: "quiet hint" }, doc ? "Ctrl+Enter saves, Escape cancels" : "It no longer matches what is shown"))));
}

function conflictNote(theirs, nodes) {
  const who = theirs.stamp ? [" by ", h("b", {}, nodes.name(parseStamp(theirs.stamp).node))] : "";
  return h("div", { class: "conflict", role: "alert", key: "conflict" },
    h("p", {}, h("b", {}, theirs.deleted ? "Deleted meanwhile" : "Changed meanwhile"), who, theirs.deleted ? "." : theirs.isText ? ". It now is a text." : ". It now is:"),
    !theirs.deleted && !theirs.isText && h("p", {}, h("code", {}, jsonMarks(clip(theirs.text, VALUE_SHOWN_MAX)))),
    h("div", { class: "buttons" },
      h("button", { type: "button", "data-action": "overwrite" }, theirs.deleted ? "Put mine back" : "Overwrite with mine"),
      h("button", { type: "button", "data-action": "take-theirs" }, theirs.deleted ? "Let it go" : "Take theirs")));
}

export function addingForm(adding) {
  if (!adding) return null;
  return h("form", { class: "adding", "data-action": "add-form" },
    h("div", { class: "field" },
      h("label", { for: "add-id" }, "Id ", h("span", { class: "quiet" }, "(left empty, the node makes one)")),
      h("input", { id: "add-id", name: "id", autocomplete: "off", spellcheck: "false", value: adding.id })),
    h("div", { class: "field" },
      h("label", { for: "add-text" }, "Value ", h("span", { class: "quiet" }, "(JSON)")),
      textarea("add-text", "add-text", adding, "add-fault", false)),
    adding.error && h("p", { class: "error", id: "add-fault", role: "alert", key: "error" }, adding.error),
    h("div", { class: "buttons", key: "buttons" },
      h("button", { class: "primary", "aria-disabled": adding.busy && "true" }, adding.busy ? "Adding…" : "Add"),
      h("button", { type: "button", "data-action": "add-cancel" }, "Cancel")));
}

/// The receipts worth seeing: the last write, and any write that was rejected when an earlier one was heard of later.
export function receipts(writes, failure, nodes) {
  // The place is never empty, so that the first receipt does not push the rows down.
  if (writes.length === 0 && !failure) return h("p", { class: "quiet hint", key: "hint" }, "Double-click a value to edit it where it stands.");
  return [
    failure && h("p", { class: "receipt rejected", key: "failure" }, h("span", { class: "mark" }, "✕"),
      h("span", {}, failure), button("dismiss-failure", "×", "Dismiss this message")),
    writes.map((write) => h("p", { class: `receipt ${write.status}`, key: write.op, "data-op": write.op },
      h("span", { class: "mark", "aria-hidden": "true" }, { rejected: "✕", final: "●" }[write.status] ?? "○"),
      h("span", {}, `${write.verb} `, h("b", {}, write.target), " at ", stampMark(write.stamp, nodes), ": ", h("b", {}, write.status),
        write.status === "rejected" && ". An operation that stands before it in the order made its condition fail; the log has the reason.",
        write.status === "tentative" && h("span", { class: "quiet" }, ", an earlier operation may still be heard of")),
      button("dismiss", "×", "Dismiss this receipt"))),
  ];
}

function idCell(id) {
  return h("th", { scope: "row", class: "id", title: id }, id);
}

/// A document becomes final without a change of it, so the pool's word on how far all is final is asked as well.
function versionCell(doc, nodes, pool) {
  const final = doc.status === "final" || isFinal(doc.stamp, pool);
  const words = final ? "final: nothing can come before what made it so" : "tentative: an operation not heard of yet may still come before";
  return h("td", { class: "version" },
    h("code", { title: `Version ${doc.version}` }, shortVersion(doc.version)), " ", stampMark(doc.stamp, nodes), " ",
    h("span", { class: "quiet status", title: words }, h("span", { "aria-hidden": "true" }, final ? "●" : "○"), h("span", { class: "unseen" }, final ? "final" : "tentative")));
}

function textarea(id, action, { text, error, busy }, fault, conflict) {
  return h("textarea", { id, key: "text", "data-action": action, value: text, spellcheck: "false", readonly: busy,
    rows: String(Math.min(16, Math.max(3, text.split("\n", 17).length))),
    "aria-invalid": error ? "true" : null, "aria-describedby": error ? fault : null, class: conflict ? "stale" : null });
}

function button(action, text, label, kind = "") {
  return h("button", { type: "button", class: `quiet-button ${kind}`, "data-action": action, "aria-label": label, key: action }, text);
}

/// JSON text with its keys, strings and other tokens told apart. Cut-off text is fine: an open string ends at the end.
function jsonMarks(text) {
  return Array.from(text.matchAll(/("(?:\\.|[^"\\])*"?)(:?)|[[\]{},]+|[^"[\]{},]+/gs), ([token, string, colon]) => {
    if (string === undefined) return /^[[\]{},]/.test(token) ? token : h("span", { class: "atom" }, token);
    return colon ? [h("span", { class: "name" }, string), ": "] : h("span", { class: "string" }, string);
  }).flat().map((part) => (typeof part === "string" && part !== ": " ? part.replace(/,(?=[^,]*$)/, ", ") : part));
}
