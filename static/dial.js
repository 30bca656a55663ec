// The connection to one of several nodes: one WebSocket that comes back by itself, to the next node where the last is
// gone. It says when a node has answered and hands its messages on; it knows nothing of documents, writes or rooms.
import { abandon } from "./abandon.js";

const FIRST_WAIT_MS = 300;
const LONGEST_WAIT_MS = 15_000;
/// A client whose node went moves on at once, but not in the same moment as all others.
const MOVE_WITHIN_MS = 100;
/// From dialling to the node's first word.
const WELCOME_WITHIN_MS = 10_000;
const PING_EVERY_MS = 15_000;
/// A connection that has been silent for two pings is taken for dead: a lost network tells nobody.
const SILENCE_MAX_MS = 35_000;
/// A node that owes an answer is pinged so often, for one that hangs keeps its connections. After so much silence a request
/// beside the socket decides whether it hangs, or is busy with a long message on a slow line: a message shows only when all of
/// it is here. Together these are less than ten seconds.
const OWING_PING_EVERY_MS = 3_000;
const OWING_CHECK_EVERY_MS = 500;
const OWING_SILENCE_MAX_MS = 6_000;
const LIVENESS_WITHIN_MS = 3_000;
/// What goes out over a slow line has time beside that.
const SLOW_LINE_BYTES_PER_MS = 16;
/// How long another node may take to hold what was seen on the one before. Then the next is asked.
const SESSION_WITHIN_MS = 2_000;
/// How long after news the session that has seen it is asked for.
const SESSION_SETTLES_MS = 250;
const OPEN = 1;
/// The close code that says that a token is missing, wrong or taken back.
const UNAUTHORIZED = 4401;

