// The controller of the page: holds the state, talks with the node, and lets the views draw after every change.
import { Connection, newKey, request } from "./connection.js";
import { Diagram } from "./diagram.js";
import { renew, h } from "./dom.js";
import { fault, filterFault, pretty } from "./json.js";
import { Past } from "./past.js";
import { NODES_MAX, poolPicture } from "./pool-picture.js";
import { Documents, Edits, Writes, guardOf, idFault, isCollection, meet, overwrite } from "./store.js";
import { count, problemWords, roster } from "./words.js";
import { addingForm, documentRows, pastRows, receipts } from "./view-documents.js";
import { connectionState, finality, heldBack, holdersOf, identity, linkStrip, members } from "./view-pool.js";
import { operations } from "./view-log.js";
import { choose, frames, showable } from "./view-side.js";

/// The log is asked for when the pool tells of something new, and now and then anyway: a status can change by itself.
const LOG_AT_MOST_EVERY_MS = 1000;
const LOG_AT_LEAST_EVERY_MS = 4000;
const DRAW_AT_MOST_EVERY_MS = 100;
/// After a drawing that took long (many rows, a slow machine) the page rests so many times as long.
const DRAW_REST_TIMES = 12;
const FILTER_SETTLES_MS = 350;
const OTHER = "/other";

const $ = (id) => document.getElementById(id);
const query = new URLSearchParams(location.search);
const embedded = query.has("embed");
/// A picture of what happens must not lag behind it; three frames side by side have no picture and share one machine.
const POLL_EVERY_MS = embedded ? 1000 : 250;

const state = {
  collection: isCollection(query.get("collection") ?? "") ? query.get("collection") : "notes",
  collections: [],
  filter: "",
  filterFault: null,
  documents: new Documents(),
  edits: new Edits(),
  writes: new Writes(),
  failure: null,
  adding: null,
  confirming: null,
  connection: "connecting",
  pool: null,
  unreachable: false,
  cutting: false,
  log: null,
  logFailure: null,
  side: query.has("side") && !embedded,
  sideChosen: [],
};

// ---- Drawing ----

let drawPlanned = false;
let drawnAt = 0;
let restMs = 0;

/// Asks for a drawing soon. Many changes in a burst make one drawing.
function draw() {
  if (drawPlanned) return;
  drawPlanned = true;
  setTimeout(() => requestAnimationFrame(() => {
    drawPlanned = false;
    const begun = performance.now();
    drawNow();
    drawnAt = performance.now();
    restMs = Math.max(DRAW_AT_MOST_EVERY_MS, DRAW_REST_TIMES * (drawnAt - begun));
  }), Math.max(0, drawnAt + restMs - performance.now()));
}

function drawNow() {
  const nodes = roster(state.pool);
  const { pool } = state;
  document.title = pool ? `${nodes.name(pool.node)} · Lamplight` : "Lamplight";
  document.body.classList.toggle("embed", embedded);
  document.body.classList.toggle("side", state.side);
  document.body.classList.toggle("reading-past", past.time !== null);
  diagram.markPast(past.time);
  renew($("identity"), identity(pool, nodes));
  renew($("connection"), connectionState(state.connection));
  drawSide(nodes);
  if (state.side) return;

  renew($("links"), linkStrip(state, nodes));
  $("pool-picture").hidden = nodes.members.length > NODES_MAX;
  renew($("pool-picture"), embedded ? null : poolPicture(pool, nodes, holdersOf(pool)));
  renew($("members"), members(pool, nodes));
  renew($("pool-count"), pool ? `${count(pool.members.length, "member")} · ${count(pool.ops, "operation")} · clock ${pool.clock}${finality(pool)}` : "");
  renew($("held-back"), heldBack(pool, nodes));
  renew($("ops"), operations(state.log, state.logFailure, nodes));
  const filtered = state.filter !== "";
  renew($("documents-count"), past.time !== null ? "as they were" : state.documents.loaded ? (filtered ? `${state.documents.size} matching` : count(state.documents.size, "document")) : "");
  renew($("filter-error"), state.filterFault ?? "");
  $("filter").setAttribute("aria-invalid", String(state.filterFault !== null));
  renew($("receipt"), past.time === null ? receipts(state.writes.shown(), state.failure, nodes)
    : h("p", { class: "quiet hint" }, `The documents as they were at time ${past.time}. Go back to now to write.`));
  renew($("adding"), addingForm(state.adding));
  renew($("rows"), past.time === null ? documentRows({ ...state, filtered, nodes }) : pastRows(past, state.collection, nodes));
  drawCollections();
}

