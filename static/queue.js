// The writes that no node has taken yet, and those that one has taken but that are not final. A write is stored before
// it is sent, leaves the storage when a node has accepted it, and keeps its key however often it is sent: so it counts
// once. Writes to one document are sent one after the other; others need not wait for each other.
//
// What a node has accepted is asked for again after every reconnection until it is final, under its key: so its final
// receipt comes, and a node that has not heard of it learns of it, even if the first has gone for good.
import { MemoryStorage } from "./storage.js";
import { LamplightError } from "./problem.js";
import { KEY_SPAN_MAX, Write, closed, newKey } from "./write.js";

/// Writes that wait for their receipts at once. A node takes them one after the other; more would only fill its socket.
const IN_FLIGHT_MAX = 64;
/// How far the queue is looked through for a write that may go ahead of others.
const LOOK_MAX = 256;
/// Accepted writes whose final receipts are awaited; past that the oldest gets none.
const UNSETTLED_MAX = 1_000;
const FIRST_PAUSE_MS = 1_000;
const LONGEST_PAUSE_MS = 15_000;
/// How a node says which guard of a write did not hold at its final place.
const GUARD_REASON = /^guard (\d+) does not hold/;
/// How a node says that another op with the same key, of a node that this client had left, counts instead of this one.
const OVERTAKEN_REASON = /^op \S+ with the same idempotency key comes before it$/;

const encoder = new TextEncoder();
/// What a write takes on the line, about: its text is UTF-8 there.
const bytesOf = ({ text }) => encoder.encode(text).length;

/// The kind and the target of a guard or command; null for what is neither.
export function partOf(part) {
  const [kind, target] = Object.entries(part ?? {})[0] ?? [];
  return target !== null && typeof target === "object" ? [kind, target] : null;
}

/// Reader of a write's text. One with a part that names no document goes to the node as it is, to be refused with a reason,
/// and shows on no document meanwhile.
const showable = (parse) => (text) => {
  const draft = parse(text);
  return [...draft.guards, ...draft.commands].every(partOf) ? draft : { ...draft, guards: [], commands: [] };
};

export class Queue {
  #writes = [];
  #unsettled = new Map();
  /// Final receipts of ops that another op with the same key precedes, by that key, until the receipt of the other is here.
  #overtaken = new Map();
  #known = new Map();
  #shown = new Map();
  #storage;
  #parse;
  #max;
  #handlers;
  #keySpan = KEY_SPAN_MAX;
  #isLoaded = false;
  #isOpen = false;
  #isClosed = false;
  #inFlight = 0;
  #owed = 0;
  #pauses = 0;
  #pause = null;
  #loads = 0;
  #gone = new Set();
  #barriers = 0;
  #barrier = null;
  #unseen = new Set();
  #passed = new Set();
  #waiting = [];

  /// Handlers: `send(message)`, `post(message)` to the other tabs, `onchange(write)` when a write shows otherwise in its
  /// documents, `onaccepted(write)` at its first receipt, `onrejected(error, write)`, `onpaused()` before it tries again,
  /// `mayYield()`; and `onawaited(bytes)`, how much was sent that a node has not answered.
  constructor({ storage, parse, max }, handlers) {
    this.#storage = storage;
    this.#parse = showable(parse);
    this.#max = max;
    this.#handlers = handlers;
  }

  /// Writes that no node has accepted.
  get size() {
    return this.#writes.length;
  }

  /// The writes that show on a document, in order.
  on(docKey) {
    return this.#shown.get(docKey) ?? [];
  }

