// The talk with the node that served the page: one WebSocket that comes back by itself, and plain requests.
// It knows nothing of documents or views; messages go to the handlers it was given.
import { abandon } from "./abandon.js";
import { nodeOf } from "./http.js";
import { parse } from "./json.js";
import { TokenSocket, askForToken, authorization } from "./token.js";

const FIRST_WAIT_MS = 400;
const LONGEST_WAIT_MS = 15_000;
const PING_EVERY_MS = 15_000;
/// A link that has been silent for two pings is taken for dead: a lost network tells nobody.
const SILENCE_MAX_MS = 35_000;
const ANSWER_WITHIN_MS = 20_000;
const REQUEST_WITHIN_MS = 8_000;

/// The node that served the page, maybe below a prefix that a proxy has given it.
export const NODE = nodeOf(import.meta.url);

export class Connection {
  #socket = null;
  #failures = 0;
  #timer = null;
  #heardAt = 0;
  #serial = 0;
  #waiting = new Map();
  #handlers;

  /// Handlers: `onState("connecting" | "connected" | "offline")` and `onMessage(message)`.
  constructor(handlers) {
    this.#handlers = handlers;
    setInterval(() => this.#ping(), PING_EVERY_MS);
    this.connect();
  }

  /// Connects now, without waiting for the next try. Does nothing if a socket is there.
  connect() {
    clearTimeout(this.#timer);
    if (this.#socket) return;
    this.#handlers.onState("connecting");
    const socket = new TokenSocket(`${NODE.replace(/^http/, "ws")}/v1/ws`);
    this.#socket = socket;
    socket.onopen = () => {
      this.#failures = 0;
      this.#heardAt = Date.now();
      this.#handlers.onState("connected");
      // A write whose answer was lost goes out again under its key, so that it counts once.
      for (const { text } of this.#waiting.values()) socket.send(text);
    };
    socket.onmessage = ({ data }) => {
      this.#heardAt = Date.now();
      this.#take(parse(data));
    };
    socket.onclose = () => this.#closed(socket);
  }

  /// Sends one message given as text; a closed connection drops it, since everything is asked for anew on opening.
  send(text) {
    if (this.#socket?.readyState === WebSocket.OPEN) this.#socket.send(text);
  }

  /// Writes one op. `command` is JSON text, so that numbers go out exactly as typed. Settles with the receipt or throws
  /// the problem.
  write(guards, command) {
    const id = `w${++this.#serial}`;
    const text = `{"type":"write","id":"${id}","key":"${newKey()}","guards":${JSON.stringify(guards)},"commands":[${command}]}`;
    return new Promise((resolve, reject) => {
      const timer = setTimeout(() => {
        this.#waiting.delete(id);
        reject({ detail: "The node has not answered, so it is not known whether this was written. Your text is kept: look, and try again." });
      }, ANSWER_WITHIN_MS);
      this.#waiting.set(id, { text, resolve, reject, timer });
      this.send(text);
    });
  }

  #take(message) {
    // What the node cannot read it answers without an id. Answers come in order, so it was the first that waits.
    const id = message.type === "error" ? message.id ?? this.#waiting.keys().next().value : message.id;
    const waiting = this.#waiting.get(id);
    if (!waiting) return this.#handlers.onMessage(message);
    this.#waiting.delete(id);
    clearTimeout(waiting.timer);
    if (message.type === "receipt") waiting.resolve(message);
    else waiting.reject(message.problem ?? {});
  }

  #closed(socket) {
    if (this.#socket !== socket) return;
    this.#socket = null;
    this.#failures += 1;
    this.#handlers.onState("offline");
    const longest = Math.min(LONGEST_WAIT_MS, FIRST_WAIT_MS * 2 ** Math.min(this.#failures, 8));
    // Jitter keeps many pages from coming back to a restarted node in the same moment.
    this.#timer = setTimeout(() => this.connect(), longest * (0.5 + Math.random() / 2));
  }

  #ping() {
    const socket = this.#socket;
    if (socket?.readyState !== WebSocket.OPEN) return;
    if (Date.now() - this.#heardAt <= SILENCE_MAX_MS) return socket.send('{"type":"ping"}');
    // Closing a dead socket can take minutes to be reported; the next one does not wait for that.
    abandon(socket);
    this.#closed(socket);
  }
}

/// A request to this node; answers the body (JSON, or a text as it is) and the headers, or throws the problem.
export async function request(path, { method = "GET", body, type = "application/json", headers = {} } = {}) {
  const described = body === undefined ? {} : { "Content-Type": type };
  const answer = await fetch(NODE + path, { method, body, headers: { ...described, ...authorization(), ...headers }, cache: "no-store", signal: AbortSignal.timeout(REQUEST_WITHIN_MS) });
  const text = await answer.text();
  let content = null;
  try {
    const isPlain = answer.headers.get("Content-Type")?.startsWith("text/plain");
    content = isPlain ? text : text === "" ? null : parse(text);
  } catch {
    throw { status: answer.status, detail: `The node answered ${answer.status} with something that is not JSON.` };
  }
  if (answer.status === 401) askForToken(content?.detail);
  if (!answer.ok) throw { status: answer.status, ...content };
  return { content, headers: answer.headers };
}

/// A key for one write. crypto.randomUUID would do, but exists only on secure origins.
export function newKey() {
  return Array.from(crypto.getRandomValues(new Uint8Array(16)), (byte) => byte.toString(16).padStart(2, "0")).join("");
}