function drawCollections() {
  const known = new Map(state.collections.map(({ name, docs }) => [name, docs]));
  if (!known.has(state.collection)) known.set(state.collection, 0);
  const select = $("collection");
  renew(select, [...known].sort(([a], [b]) => (a < b ? -1 : 1)).map(([name, docs]) => h("option", { key: name, value: name }, `${name} (${docs})`)),
    h("option", { key: OTHER, value: OTHER }, "Another name…"));
  if ($("collection-other").hidden) select.value = state.collection;
}

function drawSide(nodes) {
  const candidates = showable(nodes);
  const toggle = $("side-toggle");
  toggle.hidden = embedded || (!state.side && candidates.length < 2);
  toggle.textContent = state.side ? "Back to this node" : "Side by side";
  $("side").hidden = !state.side;
  $("links").hidden = state.side;
  const shown = state.side ? choose(candidates, state.sideChosen) : [];
  state.sideChosen = shown.map(({ member }) => member.id);
  renew($("side"), state.side ? frames(shown, nodes.members.length, state.collection, nodes) : null);
}

// ---- The diagram, and the documents of a time past ----

const past = new Past($("past"), { wanted: () => state, changed: draw });
const diagram = new Diagram($("diagram"), {
  onShowAt(time) {
    past.show(time);
    $("documents").scrollIntoView({ block: "nearest", behavior: matchMedia("(prefers-reduced-motion: reduce)").matches ? "instant" : "smooth" });
  },
});

// ---- The live documents ----

let subscription = 0;
/// Changes since the last poll. Where they come in a flood, rows do not light up: all would, and painting that takes the
/// time that the diagram needs.
let changes = 0;
const FLOOD_PER_S = 40;

const connection = new Connection({
  onState(now) {
    state.connection = now;
    if (now === "connected") subscribe();
    draw();
  },
  onMessage(message) {
    // The second receipt of a write: its verdict is final.
    if (message.type === "receipt") {
      state.writes.learn([message]);
      return draw();
    }
    // An error without an id is of a filter that the node cannot read.
    if (message.id !== `s${subscription}` && (message.type !== "error" || message.id !== undefined)) return;
    switch (message.type) {
      case "snapshot":
        if (state.documents.snapshot(message.docs, message.more)) meetEdits();
        break;
      case "change": {
        const edit = state.edits.get(state.collection, message.doc.id);
        state.documents.change(message.doc);
        changes += 1;
        if (edit) meetEdit(edit, message.doc);
        break;
      }
      case "resync":
        state.documents.restart();
        break;
      case "error":
        // Only the filter can be wrong with a subscription; the documents of the filter before stay on the page.
        state.filterFault = problemWords(message.problem);
        break;
    }
    draw();
  },
});

/// Subscribes afresh: on opening, and whenever the collection or the filter changes. The number tells the answers of
/// this subscription from late ones of the subscription before.
function subscribe() {
  if (subscription > 0) connection.send(JSON.stringify({ type: "unsubscribe", id: `s${subscription}` }));
  subscription += 1;
  state.documents.restart();
  const filter = state.filter === "" ? "" : `,"filter":${state.filter}`;
  connection.send(`{"type":"subscribe","id":"s${subscription}","collection":${JSON.stringify(state.collection)}${filter}}`);
}

