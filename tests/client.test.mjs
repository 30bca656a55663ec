// The browser client (static/lamplight.js) against nodes that the test plays: what it sends, when, and what it shows.
// tests/client_nodes.test.mjs asks the same of real nodes.
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import test, { afterEach, beforeEach, mock } from "node:test";
import { connect } from "../static/lamplight.js";
import { matches } from "../static/selector.js";
import { MemoryStorage } from "../static/storage.js";
import { FakeNet, doc, problem, receipt, settle } from "./support/fake_node.mjs";

const URLS = ["http://a:1", "http://b:2", "http://c:3"];
let net;
let pools;

beforeEach(() => {
  net = new FakeNet();
  pools = [];
  mock.timers.enable({ apis: ["setTimeout", "setInterval", "Date"] });
});

afterEach(() => {
  for (const pool of pools) pool.close();
  mock.timers.reset();
  mock.restoreAll();
});

function open(options = {}, urls = URLS[0]) {
  const fetch = () => Promise.reject(new Error("no node"));
  const pool = connect(urls, { WebSocket: net.WebSocket, fetch, onrejected: () => {}, ...options });
  pools.push(pool);
  return pool;
}

/// A pool whose node has answered, with a live query of `notes` that has these documents, and what it told.
async function watching(docs, options, query = {}, urls = URLS[0]) {
  const pool = open(options, urls);
  await settle();
  const told = [];
  const live = pool.collection("notes").watch(query, (shown, meta) => told.push({ shown: brief(shown), changes: meta.changes.map(({ type, id }) => `${type} ${id}`) }));
  const node = net.last.welcome();
  node.say({ type: "snapshot", id: "q1", docs, cursor: "c0", more: false });
  mock.timers.tick(1);
  return { pool, notes: pool.collection("notes"), live, node, told };
}

const brief = (docs) => Object.fromEntries(docs.map(({ id, value, pending }) => [pending ? `${id}…` : id, value]));

/// Lets time pass in small steps, and all promises go on at each.
async function pass(ms) {
  for (let passed = 0; passed < ms; passed += 100) {
    mock.timers.tick(100);
    await settle();
  }
}

/// Lets the next connection come, and answers it.
function comeBack(clock, keySpan) {
  mock.timers.tick(20_000);
  return net.last.welcome(clock, keySpan);
}

/// The node accepts a write that it was sent, and tells what came of it.
function accept(node, write, time, ...changed) {
  node.say(receipt(write, time));
  for (const one of changed) node.say({ type: "change", id: "q1", doc: one, cursor: `c${time}` });
  node.pong();
}

// ---- The connection ----

test("the other nodes are tried at once, then ever less often", () => {
  mock.method(Math, "random", () => 1);
  open({}, URLS);
  const waits = [];
  for (let lost = 0; lost < 9; lost += 1) {
    const before = net.dials.length;
    net.last.drop();
    let wait = 0;
    while (net.dials.length === before) {
      mock.timers.tick(50);
      wait += 50;
    }
    waits.push(wait);
  }
  assert.deepEqual(net.dials.slice(0, 4).map(({ url }) => url), ["ws://a:1/v1/ws", "ws://b:2/v1/ws", "ws://c:3/v1/ws", "ws://a:1/v1/ws"]);
  assert.deepEqual(waits, [100, 100, 300, 300, 300, 600, 600, 600, 1200]);
});

test("the state is told: connecting, online, offline, closed", () => {
  const states = [];
  const pool = open({ onstate: (state) => states.push(state) });
  assert.equal(pool.state, "connecting");
  net.last.welcome().drop();
  comeBack();
  pool.close();
  assert.deepEqual(states, ["online", "offline", "connecting", "online", "closed"]);
});

test("a node that is not ready is left for another, and tried less often", async () => {
  const pool = open({}, URLS);
  pool.collection("notes").watch();
  const first = net.last.welcome();
  first.say(problem("q1", "not-ready", 503));
  assert.equal(first.readyState, 3);
  const second = comeBack();
  assert.equal(second.url, "ws://b:2/v1/ws");
  assert.deepEqual(second.of("subscribe").length, 1);
});

test("a connection that has gone silent is left", () => {
  open({}, URLS);
  const node = net.last.welcome();
  mock.timers.tick(30_000);
  assert.equal(node.of("ping").length, 3);
  mock.timers.tick(15_000);
  assert.equal(node.readyState, 3);
});

test("a device that wakes dials at once, and leaves a connection that died in its sleep", () => {
  const had = Object.getOwnPropertyDescriptor(globalThis, "document");
  const document = new EventTarget();
  Object.defineProperty(globalThis, "document", { value: document, configurable: true });
  try {
    open();
    const node = net.last.welcome();
    document.dispatchEvent(new Event("visibilitychange"));
    assert.equal(net.dials.length, 1);
    mock.timers.setTime(60_000);
    document.dispatchEvent(new Event("visibilitychange"));
    assert.equal(node.readyState, 3);
    assert.equal(net.dials.length, 2);
  } finally {
    pools.pop().close();
    delete globalThis.document;
    if (had) Object.defineProperty(globalThis, "document", had);
  }
});

test("a node that does not answer after opening is left", () => {
  open({}, URLS);
  mock.timers.tick(10_000);
  mock.timers.tick(100);
  assert.equal(net.dials.length, 2);
});

