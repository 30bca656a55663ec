// The controller of the page: holds the state, talks with the node, and lets the views draw after every change.
import { asked, isAsked, say } from "./address.js";
import { Connection, newKey, request } from "./connection.js";
import { Diagram } from "./diagram.js";
import { DocumentWriter } from "./document-writer.js";
import { renew, h } from "./dom.js";
import { Editor } from "./editor.js";
import { fault, filterFault, pretty } from "./json.js";
import { Past } from "./past.js";
import { NODES_MAX, poolPicture } from "./pool-picture.js";
import { Documents, Edits, Writes, idFault, isCollection, overwrite } from "./store.js";
import { count, problemWords, roster } from "./words.js";
import { addingForm, documentRows, pastRows, receipts } from "./view-documents.js";
import { connectionState, finality, heldBack, holdersOf, identity, linkStrip, members, sharedAddress } from "./view-pool.js";
import { operations } from "./view-log.js";
import { VIEWS, choose, frames, showable, viewButtons } from "./view-side.js";

/// The log is asked for when the pool tells of something new, and now and then anyway: a status can change by itself.
const LOG_AT_MOST_EVERY_MS = 1000;
const LOG_AT_LEAST_EVERY_MS = 4000;
const DRAW_AT_MOST_EVERY_MS = 100;
/// After a drawing that took long (many rows, a slow machine) the page rests so many times as long.
const DRAW_REST_TIMES = 12;
const FILTER_SETTLES_MS = 350;
const OTHER = "/other";
/// Where there is no text yet, all pages begin the same one.
const NEW_TEXT = "scratch";

const $ = (id) => document.getElementById(id);
const embedded = isAsked("embed");
/// A picture of what happens must not lag behind it; three frames side by side have no picture and share one machine.
const POLL_EVERY_MS = embedded ? 1000 : 250;

const state = {
  collection: isCollection(asked("collection") ?? "") ? asked("collection") : "notes",
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
  /// The text that the user has opened; null until then, and the page opens one by itself.
  text: asked("text"),
  side: isAsked("side") && !embedded,
  view: VIEWS.includes(asked("view")) ? asked("view") : VIEWS[0],
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
  document.body.classList.toggle("view-text", state.view === "text");
  document.body.classList.toggle("reading-past", past.time !== null);
  diagram.markPast(past.time);
  renew($("identity"), identity(pool, nodes));
  renew($("connection"), connectionState(state.connection));
  drawSide(nodes);
  drawEditor();
  if (state.side) return;

  renew($("links"), linkStrip(state, nodes));
  $("pool-picture").hidden = nodes.members.length > NODES_MAX;
  renew($("pool-picture"), embedded ? null : poolPicture(pool, nodes, holdersOf(pool)));
  renew($("members"), members(pool, nodes));
  renew($("pool-count"), pool ? `${count(pool.members.length, "member")} · ${count(pool.ops, "operation")} · clock ${pool.clock}${finality(pool)}` : "");
  renew($("held-back"), heldBack(pool, nodes) ?? sharedAddress(pool, nodes));
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

/// Opens a text once it is known which there are. Side by side the frames have editors of their own.
function drawEditor() {
  if (state.side) return editor.close();
  if (editor.id === null && (state.text !== null || state.documents.loaded)) {
    editor.open(state.collection, state.text ?? state.documents.texts()[0] ?? NEW_TEXT);
  }
  editor.take({ documents: state.documents, isFiltered: state.filter !== "", past, isCut: state.pool?.cut === true });
}

function drawSide(nodes) {
  const candidates = showable(nodes);
  const toggle = $("side-toggle");
  toggle.hidden = embedded || (!state.side && candidates.length < 2);
  toggle.textContent = state.side ? "Back to this node" : "Side by side";
  $("side").hidden = !state.side;
  $("links").hidden = state.side;
  $("side-views").hidden = !state.side;
  renew($("side-views"), state.side && viewButtons(state.view));
  const shown = state.side ? choose(candidates, state.sideChosen) : [];
  state.sideChosen = shown.map(({ member }) => member.id);
  renew($("side"), state.side ? frames(shown, nodes.members.length, state, nodes) : null);
}

// ---- The diagram, and the documents of a time past ----

const past = new Past($("past"), { wanted: () => state, changed: draw });
const diagram = new Diagram($("diagram"), {
  onShowAt(time) {
    past.show(time);
    $("documents").scrollIntoView({ block: "nearest", behavior: matchMedia("(prefers-reduced-motion: reduce)").matches ? "instant" : "smooth" });
  },
});

// ---- The text ----

const editor = new Editor($("editor"), { onOpen: openText, onEditJson: startEdit });

function openText(id) {
  state.text = id;
  say("text", id);
  editor.open(state.collection, id);
  draw();
}

// A page that may come back from the browser's memory comes back with a new session.
addEventListener("pagehide", () => editor.destroy());
addEventListener("pageshow", ({ persisted }) => persisted && draw());

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
        if (state.documents.snapshot(message.docs, message.more)) writer.meetSnapshot();
        break;
      case "change": {
        const edit = state.edits.get(state.collection, message.doc.id);
        state.documents.change(message.doc);
        changes += 1;
        if (edit) writer.meetChange(edit, message.doc);
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

const writer = new DocumentWriter({ state, connection, draw, focus: focusRow });

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
    state.text = null;
    editor.close();
    say("collection", name);
    say("text", null);
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

// ---- Links ----

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
    const [log, collections] = await Promise.all([request("/v1/log?order=desc&limit=50"), allCollections()]);
    state.log = log.content.ops;
    state.collections = collections;
    state.logFailure = null;
    state.writes.learn(state.log);
    logSeen = mark;
  } catch (problem) {
    state.logFailure = problemWords(problem);
  }
}