function openCollection(name) {
  $("collection-other").hidden = true;
  if (name !== state.collection) {
    state.collection = name;
    state.documents = new Documents();
    state.confirming = null;
    const address = new URL(location.href);
    address.searchParams.set("collection", name);
    history.replaceState(null, "", address);
    subscribe();
    past.ask();
  }
  draw();
}

function takeFilter() {
  const text = $("filter").value.trim();
  state.filterFault = filterFault(text);
  if (state.filterFault === null && text !== state.filter) {
    state.filter = text;
    subscribe();
    past.ask();
  }
  draw();
}

/// Holds an open editor against a change that arrived. `removed` without a version says only that the filter lost it.
function meetEdit(edit, doc) {
  if (doc.deleted) meet(edit, null);
  else if (doc.version !== undefined) meet(edit, { ...doc, text: JSON.stringify(doc.value) });
  if (doc.deleted && edit.theirs) edit.theirs.stamp = doc.stamp;
}

function meetEdits() {
  for (const edit of state.edits.of(state.collection)) {
    const doc = state.documents.get(edit.id);
    if (doc) meet(edit, doc);
    // Not in the snapshot: deleted, or only outside the filter. The node knows.
    else if (!edit.busy) readTheirs(edit);
  }
}

/// Asks the node how the edited document now is.
async function readTheirs(edit) {
  try {
    const { content, headers } = await request(docPath(edit.collection, edit.id));
    meet(edit, { version: headers.get("ETag")?.replaceAll('"', ""), stamp: headers.get("Lamplight-Stamp"), value: content, text: JSON.stringify(content) });
  } catch (problem) {
    if (problem.status === 404) meet(edit, null);
    else edit.error = problemWords(problem);
  }
  draw();
}

const docPath = (collection, id) => `/v1/docs/${encodeURIComponent(collection)}/${encodeURIComponent(id)}`;

// ---- Writing ----

async function save(edit) {
  edit.error = fault(edit.text);
  if (edit.error || edit.busy) return draw();
  edit.busy = true;
  draw();
  try {
    noteReceipt("Saved", await connection.write([guardOf(edit)], putText(edit.collection, edit.id, edit.text)));
    state.edits.close(edit);
    focusRow(edit.id, "edit");
  } catch (problem) {
    edit.busy = false;
    if (isConflict(problem)) await readTheirs(edit);
    // A guard that failed without a difference to show would leave the user at a loss; then the node's words are shown.
    if (!edit.theirs) edit.error = problemWords(problem);
  }
  draw();
}

async function add(form) {
  const { adding } = state;
  adding.id = form.elements.id.value.trim();
  adding.error = idFault(adding.id) ?? fault(adding.text);
  if (adding.error || adding.busy) return draw();
  adding.busy = true;
  draw();
  try {
    const { collection } = state;
    const receipt = adding.id === ""
      ? (await request(`/v1/docs/${encodeURIComponent(collection)}`, { method: "POST", body: adding.text, headers: { "Idempotency-Key": adding.key } })).content
      : await connection.write([{ absent: { collection, id: adding.id } }], putText(collection, adding.id, adding.text));
    noteReceipt("Added", receipt);
    state.adding = null;
    $("add").focus();
  } catch (problem) {
    adding.busy = false;
    adding.error = isConflict(problem) ? `There is a document ${adding.id} already. Choose another id, or edit that one.` : problemWords(problem);
  }
  draw();
}

async function remove(id, version) {
  const { collection } = state;
  state.confirming = null;
  draw();
  try {
    noteReceipt("Deleted", await connection.write([{ version: { collection, id, version } }], JSON.stringify({ delete: { collection, id } })));
  } catch (problem) {
    state.failure = isConflict(problem) ? `${id} was not deleted: it changed meanwhile. Look at it again.` : problemWords(problem);
  }
  $("add").focus({ preventScroll: true });
  draw();
}