export class Dial {
  #urls;
  #place = 0;
  #options;
  #handlers;
  #socket = null;
  #online = false;
  #closed = false;
  #failures = 0;
  #heardAt = 0;
  #waiting = null;
  #pinging;
  #owing = null;
  #owedBytes = 0;
  #owedSince = 0;
  #urgedAt = 0;
  #buffered = 0;
  #drainedAt = 0;
  #vouchedAt = 0;
  #asked = null;
  #session = null;
  #sessionOf = null;
  #sessionTimer = null;
  #sessionIsOld = false;
  #sessionRefusals = 0;
  #wake = () => {
    // A device that slept may hold a connection that died meanwhile.
    this.#ping();
    this.connect();
  };
  state = "connecting";

  /// `options` has the class `WebSocket`, `fetch`, `parse` and `authorization()`, the headers that show a token; handlers are
  /// `onstate(state)`, `onwelcome(clock, keySpan)`, `onmessage(message)` and `onrefused(reason)`.
  constructor(urls, options, handlers) {
    this.#urls = urls;
    this.#options = options;
    this.#handlers = handlers;
    this.#pinging = setInterval(() => this.#ping(), PING_EVERY_MS);
    this.#pinging.unref?.();
    globalThis.addEventListener?.("online", this.#wake);
    globalThis.document?.addEventListener("visibilitychange", this.#wake);
  }

  /// The node that is dialled or connected.
  get url() {
    return this.#urls[this.#place];
  }

  get isOnline() {
    return this.#online;
  }

  /// Dials now, without waiting for the next try. Does nothing while a connection is there or being made.
  connect() {
    if (this.#socket || this.#closed) return;
    clearTimeout(this.#waiting);
    this.#tell("connecting");
    // Holds the place until the socket is there.
    const dialling = { close() {} };
    this.#socket = dialling;
    if (this.#session === null || this.#sessionOf === this.url) return this.#open();
    this.#askSession().then((answer) => {
      if (this.#socket !== dialling) return;
      if (answer === "holds") return this.#open();
      if (answer === "refuses") this.#sessionRefusals += 1;
      // No other node holds it: what it stands for went with the node that had it, or will come when that is back.
      // Waiting for it would mean to show nothing at all.
      if (this.#sessionRefusals >= this.#urls.length - 1) this.#session = null;
      this.#lost(dialling);
    });
  }

  /// Sends a message, an object or its JSON text. While no node has answered it is dropped: all is asked anew then.
  send(message) {
    if (this.#online && this.#socket.readyState === OPEN) this.#transmit(message);
  }

  /// Leaves this node for the next.
  leave() {
    const socket = this.#socket;
    if (!socket) return;
    abandon(socket);
    this.#lost(socket);
  }

  /// The node owes answers to so many bytes; to none, if that is 0.
  owe(bytes) {
    this.#owedBytes = bytes;
    if (bytes === 0 || !this.#online) return this.#settle();
    if (this.#owing !== null) return;
    this.#owedSince = this.#urgedAt = Date.now();
    this.#owing = setInterval(() => this.#urge(), OWING_CHECK_EVERY_MS);
    this.#owing.unref?.();
  }

  /// The node owes nothing.
  #settle() {
    clearInterval(this.#owing);
    this.#owing = null;
    this.#owedBytes = 0;
  }

  #urge() {
    this.#noteDrain();
    if (this.#isOverdue) this.#askLife();
    if (Date.now() - this.#urgedAt < OWING_PING_EVERY_MS) return;
    this.#urgedAt = Date.now();
    this.send({ type: "ping" });
  }

  /// Whether it is time to doubt a node that owes an answer.
  get #isOverdue() {
    return this.#isSilent(OWING_SILENCE_MAX_MS, Math.max(this.#owedSince, this.#vouchedAt));
  }

  /// Whether the socket has shown no life for longer than it may: since the last message, since bytes last went out, or since
  /// `from` if that is later.
  #isSilent(most, from = 0) {
    const since = Math.max(this.#heardAt, this.#drainedAt, from);
    return Date.now() - since > most + this.#owedBytes / SLOW_LINE_BYTES_PER_MS;
  }

  /// Bytes that leave the socket's buffer show that the other end takes some.
  #noteDrain() {
    const buffered = this.#socket?.bufferedAmount ?? 0;
    if (buffered < this.#buffered) this.#drainedAt = Date.now();
    this.#buffered = buffered;
  }

  /// Leaves the node, unless it answers a small request beside the socket or has been heard of meanwhile.
  async #askLife() {
    const socket = this.#socket;
    if (this.#asked === socket) return;
    this.#asked = socket;
    const lives = await this.#isLive();
    if (this.#asked === socket) this.#asked = null;
    if (this.#socket !== socket) return;
    if (lives) this.#vouchedAt = Date.now();
    else if (this.#owing !== null && this.#isOverdue) this.leave();
  }

  /// Whether the node answers at all. A page may not read the answers of other nodes than its own, but sees that they come. One
  /// that can be read and has a status of 500 or more is of a node that hangs, or of the proxy before it.
  async #isLive() {
    if (!this.#options.fetch) return false;
    const end = new AbortController();
    let timer;
    const late = new Promise((_, reject) => { timer = setTimeout(() => reject(new Error("late")), LIVENESS_WITHIN_MS); });
    timer.unref?.();
    try {
      const request = { mode: "no-cors", cache: "no-store", signal: end.signal };
      const answer = await Promise.race([this.#options.fetch(`${this.url}/livez`, request), late]);
      return !(answer.status >= 500);
    } catch {
      return false;
    } finally {
      clearTimeout(timer);
      // Its content is not read.
      end.abort();
    }
  }

  close() {
    this.#closed = true;
    this.#settle();
    globalThis.removeEventListener?.("online", this.#wake);
    globalThis.document?.removeEventListener("visibilitychange", this.#wake);
    for (const timer of [this.#pinging, this.#waiting, this.#sessionTimer]) clearTimeout(timer);
    if (this.#socket) abandon(this.#socket);
    this.#socket = null;
    this.#online = false;
    this.#tell("closed");
  }

  /// Headers for a request to this node, so that it answers as one that has seen what the client has.
  get headers() {
    const session = this.#session === null ? {} : { "Lamplight-Session": this.#session };
    return { ...this.#options.authorization(), ...session };
  }

  /// Keeps the session of an answer of this node.
  keep(headers, url) {
    const session = headers.get("Lamplight-Session");
    if (session === null || url !== this.url) return;
    this.#session = session;
    this.#sessionOf = url;
  }

  #open() {
    const url = this.url;
    // Without a token no subprotocol is asked for: a browser drops the connection if the server does not repeat it.
    const socket = new this.#options.WebSocket(`${url.replace(/^http/, "ws")}/v1/ws`);
    this.#socket = socket;
    this.#buffered = 0;
    this.#waiting = setTimeout(() => this.leave(), WELCOME_WITHIN_MS);
    socket.onopen = () => this.#transmit({ type: "ping", id: "welcome" });
    socket.onmessage = ({ data }) => this.#take(data);
    socket.onclose = ({ code, reason }) => {
      if (code === UNAUTHORIZED) this.#handlers.onrefused(reason);
      this.#lost(socket);
    };
    // Node's own class tells of a node that is not there by this alone, without a close.
    socket.onerror = () => {
      abandon(socket);
      this.#lost(socket);
    };
  }

  #take(data) {
    this.#heardAt = Date.now();
    const message = this.#options.parse(data);
    if (message.type === "pong" && message.id === "welcome") {
      clearTimeout(this.#waiting);
      this.#online = true;
      this.#tell("online");
      return this.#handlers.onwelcome(message.clock, message.key_span);
    }
    if (message.type !== "pong" && message.type !== "error") {
      // Only data shows that a node is of use: one that is not ready opens its socket and answers pings.
      this.#failures = 0;
      this.#sessionRefusals = 0;
      this.#noteSession();
    }
    this.#handlers.onmessage(message);
  }

  #transmit(message) {
    this.#socket.send(typeof message === "string" ? message : JSON.stringify(message));
  }

  #lost(socket) {
    if (this.#socket !== socket) return;
    this.#socket = null;
    this.#online = false;
    this.#settle();
    clearTimeout(this.#waiting);
    this.#failures += 1;
    this.#place = (this.#place + 1) % this.#urls.length;
    this.#waiting = setTimeout(() => this.connect(), this.#wait());
    this.#tell("offline");
  }

  /// The other nodes are tried at once; then ever less often, and not by all clients in the same moment.
  #wait() {
    const rounds = Math.floor(this.#failures / this.#urls.length);
    if (rounds === 0) return Math.random() * MOVE_WITHIN_MS;
    const longest = Math.min(LONGEST_WAIT_MS, FIRST_WAIT_MS * 2 ** Math.min(rounds - 1, 8));
    return longest * (0.5 + Math.random() / 2);
  }

  #ping() {
    if (!this.#online) return;
    this.#noteDrain();
    if (!this.#isSilent(SILENCE_MAX_MS, this.#owing === null ? 0 : this.#owedSince)) return this.send({ type: "ping" });
    // Closing a dead socket can take minutes to be reported; the next one does not wait for that.
    this.leave();
  }

  #tell(state) {
    if (this.state === state) return;
    this.state = state;
    this.#handlers.onstate(state);
  }

  /// Asks, soon after news, for the session that has seen it: messages of the WebSocket do not carry it, and a browser
  /// shows no header of its opening. Where tokens are asked for, `/livez` has none, for it is open to strangers; and a node
  /// that is not ready, for it has come back as another, holds less than was seen. With one node there is nobody to whom
  /// it could be shown.
  #noteSession() {
    this.#sessionIsOld = true;
    if (this.#urls.length === 1 || !this.#options.fetch || this.#sessionTimer !== null) return;
    this.#sessionTimer = setTimeout(async () => {
      this.#sessionIsOld = false;
      const url = this.url;
      try {
        const answer = await this.#options.fetch(`${url}/readyz`, { headers: this.#options.authorization(), cache: "no-store" });
        if (answer.ok) this.keep(answer.headers, url);
      } catch { /* The node has gone: the session before it is the best there is. */ }
      this.#sessionTimer = null;
      // News that came while it was asked for may not be in it.
      if (this.#sessionIsOld && this.#online) this.#noteSession();
    }, SESSION_SETTLES_MS);
    this.#sessionTimer.unref?.();
  }

  /// Whether the node holds, or within a while comes to hold, what was seen on the node before.
  async #askSession() {
    try {
      const signal = AbortSignal.timeout(SESSION_WITHIN_MS);
      const answer = await this.#options.fetch(`${this.url}/v1/collections`, { headers: this.headers, signal });
      return answer.ok ? "holds" : "refuses";
    } catch (error) {
      return error.name === "TimeoutError" ? "refuses" : "silent";
    }
  }
}
