// Binds a <textarea> to a collaborative text: what is typed goes into the text, what others write comes into the field,
// and caret, selection, scroll place, and a running composition (of an input method) stay as they are. The textarea stays
// the real control; the others' carets are drawn over it by `TextCarets`.
import { EMBED } from "./text.js";
import { TextCarets, paletteColour } from "./text-carets.js";
import { applied, difference, movedPosition, movedRange, showable } from "./text-change.js";
import { Undo } from "./text-undo.js";

export class TextArea {
  #area;
  #text;
  #presence;
  #user;
  #undo;
  #carets;
  #endings;
  /// What the field showed when it and the text last agreed.
  #shown = "";
  /// What happened to the text during a composition, of which the field does not know yet; null when none is running.
  #unseen = null;
  #announced = null;

  /// `user` is `{ name, color?, colorLight? }`: how this one's caret looks to others. Colours are CSS colours.
  constructor({ area, text, presence, user }) {
    this.#user = withColours(user, presence.client);
    this.#area = area;
    this.#text = text;
    this.#presence = presence;
    this.#undo = new Undo(text);
    this.#carets = new TextCarets({ area, text, presence });
    this.#shown = showable(text.toString(EMBED));
    area.value = this.#shown;
    const listen = (target, handlers) => Object.entries(handlers).map(([name, handler]) => {
      target.addEventListener(name, handler);
      return () => target.removeEventListener(name, handler);
    });
    const announce = () => this.#announce();
    this.#endings = [
      text.subscribe((event) => this.#changed(event)),
      ...listen(area, {
        input: () => this.#unseen === null && this.#commit([]),
        beforeinput: (event) => this.#beforeInput(event),
        keydown: (event) => this.#keyDown(event),
        compositionstart: () => (this.#unseen = []),
        compositionend: () => this.#endComposition(),
        // Firefox tells of a moved caret here, Chromium on the document.
        selectionchange: announce, select: announce, focus: announce, blur: announce,
      }),
      ...listen(document, { selectionchange: announce }),
    ];
    this.#announce();
  }

  /// How this one looks to others from now on.
  set user(user) {
    this.#user = withColours(user, this.#presence.client);
    this.#announced = null;
    this.#announce();
  }

  undo() {
    if (this.#unseen === null) this.#undo.undo();
  }

  redo() {
    if (this.#unseen === null) this.#undo.redo();
  }

  /// Ends the binding; the field keeps what it shows.
  destroy() {
    if (this.#unseen !== null) this.#endComposition();
    for (const end of this.#endings) end();
    this.#undo.destroy();
    this.#carets.destroy();
    if (this.#presence.state !== null) this.#presence.set({ ...this.#presence.state, cursor: null });
  }

  // ---- From the field into the text ----

  /// Brings what was typed into the text, which `unseen` deltas have changed since the field was last the same.
  #commit(unseen) {
    const change = difference(this.#shown, this.#area.value, this.#area.selectionEnd);
    if (unseen.length > 0) this.#shown = showable(this.#text.toString(EMBED));
    if (change === null) return null;
    const { index, removed, inserted } = change;
    const at = unseen.reduce((position, delta) => movedPosition(delta, position), index);
    // Only what was there when it was removed goes; what others wrote in between stays.
    const ranges = unseen.reduce((ranges, delta) => ranges.flatMap(([from, to]) => movedRange(delta, from, to)), [[index, index + removed]]);
    if (unseen.length === 0) this.#text.replace(index, removed, inserted, this);
    else {
      for (const [from, to] of ranges.reverse()) this.#text.delete(from, to - from, this);
      this.#text.insert(at, inserted, this);
    }
    // Half a surrogate pair cannot be typed; whatever else the text made of it, the field follows.
    if (unseen.length === 0 && this.#area.value !== this.#shown) this.#show(this.#area.selectionStart);
    return at + inserted.length;
  }

  #endComposition() {
    const unseen = this.#unseen ?? [];
    this.#unseen = null;
    const caret = this.#commit(unseen);
    if (unseen.length > 0) this.#show(caret ?? unseen.reduce((position, delta) => movedPosition(delta, position), this.#area.selectionStart));
    this.#announce();
  }

  #beforeInput(event) {
    // The browser's own undo knows nothing of what others wrote.
    if (event.inputType !== "historyUndo" && event.inputType !== "historyRedo") return;
    event.preventDefault();
    if (event.inputType === "historyUndo") this.undo();
    else this.redo();
  }

  #keyDown(event) {
    if (!(event.ctrlKey || event.metaKey) || event.altKey) return;
    const key = event.key.toLowerCase();
    if (key !== "z" && !(key === "y" && event.ctrlKey)) return;
    event.preventDefault();
    if (key === "z" && !event.shiftKey) this.undo();
    else this.redo();
  }

  // ---- From the text into the field ----

  #changed({ delta, origin }) {
    if (this.#unseen !== null) {
      this.#unseen.push(delta);
      return;
    }
    this.#shown = applied(this.#shown, visible(delta));
    if (origin !== this) this.#patch(visible(delta));
    if (origin === this.#undo) this.#goTo(delta);
  }

  /// Changes in the field only what differs: the browser then keeps caret and selection at what they stood at.
  #patch(delta) {
    const { scrollTop, scrollLeft, selectionDirection } = this.#area;
    let at = 0;
    for (const { retain = 0, insert = "", delete: removed = 0 } of delta) {
      at += retain;
      if (retain === 0) this.#area.setRangeText(insert, at, at + removed, "preserve");
      at += insert.length;
    }
    if (this.#area.value !== this.#shown) this.#show(this.#area.selectionStart);
    // Browsers move the selection along, but forget which of its ends moves.
    Object.assign(this.#area, { scrollTop, scrollLeft, selectionDirection });
  }

  /// Shows the whole text anew, with the caret at an index.
  #show(caret) {
    const { scrollTop, scrollLeft } = this.#area;
    this.#area.value = this.#shown;
    this.#area.setSelectionRange(caret, caret);
    Object.assign(this.#area, { scrollTop, scrollLeft });
  }

  /// Puts the caret behind the last change of a delta.
  #goTo(delta) {
    const end = delta.reduce((at, { retain = 0, insert = "" }) => at + retain + insert.length, 0);
    this.#area.setSelectionRange(end, end);
  }

  /// Tells the others where the caret is, as long as the field has the focus.
  #announce() {
    // The field is ahead of the text.
    if (this.#unseen !== null) return;
    let cursor = null;
    if (document.activeElement === this.#area) {
      const { selectionStart, selectionEnd, selectionDirection } = this.#area;
      // The event can come before the one of the edit that moved the caret.
      if (this.#area.value.length !== this.#text.length) return;
      const ends = [selectionStart, selectionEnd].map((index) => this.#text.relativePosition(index));
      if (selectionDirection === "backward") ends.reverse();
      cursor = { anchor: ends[0], head: ends[1] };
    }
    const announced = JSON.stringify(cursor);
    if (announced === this.#announced) return;
    this.#announced = announced;
    this.#presence.set({ ...this.#presence.state, user: this.#user, cursor });
  }
}

function withColours(user, client) {
  const color = user.color ?? paletteColour(client);
  return { color, colorLight: `color-mix(in srgb, ${color} 25%, transparent)`, ...user };
}

const visible = (delta) => delta.map((part) => (part.insert === undefined ? part : { insert: showable(part.insert) }));