/// All collections, page by page.
async function allCollections() {
  const found = [];
  for (let after = ""; ;) {
    const { content } = await request(`/v1/collections?limit=1000${after}`);
    found.push(...content.collections);
    if (content.next === null) return found;
    after = `&after=${content.next}`;
  }
}

// ---- What the user does ----

function startEdit(id) {
  const doc = state.documents.get(id);
  if (!doc) return;
  if (doc.isText) return showText(id);
  if (!state.edits.get(state.collection, id)) state.edits.open(state.collection, doc, pretty(doc.value));
  focusRow(id, "edit-text");
  // The buttons below the text are to be seen too, where the rows scroll in a small frame.
  $("rows").querySelector("tr.editing:focus-within")?.scrollIntoView({ block: "nearest" });
}

function showText(id) {
  openText(id);
  editor.focus();
}

function stopEdit(edit) {
  state.edits.close(edit);
  focusRow(edit.id, "edit");
}

/// Draws, and puts the focus on a part of a row, or of the page if no row is named, so that the keyboard does not start
/// again at the top of the page.
function focusRow(id, action) {
  drawNow();
  const place = id === null ? document : $("rows").querySelector(`tr[data-id="${CSS.escape(id)}"]`);
  place?.querySelector(`[data-action="${action}"]`)?.focus({ preventScroll: true });
}

/// What the buttons do, by their data-action; in a row with its id and editor.
const onClick = {
  add: startAdding,
  "add-cancel": stopAdding,
  edit: ({ id }) => startEdit(id),
  "open-text": ({ id }) => showText(id),
  save: ({ edit }) => writer.save(edit),
  cancel: ({ edit }) => stopEdit(edit),
  overwrite: ({ edit }) => { overwrite(edit); writer.save(edit); },
  "take-theirs": ({ edit }) => stopEdit(edit),
  delete: ({ id }) => {
    state.confirming = id;
    state.confirmingVersion = state.documents.get(id)?.version;
    focusRow(id, "delete-yes");
  },
  "delete-yes": ({ id }) => writer.remove(id, state.confirmingVersion),
  "delete-no": ({ id }) => { state.confirming = null; focusRow(id, "delete"); },
  dismiss: ({ op }) => { state.writes.dismiss(op); draw(); },
  "dismiss-failure": () => { state.failure = null; draw(); },
  cut: () => setCut(true),
  join: () => setCut(false),
  side: () => toggleSide(),
  "view-all": () => setView("all"),
  "view-text": () => setView("text"),
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
  if (edit && event.key === "Enter" && (event.ctrlKey || event.metaKey) && !edit.theirs) writer.save(edit);
  else if (edit && event.key === "Escape") stopEdit(edit);
  else if (state.confirming === id && event.key === "Escape") onClick["delete-no"]({ id });
  else return;
  event.preventDefault();
});

$("adding").addEventListener("submit", (event) => {
  event.preventDefault();
  writer.add(event.target.elements.id.value);
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
  say("side", state.side ? "" : null);
  draw();
}

function setView(view) {
  state.view = view;
  say("view", view === VIEWS[0] ? null : view);
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
