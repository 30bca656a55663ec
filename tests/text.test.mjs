// The text modules of the page, without a page: node --test tests/text.test.mjs
import assert from "node:assert/strict";
import { mock, test } from "node:test";
import { webcrypto } from "node:crypto";
import { BrokenBytes, EMBED, Text } from "../static/text.js";
import { applied, difference, movedPosition, movedRange } from "../static/text-change.js";
import { TextProvider } from "../static/text-provider.js";
import { Undo } from "../static/text-undo.js";
import { Presence, decodeMessage, encodeDenied, encodePresence, encodeSync } from "../static/y-protocol.js";

const bytes = (hex) => new Uint8Array(Buffer.from(hex.replaceAll(" ", ""), "hex"));
const hex = (array) => Buffer.from(array).toString("hex");

function textOf(string, client) {
  const text = new Text(client === undefined ? {} : { client });
  if (string !== "") text.insert(0, string);
  return text;
}

/// Gives each of the texts what the others have.
function exchange(...texts) {
  for (const one of texts) {
    for (const other of texts) one.applyUpdate(other.encodeStateAsUpdate(one.encodeStateVector()));
  }
}

function copyOf(text) {
  const copy = new Text();
  copy.applyUpdate(text.encodeStateAsUpdate());
  return copy;
}

// Debian 12 has Node 18, where it is not global, and where the runner's own mock timers lack the date.
globalThis.crypto ??= webcrypto;

/// Time that passes only as a test says.
const clock = { now: 0, serial: 0, timers: new Map() };
Date.now = () => clock.now;
for (const [kind, repeats] of [["Timeout", false], ["Interval", true]]) {
  globalThis[`set${kind}`] = (call, ms) => {
    clock.timers.set(++clock.serial, { call, at: clock.now + ms, every: repeats ? ms : null });
    return clock.serial;
  };
  globalThis[`clear${kind}`] = (timer) => clock.timers.delete(timer);
}

function pass(ms) {
  const end = clock.now + ms;
  for (;;) {
    const due = [...clock.timers].filter(([, { at }]) => at <= end).sort(([, a], [, b]) => a.at - b.at)[0];
    if (!due) break;
    const [serial, timer] = due;
    clock.now = timer.at;
    if (timer.every === null) clock.timers.delete(serial);
    else timer.at += timer.every;
    timer.call();
  }
  clock.now = end;
}

// ---- The text ----

test("a text encodes as Yjs does", () => {
  const text = textOf("ab", 1);
  text.delete(1, 1);
  assert.equal(hex(text.encodeStateAsUpdate()), hex(bytes("01 02 01 00 04 01 04 74657874 01 61 81 01 00 01 01 01 01 01 01")));
  assert.equal(hex(text.encodeStateVector()), "010102");
  assert.equal(hex(new Text().encodeStateAsUpdate()), "0000");
});

test("concurrent inserts at one place come in the same order everywhere, and whole", () => {
  const [one, other] = [textOf("", 1), textOf("", 2)];
  for (const letter of "abc") one.insert(one.length, letter);
  for (const letter of "xyz") other.insert(other.length, letter);
  exchange(one, other);
  assert.equal(one.toString(), "abcxyz");
  assert.equal(other.toString(), "abcxyz");
});

test("an update that comes before what it builds on waits for it", () => {
  const source = new Text();
  const updates = [];
  source.subscribe(({ update }) => updates.push(update));
  source.insert(0, "one ");
  source.insert(4, "two");
  source.delete(0, 4);
  const text = new Text();
  text.applyUpdate(updates[2]);
  text.applyUpdate(updates[1]);
  assert.equal(text.toString(), "");
  assert.ok(text.isWaiting);
  text.applyUpdate(updates[0]);
  assert.equal(text.toString(), "two");
  assert.ok(!text.isWaiting);
});