/// A put as JSON text, with the value exactly as typed.
const putText = (collection, id, text) => `{"put":{"collection":${JSON.stringify(collection)},"id":${JSON.stringify(id)},"value":${text}}}`;

function noteReceipt(verb, receipt) {
  if (receipt.status === "rejected") throw { status: 409, detail: receipt.reason };
  state.failure = null;
  state.writes.add(verb, receipt);
}

const isConflict = (problem) => [404, 409, 412].includes(problem?.status);

async function setCut(cut) {
  if (state.cutting || state.unreachable) return;
  state.cutting = true;
  draw();
  try {
    const { content } = await request("/v1/pool/links", { method: "POST", body: JSON.stringify({ cut }) });
    state.pool.cut = content.cut;
  } catch (problem) {
    state.failure = `The links stay as they are: ${problemWords(problem)}`;
  }
  state.cutting = false;
  poll();
}

// ---- The pool and the log, by asking again ----

let pollTimer = null;
let polls = 0;
let logSeen = "";
let logAskedAt = -Infinity;

/// One round of questions, then the next a moment later; a hidden page asks nothing.
async function poll() {
  clearTimeout(pollTimer);
  const round = ++polls;
  if (!document.hidden) {
    try {
      const { content } = await request("/v1/pool");
      // Links were cut or joined while this was under way: a later round has asked again, and this answer is old.
      if (round !== polls) return;
      state.pool = content;
      state.unreachable = false;
      past.follow(content);
      document.body.classList.toggle("flood", changes > FLOOD_PER_S * POLL_EVERY_MS / 1000);
      changes = 0;
      await Promise.all([diagram.take(content, roster(content)), !state.side && pollLog()]);
    } catch {
      if (round === polls) state.unreachable = true;
    }
    draw();
  }
  // A later call has taken over the clockwork.
  if (round === polls) pollTimer = setTimeout(poll, POLL_EVERY_MS);
}

async function pollLog() {
  const mark = `${state.pool.ops} ${state.pool.clock} ${state.pool.frontier}`;
  const now = performance.now();
  if (now - logAskedAt < (mark === logSeen ? LOG_AT_LEAST_EVERY_MS : LOG_AT_MOST_EVERY_MS)) return;
  logAskedAt = now;
  try {
    const [log, collections] = await Promise.all([request("/v1/log?order=desc&limit=50"), request("/v1/collections")]);
    state.log = log.content.ops;
    state.collections = collections.content.collections;
    state.logFailure = null;
    state.writes.learn(state.log);
    logSeen = mark;
  } catch (problem) {
    state.logFailure = problemWords(problem);
  }
}

// ---- What the user does ----

function startEdit(id) {
  const doc = state.documents.get(id);
  if (!doc) return;
  if (!state.edits.get(state.collection, id)) state.edits.open(state.collection, doc, pretty(doc.value));
  focusRow(id, "edit-text");
  // The buttons below the text are to be seen too, where the rows scroll in a small frame.
  $("rows").querySelector("tr.editing:focus-within")?.scrollIntoView({ block: "nearest" });
}

function stopEdit(edit) {
  state.edits.close(edit);
  focusRow(edit.id, "edit");
}

/// Draws, and puts the focus on a part of a row, so that the keyboard does not start again at the top of the page.
function focusRow(id, action) {
  drawNow();
  $("rows").querySelector(`tr[data-id="${CSS.escape(id)}"] [data-action="${action}"]`)?.focus({ preventScroll: true });
}

