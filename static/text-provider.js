// Keeps a text and its presence in step with a node, over the y-websocket protocol; comes back by itself, to any of the
// nodes, when the connection is lost. Knows how many edits the node has not been heard to hold.
import { abandon } from "./abandon.js";
import { textPath } from "./http.js";
import { Presence, decodeMessage, encodePresence, encodeQueryPresence, encodeSync } from "./y-protocol.js";

const FIRST_WAIT_MS = 400;
const LONGEST_WAIT_MS = 15_000;
const CONNECT_WITHIN_MS = 8000;
/// A node echoes presence every 15 s, and answers a question at once: silence means that the link is dead.
const SILENCE_MAX_MS = 30_000;
const ASK_AFTER_SILENCE_MS = 10_000;
const LOOK_EVERY_MS = 2000;
/// After an edit the node is asked what it holds; the wait lets a burst of keys share one question.
const ASK_SOON_MS = 50;
const ASK_EVERY_MS = 1000;
/// The reason of a node that denies: the code with which it is about to close, and the words.
const DENIED = /^(4\d{3}) (.+)$/s;

export class TextProvider {
  /// Where to connect, as http(s) or ws(s) URLs; can be changed at any time.
  nodes;
  presence;
  #text;
  #path;
  #onState;
  #Socket;
  #ownsPresence;
  #endings;
  #look;

  #socket = null;
  #timer = null;
  #askTimer = null;
  #node = 0;
  #failures = 0;
  #startedAt = 0;
  #heardAt = 0;
  #askedAt = 0;
  #link = "offline";
  #reason = null;
  #code = null;

  /// Edits made here, sent on the present connection, and known to be held by a node: counted from the first on.
  #made = 0;
  #sent = 0;
  #saved = 0;
  /// Whether the node has said what it lacks and was sent it. Edits before that go out with that answer.
  #isAnswered = false;
  /// How many edits had been sent at each question that is not answered yet. Frames come and are answered in order.
  #questions = [];

  /// `onState({ link, unsaved, reason, code, node })` is called on every change: `link` is "connecting", "connected",
  /// "offline" (and trying again) or, with the `reason` and the `code` of the close frame, "refused" (and not trying again).
  constructor({ text, nodes, collection, id, presence, onState = () => {}, Socket = globalThis.WebSocket }) {
    this.nodes = nodes;
    this.presence = presence ?? new Presence(text.client);
    this.#ownsPresence = presence === undefined;
    this.#text = text;
    this.#path = textPath(collection, id);
    this.#onState = onState;
    this.#Socket = Socket;
    this.#endings = [
      text.subscribe((event) => this.#edited(event)),
      this.presence.subscribe(({ clients, local }) => {
        if (local) this.#send(encodePresence(this.presence.encode(clients)));
      }),
    ];
    this.#look = setInterval(() => this.#lookAfter(), LOOK_EVERY_MS);
    this.connect();
  }

  get unsaved() {
    return this.#made - this.#saved;
  }