test("too much that waits is dropped, and comes again when it is asked for", () => {
  const source = textOf("a");
  const first = source.encodeStateAsUpdate();
  for (let n = 0; n < 100_001; n++) source.insert(0, "b");
  const text = new Text();
  text.applyUpdate(source.encodeStateAsUpdate(textOf("a", source.client).encodeStateVector()));
  assert.ok(text.isWaiting);
  text.applyUpdate(first);
  assert.equal(text.toString(), "a", "the rest is not held");
  text.applyUpdate(source.encodeStateAsUpdate(text.encodeStateVector()));
  assert.equal(text.toString(), source.toString());
  assert.ok(!text.isWaiting);
});

test("a position within a surrogate pair means the pair", () => {
  const text = textOf("a😀b");
  text.insert(2, "x");
  assert.equal(text.toString(), "ax😀b");
  text.delete(3, 1);
  assert.equal(text.toString(), "axb");
  text.insert(1, "\ud83d");
  assert.equal(text.toString(), "a\ufffdxb", "half a pair cannot be sent");
});

test("a pair that another client cuts becomes two replacement characters", () => {
  const text = new Text();
  text.applyUpdate(bytes("01 01 01 00 04 01 04 74657874 04 f09f9880 01 01 01 00 01"));
  assert.equal(text.toString(), "\ufffd");
  assert.equal(copyOf(text).toString(), "\ufffd");
});

test("a formatting mark counts nothing and an embed one, and both are passed on", () => {
  const text = new Text();
  // "a", a mark, an embed, "b"; all by client 1.
  text.applyUpdate(bytes("01 04 01 00 04 01 04 74657874 01 61 86 01 00 01 62 01 31 85 01 01 02 7b7d 84 01 02 01 62 00"));
  assert.equal(text.length, 3);
  assert.equal(text.toString(), "ab");
  assert.equal(text.toString(EMBED), `a${EMBED}b`);
  text.insert(2, "x");
  assert.equal(copyOf(text).toString(EMBED), `a${EMBED}xb`);
});

test("what tells the incarnations of a text apart comes with it and is none of its characters", () => {
  // Of a client of 53 bits, as a node makes it: half a milliard units of which only the length is left.
  const uint = (value) => (value < 128 ? [value] : [(value % 128) + 128, ...uint(Math.floor(value / 128))]);
  const [client, length] = [2 ** 52 + 2 ** 33 + 5, 2 ** 29 + 7];
  const text = textOf("ab", 1);
  text.applyUpdate(new Uint8Array([1, 1, ...uint(client), 0, 0, ...uint(length), 0]));
  const copy = copyOf(text);
  copy.insert(2, "c");
  assert.deepEqual([copy.toString(), copy.length], ["abc", 3]);
  assert.ok(hex(copy.encodeStateVector()).includes(hex(new Uint8Array([...uint(client), ...uint(length)]))));
});

test("broken bytes are refused and change nothing", () => {
  const text = textOf("abc", 1);
  const before = hex(text.encodeStateAsUpdate());
  const whole = text.encodeStateAsUpdate();
  for (let length = 0; length < whole.length; length++) assert.throws(() => text.applyUpdate(whole.slice(0, length)), BrokenBytes);
  for (const broken of ["8e809e44", "ffffffffffffffffff", "00 00 00", "01 01 05 00 84 05 00 01 61 00", "01 01 05 00 04 01 01 61 01 ff 00"]) {
    assert.throws(() => text.applyUpdate(bytes(broken)), BrokenBytes, broken);
  }
  assert.equal(hex(text.encodeStateAsUpdate()), before);
});

test("types nested a hundred thousand deep are deleted without a deep call stack", () => {
  // Client 1: an array in the root "r", and each further one in the one before it.
  const uint = (value) => (value < 128 ? [value] : [(value & 127) | 128, ...uint(value >> 7)]);
  const count = 100_000;
  const nested = [1, ...uint(count), 1, 0, 7, 1, 1, 114, 0];
  for (let clock = 1; clock < count; clock++) nested.push(7, 0, 1, ...uint(clock - 1), 0);
  const text = new Text();
  text.applyUpdate(new Uint8Array([...nested, 1, 1, 1, 0, 1]));
  assert.equal(hex(text.encodeStateAsUpdate()), hex(new Uint8Array([1, 2, 1, 0, 1, 1, 1, 114, 1, 0, ...uint(count - 1), 1, 1, 1, 0, ...uint(count)])));
});

