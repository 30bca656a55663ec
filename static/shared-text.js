// A text that several edit at once, as a pool gives it: the text, its connection, and its textareas, which end together.
// The modules of text are loaded by the first who asks for one.

export class SharedText {
  #provider;
  #areas = new Set();
  #onclose;
  /// `{ link, unsaved, reason, code, node }`, as the connection last said; the unsaved edits live in this page only.
  state = { link: "connecting", unsaved: 0, reason: null, code: null, node: null };
  /// Called with the state after each change of it.
  onstate = null;

  static async open(nodes, collection, id, { WebSocket, onclose }) {
    const [{ Text }, { TextProvider }] = await Promise.all([import("./text.js"), import("./text-provider.js")]);
    return new SharedText(new Text(), TextProvider, { nodes, collection, id, Socket: WebSocket }, onclose);
  }

  constructor(text, TextProvider, where, onclose) {
    this.text = text;
    this.#onclose = onclose;
    const onState = (state) => {
      this.state = state;
      this.onstate?.(state);
    };
    this.#provider = new TextProvider({ ...where, text, onState });
  }

  /// Who is here, and where their carets are.
  get presence() {
    return this.#provider.presence;
  }

  /// Binds a textarea, with the others' carets and an undo of its own; `user` is `{ name, color? }`, as others see it.
  async bind(area, user) {
    const { TextArea } = await import("./text-area.js");
    const bound = new TextArea({ area, text: this.text, presence: this.presence, user });
    this.#areas.add(bound);
    return bound;
  }

  close() {
    for (const area of this.#areas) area.destroy();
    this.#areas.clear();
    this.#provider.destroy();
    this.#onclose(this);
  }
}