test("without a WebSocket, or an address, the error says what to do", () => {
  const { WebSocket } = globalThis;
  delete globalThis.WebSocket;
  try {
    assert.throws(() => connect("http://a:1"), /experimental-websocket.*package ws/);
  } finally {
    if (WebSocket) globalThis.WebSocket = WebSocket;
  }
  assert.throws(() => open({}, "ws://a:1"), /http:\/\//);
  assert.throws(() => connect([]), /URL of a node/);
});

test("another node is shown only if it holds what was seen on the one before", async () => {
  const asked = [];
  const fetch = async (url, { headers = {} } = {}) => {
    asked.push(`${url} ${headers["Lamplight-Session"] ?? ""}`.trim());
    return { ok: !url.startsWith("http://b"), headers: new Headers({ "Lamplight-Session": "seen" }) };
  };
  open({ fetch }, URLS).collection("notes").watch();
  net.last.welcome().say({ type: "snapshot", id: "q1", docs: [], cursor: "c0", more: false });
  mock.timers.tick(250);
  await settle();
  net.last.drop();
  for (let turn = 0; turn < 3; turn += 1) {
    mock.timers.tick(100);
    await settle();
  }
  assert.deepEqual(asked, ["http://a:1/readyz", "http://b:2/v1/collections seen", "http://c:3/v1/collections seen"]);
  assert.equal(net.last.url, "ws://c:3/v1/ws");
});

test("a node that is not ready tells nothing of what was seen", async () => {
  const asked = [];
  let ok = true;
  const fetch = async (url, { headers = {} } = {}) => {
    asked.push(`${url} ${headers["Lamplight-Session"] ?? ""}`.trim());
    return { ok, headers: new Headers({ "Lamplight-Session": ok ? "seen" : "less" }) };
  };
  open({ fetch }, URLS).collection("notes").watch();
  const node = net.last.welcome();
  for (ok of [true, false]) {
    node.say({ type: "snapshot", id: "q1", docs: [], cursor: "c0", more: false });
    mock.timers.tick(250);
    await settle();
  }
  ok = true;
  net.last.drop();
  mock.timers.tick(100);
  await settle();
  assert.deepEqual(asked, ["http://a:1/readyz", "http://a:1/readyz", "http://b:2/v1/collections seen"]);
});

test("where no other node holds what was seen, what there is is shown", async () => {
  const fetch = async () => ({ ok: false, headers: new Headers({ "Lamplight-Session": "lost" }) });
  open({ fetch }, URLS.slice(0, 2)).collection("notes").watch();
  net.last.welcome().say({ type: "snapshot", id: "q1", docs: [], cursor: "c0", more: false });
  mock.timers.tick(250);
  await settle();
  net.last.drop();
  for (let turn = 0; turn < 3; turn += 1) {
    mock.timers.tick(500);
    await settle();
  }
  assert.equal(net.dials.length, 2);
});

test("a text is opened on the pool's nodes, and closed with the pool", async () => {
  const pool = open({}, URLS);
  const text = await pool.text("pads", "plan");
  assert.equal(net.last.url, "ws://a:1/v1/yjs/pads/plan");
  text.text.insert(0, "hello");
  assert.deepEqual([text.text.toString(), text.state.link], ["hello", "connecting"]);
  const socket = net.last;
  pool.close();
  assert.equal(socket.readyState, 0, "a browser calls it an error to close it now");
  socket.onopen();
  assert.equal(socket.readyState, 3);
});

test("the types name what there is, and nothing else", async () => {
  const types = readFileSync(new URL("../static/lamplight.d.ts", import.meta.url), "utf8");
  const pool = open();
  const live = pool.collection("notes").watch();
  const room = pool.room("kitchen").join();
  const inner = { LiveQuery: ["id", "collection", "filter", "sort", "isWhole", "subscribe", "onmessage", "onproblem", "touch", "adopt"], Room: ["id", "enter", "onmessage", "onproblem"], Pool: ["watch", "get"], Collection: [] };
  for (const [name, object] of Object.entries({ Pool: pool, Collection: pool.collection("notes"), LiveQuery: live, Room: room })) {
    const [, body] = new RegExp(`^export (?:class|interface) ${name}<?[^{]*\\{\n([^]*?)^\\}`, "m").exec(types);
    const typed = [...body.matchAll(/^  (?:readonly )?(\w+)[<(:]/gm)].map(([, member]) => member).filter((member) => member !== "constructor");
    const there = [...Object.keys(object), ...Object.getOwnPropertyNames(Object.getPrototypeOf(object))].filter((member) => member !== "constructor");
    assert.deepEqual([...new Set(typed)].sort(), there.filter((member) => !inner[name].includes(member)).sort(), name);
  }
});

// ---- Live queries ----

test("a live query goes on behind its cursor, and tells each change once", async () => {
  const { node, told } = await watching([doc("tea", 1)]);
  node.say({ type: "change", id: "q1", doc: doc("tea", 2), cursor: "c1" });
  mock.timers.tick(1);
  node.drop();
  const again = comeBack();
  assert.deepEqual(again.of("subscribe"), [{ type: "subscribe", id: "q1", collection: "notes", since: "c1" }]);
  again.say({ type: "change", id: "q1", doc: doc("tea", 2), cursor: "c1" });
  again.say({ type: "change", id: "q1", doc: doc("oil", 1), cursor: "c2" });
  mock.timers.tick(1);
  assert.deepEqual(told, [
    { shown: { tea: 1 }, changes: ["added tea"] },
    { shown: { tea: 2 }, changes: ["changed tea"] },
    { shown: { oil: 1, tea: 2 }, changes: ["added oil"] },
  ]);
});

test("another node's snapshot takes the place of the documents as a whole, and only differences are told", async () => {
  const { node, told, live } = await watching([doc("a", 1), doc("b", 1), doc("c", 1)]);
  node.drop();
  const other = comeBack();
  other.say({ type: "resync", id: "q1" });
  other.say({ type: "snapshot", id: "q1", docs: [doc("a", 1)], cursor: "d0", more: true });
  mock.timers.tick(1);
  assert.deepEqual(brief(live.docs), { a: 1, b: 1, c: 1 });
  other.say({ type: "change", id: "q1", doc: doc("a", 2), cursor: "d1" });
  other.say({ type: "snapshot", id: "q1", docs: [doc("c", 1)], cursor: "d2", more: false });
  mock.timers.tick(1);
  assert.deepEqual(told.slice(1), [{ shown: { a: 2, c: 1 }, changes: ["changed a", "removed b"] }]);
  other.say({ type: "resync", id: "q1" }, { type: "snapshot", id: "q1", docs: [doc("a", 2), doc("c", 1)], cursor: "d3", more: false });
  mock.timers.tick(1);
  assert.equal(told.length, 2, "the same documents are no news");
});

test("a snapshot that was cut off goes on, or begins again, without losing a document", async () => {
  for (const isSame of [true, false]) {
    const { node, live } = await watching([doc("old", 1)]);
    node.say({ type: "resync", id: "q1" }, { type: "snapshot", id: "q1", docs: [doc("a", 1)], cursor: "half", more: true });
    node.drop();
    const again = comeBack();
    assert.equal(again.of("subscribe")[0].since, "half");
    if (isSame) again.say({ type: "snapshot", id: "q1", docs: [doc("b", 1)], cursor: "whole", more: false });
    else again.say({ type: "resync", id: "q1" }, { type: "snapshot", id: "q1", docs: [doc("b", 1)], cursor: "whole", more: false });
    assert.deepEqual(brief(live.docs), isSame ? { a: 1, b: 1 } : { b: 1 });
    pools.pop().close();
  }
});

test("a burst of changes is told at once, in the order of ids or as asked", async () => {
  const { node, told } = await watching([], {}, { sort: (left, right) => right.value - left.value });
  for (const value of [1, 3, 2]) node.say({ type: "change", id: "q1", doc: doc(`n${value}`, value), cursor: "c" });
  mock.timers.tick(1);
  assert.deepEqual(Object.values(told.at(-1).shown), [3, 2, 1]);
  assert.equal(told.length, 2);
});

test("a reader by iteration gets the latest, and leaving closes the query", async () => {
  const { notes, node } = await watching([]);
  const seen = [];
  const reading = (async () => {
    for await (const docs of notes.watch()) {
      seen.push(brief(docs));
      if (seen.length === 2) break;
    }
  })();
  node.say({ type: "snapshot", id: "q2", docs: [doc("a", 1)], cursor: "c1", more: false });
  mock.timers.tick(1);
  await settle();
  node.say({ type: "change", id: "q2", doc: doc("b", 1), cursor: "c2" });
  node.say({ type: "change", id: "q2", doc: doc("c", 1), cursor: "c3" });
  mock.timers.tick(1);
  await reading;
  assert.deepEqual(seen, [{ a: 1 }, { a: 1, b: 1, c: 1 }]);
  assert.deepEqual(node.of("unsubscribe"), [{ type: "unsubscribe", id: "q2" }]);
});

test("a filter that the node cannot read is told", async () => {
  const { notes, node } = await watching([]);
  const metas = [];
  const live = notes.watch({ filter: { a: { $near: 1 } } }, (_, meta) => metas.push(meta));
  node.say(problem("q2", "bad-filter", 400));
  mock.timers.tick(1);
  await assert.rejects(live.ready, { slug: "bad-filter" });
  assert.equal(metas[0].error.status, 400);
});

// ---- Writes ----

class SlowStorage extends MemoryStorage {
  stored = [];

  add(entry) {
    return new Promise((resolve) => this.stored.push(() => resolve(super.add(entry))));
  }
}

test("a write is stored before it is sent, and leaves the storage when a node has accepted it", async () => {
  const storage = new SlowStorage();
  const { notes, node } = await watching([], { storage });
  const write = notes.put("tea", 1);
  await settle();
  assert.equal(node.of("write").length, 0);
  storage.stored[0]();
  await settle();
  const [sent] = node.of("write");
  assert.deepEqual(sent, { type: "write", id: write.key, key: write.key, guards: [], commands: [{ put: { collection: "notes", id: "tea", value: 1 } }] });
  assert.equal((await storage.load()).length, 1);
  node.say(receipt(sent, 11));
  assert.equal((await write).stamp, "11@a");
  assert.equal((await storage.load()).length, 0);
});

test("what was sent and not answered is sent again under its key, and counts once", async () => {
  const { notes, node, pool } = await watching([]);
  const write = notes.patch("tea", [{ op: "increment", path: "/n", by: 1 }]);
  await settle();
  node.drop();
  const again = comeBack();
  assert.deepEqual(again.of("write"), node.of("write"));
  assert.ok(again.sent.findIndex(({ type }) => type === "write") < again.sent.findIndex(({ type }) => type === "subscribe"), "the documents come with the write in them");
  again.say(receipt(again.of("write")[0], 11, "final"));
  await write.final;
  assert.equal(pool.queued, 0);
  again.drop();
  assert.equal(comeBack().of("write").length, 0);
});

test("what an earlier page has queued is shown and sent once, in order, before what is new", async () => {
  const storage = new MemoryStorage();
  const before = open({ storage });
  for (const n of [1, 2]) before.collection("notes").put(`n${n}`, n);
  await settle();
  before.close();

  const { pool, node, told } = await watching([], { storage });
  pool.collection("notes").put("n3", 3);
  await settle();
  assert.deepEqual(node.of("write").map(({ commands }) => commands[0].put.id), ["n1", "n2", "n3"]);
  assert.deepEqual(told.at(-1).shown, { "n1…": 1, "n2…": 2 });
  node.of("write").forEach((write, place) => node.say(receipt(write, 11 + place)));
  await pool.settled();
  assert.deepEqual(await storage.load(), []);
});

test("writes to one document go one after the other, others do not wait", async () => {
  const { notes, node } = await watching([]);
  for (const value of [1, 2]) notes.put("tea", value);
  notes.put("oil", 3);
  await settle();
  const values = () => node.of("write").map(({ commands }) => commands[0].put.value);
  assert.deepEqual(values(), [1, 3]);
  node.say(receipt(node.of("write")[0], 11));
  assert.deepEqual(values(), [1, 3, 2]);
});

test("a node that cannot take writes just now is asked again, or left for another", async () => {
  const { notes, node, pool } = await watching([]);
  notes.put("tea", 1);
  await settle();
  node.say(problem(node.of("write")[0].id, "disk-full", 507));
  assert.equal(pool.queued, 1);
  assert.equal(node.of("write").length, 1);
  mock.timers.tick(1_000);
  assert.equal(node.of("write").length, 2);
  pools.pop().close();

  const several = open({}, URLS);
  several.collection("notes").put("tea", 1);
  await settle();
  const first = net.last.welcome();
  await settle();
  first.say(problem(first.of("write")[0].id, "overloaded", 503));
  mock.timers.tick(1_000);
  const second = comeBack();
  assert.equal(second.url, "ws://b:2/v1/ws");
  assert.equal(second.of("write").length, 1);
});

test("a write that can never succeed rejects, leaves the queue, and vanishes with a notice", async () => {
  const notices = [];
  const storage = new MemoryStorage();
  const { notes, node, told, pool } = await watching([], { storage, onrejected: (error, { commands }) => notices.push([error.slug, commands[0].put.id]) });
  const write = notes.put("tea", 1, { ifVersion: "0123" });
  await settle();
  mock.timers.tick(1);
  const [sent] = node.of("write");
  assert.deepEqual(sent.guards, [{ version: { collection: "notes", id: "tea", version: "0123" } }]);
  node.say(problem(sent.id, "guard-failed", 409));
  await assert.rejects(write, { slug: "guard-failed", status: 409, uncertain: false });
  mock.timers.tick(1);
  assert.deepEqual(notices, [["guard-failed", "tea"]]);
  assert.deepEqual([told.at(-1).shown, pool.queued, await storage.load()], [{}, 0, []]);
});

test("a refusal says if another node, that never answered, may have taken the write", async () => {
  const { notes, node } = await watching([]);
  const write = notes.add({ n: 1 });
  await settle();
  node.drop();
  const again = comeBack();
  again.say(problem(write.key, "guard-failed", 409));
  await assert.rejects(write, { uncertain: true });
});

test("a problem without an id is of the first write that waits", async () => {
  const { notes, node } = await watching([]);
  const write = notes.put("deep", 1);
  await settle();
  node.say(problem(undefined, "too-deep", 400));
  await assert.rejects(write, { slug: "too-deep" });
});

test("the queue is bounded, and its error names the way out", async () => {
  const pool = open({ queueMax: 2 });
  const notes = pool.collection("notes");
  notes.put("a", 1);
  notes.put("b", 1);
  await assert.rejects(notes.put("c", 1), { slug: "queue-full", message: /await pool\.settled\(\)/ });
  await assert.rejects(open().collection("notes").put("big", "x".repeat(4 << 20)), { slug: "too-large" });
});

test("what is accepted but not final is asked for again, on another node too", async () => {
  const { notes, node } = await watching([]);
  const write = notes.put("tea", 1);
  await settle();
  node.say(receipt(node.of("write")[0], 11));
  const first = await write;
  node.drop();
  const again = comeBack();
  assert.deepEqual(again.of("write"), node.of("write"));
  again.say(problem(write.key, "guard-failed", 409));
  again.say(receipt(again.of("write")[0], 11, "final"));
  assert.equal((await write.final).status, "final");
  assert.equal(await first.final, await write.final);
});

test("a receipt too old for its key to be remembered is not asked for again", async () => {
  const { notes, node } = await watching([]);
  const write = notes.put("tea", 1);
  await settle();
  node.say(receipt(node.of("write")[0], 11));
  node.drop();
  assert.equal(comeBack("9000000").of("write").length, 0);
  await assert.rejects(write.final, { slug: "verdict-unknown", message: /\/v1\/ops\/a\.11/ });
});

test("how long a key is remembered the node says that accepted the write", async () => {
  const { notes, node } = await watching([]);
  node.drop();
  const first = comeBack("10", "65536");
  const write = notes.put("tea", 1);
  await settle();
  first.say(receipt(first.of("write")[0], 11));
  first.drop();
  const second = comeBack("30000", "4194304");
  assert.equal(second.of("write").length, 1);
  second.drop();
  assert.equal(comeBack("40000", "4194304").of("write").length, 0);
  await assert.rejects(write.final, { slug: "verdict-unknown" });
});

test("a write that loses its place is told of by its final receipt and by the notice", async () => {
  const notices = [];
  const { notes, node } = await watching([], { onrejected: (error) => notices.push(error.message) });
  const write = notes.put("tea", 1, { ifAbsent: true });
  await settle();
  const [sent] = node.of("write");
  node.say(receipt(sent, 11), receipt(sent, 11, "rejected", { reason: "tea is there" }));
  assert.equal((await write).status, "tentative");
  assert.equal((await write.final).status, "rejected");
  assert.match(notices[0], /final place.*tea is there/);
});

test("a write that another op with its key precedes is settled by the receipt of that one", async () => {
  const notices = [];
  const { notes, node } = await watching([], { onrejected: (error) => notices.push(error.message) });
  const reason = "op b.9 with the same idempotency key comes before it";
  const answers = {
    // The op before it counts, at once or once it is final.
    final: [(sent) => node.say(receipt(sent, 9, "final"))],
    later: [(sent) => node.say(receipt(sent, 9), receipt(sent, 9, "final"))],
    busy: [({ id }) => node.say(problem(id, "overloaded", 503)), (sent) => node.say(receipt(sent, 9, "final"))],
    // It does not, or there is no word of it.
    refused: [({ id }) => node.say(problem(id, "guard-failed", 409))],
    again: [(sent) => node.say(receipt(sent, 11, "rejected", { reason }))],
  };
  for (const [name, steps] of Object.entries(answers)) {
    const write = notes.put(name, 1);
    await settle();
    const sent = node.of("write").at(-1);
    node.say(receipt(sent, 11), receipt(sent, 11, "rejected", { reason }));
    for (const [turn, step] of steps.entries()) {
      const asked = node.of("write").filter(({ key }) => key === write.key);
      assert.deepEqual(asked, Array(turn + 2).fill(sent), name);
      step(sent);
      await pass(1_000);
    }
    const last = await write.final;
    const isRejected = name === "refused" || name === "again";
    assert.deepEqual([last.status, last.op, notices.length], isRejected ? ["rejected", "a.11", 1] : ["final", "a.9", 0], name);
    notices.length = 0;
  }
});

test("with wait the promise is kept when the receipt is final, or enough members hold the write", async () => {
  const { notes, node } = await watching([]);
  const final = notes.put("a", 1, { wait: "final" });
  const held = notes.put("b", 1, { wait: 2 });
  await settle();
  const [one, two] = node.of("write");
  assert.deepEqual([one.wait, two.wait], ["final", 2]);
  node.say(receipt(one, 11), receipt(two, 12), receipt(one, 11, "final"), receipt(two, 12, "tentative", { held_by: 2 }));
  assert.equal((await final).status, "final");
  assert.equal((await held).held_by, 2);
});

test("a closed pool refuses what it had not sent, and its storage keeps it", async () => {
  const storage = new MemoryStorage();
  const pool = open({ storage });
  const write = pool.collection("notes").put("tea", 1);
  await settle();
  pool.close();
  await assert.rejects(write, { slug: "closed" });
  assert.equal((await storage.load()).length, 1);
});

// ---- The optimistic view ----

test("queued writes show at once and give way to the node's word, an increment without being counted twice", async () => {
  const { notes, node, told } = await watching([doc("tea", { cups: 1 })]);
  notes.patch("tea", [{ op: "increment", path: "/cups", by: 1 }]);
  mock.timers.tick(1);
  assert.deepEqual(told.at(-1), { shown: { "tea…": { cups: 2 } }, changes: ["changed tea"] });
  await settle();
  node.say(receipt(node.of("write")[0], 11));
  mock.timers.tick(1);
  assert.equal(told.length, 2, "no flicker between the receipt and the change");
  node.say({ type: "change", id: "q1", doc: doc("tea", { cups: 2 }, 11), cursor: "c1" });
  mock.timers.tick(1);
  node.pong();
  mock.timers.tick(1);
  assert.deepEqual(told.slice(2), [{ shown: { tea: { cups: 2 } }, changes: ["changed tea"] }]);
});

test("put, merge, patch and delete show on one document in their order", async () => {
  const { notes, node, live } = await watching([doc("tea", { a: 1, b: 2 }), doc("oil", 1)]);
  notes.merge("tea", { b: null, c: 3 });
  notes.patch("tea", [{ op: "test", path: "/a", value: 1 }, { op: "replace", path: "/a", value: [] }, { op: "add", path: "/a/-", value: 7 }]);
  notes.put("new", "n");
  notes.delete("oil");
  assert.deepEqual(brief(live.docs), { "new…": "n", "tea…": { a: [7], c: 3 } });
  notes.delete("new");
  assert.deepEqual(brief(live.docs), { "tea…": { a: [7], c: 3 } });
  notes.merge("new", { begun: { again: true, not: null } });
  assert.deepEqual(brief(live.docs), { "new…": { begun: { again: true } }, "tea…": { a: [7], c: 3 } });
  await settle();
  assert.deepEqual(node.of("write").map(({ commands }) => Object.keys(commands[0])[0]), ["merge", "put", "delete"]);
});

test("a write that does not fit as things stand shows as pending, and without effect", async () => {
  const { notes, live } = await watching([doc("tea", 1)]);
  notes.put("tea", 2, { ifAbsent: true });
  notes.patch("tea", [{ op: "test", path: "", value: 9 }, { op: "replace", path: "", value: 3 }]);
  assert.deepEqual(brief(live.docs), { "tea…": 1 });
});

test("a queued write moves a document into a filter and out of it", async () => {
  const { notes, live } = await watching([doc("a", { done: false })], {}, { filter: { done: false } });
  notes.put("b", { done: false });
  notes.put("c", { done: true });
  notes.merge("a", { done: true });
  assert.deepEqual(brief(live.docs), { "b…": { done: false } });
});

test("while another node's snapshot comes in, an accepted write goes on showing", async () => {
  const { notes, node, live } = await watching([]);
  notes.put("tea", 1);
  await settle();
  node.say(receipt(node.of("write")[0], 11));
  node.drop();
  const other = comeBack();
  other.say({ type: "resync", id: "q1" });
  other.pong();
  assert.deepEqual(brief(live.docs), { "tea…": 1 });
  other.say({ type: "snapshot", id: "q1", docs: [doc("tea", 1, 11)], cursor: "d0", more: false });
  assert.deepEqual(brief(live.docs), { tea: 1 });
});

test("one document is read with the queued writes on it, offline from a live query", async () => {
  const answers = { tea: [200, "1"], oil: [404, '{"type":"urn:lamplight:problem:not-found","status":404}'] };
  const fetch = async (url) => {
    const [status, body] = answers[url.split("/").at(-1)];
    return { ok: status === 200, status, text: async () => body, headers: new Headers({ ETag: '"v1"', "Lamplight-Stamp": "5@a", "Lamplight-Status": "final" }) };
  };
  const { notes, node, pool } = await watching([doc("tea", 1)], { fetch });
  assert.deepEqual(await notes.get("tea"), { collection: "notes", id: "tea", version: "v1", stamp: "5@a", status: "final", value: 1, pending: false });
  assert.equal(await notes.get("oil"), null);
  notes.put("oil", 2);
  assert.equal((await notes.get("oil")).pending, true);
  node.drop();
  assert.equal((await notes.get("tea")).value, 1);
  await assert.rejects(pool.collection("other").get("x"), { slug: "offline" });
});

test("a merge of an absent document creates it, as RFC 7396 has it, and a deletion of one does nothing", async () => {
  const { pool, notes, live } = await watching([]);
  notes.merge("tea", { cups: 1, gone: null });
  notes.delete("oil");
  notes.patch("wick", [{ op: "add", path: "", value: 1 }]);
  const target = { collection: "notes", id: "lamp" };
  pool.tx([{ delete: target }, { put: { ...target, value: 1 } }]);
  assert.deepEqual(brief(live.docs), { "lamp…": 1, "tea…": { cups: 1 } });
});

test("a merge of a document that was seen holds only while that is there", async () => {
  const fetch = async (url) => {
    const there = url.endsWith("/read");
    const body = there ? "{}" : '{"type":"urn:lamplight:problem:not-found","status":404}';
    return { ok: there, status: there ? 200 : 404, text: async () => body, headers: new Headers({ ETag: '"v1"', "Lamplight-Stamp": "5@a", "Lamplight-Status": "final" }) };
  };
  const { pool, notes, node } = await watching([doc("tea", {})], { fetch });
  const other = pool.collection("other");
  await other.get("read");
  await other.get("missing");
  notes.merge("tea", { a: 1 });
  notes.merge("none", { a: 1 });
  notes.merge("tea2", { a: 1 }, { ifAbsent: true });
  other.merge("read", { a: 1 });
  other.merge("missing", { a: 1 });
  other.put("written", {});
  other.merge("written", { a: 1 });
  notes.put("first", {});
  pool.tx([{ put: { collection: "notes", id: "tx", value: {} } }, { merge: { collection: "notes", id: "tx", value: {} } }, { merge: { collection: "notes", id: "tea", value: {} } }]);
  await settle();
  const guards = () => Object.fromEntries(node.of("write").flatMap(({ guards, commands }) => commands.map((command) => Object.values(command)[0].id).map((id) => [id, guards.map((guard) => `${Object.keys(guard)[0]} ${Object.values(guard)[0].id}`)])));
  assert.deepEqual(guards(), { tea: ["exists tea"], none: [], tea2: ["absent tea2"], read: ["exists read"], missing: [], written: [], first: [] });
  for (const write of node.of("write")) node.say(receipt(write, 11));
  await settle();
  assert.deepEqual(guards().written, ["exists written"]);
  assert.deepEqual(guards().tx, ["exists tea"]);
});

test("a merge that was refused because its document is gone may begin it anew", async () => {
  const { notes, node } = await watching([doc("tea", {})]);
  notes.merge("tea", { a: 1 });
  await settle();
  node.say({ type: "change", id: "q1", doc: { id: "tea", deleted: true }, cursor: "c1" });
  const errors = [];
  node.say(problem(node.of("write")[0].id, "guard-failed", 409));
  notes.merge("tea", { a: 1 }).catch((error) => errors.push(error));
  await settle();
  assert.deepEqual(node.of("write").at(-1).guards, []);
});

test("a refusal forgets only the document whose guard did not hold", async () => {
  const fetch = async () => ({ ok: true, status: 200, text: async () => "{}", headers: new Headers({ ETag: '"v1"', "Lamplight-Stamp": "5@a", "Lamplight-Status": "final" }) });
  const notices = [];
  const { pool, node } = await watching([], { fetch, onrejected: (error, { commands, guards }) => notices.push([error.problem.guard, commands.length, guards.length]) });
  const other = pool.collection("other");
  const merge = (id) => ({ merge: { collection: "other", id, value: {} } });
  const guardsNow = async () => {
    await settle();
    return node.of("write").at(-1).guards.map(({ exists }) => exists.id);
  };
  const both = async () => {
    for (const id of ["a", "b"]) await other.get(id);
    pool.tx([merge("a"), merge("b")]).catch(() => {});
    assert.deepEqual(await guardsNow(), ["a", "b"]);
    return node.of("write").at(-1);
  };
  const again = async () => {
    pool.tx([merge("a"), merge("b")]).catch(() => {});
    const guards = await guardsNow();
    node.say(problem(node.of("write").at(-1).id, "patch-failed", 409));
    return guards;
  };
  const refuse = (sent, slug, more) => {
    const { type, id, problem: what } = problem(sent.id, slug, 409);
    node.say({ type, id, problem: { ...what, ...more } });
  };
  refuse(await both(), "patch-failed", { command: 0 });
  assert.deepEqual(await again(), ["a", "b"], "its reason is another");
  refuse(await both(), "guard-failed", { guard: 1, current: null });
  assert.deepEqual(await again(), ["a"]);
  const sent = await both();
  node.say(receipt(sent, 11), receipt(sent, 11, "rejected", { reason: "guard 0 does not hold: the document does not exist" }));
  assert.deepEqual(await again(), ["b"], "at its final place, too");
  assert.deepEqual(notices, [[undefined, 2, 2], [undefined, 2, 2], [1, 2, 2], [undefined, 2, 1], [0, 2, 2], [undefined, 2, 1]]);
});

test("later receipts of a write say nothing new of its documents", async () => {
  const fetch = async () => ({ ok: false, status: 404, text: async () => '{"type":"urn:lamplight:problem:not-found","status":404}', headers: new Headers() });
  const { pool, node } = await watching([], { fetch });
  const other = pool.collection("other");
  other.put("tea", {});
  await settle();
  const [sent] = node.of("write");
  node.say(receipt(sent, 11));
  // Another has deleted it.
  assert.notEqual(await other.get("tea"), null, "the accepted write shows until the node's word is here");
  node.pong();
  assert.equal(await other.get("tea"), null);
  node.say(receipt(sent, 11, "final"));
  node.pong();
  other.merge("tea", { a: 1 });
  await settle();
  assert.deepEqual(node.of("write").at(-1).guards, []);
});

test("a write with a malformed part goes to the node, which refuses it, and shows nowhere", async () => {
  const notices = [];
  const { pool, node, live } = await watching([doc("tea", {})], { onrejected: (error, { guards, commands }) => notices.push([error.slug, guards, commands]) });
  const put = { put: { collection: "notes", id: "oil", value: 1 } };
  const cases = [[[put], [{}]], [[put], [null]], [[{ put: null }], []], [[put, {}], []], [[put, null], []], [["put"], []]];
  for (const [commands, guards] of cases) {
    const write = pool.tx(commands, { guards });
    await settle();
    assert.deepEqual(Object.keys(brief(live.docs)), ["tea"]);
    const sent = node.of("write").at(-1);
    assert.deepEqual([sent.commands, sent.guards], [commands, guards]);
    node.say(problem(sent.id, "bad-request", 400));
    await assert.rejects(write, { slug: "bad-request" });
    assert.deepEqual(notices.pop(), ["bad-request", guards, commands]);
  }
  assert.equal(pool.queued, 0);
});

test("the client's filter and the node's hold for the same documents", () => {
  const cases = JSON.parse(readFileSync(new URL("fixtures/selector.json", import.meta.url), "utf8"));
  assert.ok(cases.length > 60);
  for (const [filter, value, expected] of cases) assert.equal(matches(filter, value), expected, `${JSON.stringify(filter)} on ${JSON.stringify(value)}`);
});

test("a version is read from the tag that a proxy makes of it when it compresses", async () => {
  const version = "0123456789abcdef0123456789abcdef";
  for (const tag of [`"${version}"`, `W/"${version}"`, `"${version}-gzip"`, `W/"${version}--br"`]) {
    const fetch = async () => ({ ok: true, status: 200, text: async () => "1", headers: new Headers({ ETag: tag, "Lamplight-Stamp": "5@a", "Lamplight-Status": "final" }) });
    const { notes } = await watching([], { fetch });
    assert.equal((await notes.get("tea")).version, version, tag);
    pools.pop().close();
  }
});

test("an id that proxies would change is asked for in the query", async () => {
  const asked = [];
  const fetch = async (url) => {
    asked.push(url);
    return { ok: true, status: 200, text: async () => "1", headers: new Headers({ ETag: '"v"', "Lamplight-Stamp": "5@a", "Lamplight-Status": "final" }) };
  };
  const { notes } = await watching([], { fetch });
  for (const id of ["tea", "a/b", "../é", "..."]) await notes.get(id);
  assert.deepEqual(asked, ["tea", "_?id=a%2Fb", "_?id=..%2F%C3%A9", "..."].map((end) => `http://a:1/v1/docs/notes/${end}`));
});

test("a node that owes an answer to a write and says nothing is left within ten seconds", async () => {
  const { notes } = await watching([], {}, {}, URLS);
  const node = net.last;
  mock.timers.tick(14_000);
  notes.put("tea", 1);
  await settle();
  assert.equal(node.of("write").length, 1);
  await pass(9_500);
  assert.equal(node.readyState, 3);
  mock.timers.tick(100);
  assert.equal(net.last.url, "ws://b:2/v1/ws");
  assert.equal(net.last.welcome().of("write").length, 1);
});

test("a node that is frozen answers nothing beside the socket either, and is left within ten seconds", async () => {
  const asked = [];
  const fetch = (url, { mode } = {}) => {
    asked.push([url, mode]);
    return new Promise(() => {});
  };
  const { notes, node } = await watching([], { fetch }, {}, URLS);
  await pass(300);
  asked.length = 0;
  notes.put("tea", 1);
  await settle();
  await pass(8_500);
  assert.deepEqual([asked, node.readyState], [[["http://a:1/livez", "no-cors"]], 1]);
  await pass(1_500);
  assert.equal(node.readyState, 3);
});

test("a node that lives is not left while a long message comes in over a slow line", async () => {
  let status = 200;
  let asked = 0;
  const fetch = async (url) => {
    if (url.endsWith("/livez")) asked += 1;
    return { ok: true, status, headers: new Headers() };
  };
  const { notes, node } = await watching([], { fetch }, {}, URLS);
  const write = () => notes.put(`n${Date.now()}`, 1);
  // Small writes go out, and no whole message comes in.
  for (let turn = 0; turn < 7; turn += 1) {
    write();
    await settle();
    await pass(4_000);
  }
  assert.equal(node.readyState, 1);
  assert.ok(asked >= 3 && asked <= 5, `it is asked now and then: ${asked}`);
  // The message is here: all is measured anew.
  node.say({ type: "pong", clock: "20" });
  await pass(30_000);
  assert.equal(node.readyState, 1);
  await pass(20_000);
  assert.equal(node.readyState, 3, "the socket is silent for too long, whatever the node answers beside it");
  assert.equal(net.last.welcome().of("write").length, 7);

  // What a proxy before a hanging node answers is no answer of the node.
  status = 504;
  const next = net.last;
  await pass(10_000);
  assert.equal(next.readyState, 3);
});

test("a slow node that has said something while it was asked, or owes nothing any more, is not left", async () => {
  for (const word of ["pong", "receipt"]) {
    const fetch = (url) => (url.endsWith("/livez") ? new Promise(() => {}) : Promise.reject(new Error("no node")));
    const { notes, node } = await watching([], { fetch }, {}, URLS);
    notes.put("tea", 1);
    await settle();
    await pass(8_000);
    node.say(word === "pong" ? { type: "pong", clock: "20" } : receipt(node.of("write")[0], 11));
    await pass(3_000);
    assert.equal(node.readyState, 1, word);
    pools.pop().close();
  }
});

test("a node that is slow over a write, but says that it lives, is not left", async () => {
  const { notes } = await watching([], {}, {}, URLS);
  const node = net.last;
  notes.put("tea", 1, { wait: "final" });
  await settle();
  for (let second = 0; second < 60; second += 1) {
    mock.timers.tick(1_000);
    for (const { id } of node.of("ping")) if (id === undefined) node.say({ type: "pong", clock: "20" });
    node.sent = node.sent.filter(({ type }) => type !== "ping");
  }
  assert.equal(node.readyState, 1);
});

test("a large write has the time that it takes on a slow line", async () => {
  const { notes } = await watching([], {}, {}, URLS);
  const node = net.last;
  notes.put("tea", "x".repeat(1 << 20));
  await settle();
  await pass(60_000);
  assert.equal(node.readyState, 1);
  await pass(15_000);
  assert.equal(node.readyState, 3);
});

test("what a write takes on the line is counted in bytes", async () => {
  const { notes } = await watching([], {}, {}, URLS);
  const node = net.last;
  // As many characters as 16 s of ASCII.
  notes.put("tea", "茶".repeat(1 << 18));
  await settle();
  await pass(50_000);
  assert.equal(node.readyState, 1);
  await pass(10_000);
  assert.equal(node.readyState, 3);
});

test("bytes that leave the socket's buffer are a sign of life", async () => {
  const { notes } = await watching([], {}, {}, URLS);
  const node = net.last;
  node.bufferedAmount = 1 << 20;
  notes.put("tea", 1);
  await settle();
  for (let second = 0; second < 60; second += 1) {
    node.bufferedAmount -= 10_000;
    await pass(1_000);
  }
  assert.equal(node.readyState, 1);
  await pass(10_000);
  assert.equal(node.readyState, 3);
});

// ---- Tabs ----

test("of two tabs one sends for both, and the other takes over when it goes", async () => {
  mock.timers.reset();
  const storage = new MemoryStorage();
  storage.isShared = true;
  const locks = fakeLocks();
  const had = Object.getOwnPropertyDescriptor(globalThis, "navigator");
  Object.defineProperty(globalThis, "navigator", { value: { locks }, configurable: true });
  try {
    const [one, two] = [open({ storage, name: "tabs" }), open({ storage, name: "tabs" })];
    await settle();
    const [first, second] = net.dials.map((dial) => dial.welcome());
    const write = two.collection("notes").put("tea", 1);
    await untilTrue(() => first.of("write").length === 1);
    assert.equal(second.of("write").length, 0);
    first.say(receipt(first.of("write")[0], 11), receipt(first.of("write")[0], 11, "final"));
    assert.equal((await write).stamp, "11@a");
    assert.equal((await write.final).status, "final");

    const late = two.collection("notes").put("oil", 2);
    one.close();
    await untilTrue(() => second.of("write").length === 1);
    second.say(receipt(second.of("write")[0], 12));
    await late;
    assert.deepEqual(await storage.load(), []);
  } finally {
    for (const pool of pools) pool.close();
    delete globalThis.navigator;
    if (had) Object.defineProperty(globalThis, "navigator", had);
  }
});

function fakeLocks() {
  let turn = Promise.resolve();
  return {
    request(_name, { signal }, hold) {
      const held = turn.then(() => (signal.aborted ? undefined : hold()));
      turn = held.catch(() => {});
      return held;
    },
  };
}

async function untilTrue(condition) {
  const end = Date.now() + 5_000;
  while (!condition()) {
    assert.ok(Date.now() < end, `not in time: ${condition}`);
    await new Promise((resolve) => setTimeout(resolve, 5));
  }
}

// ---- Presence ----

test("a room is joined again on each connection, and its peers stay until the node has told anew", () => {
  const pool = open();
  const seen = [];
  const room = pool.room("kitchen").join({ name: "Ada" });
  room.onchange = (peers) => seen.push(peers.map(({ state }) => state.name));
  const node = net.last.welcome();
  assert.deepEqual(node.of("presence"), [{ type: "presence", id: "p1", room: "kitchen", state: { name: "Ada" } }]);
  const peer = (name, more) => ({ peer: name, node: "n", ...(more ?? { state: { name } }) });
  node.say({ type: "room", id: "p1", room: "kitchen", me: "ada", peers: [peer("ada"), peer("ben")] });
  node.say({ type: "peer", id: "p1", ...peer("cleo") }, { type: "peer", id: "p1", ...peer("ben", { gone: true }) });
  assert.deepEqual(seen, [["ben"], ["ben", "cleo"], ["cleo"]]);
  node.drop();
  assert.equal(room.peers.length, 1);
  const again = comeBack();
  assert.equal(again.of("presence").length, 1);
  again.say({ type: "room", id: "p1", room: "kitchen", me: "ada2", peers: [] });
  assert.deepEqual(room.peers, []);
  room.leave();
  assert.deepEqual(again.of("unsubscribe"), [{ type: "unsubscribe", id: "p1" }]);
});

test("a state that changes fast is sent now and then, the last one for certain; one too large is refused", () => {
  const room = open().room("kitchen").join({ x: 0 });
  const node = net.last.welcome();
  for (let x = 1; x <= 9; x += 1) room.set({ x });
  mock.timers.tick(50);
  assert.deepEqual(node.of("presence").map(({ state }) => state.x), [0, 9]);
  assert.throws(() => room.set({ text: "x".repeat(5_000) }), { slug: "too-large" });
});
