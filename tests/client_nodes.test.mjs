// The client against real nodes: the node it talks to is killed while writes are under way, and every write must be
// there once, on the nodes and in live queries.
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { mkdtemp, rm, writeFile } from "node:fs/promises";
import net from "node:net";
import { tmpdir } from "node:os";
import path from "node:path";
import test from "node:test";
import { isDeepStrictEqual } from "node:util";
import { connect } from "../static/lamplight.js";
import { Node, startPool, until } from "./support/nodes.mjs";

// Node 20 has a WebSocket only when it is asked for.
assert.equal(typeof WebSocket, "function", "run with: node --experimental-websocket --test tests/client_nodes.test.mjs");

/// A pool's client that ends with the test.
function open(t, nodes, options = {}) {
  const pool = connect(nodes.map(({ url }) => url), options);
  t.after(() => pool.close());
  return pool;
}

/// Notes what the client asks by plain requests: true once it is answered.
const noting = (asked) => async (url, init) => {
  const place = asked.push(false) - 1;
  const answer = await fetch(url, init);
  asked[place] = true;
  return answer;
};

/// A write is news, and the client asks a moment after news for the session; what it is told then has seen all before.
async function sessionIsKnown(pool, asked) {
  await pool.collection("marks").put("now", true);
  const before = asked.length;
  await until(() => asked.includes(true, before), "the client knows the session");
}

const values = (docs) => Object.fromEntries(docs.map(({ id, value }) => [id, value]));
const isAt = (url) => (node) => node.url === url;

test("each write is there once when the node is killed with writes in flight", async (t) => {
  const nodes = await startPool(t, 3);
  const pool = open(t, nodes);
  const notes = pool.collection("notes");
  const watched = notes.watch();
  const onlooker = open(t, nodes.slice(1)).collection("notes").watch();
  await Promise.all([watched.ready, onlooker.ready]);

  const COUNTERS = 5;
  const ROUNDS = 60;
  // Final, so that none is sent again: a counter that began anew would hide what was counted twice.
  await Promise.all(Array.from({ length: COUNTERS }, (_, n) => notes.put(`counter-${n}`, { n: 0 }, { wait: "final" })));
  let receipts = 0;
  const writes = [];
  for (let round = 0; round < ROUNDS; round += 1) {
    for (let n = 0; n < COUNTERS; n += 1) writes.push(notes.patch(`counter-${n}`, [{ op: "increment", path: "/n", by: 1 }]));
    writes.push(notes.put(`note-${round}`, { round }, { ifAbsent: true }));
  }
  for (const write of writes) write.then(() => { receipts += 1; });
  const wanted = Object.fromEntries([
    ...Array.from({ length: COUNTERS }, (_, n) => [`counter-${n}`, { n: ROUNDS }]),
    ...Array.from({ length: ROUNDS }, (_, round) => [`note-${round}`, { round }]),
  ]);
  assert.deepEqual(values(watched.docs), wanted, "all is shown before any node has it");

  await until(() => receipts > 60, "some are accepted");
  assert.ok(receipts < writes.length && pool.queued > 0, "and some are under way");
  const [killed] = nodes.splice(nodes.findIndex(isAt(pool.url)), 1);
  await killed.kill();
  const first = await Promise.all(writes);

  assert.equal(pool.queued, 0);
  assert.equal(new Set(first.map(({ op }) => op)).size, writes.length, "each is an operation of its own");
  for (const node of nodes) {
    await until(async () => isDeepStrictEqual(await node.docs("notes"), wanted), `${node.name} has each write once`);
  }
  for (const live of [watched, onlooker]) {
    await until(() => live.docs.length === COUNTERS + ROUNDS && live.docs.every(({ pending }) => !pending), "the live query is settled");
    assert.deepEqual(values(live.docs), wanted);
  }
});

test("a final receipt comes although the node that accepted the write is gone", async (t) => {
  const nodes = await startPool(t, 3);
  const pool = open(t, nodes);
  const gone = nodes.find(isAt(pool.url));
  // Nothing becomes final while a member is cut off, so the receipt is still to come when the node goes.
  const cut = nodes.find((node) => node !== gone);
  await cut.call("/v1/pool/links", "POST", { cut: true });
  const write = pool.collection("notes").put("tea", 1);
  assert.equal((await write).status, "tentative");
  const rest = nodes.filter((node) => node !== gone && node !== cut);
  await until(async () => (await rest[0].docs("notes")).tea === 1, "the third node has it");
  await gone.kill();
  await cut.call("/v1/pool/links", "POST", { cut: false });
  const member = (await rest[0].call("/v1/pool")).members.find(({ name }) => name === gone.name);
  await until(async () => (await rest[0].call(`/v1/pool/members/${member.id}?force=true`, "DELETE")).op, "it is evicted");
  assert.equal((await write.final).status, "final");
});