/// What the buttons do, by their data-action; in a row with its id and editor.
const onClick = {
  add: startAdding,
  "add-cancel": stopAdding,
  edit: ({ id }) => startEdit(id),
  save: ({ edit }) => save(edit),
  cancel: ({ edit }) => stopEdit(edit),
  overwrite: ({ edit }) => { overwrite(edit); save(edit); },
  "take-theirs": ({ edit }) => stopEdit(edit),
  delete: ({ id }) => {
    state.confirming = id;
    state.confirmingVersion = state.documents.get(id)?.version;
    focusRow(id, "delete-yes");
  },
  "delete-yes": ({ id }) => remove(id, state.confirmingVersion),
  "delete-no": ({ id }) => { state.confirming = null; focusRow(id, "delete"); },
  dismiss: ({ op }) => { state.writes.dismiss(op); draw(); },
  "dismiss-failure": () => { state.failure = null; draw(); },
  cut: () => setCut(true),
  join: () => setCut(false),
  side: () => toggleSide(),
};

addEventListener("click", ({ target }) => {
  const action = target.closest("button")?.dataset.action;
  const { id, op } = target.closest("[data-id], [data-op]")?.dataset ?? {};
  onClick[action]?.({ id, op, edit: state.edits.get(state.collection, id) });
});
$("rows").addEventListener("dblclick", ({ target }) => {
  const cell = target.closest('[data-action="edit-by-double-click"]');
  if (cell) startEdit(cell.closest("tr").dataset.id);
});
$("rows").addEventListener("input", ({ target }) => {
  const edit = state.edits.get(state.collection, target.closest("tr")?.dataset.id);
  if (!edit) return;
  edit.text = target.value;
  // A fault once shown goes away as soon as the text is right; a new one is only named on saving.
  if (edit.error) edit.error = fault(edit.text);
  draw();
});
$("rows").addEventListener("keydown", (event) => {
  const id = event.target.closest("tr")?.dataset.id;
  const edit = state.edits.get(state.collection, id);
  if (edit && event.key === "Enter" && (event.ctrlKey || event.metaKey) && !edit.theirs) save(edit);
  else if (edit && event.key === "Escape") stopEdit(edit);
  else if (state.confirming === id && event.key === "Escape") onClick["delete-no"]({ id });
  else return;
  event.preventDefault();
});

$("adding").addEventListener("submit", (event) => {
  event.preventDefault();
  add(event.target);
});
$("adding").addEventListener("input", ({ target }) => {
  if (target.id === "add-text") state.adding.text = target.value;
  // Another text is another write; only the same one may be sent again under its key.
  state.adding.key = newKey();
  if (state.adding.error) state.adding.error = idFault($("add-id").value.trim()) ?? fault(state.adding.text);
  draw();
});
$("adding").addEventListener("keydown", (event) => {
  if (event.key === "Escape") stopAdding();
  else if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) event.currentTarget.querySelector("form").requestSubmit();
});

function startAdding() {
  state.adding ??= { id: "", text: "{\n  \"text\": \"\"\n}", error: null, busy: false, key: newKey() };
  drawNow();
  $("add-id").focus();
}

function stopAdding() {
  state.adding = null;
  drawNow();
  $("add").focus();
}

$("collection").addEventListener("change", ({ target }) => {
  if (target.value !== OTHER) return openCollection(target.value);
  $("collection-other").hidden = false;
  $("collection-name").focus();
});
$("collection-other").addEventListener("submit", (event) => {
  event.preventDefault();
  const name = $("collection-name").value.trim();
  if (isCollection(name)) openCollection(name);
});

let filterTimer = null;
$("filter").addEventListener("input", () => {
  clearTimeout(filterTimer);
  filterTimer = setTimeout(takeFilter, FILTER_SETTLES_MS);
});
$("filter-form").addEventListener("submit", (event) => {
  event.preventDefault();
  takeFilter();
});

function toggleSide() {
  state.side = !state.side;
  const address = new URL(location.href);
  if (state.side) address.searchParams.set("side", "");
  else address.searchParams.delete("side");
  // `?side` reads better than `?side=`, and means the same.
  history.replaceState(null, "", address.href.replace(/side=(?=&|$)/, "side"));
  draw();
}

document.addEventListener("visibilitychange", () => {
  if (document.hidden) return;
  connection.connect();
  poll();
});
addEventListener("online", () => connection.connect());

draw();
poll();