  /// All writes that show on some document.
  all() {
    return [...this.#passed, ...this.#unseen, ...this.#writes];
  }

  /// Takes a write; the promise of its receipt.
  write(draft, isHandled) {
    const write = new Write(newKey(), JSON.stringify(draft), this.#parse);
    const promise = write.promise(isHandled);
    const refusal = this.#refusal(write);
    if (refusal) {
      write.fail(refusal);
      return promise;
    }
    this.#enlist(write);
    this.#storage.add({ key: write.key, text: write.text }).then(() => {
      if (write.state !== "storing") return;
      write.state = "queued";
      this.#handlers.post({ added: { key: write.key, text: write.text } });
      this.pump();
    }, (error) => this.#drop(write, LamplightError.local("storage", `the write could not be put into the queue: ${error?.message}`)));
    return promise;
  }

  #refusal(write) {
    if (this.#isClosed) return closed();
    if (write.isTooLarge) return LamplightError.local("too-large", "a write has at most 4 MiB: split it");
    if (this.#writes.length < this.#max) return null;
    return LamplightError.local("queue-full",
      `${this.#max} writes wait for a node, so this one was not taken: await pool.settled() before you write on, or raise the option queueMax`);
  }

  /// Takes what earlier pages or other tabs have left. `isSender` says that it falls to this tab to send it.
  async load(isSender) {
    this.#loads += 1;
    let entries = [];
    try {
      entries = await this.#storage.load();
    } catch (error) {
      console.warn(`Lamplight: writes will not survive a reload, for this browser gives no IndexedDB: ${error?.message}`);
      this.#storage = new MemoryStorage();
    }
    if (this.#isClosed) return;
    const own = this.#writes.splice(0);
    for (const { key, text } of entries) {
      if (!this.#known.has(key) && !this.#gone.has(key)) this.#enlist(new Write(key, text, this.#parse), "queued");
    }
    this.#writes.push(...own);
    this.#loads -= 1;
    if (this.#loads === 0) this.#gone.clear();
    this.#showInOrder();
    if (isSender) this.#isLoaded = true;
    this.pump();
  }

  /// A node has answered on a new connection: what it has not answered goes again, in order.
  onwelcome(clock, keySpan) {
    this.#isOpen = true;
    this.#keySpan = keySpan === undefined ? KEY_SPAN_MAX : BigInt(keySpan);
    this.#inFlight = 0;
    this.#owed = 0;
    this.#barrier = null;
    this.#resume();
    for (const write of this.#writes) {
      if (write.state !== "sent") continue;
      write.state = "queued";
      write.isUncertain = true;
    }
    if (!this.#isLoaded) return;
    for (const write of this.#unsettled.values()) {
      if (write.isRemembered(clock)) this.#handlers.send(write.message);
      else this.#giveUp(write);
    }
    this.pump();
  }

  onoffline() {
    this.#isOpen = false;
    this.#resume();
  }

  #resume() {
    clearTimeout(this.#pause);
    this.#pause = null;
  }

  /// Sends what may be sent.
  pump() {
    if (!this.#isOpen || !this.#isLoaded || this.#pause !== null || this.#isClosed) return;
    const held = new Set();
    for (const write of this.#writes.slice(0, LOOK_MAX)) {
      if (this.#inFlight === IN_FLIGHT_MAX) break;
      const isFree = !write.docs.some((doc) => held.has(doc));
      for (const doc of write.docs) held.add(doc);
      if (!isFree || write.state !== "queued") continue;
      write.state = "sent";
      this.#inFlight += 1;
      this.#owed += bytesOf(write);
      this.#handlers.send(write.message);
    }
    this.#handlers.onawaited(this.#owed);
  }

  /// A write that was sent is answered, or will not be.
  #settleOwed(write) {
    this.#inFlight -= 1;
    this.#owed = this.#inFlight === 0 ? 0 : Math.max(1, this.#owed - bytesOf(write));
    this.#handlers.onawaited(this.#owed);
  }

  /// A node's receipt.
  onreceipt({ type: _, id: key, ...receipt }) {
    const isOvertaken = receipt.status === "rejected" && OVERTAKEN_REASON.test(receipt.reason);
    if (isOvertaken && this.#unsettled.has(key) && !this.#overtaken.has(key)) {
      this.#overtaken.set(key, receipt);
      return this.#askForFirst(key);
    }
    this.#overtaken.delete(key);
    this.#handlers.post({ key, receipt });
    this.#learn(key, receipt);
  }

  /// The write was done, by the op before: the node answers its key with the receipt of that.
  #askForFirst(key) {
    const write = this.#unsettled.get(key);
    if (write && this.#overtaken.has(key)) this.#handlers.send(write.message);
  }

  #learn(key, receipt) {
    this.#forget(key);
    const write = this.#known.get(key);
    if (!write) return;
    const isFirst = write.state !== "accepted";
    if (isFirst) {
      write.keySpan = this.#keySpan;
      this.#leave(write);
      write.state = "accepted";
      this.#pauses = 0;
      this.#unseen.add(write);
    }
    write.learn(receipt);
    if (isFirst) this.#handlers.onaccepted(write);
    if (receipt.status === "tentative") this.#unsettled.set(key, write);
    else this.#settle(write);
    if (this.#unsettled.size > UNSETTLED_MAX) this.#giveUp(this.#unsettled.values().next().value);
    this.#handlers.onchange(write);
    this.look();
    this.pump();
  }

  /// Its verdict will not turn any more.
  #settle(write) {
    this.#unsettled.delete(write.key);
    if (!this.#isShown(write)) this.#known.delete(write.key);
    if (write.receipt.status !== "rejected") return;
    const { reason, op } = write.receipt;
    const detail = `the write was rejected at its final place in the order: ${reason}`;
    const failed = GUARD_REASON.exec(reason);
    const guard = failed ? { guard: Number(failed[1]) } : {};
    this.#handlers.onrejected(new LamplightError({ type: "rejected", title: "rejected", status: 409, detail, op, ...guard }), write);
  }

  /// A node's problem with a write; without a key, with the first that it has not answered.
  onproblem(key, problem) {
    const write = key === undefined ? this.#writes.find(({ state }) => state === "sent") : this.#known.get(key);
    const overtaken = this.#overtaken.get(key);
    if (overtaken) {
      if (new LamplightError(problem).passes) return void setTimeout(() => this.#askForFirst(key), FIRST_PAUSE_MS).unref?.();
      // The op before it has no effect either, or is of another write.
      return this.onreceipt({ id: key, ...overtaken });
    }
    // One that another node accepted is not refused by this one's word: its place in the order decides.
    if (write?.state !== "sent") return;
    const error = new LamplightError(problem, write.isUncertain);
    if (error.passes) {
      write.state = "queued";
      this.#settleOwed(write);
      return this.#wait();
    }
    this.#handlers.post({ key: write.key, problem, isUncertain: write.isUncertain });
    this.#drop(write, error);
    this.pump();
  }

  /// What another tab posted.
  onposted({ added, key, receipt, problem, isUncertain }) {
    if (receipt) return this.#learn(key, receipt);
    if (added) {
      if (!this.#known.has(added.key)) this.#enlist(new Write(added.key, added.text, this.#parse), "queued");
      return this.pump();
    }
    this.#forget(key);
    const write = this.#known.get(key);
    if (problem && write) this.#drop(write, new LamplightError(problem, isUncertain));
  }

  /// Asks the node for a word that comes after the documents as the accepted writes made them; then they yield to it.
  look() {
    if (!this.#isOpen || this.#barrier || this.#unseen.size === 0) return;
    this.#barriers += 1;
    this.#barrier = { id: `seen ${this.#barriers}`, writes: [...this.#unseen] };
    this.#handlers.send({ type: "ping", id: this.#barrier.id });
  }

  onpong(id) {
    if (id === undefined || this.#barrier?.id !== id) return;
    for (const write of this.#barrier.writes) {
      this.#unseen.delete(write);
      this.#passed.add(write);
    }
    this.#barrier = null;
    this.yield();
    this.look();
  }

  /// Takes accepted writes off their documents, unless some live query has not got all its documents yet.
  yield() {
    if (this.#passed.size === 0 || !this.#handlers.mayYield()) return;
    for (const write of this.#passed) {
      this.#hide(write);
      if (!this.#unsettled.has(write.key)) this.#known.delete(write.key);
    }
    this.#passed.clear();
  }

  /// Kept once no write waits for a node.
  settled() {
    return this.#writes.length === 0 ? Promise.resolve() : new Promise((resolve) => this.#waiting.push(resolve));
  }

  close() {
    this.#isClosed = true;
    clearTimeout(this.#pause);
    for (const write of this.#known.values()) write.fail(closed());
  }

  #enlist(write, state = "storing") {
    write.state = state;
    // Without the caller's handlers, for it may be of another page; the caller's own promise is this one too, and has
    // its handlers by now or is told of as any promise.
    if (state === "queued") write.promise(true);
    this.#writes.push(write);
    this.#known.set(write.key, write);
    this.#show(write);
    this.#handlers.onchange(write);
  }

  #show(write) {
    for (const doc of write.docs) this.#shown.set(doc, [...this.on(doc), write]);
  }

  #showInOrder() {
    this.#shown.clear();
    for (const write of this.all()) this.#show(write);
  }

  /// What is being read from the storage may still have a write that another tab has just seen off.
  #forget(key) {
    if (this.#loads > 0) this.#gone.add(key);
  }

  /// Takes a write out of what is to be sent.
  #leave(write) {
    const place = this.#writes.indexOf(write);
    if (place < 0) return;
    this.#writes.splice(place, 1);
    if (write.state === "sent") this.#settleOwed(write);
    // Should it stay in the storage, it is sent once more under its key, and counts once.
    this.#storage.remove(write.key).catch(() => {});
    if (this.#writes.length === 0) for (const resolve of this.#waiting.splice(0)) resolve();
  }

  #drop(write, error) {
    this.#leave(write);
    this.#known.delete(write.key);
    this.#unsettled.delete(write.key);
    this.#hide(write);
    write.fail(error);
    this.#handlers.onrejected(error, write);
  }

  #giveUp(write) {
    this.#unsettled.delete(write.key);
    this.#overtaken.delete(write.key);
    if (!this.#isShown(write)) this.#known.delete(write.key);
    const detail = `nobody waits for the verdict of this write any more: ask GET /v1/ops/${write.receipt.op}`;
    write.fail(LamplightError.local("verdict-unknown", detail));
  }

  #isShown(write) {
    return this.#unseen.has(write) || this.#passed.has(write);
  }

  #hide(write) {
    for (const doc of write.docs) {
      const rest = this.on(doc).filter((other) => other !== write);
      if (rest.length > 0) this.#shown.set(doc, rest);
      else this.#shown.delete(doc);
    }
    this.#handlers.onchange(write);
  }

  /// The node cannot take writes just now.
  #wait() {
    if (this.#pause !== null) return;
    const longest = Math.min(LONGEST_PAUSE_MS, FIRST_PAUSE_MS * 2 ** Math.min(this.#pauses, 8));
    this.#pauses += 1;
    this.#pause = setTimeout(() => {
      this.#pause = null;
      this.#handlers.onpaused();
      this.pump();
    }, longest * (0.5 + Math.random() / 2));
  }
}