test("what only the lost node had is written again on another", async (t) => {
  const nodes = await startPool(t, 3);
  const asked = [];
  const pool = open(t, nodes, { fetch: noting(asked) });
  const notes = pool.collection("notes");
  await notes.watch().ready;
  const lost = nodes.find(isAt(pool.url));
  await lost.call("/v1/pool/links", "POST", { cut: true });
  await Promise.all(Array.from({ length: 20 }, (_, n) => notes.put(`n${n}`, n)));
  // No other node will ever hold the session that has seen them.
  await sessionIsKnown(pool, asked);
  await lost.kill();
  for (const node of nodes.filter((node) => node !== lost)) {
    await until(async () => Object.keys(await node.docs("notes")).length === 20, `${node.name} has all`);
  }
});

test("another node is shown once it has what was seen, though it was cut off meanwhile", async (t) => {
  const [first, second] = await startPool(t, 2);
  const asked = [];
  const pool = open(t, [first, second], { fetch: noting(asked) });
  const shown = [];
  await pool.collection("notes").watch((docs) => shown.push(docs.length)).ready;
  await second.call("/v1/pool/links", "POST", { cut: true });
  for (let n = 0; n < 5; n += 1) await first.call(`/v1/docs/notes/n${n}`, "PUT", n);
  await until(() => shown.at(-1) === 5, "all are shown");
  await sessionIsKnown(pool, asked);
  // The client moves while the second node still lacks them; its links are joined only then.
  const joining = setTimeout(() => second.call("/v1/pool/links", "POST", { cut: false }), 500);
  t.after(() => clearTimeout(joining));
  pool.leave();
  await until(() => pool.url === second.url && pool.state === "online", "the second node is shown");
  await first.call("/v1/docs/notes/n5", "PUT", 5);
  await until(() => shown.at(-1) === 6, "what comes then is shown too");
  assert.deepEqual(shown.filter((count, place) => count < (shown[place - 1] ?? 0)), [], "nothing shown was taken back");
});

test("a live query survives its node coming back as a newcomer, and tells differences only", async (t) => {
  const nodes = await startPool(t, 2);
  const [stays, goes] = nodes;
  const pool = open(t, [goes]);
  const told = [];
  const live = pool.collection("notes").watch({ filter: { shown: true } }, (docs, { changes }) => {
    told.push(...changes.map(({ type, id }) => `${type} ${id}`));
  });
  for (const id of ["kept", "changed", "deleted"]) await stays.call(`/v1/docs/notes/${id}`, "PUT", { shown: true });
  await until(() => live.docs.length === 3, "all are shown");
  const port = new URL(goes.url).port;
  await goes.kill();
  await until(() => pool.state !== "online", "the client knows");
  await stays.call("/v1/docs/notes/changed", "PUT", { shown: true, n: 2 });
  await stays.call("/v1/docs/notes/deleted", "DELETE");
  await stays.call("/v1/docs/notes/added", "PUT", { shown: true });
  await stays.call("/v1/docs/notes/other", "PUT", { shown: false });
  assert.equal(live.docs.length, 3, "what was shown stays meanwhile");
  told.length = 0;
  await Node.start(t, "again", [stays.url], port);
  await until(() => told.length >= 3, "the differences are told");
  assert.deepEqual(told.sort(), ["added added", "changed changed", "removed deleted"]);
  assert.deepEqual(live.docs.map(({ id }) => id), ["added", "changed", "kept"]);
});

test("writes made while no node is there are sent when one is, in order, and refused ones are told of", async (t) => {
  const node = await Node.start(t, "alone");
  await node.call("/v1/docs/names/ada", "PUT", { account: 1 });
  const { port } = new URL(node.url);
  await node.kill();
  const refused = [];
  const pool = open(t, [node], { onrejected: (error, { commands }) => refused.push([error.slug, commands[0].put.id]) });
  const names = pool.collection("names");
  names.put("ada", { account: 7 });
  names.put("ada", { account: 8 }, { ifAbsent: true });
  names.merge("ada", { seen: true });
  assert.equal(pool.queued, 3);
  const again = await Node.start(t, "alone", [], port);
  await pool.settled();
  assert.deepEqual(await again.docs("names"), { ada: { account: 7, seen: true } });
  assert.deepEqual(refused, [["guard-failed", "ada"]]);
});

