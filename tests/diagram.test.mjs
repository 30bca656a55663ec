// The space-time diagram's model: `node --test tests/diagram.test.mjs`.
import assert from "node:assert/strict";
import { test } from "node:test";
import { History, TimeWindow, concurrent, entryOf, lanesOf, relationTo, relations } from "../static/diagram-model.js";

/// An op as `GET /v1/log` tells it; `name` is its origin and seq, as `a2`.
function op(name, time, seen = {}, more = {}) {
  const [origin, seq] = [name[0], name.slice(1)];
  return entryOf({ op: `${origin}.${seq}`, stamp: `${time}@${origin}`, origin, seq, time: String(time), wall: "", seen, guards: [],
    commands: [{ put: { collection: "notes", id: name, value: 1 } }], verdict: "applied", status: "tentative", ...more });
}

test("an edit of a text is told by its size, and can turn", () => {
  const edit = op("a1", 1, {}, { commands: [{ text: { collection: "notes", id: "plan", update: "AAECAw==" } }] });
  assert.deepEqual(edit.commands, [{ verb: "edit", target: "notes/plan", detail: "4 bytes" }]);
  assert.ok(edit.canTurn);
});

const names = (entries) => entries.map(({ origin, seq }) => `${origin}${seq}`).join(" ");

function historyOf(entries, max) {
  const history = new History(max);
  history.take(entries);
  return history;
}

/// Two sides of a cut, a and b on one, c on the other; then all see all.
const CUT = [
  op("a1", 1), op("b1", 2, { a: "1" }), op("c1", 3, { a: "1", b: "1" }),
  op("a2", 4, { b: "1", c: "1" }), op("b2", 5, { a: "2", c: "1" }), op("c2", 4), op("c3", 5),
  op("a3", 6, { b: "2", c: "3" }), op("c4", 7, { a: "3", b: "2" }),
];

test("ops are concurrent where neither had seen the other", () => {
  const history = historyOf(CUT);
  const check = (origin, seq, expected) => assert.equal(names(concurrent(history, relations(history, history.get(origin, seq)))), expected);
  check("a", 1, "");
  check("a", 2, "c2 c3");
  check("b", 2, "c2 c3");
  check("c", 2, "a2 b2");
  check("c", 3, "a2 b2");
  check("c", 4, "");
});

test("every op is past, future, concurrent or the chosen one itself, and the relation is the same from both sides", () => {
  const history = historyOf(CUT);
  const opposite = { past: "future", future: "past", concurrent: "concurrent", self: "self" };
  for (const one of history.ops) {
    for (const other of history.ops) {
      const [there, back] = [relationTo(relations(history, one), other), relationTo(relations(history, other), one)];
      assert.equal(there, opposite[back], `${names([one])} and ${names([other])}`);
    }
  }
  assert.equal(relationTo(relations(history, history.get("c", 4)), history.get("b", 2)), "past");
});

/// What each node holds is kept in full here, and told as the difference that the log tells.
function randomOps(count, random) {
  const nodes = ["a", "b", "c", "d"].map((id) => ({ id, clock: 0, held: {}, told: {}, seq: 0 }));
  const truth = new Map();
  const ops = [];
  for (let turn = 0; turn < count; turn += 1) {
    const node = nodes[Math.floor(random() * 4)];
    const peer = nodes[Math.floor(random() * 4)];
    if (peer !== node && random() < 0.5) {
      for (const [id, seq] of Object.entries(peer.held)) node.held[id] = Math.max(node.held[id] ?? 0, seq);
      node.clock = Math.max(node.clock, peer.clock);
    }
    node.seq += 1;
    node.clock += 1;
    const seen = Object.fromEntries(Object.entries(node.held).filter(([id, seq]) => id !== node.id && node.told[id] !== seq));
    Object.assign(node.told, seen);
    truth.set(`${node.id}${node.seq}`, { ...node.held, [node.id]: node.seq - 1 });
    ops.push(op(`${node.id}${node.seq}`, node.clock, seen));
    node.held[node.id] = node.seq;
  }
  return { ops, truth };
}

/// A generator with a seed (mulberry32), so that a failure can be had again.
function seeded(seed) {
  return () => {
    seed = (seed + 0x6d2b79f5) | 0;
    let mixed = Math.imul(seed ^ (seed >>> 15), 1 | seed);
    mixed = (mixed + Math.imul(mixed ^ (mixed >>> 7), 61 | mixed)) ^ mixed;
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32;
  };
}

test("what is concurrent agrees with full version vectors, also where the oldest ops are forgotten", () => {
  for (let seed = 1; seed <= 20; seed += 1) {
    const { ops, truth } = randomOps(120, seeded(seed));
    const history = historyOf(ops, seed % 2 === 0 ? 60 : 1000);
    const had = (later, earlier) => (truth.get(names([later]))[earlier.origin] ?? 0) >= earlier.seq;
    for (const one of history.ops) {
      const expected = history.ops.filter((other) => other !== one && !had(one, other) && !had(other, one));
      assert.equal(names(concurrent(history, relations(history, one))), names(expected), `seed ${seed}, ${names([one])}`);
    }
  }
});

