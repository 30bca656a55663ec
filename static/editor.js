// The editor card: one text of the collection, edited together with everyone who has it open on any node. Holds which
// text is open and who the user is, and acts on the card's buttons; the field itself belongs to TextArea.
import { request } from "./connection.js";
import { renew } from "./dom.js";
import { docPath } from "./http.js";
import { idFault } from "./store.js";
import { TextSession } from "./text-session.js";
import { keepUser, trimmed, userOfThisBrowser } from "./user.js";
import { NO_TEXT, editorHint, editorState, others, pastNotice, refusal, stateWord, textChoices } from "./view-editor.js";
import { problemWords } from "./words.js";

const EMPTY_WORDS = "Nothing here yet. What you type, everyone sees.";

export class Editor {
  #place;
  #field;
  #pastField;
  #user = userOfThisBrowser();
  #session = null;
  /// Sessions that were left before the node had all of their edits, by their target.
  #left = new Map();
  /// What the rest of the page knows: `{ documents, isFiltered, past, isCut }`.
  #known = { documents: null, isFiltered: false, past: null, isCut: false };
  #texts = [];
  /// The text at a time past: `{ mark, there, content }`, `mark` being what it was asked for by.
  #then = null;
  #failure = null;
  #planned = false;
  #onOpen;
  #onEditJson;

  /// `onOpen(id)` is called when the user opens a text, `onEditJson(id)` where a document is none.
  constructor(place, { onOpen, onEditJson }) {
    this.#place = place;
    this.#field = place.querySelector(".editor-stage textarea");
    this.#pastField = place.querySelector(".editor-past");
    this.#onOpen = onOpen;
    this.#onEditJson = onEditJson;
    this.#part("#user-name").value = this.#user.name;
    this.#part("#user-colour").value = this.#user.color;
    this.#listen();
  }

  get id() {
    return this.#session?.id ?? null;
  }

  get collection() {
    return this.#session?.collection ?? null;
  }

  /// Opens a text; one that does not exist begins with its first letter.
  open(collection, id) {
    if (this.collection === collection && this.id === id) return;
    this.close();
    const target = `${collection}/${id}`;
    this.#session = this.#left.get(target) ?? new TextSession(collection, id, (session) => this.#heard(session));
    this.#left.delete(target);
    this.#session.bind(this.#field, this.#user);
    this.#plan();
  }

  close() {
    const session = this.#session;
    this.#session = this.#then = this.#failure = null;
    if (!session) return;
    session.unbind();
    this.#field.value = "";
    if (session.state.unsaved > 0 && session.state.link !== "refused") this.#left.set(`${session.collection}/${session.id}`, session);
    else session.destroy();
    this.#plan();
  }

  focus() {
    (this.#known.past?.time === null ? this.#field : this.#pastField).focus({ preventScroll: true });
    this.#place.scrollIntoView({ block: "nearest" });
  }

  /// Takes what the rest of the page knows by now.
  take(known) {
    this.#known = known;
    // Texts have no value that a filter could match, so the list is that of the last time without one.
    if (!known.isFiltered) this.#texts = known.documents.texts();
    this.#readPast();
    this.#plan();
  }

  // ---- Drawing ----

  #part(selector) {
    return this.#place.querySelector(selector);
  }

  #plan() {
    if (this.#planned) return;
    this.#planned = true;
    requestAnimationFrame(() => {
      this.#planned = false;
      this.#draw();
    });
  }