test("two pages' worth of documents and a filter that the node judges as the client does", async (t) => {
  const node = await Node.start(t, "judge");
  const pool = open(t, [node]);
  const things = pool.collection("things");
  const values = [null, true, false, 0, 1.5, -3, "a", "ä", "\u{1f600}", "\uffee", [], [1, "a"], {}, { b: 1 }, { b: { c: "x" } }];
  values.forEach((value, n) => things.put(`n${n}`, { a: value }));
  for (let n = 0; n < 1_100; n += 1) things.put(`more-${n}`, { more: n });
  await pool.settled();
  const filters = [
    {}, { a: null }, { a: { $exists: true } }, { a: { $exists: false } }, { a: { $gt: 0 } }, { a: { $lte: 1.5 } }, { a: { $gte: "a" } },
    { a: { $gt: "\uffee" } }, { a: { $ne: 1.5 } }, { a: { $in: [null, [], { b: 1 }] } }, { a: { b: 1 } }, { "a.b": 1 }, { "a.b.c": "x" },
    { $not: { a: { $gt: 0 } } }, { $or: [{ a: true }, { more: { $lt: 3 } }] }, { $and: [{ more: { $gte: 5 } }, { more: { $not: { $gte: 8 } } }] },
    { a: { $not: { $gte: 0, $lt: 2 } } },
  ];
  // The client's own judgement is asked of the same values while they are queued and no node is there.
  const { matches } = await import("../static/selector.js");
  const all = await node.docs("things");
  for (const filter of filters) {
    const live = things.watch({ filter });
    await live.ready;
    const wanted = Object.keys(all).filter((id) => matches(filter, all[id])).sort();
    assert.deepEqual(live.docs.map(({ id }) => id).sort(), wanted, JSON.stringify(filter));
    live.close();
  }
});

test("what the client shows of a queued write is what the node makes of it", async (t) => {
  const node = await Node.start(t, "judge");
  const pool = open(t, [node], { onrejected: () => {} });
  const things = pool.collection("things");
  const base = { a: [1, 2, { b: null }], "x/y": { "~": 1 }, "": 0, length: 3, text: "t" };
  const step = (op, path, more = {}) => [{ op, path, ...more }];
  const patches = [
    step("add", "/a/-", { value: 9 }), step("add", "/a/0", { value: 9 }), step("add", "/a/3", { value: 9 }), step("add", "/a/4", { value: 9 }),
    step("add", "/a/01", { value: 9 }), step("add", "/new", { value: {} }), step("add", "/no/where", { value: 1 }), step("add", "", { value: [] }),
    step("remove", "/a/1"), step("remove", "/a/-"), step("remove", "/gone"), step("remove", "/"), step("remove", "/length"), step("remove", ""),
    step("replace", "/x~1y/~0", { value: 2 }), step("replace", "/gone", { value: 2 }), step("replace", "/a/2/b", { value: [1] }), step("replace", "", { value: 1 }),
    step("test", "/a", { value: [1, 2, { b: null }] }), step("test", "/a", { value: [1] }), step("test", "/text/0", { value: "t" }),
    step("increment", "/length", { by: 2.5 }), step("increment", "/text", { by: 1 }), step("increment", "/a/0", { by: -4 }), step("increment", "/a/7", { by: 1 }),
    step("copy", "/b", { from: "/a/2" }), step("copy", "/a/-", { from: "" }), step("move", "/a/0", { from: "/a/2" }), step("move", "/t", { from: "/gone" }),
    step("move", "/a", { from: "/a/2/b" }), step("add", "/__proto__", { value: { polluted: true } }),
  ];
  const merges = [{ a: null }, { text: { deep: { gone: null, kept: 1 } } }, [1], "t", { "x/y": { "~": null, z: 1 } }, {}];
  const writes = [...patches.map((patch) => (id) => things.patch(id, patch)), ...merges.map((value) => (id) => things.merge(id, value))];
  const live = things.watch();
  await Promise.all(writes.map((_, n) => things.put(`n${n}`, base)));
  await until(() => live.docs.length === writes.length && live.docs.every(({ pending }) => !pending), "all begin alike");
  for (const [n, write] of writes.entries()) {
    const accepted = write(`n${n}`);
    const shown = live.get(`n${n}`).value;
    await accepted.catch(() => {});
    assert.deepEqual(shown, await node.call(`/v1/docs/things/n${n}`), JSON.stringify((patches[n] ?? merges[n - patches.length])));
  }
  assert.equal({}.polluted, undefined);
});