test("an id that another client has taken is given up", () => {
  const [one, other] = [textOf("", 7), textOf("abc", 7)];
  one.applyUpdate(other.encodeStateAsUpdate());
  assert.notEqual(one.client, 7);
});

test("deltas of others' updates tell what changed where", () => {
  const text = textOf("hello world");
  const other = copyOf(text);
  const deltas = [];
  text.subscribe(({ delta, local, origin }) => deltas.push([delta, local, origin]));
  other.replace(0, 1, "H");
  other.insert(11, "!");
  other.delete(5, 1);
  text.applyUpdate(other.encodeStateAsUpdate(text.encodeStateVector()), "net");
  assert.deepEqual(deltas, [[[{ delete: 1 }, { insert: "H" }, { retain: 4 }, { delete: 1 }, { retain: 5 }, { insert: "!" }], false, "net"]]);
});

// ---- Relative positions ----

test("a relative position stays with its unit", () => {
  const text = textOf("abcdef", 5);
  const position = text.relativePosition(3);
  assert.deepEqual(position, { type: null, tname: "text", item: { client: 5, clock: 3 }, assoc: 0 });
  const left = text.relativePosition(3, -1);
  text.insert(0, "xx");
  text.insert(5, "YY");
  assert.equal(text.toString(), "xxabcYYdef");
  assert.equal(text.resolvePosition(position), 7);
  assert.equal(text.resolvePosition(left), 5);
  text.delete(4, 5);
  assert.equal(text.toString(), "xxabf");
  assert.equal(text.resolvePosition(position), 4);
});

test("positions at the ends stay there", () => {
  const text = textOf("ab");
  const [begin, end] = [text.relativePosition(0, -1), text.relativePosition(2)];
  assert.equal(end.item, null);
  text.insert(0, "x");
  text.insert(3, "y");
  assert.equal(text.resolvePosition(begin), 0);
  assert.equal(text.resolvePosition(end), 4);
});

test("what is no position of this text resolves to null", () => {
  const text = textOf("ab");
  for (const wrong of [null, undefined, 3, {}, { tname: "other" }, { item: { client: 1, clock: 99 } }, { item: { client: "x", clock: -1 } }]) {
    assert.equal(text.resolvePosition(wrong), null);
  }
});

// ---- Undo ----

function undoable(string) {
  const text = textOf(string);
  let now = 0;
  const undo = new Undo(text, { now: () => now });
  return { text, undo, wait: () => (now += 1000) };
}

test("undo takes back the own edits only, with others' edits in between", () => {
  const { text, undo, wait } = undoable("base");
  text.insert(4, " mine");
  const other = copyOf(text);
  other.insert(6, "THEIRS");
  other.insert(0, ">");
  exchange(text, other);
  assert.equal(text.toString(), ">base mTHEIRSine");
  undo.undo();
  assert.equal(text.toString(), ">baseTHEIRS");
  wait();
  undo.redo();
  assert.equal(text.toString(), ">base mTHEIRSine");
  exchange(text, other);
  assert.equal(other.toString(), text.toString());
});

test("a deletion is undone at its place, around what others wrote there", () => {
  const { text, undo } = undoable("one two three");
  const other = copyOf(text);
  text.delete(4, 4);
  other.insert(6, "X");
  exchange(text, other);
  assert.equal(text.toString(), "one Xthree");
  undo.undo();
  assert.equal(text.toString(), "one twXo three");
});