  #draw() {
    const session = this.#session;
    const time = this.#known.past?.time ?? null;
    const state = session?.state ?? { link: "connecting", unsaved: 0 };
    const isRefused = state.link === "refused";
    renew(this.#part(".editor-name"), this.id ?? "");
    renew(this.#part(".editor-state"), editorState(state));
    renew(this.#part(".editor-texts"), textChoices(this.#texts, state.code === NO_TEXT ? null : this.id));
    renew(this.#part(".editor-others"), others(session?.others ?? []));
    renew(this.#part("#editor-hint"), editorHint(state, this.#known.isCut));
    const said = session ? `${this.id}: ${stateWord(state.link)}` : "";
    if (this.#part(".editor-said").textContent !== said) this.#part(".editor-said").textContent = said;
    const notice = time !== null ? pastNotice(time, this.#then?.there ?? "asking") : isRefused ? refusal(state, session, this.#there(), this.#failure) : null;
    renew(this.#part(".editor-notice"), notice);
    this.#place.classList.toggle("past", time !== null);
    this.#part(".editor-stage").hidden = time !== null || state.code === NO_TEXT;
    this.#pastField.hidden = time === null || this.#then?.there !== "text";
    this.#field.readOnly = isRefused || !session;
    this.#field.placeholder = state.link === "connected" ? EMPTY_WORDS : "";
    this.#field.setAttribute("aria-label", session ? `Text of ${session.id}` : "Text");
  }

  /// What the collection has under the id that is open, as far as it is listed.
  #there() {
    const doc = this.#known.documents?.get(this.id);
    return !doc ? null : doc.isText ? "text" : "json";
  }

  #heard(session) {
    if (session === this.#session) return this.#plan();
    const target = `${session.collection}/${session.id}`;
    if (this.#left.get(target) !== session || (session.state.unsaved > 0 && session.state.link !== "refused")) return;
    this.#left.delete(target);
    session.destroy();
  }

  // ---- The past ----

  /// Reads the text as it was, if that is another than the one at hand. What there was then the list of that time tells.
  async #readPast() {
    const { past } = this.#known;
    if (past.time === null || !this.#session || past.documents === null) return (this.#then = null);
    const doc = past.documents.find(({ id }) => id === this.id);
    if (!doc && !this.#known.isFiltered && !past.hasMore) return (this.#then = { mark: null, there: "none" });
    if (doc && !doc.isText) return (this.#then = { mark: null, there: "json" });
    const mark = `${this.collection}/${this.id} ${doc?.version ?? past.documentsTime}`;
    if (this.#then?.mark === mark) return;
    // What is shown stays until the other is here, so that the page does not flash.
    const then = { mark, there: this.#then?.there ?? "asking" };
    this.#then = then;
    try {
      const { content } = await request(this.#path({ at: past.documentsTime }));
      if (this.#then !== then) return;
      then.there = typeof content === "string" ? "text" : "json";
      if (then.there === "text") this.#pastField.value = content;
    } catch (problem) {
      if (problem.status === 404) then.there = "none";
      // That time may have been forgotten meanwhile; the documents' list says so, and the next look tries again.
      else then.mark = null;
    }
    this.#plan();
  }

  #path(query) {
    return docPath(this.collection, this.id, query);
  }

  // ---- What the user does ----

  #listen() {
    this.#place.addEventListener("click", ({ target }) => {
      const { editor, text } = target.closest("[data-editor]")?.dataset ?? {};
      switch (editor) {
        case "open": return this.#choose(text);
        case "undo": return this.#withField(() => this.#session?.undo());
        case "redo": return this.#withField(() => this.#session?.redo());
        case "reopen": return this.#reopen();
        case "put-back": return this.#putBack();
        case "edit-json": return this.#onEditJson(this.id);
      }
    });
    this.#part(".editor-open").addEventListener("submit", (event) => {
      event.preventDefault();
      this.#choose(this.#part("#text-id").value.trim());
      this.#part("#text-id").value = "";
    });
    this.#part("#text-id").addEventListener("input", ({ target }) => target.setCustomValidity(idFault(target.value.trim()) ?? ""));
    this.#part(".editor-me").addEventListener("change", () => this.#rename());
    this.#part("#user-name").addEventListener("keydown", (event) => {
      if (event.key !== "Enter") return;
      // Or else the text to which the focus goes would take the line break.
      event.preventDefault();
      this.#withField(() => {});
    });
    for (const event of ["online", "focus"]) addEventListener(event, () => this.#session?.connect());
    addEventListener("beforeunload", (event) => {
      if (this.#unsaved > 0) event.preventDefault();
    });
  }

  get #unsaved() {
    return [...this.#left.values(), this.#session].reduce((sum, session) => sum + (session?.state.unsaved ?? 0), 0);
  }

  #choose(id) {
    if (id === "") return;
    this.#onOpen(id);
    this.focus();
  }

  #withField(act) {
    this.#field.focus({ preventScroll: true });
    act();
  }

  #rename() {
    const name = trimmed(this.#part("#user-name").value);
    this.#user = { name: name || this.#user.name, color: this.#part("#user-colour").value };
    this.#part("#user-name").value = this.#user.name;
    keepUser(this.#user);
    if (this.#session) this.#session.user = this.#user;
  }

  /// Opens what is there now, with nothing of what was.
  #reopen() {
    const { collection, id } = this.#session;
    this.close();
    this.open(collection, id);
    this.#withField(() => {});
  }

  /// Writes what the deleted text read last as a new one, unless something has come in its place.
  async #putBack() {
    const session = this.#session;
    try {
      await request(this.#path(), { method: "PUT", body: session.text.toString(), type: "text/plain", headers: { "If-None-Match": "*" } });
      if (session === this.#session) this.#reopen();
    } catch (problem) {
      this.#failure = `It was not put back: ${problemWords(problem)}`;
      this.#plan();
    }
  }

  /// Ends all; what is unsaved is lost with the page.
  destroy() {
    this.close();
    for (const session of this.#left.values()) session.destroy();
    this.#left.clear();
  }
}
