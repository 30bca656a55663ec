// Who is in a room, and what they say of themselves: a cursor, a name. It is never stored; it ends with the connection,
// and is said again on the next.
import { LamplightError } from "./problem.js";

const STATE_BYTES_MAX = 4 << 10;
/// A state that changes as fast as a mouse moves is sent this often.
const SAY_EVERY_MS = 50;

export class Room {
  #state = null;
  #peers = new Map();
  #handlers;
  #timer = null;
  #isUnsaid = false;
  #isLeft = false;
  /// The name that the node gave to this connection in the room; null while there is none.
  me = null;
  /// What the node refuses the room for.
  error = null;
  /// Called with the peers after each change.
  onchange = null;

  /// Handlers: `send(message)`, `onleave()`.
  constructor(id, name, handlers) {
    this.id = id;
    this.name = name;
    this.#handlers = handlers;
  }

  /// The others, as `{ peer, node, state }`.
  get peers() {
    return [...this.#peers.values()];
  }

  /// Says this of myself; null to watch without being seen.
  set(state) {
    const bytes = new TextEncoder().encode(JSON.stringify(state)).length;
    if (bytes > STATE_BYTES_MAX) {
      throw LamplightError.local("too-large", `a state in a room has at most ${STATE_BYTES_MAX} bytes, this has ${bytes}`);
    }
    this.#state = state;
    this.#isUnsaid = true;
    if (this.#timer === null && !this.#isLeft) this.#say();
    return this;
  }

  leave() {
    if (this.#isLeft) return;
    this.#isLeft = true;
    clearTimeout(this.#timer);
    this.#handlers.onleave();
  }

  /// Enters, on a connection on which a node has just answered. Those who were here stay until it has told who is.
  enter() {
    this.#isUnsaid = true;
    clearTimeout(this.#timer);
    this.#say();
  }

  onmessage({ type, me, peers, peer, node, state, gone }) {
    if (type === "room") {
      this.me = me;
      this.error = null;
      this.#peers = new Map(peers.map((one) => [one.peer, one]));
    } else if (gone) {
      this.#peers.delete(peer);
    } else {
      this.#peers.set(peer, { peer, node, state });
    }
    this.#peers.delete(this.me);
    this.onchange?.(this.peers);
  }

  onproblem(problem) {
    this.error = new LamplightError(problem);
    this.onchange?.(this.peers);
  }

  #say() {
    this.#timer = null;
    if (!this.#isUnsaid) return;
    this.#isUnsaid = false;
    this.#handlers.send({ type: "presence", id: this.id, room: this.name, state: this.#state });
    this.#timer = setTimeout(() => this.#say(), SAY_EVERY_MS);
    this.#timer.unref?.();
  }
}