test("edits in quick succession are one step, later ones another", () => {
  const { text, undo, wait } = undoable("");
  text.insert(0, "a");
  text.insert(1, "b");
  text.delete(0, 1);
  wait();
  text.insert(1, "c");
  assert.ok(undo.undo());
  assert.equal(text.toString(), "b");
  assert.ok(undo.undo());
  assert.equal(text.toString(), "");
  assert.ok(!undo.undo());
  assert.ok(undo.redo());
  assert.equal(text.toString(), "b");
  assert.ok(undo.redo());
  assert.equal(text.toString(), "bc");
  assert.ok(!undo.redo());
});

test("an insert is undone wholly though parts of it were deleted and brought back", () => {
  const { text, undo, wait } = undoable("");
  text.insert(0, "abc");
  wait();
  text.delete(1, 1);
  wait();
  for (let times = 0; times < 3; times++) {
    undo.undo();
    assert.equal(text.toString(), "abc");
    undo.redo();
    assert.equal(text.toString(), "ac");
  }
  undo.undo();
  undo.undo();
  assert.equal(text.toString(), "");
  undo.redo();
  assert.equal(text.toString(), "abc");
});

test("a new edit clears what could be redone, and a step of which nothing is left is passed over", () => {
  const { text, undo, wait } = undoable("");
  text.insert(0, "a");
  wait();
  text.insert(1, "b");
  undo.undo();
  text.insert(1, "c");
  assert.ok(!undo.canRedo);
  const other = copyOf(text);
  other.delete(1, 1);
  exchange(text, other);
  undo.undo();
  assert.equal(text.toString(), "");
});

// ---- Changes of a plain string ----

test("the difference of two strings is one replacement at the caret", () => {
  const cases = [
    ["aaa", "aaaa", 1, { index: 0, removed: 0, inserted: "a" }],
    ["aaaa", "aaa", 1, { index: 1, removed: 1, inserted: "" }],
    ["hello", "hallo", 2, { index: 1, removed: 1, inserted: "a" }],
    ["abc", "abc", 1, null],
    ["", "x", 1, { index: 0, removed: 0, inserted: "x" }],
    ["one two", "two", 0, { index: 0, removed: 4, inserted: "" }],
    ["abcabc", "abc", 0, { index: 0, removed: 3, inserted: "" }],
    ["😀", "😁", 2, { index: 0, removed: 2, inserted: "😁" }],
    ["😀", "🤀", 2, { index: 0, removed: 2, inserted: "🤀" }],
    ["x😀😀y", "x😀y", 1, { index: 1, removed: 2, inserted: "" }],
    ["abc", "xbz", 0, { index: 0, removed: 3, inserted: "xbz" }],
  ];
  for (const [before, after, caret, wanted] of cases) {
    const change = difference(before, after, caret);
    assert.deepEqual(change, wanted, `${before} -> ${after}`);
    if (change) assert.equal(before.slice(0, change.index) + change.inserted + before.slice(change.index + change.removed), after);
  }
});

test("positions and ranges move with a delta", () => {
  const delta = [{ retain: 2 }, { insert: "XYZ" }, { delete: 2 }, { retain: 1 }, { insert: "!" }];
  assert.equal(applied("abcdef", delta), "abXYZe!f");
  assert.deepEqual([0, 2, 3, 4, 5, 6].map((position) => movedPosition(delta, position)), [0, 2, 5, 5, 6, 8]);
  assert.deepEqual(movedRange(delta, 0, 6), [[0, 2], [5, 6], [7, 8]]);
  assert.deepEqual(movedRange(delta, 2, 4), []);
  assert.equal(movedPosition([{ insert: "x" }], 0), 0);
});

// ---- Presence ----

test("presence is taken in by its clock, dropped when it is not renewed, and renewed here", () => {
  const [one, other] = [new Presence(1), new Presence(2)];
  one.set({ user: { name: "Ann" } });
  const first = one.encode([1]);
  one.set({ user: { name: "Bea" } });
  other.apply(one.encode([1]));
  other.apply(first);
  assert.deepEqual(other.others.get(1), { user: { name: "Bea" } });
  const renewed = [];
  one.subscribe(({ clients, local }) => renewed.push([clients, local]));
  pass(33_000);
  assert.deepEqual(renewed, [[[1], true], [[1], true]]);
  assert.equal(other.others.size, 0);
  other.apply(one.encode([1]));
  assert.equal(other.others.size, 1);
  one.set(null);
  other.apply(one.encode([1]));
  assert.equal(other.others.size, 0);
  one.destroy();
  other.destroy();
});

