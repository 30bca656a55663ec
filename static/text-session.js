// One text that is open on this page: the text itself, its connection, and the field it is bound to while it is shown.
// A session that is left with unsaved edits lives on unseen until the node has them.
import { nodeOf } from "./http.js";
import { Text } from "./text.js";
import { TextArea } from "./text-area.js";
import { TextProvider } from "./text-provider.js";
import { TokenSocket } from "./token.js";

export class TextSession {
  collection;
  id;
  text = new Text();
  /// What the provider last told: `{ link, unsaved, reason, code }`.
  state = { link: "connecting", unsaved: 0, reason: null, code: null };
  #provider;
  #binding = null;
  /// Nobody is told before the session is made.
  #changed = () => {};

  /// `changed(session)` is called whenever the state, or who is here, is another.
  constructor(collection, id, changed) {
    this.collection = collection;
    this.id = id;
    const onState = (state) => {
      this.state = state;
      this.#changed(this);
    };
    // Only the node that served the page: its content policy lets the page connect to no other.
    this.#provider = new TextProvider({ text: this.text, nodes: [nodeOf(import.meta.url)], collection, id, onState, Socket: TokenSocket });
    this.#provider.presence.subscribe(() => this.#changed(this));
    this.#changed = changed;
  }

  get others() {
    return this.#provider.presence.others;
  }

  /// Shows the text in a field.
  bind(field, user) {
    this.#binding = new TextArea({ area: field, text: this.text, presence: this.#provider.presence, user });
  }

  /// Leaves the field; to the others this one is no longer here.
  unbind() {
    this.#binding?.destroy();
    this.#binding = null;
    this.#provider.presence.set(null);
  }

  set user(user) {
    if (this.#binding) this.#binding.user = user;
  }

  undo() {
    this.#binding?.undo();
  }

  redo() {
    this.#binding?.redo();
  }

  /// Tries now, without waiting for the next try. What was refused stays so, until it is opened anew.
  connect() {
    if (this.state.link !== "refused") this.#provider.connect();
  }

  destroy() {
    this.#changed = () => {};
    this.unbind();
    this.#provider.destroy();
  }
}