/// Stops a process, and waits until it is: its threads may run for a moment after the signal.
async function freeze(child) {
  child.kill("SIGSTOP");
  const isStopped = () => / T /.test(readFileSync(`/proc/${child.pid}/stat`, "utf8"));
  while (!isStopped()) await new Promise((resolve) => setTimeout(resolve, 5));
}

test("a node that hangs with writes that it owes an answer is left for another", async (t) => {
  const nodes = await startPool(t, 2);
  const pool = open(t, nodes);
  const notes = pool.collection("notes");
  await notes.put("first", 1);
  const frozen = nodes.find(({ url }) => url === pool.url);
  await freeze(frozen.child);
  try {
    await notes.put("second", 2);
    assert.notEqual(pool.url, frozen.url);
  } finally {
    frozen.child.kill("SIGCONT");
  }
});

test("a write that the node had taken when it froze is no rejected one when it thaws", async (t) => {
  const nodes = await startPool(t, 2);
  const refused = [];
  const pool = open(t, nodes, { onrejected: (error) => refused.push(error.message) });
  const notes = pool.collection("notes");
  await notes.put("first", 1, { wait: "final" });
  const frozen = nodes.find(isAt(pool.url));
  const other = nodes.find((node) => node !== frozen);
  await freeze(frozen.child);
  let write;
  try {
    write = notes.patch("first", [{ op: "replace", path: "", value: 2 }]);
    // So the op of the other node comes later in the order than that of the frozen one.
    for (let n = 0; n < 20; n += 1) await other.call(`/v1/docs/other/n${n}`, "PUT", n);
    await write;
    assert.equal(pool.url, other.url);
  } finally {
    frozen.child.kill("SIGCONT");
  }
  const last = await write.final;
  assert.deepEqual([last.status, last.verdict, refused], ["final", "applied", []]);
});

/// A way to a node on which each connection brings 50 KB a second; its URL.
async function slowWay(t, { url }) {
  const STEP_MS = 100;
  const STEP_BYTES = 5_000;
  const { hostname, port } = new URL(url);
  const server = net.createServer((client) => {
    const node = net.connect(port, hostname);
    const pump = setInterval(() => {
      const part = node.read(Math.min(STEP_BYTES, node.readableLength));
      if (part) client.write(part);
    }, STEP_MS);
    client.pipe(node);
    for (const socket of [client, node]) {
      socket.on("error", () => {});
      socket.on("close", () => {
        clearInterval(pump);
        client.destroy();
        node.destroy();
      });
    }
    // Paused, and yet filled: what is there is read in steps.
    node.on("readable", () => {});
  });
  await new Promise((resolve) => server.listen(0, "127.0.0.1", resolve));
  t.after(() => server.close());
  return { url: `http://127.0.0.1:${server.address().port}` };
}

test("a node is not left while it sends a large document over a slow line", async (t) => {
  const node = await Node.start(t, "far");
  await node.call("/v1/docs/big/doc", "PUT", "x".repeat(550_000));
  const states = [];
  const pool = open(t, [await slowWay(t, node)], { onstate: (state) => states.push(state) });
  const live = pool.collection("big").watch();
  await until(() => pool.state === "online", "the node has answered");
  // Its answers come behind the document.
  const write = pool.collection("small").put("one", 1);
  const begun = Date.now();
  await live.ready;
  assert.ok(Date.now() - begun > 9_000, "it took longer than a silent node has");
  await write;
  assert.deepEqual(states, ["online"]);
});

test("a write with a malformed part is refused by the node", async (t) => {
  const node = await Node.start(t, "strict");
  const pool = open(t, [node], { onrejected: () => {} });
  const put = { put: { collection: "notes", id: "tea", value: 1 } };
  for (const [commands, guards] of [[[put], [{}]], [[put], [null]], [[put, { put: null }], []], [[put, {}], []]]) {
    await assert.rejects(pool.tx(commands, { guards }), { slug: "bad-request", message: /guards\[0\]|commands\[1\]/ });
  }
  assert.deepEqual(await node.docs("notes"), {});
});