test("a late op comes in at its place, and is named with what it may turn", () => {
  const history = historyOf([op("a1", 1), op("a2", 5), op("a3", 9)]);
  assert.equal(history.take([op("b1", 10)]), null, "what comes at the end is not late");
  const late = history.take([op("c2", 7), op("c1", 3), op("a4", 11)]);
  assert.equal(names([late]), "c1");
  assert.equal(names(history.ops), "a1 c1 a2 c2 a3 b1 a4");
  assert.equal(names(history.chain("c")), "c1 c2");
  assert.equal(history.canTurnAfter(late), false, "plain puts cannot fail");
  history.take([op("b2", 12, {}, { guards: [{ absent: { collection: "notes", id: "x" } }] })]);
  assert.equal(history.canTurnAfter(late), true);
});

test("ops of one time stand in the order of their origins", () => {
  assert.equal(names(historyOf([op("c1", 1), op("a1", 1), op("b1", 1)]).ops), "a1 b1 c1");
});

test("an op that is held already only brings its verdict", () => {
  const history = historyOf(CUT);
  history.take([op("a2", 4, {}, { verdict: "rejected", reason: "a guard" })]);
  assert.equal(history.ops.length, CUT.length);
  assert.deepEqual([history.get("a", 2).rejected, history.get("a", 2).reason], [true, "a guard"]);
  history.renew([op("a2", 4), op("a9", 20)]);
  assert.equal(history.get("a", 2).rejected, false);
  assert.equal(history.ops.length, CUT.length, "verdicts only");
});

test("a full history forgets its oldest ops, and a page of older ones joins at the front", () => {
  const history = historyOf([op("a3", 5), op("a4", 7), op("b2", 6)], 5);
  history.isBounded = false;
  history.take([op("a1", 1), op("b1", 2), op("a2", 3)]);
  assert.equal(names(history.ops), "b1 a2 a3 b2 a4");
  assert.equal(history.isBounded, true);
  assert.equal(history.get("a", 1), undefined);
  assert.equal(names([history.get("a", 2), history.get("a", 4), history.get("b", 2)]), "a2 a4 b2");
  history.take([op("b3", 8), op("b4", 9)]);
  assert.equal(names(history.ops), "a3 b2 a4 b3 b4");
});

test("the ops of a window are found by time, and the nearest of a lane", () => {
  const history = historyOf(CUT);
  const inside = (least, most) => names(history.ops.slice(...history.range(least, most)));
  assert.equal(inside(3, 4), "c1 a2 c2");
  assert.equal(inside(2.5, 3.5), "c1");
  assert.equal(inside(8, 9), "");
  assert.equal(inside(-5, 99), names(history.ops));
  assert.equal(names([history.nearest("a", 0), history.nearest("a", 4.9), history.nearest("a", 5.1), history.nearest("a", 99)]), "a1 a2 a3 a3");
  assert.equal(history.nearest("z", 3), undefined);
});

test("members have their lanes in the roster's order, and those who left come below", () => {
  const history = historyOf([op("z1", 1), op("b1", 2), op("m1", 3)]);
  assert.deepEqual(lanesOf([{ id: "c" }, { id: "b" }], history), ["c", "b", "m", "z"]);
});

test("zooming keeps the time under the pointer, within bounds", () => {
  const window = Object.assign(new TimeWindow(), { width: 800, right: 100, scale: 10 });
  assert.deepEqual([window.left, window.xOf(60), window.timeAt(400)], [20, 400, 60]);
  window.zoom(2, 400);
  assert.deepEqual([window.scale, window.timeAt(400)], [20, 60]);
  window.zoom(1e9, 0);
  assert.equal(window.scale, TimeWindow.SCALE_MAX);
  window.pan(60);
  assert.equal(window.scale, TimeWindow.SCALE_MAX);
});

test("the present leaves no emptiness on the left while all fits, and room on the right when it does not", () => {
  const window = Object.assign(new TimeWindow(), { width: 800, scale: 10 });
  assert.equal(window.present(0, 20, 50, 20), 78);
  assert.equal(window.present(0, 2000, 50, 20), 2005);
});

test("the axis is marked at round times", () => {
  const window = Object.assign(new TimeWindow(), { width: 800, right: 100, scale: 10 });
  assert.deepEqual(window.ticks(76), [20, 30, 40, 50, 60, 70, 80, 90, 100]);
  window.scale = 60;
  assert.deepEqual(window.ticks(50).slice(0, 3), [87, 88, 89], "no marks between whole times");
});