  /// Connects now, without waiting for the next try; after a refusal too. Does nothing if a socket is there.
  connect() {
    clearTimeout(this.#timer);
    if (this.#socket) return;
    this.#startedAt = Date.now();
    this.#reason = this.#code = null;
    this.#become("connecting");
    // A node may lie below a path of a proxy.
    const url = new URL(this.nodes[this.#node % this.nodes.length].replace(/\/$/, "") + this.#path);
    url.protocol = url.protocol.replace("http", "ws");
    const socket = new this.#Socket(url.href);
    socket.binaryType = "arraybuffer";
    this.#socket = socket;
    socket.onopen = () => this.#opened();
    socket.onmessage = ({ data }) => this.#heard(socket, data);
    socket.onclose = ({ code, reason }) => this.#closed(socket, code, reason);
    // Node's own class tells of a node that is not there by this alone, without a close.
    socket.onerror = () => {
      abandon(socket);
      this.#closed(socket);
    };
  }

  /// Says goodbye to the others and ends. What is unsaved stays in the text only.
  destroy() {
    if (this.presence.state !== null) this.presence.set(null);
    for (const end of this.#endings) end();
    if (this.#ownsPresence) this.presence.destroy();
    clearInterval(this.#look);
    clearTimeout(this.#timer);
    clearTimeout(this.#askTimer);
    this.#onState = () => {};
    if (this.#socket) abandon(this.#socket);
  }

  #opened() {
    this.#heardAt = Date.now();
    this.#become("connected");
    this.#ask();
    // Set anew, since the others have taken this client for gone, and an old clock would be no news.
    if (this.presence.state !== null) this.presence.set(this.presence.state);
    this.#send(encodeQueryPresence());
  }

  #heard(socket, data) {
    this.#heardAt = Date.now();
    try {
      if (!(data instanceof ArrayBuffer)) throw new Error("The node sent text where bytes were expected.");
      this.#take(decodeMessage(new Uint8Array(data)));
    } catch (error) {
      // Whatever was lost with it, the next connection brings it again.
      console.warn("A message of the node cannot be read:", error);
      abandon(socket);
      this.#closed(socket);
    }
  }

  #take({ kind, bytes, reason }) {
    switch (kind) {
      case "step1":
        this.#send(encodeSync("step2", this.#text.encodeStateAsUpdate(bytes)));
        this.#sent = this.#made;
        this.#isAnswered = true;
        if (this.unsaved > 0) this.#askSoon();
        break;
      case "step2":
        this.#failures = 0;
        this.#text.applyUpdate(bytes, this);
        this.#saved = Math.max(this.#saved, this.#questions.shift() ?? 0);
        this.#become(this.#link);
        if (this.unsaved > 0 && this.#questions.length === 0) this.#askSoon();
        break;
      case "update":
        this.#text.applyUpdate(bytes, this);
        // What it builds on has been missed.
        if (this.#text.isWaiting) this.#askSoon();
        break;
      case "presence": this.presence.apply(bytes); break;
      case "query": this.#send(encodePresence(this.presence.encode())); break;
      case "denied": {
        const [, code, words] = DENIED.exec(reason) ?? [null, null, reason];
        this.#refuse(words, code && Number(code));
        break;
      }
    }
  }

  #edited({ local, update }) {
    if (!local) return;
    this.#made += 1;
    if (this.#isAnswered) {
      this.#send(encodeSync("update", update));
      this.#sent = this.#made;
      this.#askSoon();
    }
    this.#become(this.#link);
  }

  /// Asks the node for what this text lacks. The answer also shows that the node has received all that went before.
  #ask() {
    this.#askedAt = Date.now();
    this.#questions.push(this.#sent);
    this.#send(encodeSync("step1", this.#text.encodeStateVector()));
  }

  #askSoon() {
    if (this.#askTimer !== null) return;
    this.#askTimer = setTimeout(() => {
      this.#askTimer = null;
      if (this.#link === "connected") this.#ask();
    }, Math.max(ASK_SOON_MS, this.#askedAt + ASK_EVERY_MS - Date.now()));
  }

  #lookAfter() {
    if (this.#socket === null) return;
    const now = Date.now();
    const isDead = this.#link === "connecting" ? now - this.#startedAt > CONNECT_WITHIN_MS : now - this.#heardAt > SILENCE_MAX_MS;
    if (isDead) {
      const socket = this.#socket;
      // Closing a dead socket can take minutes to be reported; the next one does not wait for that.
      abandon(socket);
      this.#closed(socket);
    } else if (this.#link === "connected" && now - this.#heardAt > ASK_AFTER_SILENCE_MS) this.#askSoon();
  }

  #closed(socket, code, reason) {
    if (this.#socket !== socket) return;
    this.#lose();
    // Such a code says that trying again is of no use.
    if (code >= 4400 && code <= 4499) return this.#refuse(reason || `The node refused the connection (${code}).`, code);
    this.#become("offline");
    const round = Math.floor(this.#failures / this.nodes.length);
    this.#failures += 1;
    this.#node += 1;
    // Jitter keeps many pages from coming back to a restarted node in the same moment.
    const longest = Math.min(LONGEST_WAIT_MS, FIRST_WAIT_MS * 2 ** Math.min(round, 8));
    this.#timer = setTimeout(() => this.connect(), longest * (0.5 + Math.random() / 2));
  }

  #refuse(reason, code = null) {
    if (this.#socket) abandon(this.#socket);
    this.#lose();
    this.#reason = reason;
    this.#code = code;
    this.#become("refused");
  }

  #lose() {
    this.#socket = null;
    this.#isAnswered = false;
    this.#questions = [];
    // Nobody knows whether the last frames arrived: what was sent counts again only once the next node has it.
    this.#sent = this.#saved;
    this.presence.forgetOthers();
  }

  #send(frame) {
    if (this.#socket?.readyState === 1) this.#socket.send(frame);
  }

  #become(link) {
    this.#link = link;
    this.#onState({ link, unsaved: this.unsaved, reason: this.#reason, code: this.#code, node: this.nodes[this.#node % this.nodes.length] });
  }
}