test("nobody else can take a presence away, and a broken one is refused", () => {
  const presence = new Presence(1);
  presence.set({ here: true });
  presence.apply(bytes("01 01 05 04 6e756c6c"));
  assert.deepEqual(presence.state, { here: true });
  assert.equal(hex(presence.encode()).slice(0, 6), "010106", "said again under a newer clock");
  assert.throws(() => presence.apply(bytes("02 02 00 02 7b7d 03 00 01 7b")), BrokenBytes);
  assert.equal(presence.others.size, 0);
  presence.destroy();
});

// ---- The provider ----

class FakeSocket {
  static all = [];
  readyState = 0;
  sent = [];

  constructor(url) {
    this.url = url;
    FakeSocket.all.push(this);
  }

  send(frame) {
    this.sent.push(decodeMessage(frame));
  }

  close() {
    this.readyState = 3;
  }

  open() {
    this.readyState = 1;
    this.onopen();
  }

  hear(frame) {
    this.onmessage({ data: frame.buffer.slice(frame.byteOffset, frame.byteOffset + frame.byteLength) });
  }

  lose(code = 1006, reason = "") {
    this.readyState = 3;
    this.onclose({ code, reason });
  }

  /// What a node does with all it was sent since the last call: `node` is the text it holds.
  serve(node) {
    for (const { kind, bytes: content } of this.sent.splice(0)) {
      if (kind === "step1") this.hear(encodeSync("step2", node.encodeStateAsUpdate(content)));
      if (kind === "step2" || kind === "update") node.applyUpdate(content);
    }
  }

  /// As a node does on opening.
  greet(node) {
    this.open();
    this.hear(encodeSync("step1", node.encodeStateVector()));
  }
}

function connected(nodes = ["http://one:7171"]) {
  FakeSocket.all = [];
  const states = [];
  const text = new Text();
  const provider = new TextProvider({ text, nodes, collection: "notes", id: "a/b", Socket: FakeSocket, onState: (state) => states.push(state) });
  return { text, provider, last: () => states[states.length - 1], socket: () => FakeSocket.all[FakeSocket.all.length - 1] };
}

test("the provider exchanges texts on opening and sends edits at once", () => {
  const { text, provider, last, socket } = connected();
  const node = textOf("there ");
  text.insert(0, "here ");
  assert.equal(socket().url, "ws://one:7171/v1/yjs/notes/_?id=a%2Fb");
  assert.equal(last().link, "connecting");
  socket().greet(node);
  assert.equal(socket().sent[0].kind, "step1", "first of all");
  socket().serve(node);
  assert.equal(last().link, "connected");
  assert.equal(node.toString(), text.toString());
  text.insert(0, "more ");
  socket().serve(node);
  assert.equal(node.toString(), text.toString());
  provider.destroy();
});

test("an edit counts as unsaved until the node answers a question that was sent after it", () => {
  const { text, provider, last, socket } = connected();
  const node = new Text();
  text.insert(0, "a");
  assert.equal(last().unsaved, 1);
  socket().greet(node);
  socket().serve(node);
  assert.equal(last().unsaved, 1, "the first question went out before the edit");
  pass(1000);
  text.insert(0, "b");
  assert.equal(last().unsaved, 2);
  socket().serve(node);
  assert.equal(last().unsaved, 1, "asked between the two edits");
  pass(1000);
  socket().serve(node);
  assert.equal(last().unsaved, 0);
  provider.destroy();
});