test("an offline merge leaves no fragment of a document that was deleted meanwhile", async (t) => {
  const node = await Node.start(t, "solo");
  const refused = [];
  const pool = open(t, [node], { onrejected: (error) => refused.push(error.slug) });
  const notes = pool.collection("notes");
  await notes.put("tea", { cups: 1, text: "Assam" });
  await notes.get("tea");
  const gone = new Promise((resolve) => { pool.onstate = (state) => { if (state === "offline") resolve(); }; });
  // The connection goes, the document is deleted by another, and the merge comes after that.
  pool.leave();
  await gone;
  const merge = notes.merge("tea", { cups: 2 });
  await node.call("/v1/docs/notes/tea", "DELETE");
  await assert.rejects(merge, { slug: "guard-failed" });
  assert.deepEqual(await node.docs("notes"), {});
  await notes.merge("tea", { cups: 3 });
  assert.deepEqual(await node.docs("notes"), { tea: { cups: 3 } });
  assert.deepEqual(refused, ["guard-failed"]);
});

test("a token is shown with every request, to nodes that ask for one", async (t) => {
  const dir = await mkdtemp(path.join(tmpdir(), "lamplight-"));
  t.after(() => rm(dir, { recursive: true }));
  const file = path.join(dir, "tokens.json");
  const entry = (name, role) => ({ name, role, collections: ["notes"], token: `${name}-0123456789/+~` });
  const allow = (...tokens) => writeFile(file, JSON.stringify({ tokens }));
  await allow(entry("ada", "write"), entry("reader", "read"));
  const first = await Node.start(t, "first", [], 0, ["--tokens", file]);
  const second = await Node.start(t, "second", [first.url], 0, ["--tokens", file]);

  const pool = open(t, [first, second], { token: "ada-0123456789/+~" });
  const notes = pool.collection("notes");
  const watched = notes.watch();
  await notes.put("milk", { buy: true }, { wait: "final" });
  await watched.ready;
  assert.deepEqual(values(watched.docs), { milk: { buy: true } });
  assert.deepEqual((await notes.get("milk")).value, { buy: true });
  const text = await pool.text("notes", "minutes");
  text.text.insert(0, "Agenda");
  await until(() => text.state.link === "connected" && text.state.unsaved === 0, "the text is saved");
  text.close();
  // The next node is asked whether it holds what was seen, with the token too.
  await first.kill();
  await until(() => pool.url === second.url && pool.state === "online", "the pool is at the next node");
  await notes.put("tea", 1);

  const reader = open(t, [second], { token: () => "reader-0123456789/+~" });
  await assert.rejects(reader.collection("notes").put("milk", null), ({ slug }) => slug === "forbidden");

  const refusals = [];
  let token = null;
  const stranger = open(t, [second], { token: () => token, onrefused: (reason) => refusals.push(reason) });
  await until(() => refusals.length > 0, "a client without a token is told");
  assert.equal(stranger.state === "online", false);
  token = "ada-0123456789/+~";
  stranger.reconnect();
  assert.deepEqual((await stranger.collection("notes").watch().ready).map(({ id }) => id), ["milk", "minutes", "tea"]);

  // One that is taken back ends what is open with it.
  await allow(entry("reader", "read"));
  await until(() => pool.state === "offline", "the token that is taken back is no longer taken");
  assert.throws(() => connect(second.url, { token: "two words" }), /a token is a string/);
});

test("the session that has seen what is shown is known where tokens are asked for, too", async (t) => {
  const dir = await mkdtemp(path.join(tmpdir(), "lamplight-"));
  t.after(() => rm(dir, { recursive: true }));
  const file = path.join(dir, "tokens.json");
  const token = "ada-0123456789/+~";
  await writeFile(file, JSON.stringify({ tokens: [{ name: "ada", role: "write", collections: ["notes"], token }] }));
  const node = await Node.start(t, "alone", [], 0, ["--tokens", file]);
  const sessions = [];
  const noted = async (url, init) => {
    const answer = await fetch(url, init);
    sessions.push(answer.headers.get("Lamplight-Session"));
    return answer;
  };
  const pool = open(t, [node, { url: "http://127.0.0.1:1" }], { token, fetch: noted });
  await pool.collection("notes").put("tea", 1);
  await until(() => sessions.length > 0, "it asks for the session");
  assert.match(sessions[0] ?? "none", /^[A-Za-z0-9_-]{20,}$/);
});

test("a text tries the next node when one is not there", async (t) => {
  const node = await Node.start(t, "only");
  const pool = connect(["http://127.0.0.1:1", node.url]);
  t.after(() => pool.close());
  const text = await pool.text("notes", "minutes");
  await until(() => text.state.link === "connected", "the text has come to the node that is there");
});