test("edits made offline, and such as were lost with the connection, reach the next node", () => {
  const { text, provider, last, socket } = connected(["http://one:7171", "https://two/"]);
  const node = new Text();
  socket().greet(node);
  socket().serve(node);
  text.insert(0, "lost ");
  socket().lose();
  text.insert(5, "offline");
  assert.deepEqual([last().link, last().unsaved], ["offline", 2]);
  pass(400);
  assert.equal(socket().url, "wss://two/v1/yjs/notes/_?id=a%2Fb");
  socket().greet(node);
  socket().serve(node);
  assert.equal(node.toString(), "lost offline");
  pass(1000);
  socket().serve(node);
  assert.deepEqual([last().link, last().unsaved], ["connected", 0]);
  provider.destroy();
});

test("the waits between tries grow, and a refusal ends them with its reason", () => {
  const { provider, last, socket } = connected();
  let tries = 0;
  for (let elapsed = 0; elapsed < 120_000; elapsed += 100) {
    if (socket().readyState === 0) {
      tries += 1;
      socket().lose();
    }
    pass(100);
  }
  assert.ok(tries > 10 && tries < 30, `${tries} tries in two minutes`);
  while (socket().readyState !== 0) pass(1000);
  socket().open();
  socket().lose(4404, "There is no such document.");
  assert.deepEqual([last().link, last().reason, last().code], ["refused", "There is no such document.", 4404]);
  const { length } = FakeSocket.all;
  pass(60_000);
  assert.equal(FakeSocket.all.length, length);
  provider.destroy();
});

test("a refusal is known before the connection is closed, which a node delays for those that come back", () => {
  const { text, provider, last, socket } = connected();
  text.insert(0, "mine");
  socket().open();
  socket().hear(encodeDenied("4410 the text was deleted"));
  assert.deepEqual([last().link, last().reason, last().code], ["refused", "the text was deleted", 4410]);
  assert.equal(socket().readyState, 3);
  assert.equal(text.toString(), "mine", "it keeps its own text");
  const { length } = FakeSocket.all;
  pass(60_000);
  assert.equal(FakeSocket.all.length, length);
  provider.destroy();
});

test("a provider that ends while it connects closes its socket once that is open", () => {
  const { provider, last, socket } = connected();
  provider.destroy();
  assert.equal(socket().readyState, 0, "a browser calls it an error to close it now");
  socket().open();
  assert.equal(socket().readyState, 3);
  assert.equal(last().link, "connecting", "nothing more is told");

  const hung = connected();
  hung.provider.destroy();
  pass(11_000);
  assert.equal(hung.socket().readyState, 3, "a node that never answers is not waited for");
});

test("a silent or broken connection is given up for a new one", () => {
  const { provider, last, socket } = connected();
  pass(11_000);
  assert.ok(FakeSocket.all.length >= 2, "a socket that does not open");
  while (socket().readyState !== 0) pass(100);
  socket().open();
  pass(34_000);
  assert.notEqual(socket().readyState, 1, "a socket that is silent");
  while (socket().readyState !== 0) pass(100);
  socket().open();
  const warn = mock.method(console, "warn", () => {});
  socket().hear(bytes("00 02 02 ffff"));
  warn.mock.restore();
  assert.equal(last().link, "offline");
  provider.destroy();
});

test("presence goes out on opening under a new clock, and the others are forgotten with the connection", () => {
  const { provider, socket } = connected();
  const node = new Text();
  provider.presence.set({ user: { name: "Ann" } });
  socket().greet(node);
  const [sent] = socket().sent.filter(({ kind }) => kind === "presence");
  const other = new Presence(5);
  other.apply(sent.bytes);
  assert.equal(other.others.size, 1);
  other.set({ user: { name: "Bea" } });
  socket().hear(encodePresence(other.encode([5])));
  assert.equal(provider.presence.others.size, 1);
  socket().lose();
  assert.equal(provider.presence.others.size, 0);
  pass(400);
  socket().greet(node);
  const leaving = socket();
  provider.destroy();
  other.apply(leaving.sent.filter(({ kind }) => kind === "presence").pop().bytes);
  assert.equal(other.others.size, 0, "destroy says goodbye");
  other.destroy();
});
