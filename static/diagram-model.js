// The space-time diagram without its picture: the newest ops of the log in stamp order, what each had seen, and the
// part of time that is looked at. Pure: no DOM, no network, no clock.
import { commandWords, guardWords } from "./words.js";

/// So many ops are kept; the oldest go first. Their values are not: a clipped line of words stands for each command.
export const OPS_MAX = 10_000;
const COMMANDS_KEPT_MAX = 20;
const MEMBERSHIP = ["add", "retire", "evict", "fence", "removed", "key"];

/// An op of `GET /v1/log` as the diagram keeps it. A time past 2^53 would be drawn a little off, and no pool counts so far.
export function entryOf(op) {
  const kinds = op.commands.map((command) => Object.keys(command)[0]);
  return {
    op: op.op,
    stamp: op.stamp,
    origin: op.origin,
    seq: Number(op.seq),
    time: Number(op.time),
    wall: op.wall,
    seen: Object.entries(op.seen).map(([node, seq]) => [node, Number(seq)]),
    commands: op.commands.slice(0, COMMANDS_KEPT_MAX).map(commandWords),
    commandCount: op.commands.length,
    guards: op.guards.slice(0, COMMANDS_KEPT_MAX).map(guardWords),
    membership: kinds.some((kind) => MEMBERSHIP.includes(kind)),
    // An op heard later can turn the verdict of these only; see docs/API.md on what may fail.
    canTurn: op.guards.length > 0 || op.key !== undefined || kinds.some((kind) => ["merge", "patch", "text"].includes(kind)),
    rejected: op.verdict === "rejected",
    reason: op.reason ?? null,
  };
}

const order = (a, b) => a.time - b.time || (a.origin < b.origin ? -1 : a.origin > b.origin ? 1 : 0);

/// The first place in a list at which `isBehind` holds; it holds for all places after it.
function partition(list, isBehind) {
  let [low, high] = [0, list.length];
  while (low < high) {
    const middle = (low + high) >> 1;
    if (isBehind(list[middle])) high = middle;
    else low = middle + 1;
  }
  return low;
}

/// The newest ops of the log, without a gap: every op that the node holds from the oldest kept one on. So an op that is
/// not here is older than all that are, and what is said of causes among those here is exact.
export class History {
  ops = [];
  /// Whether the log goes back further than what is kept here.
  isBounded = true;
  #chains = new Map();
  #max;

  constructor(max = OPS_MAX) {
    this.#max = max;
  }

  /// Takes ops in any order, of each origin without a gap to those that are here, and also such as are held already: their
  /// verdicts may have turned. Returns the earliest of the new ones that came in before an op that was here; null if all
  /// came in at the end.
  take(entries) {
    const fresh = entries.filter((entry) => !this.#renew(entry)).sort(order);
    if (fresh.length === 0) return null;
    const last = this.ops.at(-1);
    const late = last && order(fresh[0], last) < 0 ? fresh[0] : null;
    for (const entry of fresh) {
      const chain = this.#chains.get(entry.origin);
      if (chain) chain.push(entry);
      else this.#chains.set(entry.origin, [entry]);
      this.ops.push(entry);
    }
    if (late) {
      // Two sorted runs are merged in one pass by the sort of today's engines, so a healed partition costs no more.
      this.ops.sort(order);
      for (const origin of new Set(fresh.map((entry) => entry.origin))) this.#chains.get(origin).sort((a, b) => a.seq - b.seq);
    }
    this.#forget();
    return late;
  }

  /// Takes only the verdicts of ops that are held already.
  renew(entries) {
    for (const entry of entries) this.#renew(entry);
  }

  get(origin, seq) {
    const chain = this.#chains.get(origin);
    return chain?.[seq - chain[0].seq];
  }

  chain(origin) {
    return this.#chains.get(origin) ?? [];
  }

  get origins() {
    return [...this.#chains.keys()];
  }

  get newestTime() {
    return this.ops.at(-1)?.time ?? 0;
  }

  get isFull() {
    return this.ops.length >= this.#max;
  }

  /// The places [from, to) of the ops with times from `least` to `most`.
  range(least, most, ops = this.ops) {
    return [partition(ops, (entry) => entry.time >= least), partition(ops, (entry) => entry.time > most)];
  }

  /// Whether an op behind this one could be turned by it.
  canTurnAfter(entry) {
    for (let place = this.ops.length - 1; place >= 0 && order(this.ops[place], entry) > 0; place -= 1) {
      if (this.ops[place].canTurn) return true;
    }
    return false;
  }

  /// The op of a lane that is nearest in time.
  nearest(origin, time) {
    const chain = this.chain(origin);
    const place = partition(chain, (entry) => entry.time >= time);
    const [before, after] = [chain[place - 1], chain[place]];
    if (!before || !after) return before ?? after;
    return time - before.time < after.time - time ? before : after;
  }

  #renew(entry) {
    const held = this.get(entry.origin, entry.seq);
    if (held) [held.rejected, held.reason] = [entry.rejected, entry.reason];
    return held !== undefined;
  }

  /// The oldest op in stamp order is the first of its chain, since times rise with seq.
  #forget() {
    const surplus = this.ops.length - this.#max;
    if (surplus <= 0) return;
    this.isBounded = true;
    for (const entry of this.ops.splice(0, surplus)) {
      const chain = this.#chains.get(entry.origin);
      chain.shift();
      if (chain.length === 0) this.#chains.delete(entry.origin);
    }
  }
}

/// What stands before an op and what behind it, by cause. Both are told by one seq an origin: `seen`, up to which the op
/// had seen that origin's ops, and `seenBy`, from which on these had seen it. What lies between is concurrent with it.
export function relations(history, entry) {
  const seen = new Map([[entry.origin, entry.seq - 1]]);
  const own = history.chain(entry.origin);
  // Each op tells only what it had seen beyond its origin's op before, so the newest word on an origin counts.
  for (let place = entry.seq - own[0].seq; place >= 0; place -= 1) {
    for (const [node, seq] of own[place].seen) if (!seen.has(node)) seen.set(node, seq);
  }
  const seenBy = new Map([[entry.origin, entry.seq + 1]]);
  for (const origin of history.origins) {
    if (origin === entry.origin) continue;
    const first = history.chain(origin).find((other) => other.seen.some(([node, seq]) => node === entry.origin && seq >= entry.seq));
    if (first) seenBy.set(origin, first.seq);
  }
  return { entry, seen, seenBy };
}

/// `self`, `past`, `future` or `concurrent`.
export function relationTo({ entry, seen, seenBy }, other) {
  if (other === entry) return "self";
  if (other.seq <= (seen.get(other.origin) ?? 0)) return "past";
  return other.seq >= (seenBy.get(other.origin) ?? Infinity) ? "future" : "concurrent";
}

/// The ops of one origin that are concurrent with an op: they are one run of its chain.
export function concurrentRun(history, { seen, seenBy }, origin) {
  const chain = history.chain(origin);
  const from = partition(chain, (other) => other.seq > (seen.get(origin) ?? 0));
  return chain.slice(from, Math.max(from, partition(chain, (other) => other.seq >= (seenBy.get(origin) ?? Infinity))));
}

/// All ops concurrent with an op, in stamp order.
export function concurrent(history, found) {
  return history.origins.filter((origin) => origin !== found.entry.origin)
    .flatMap((origin) => concurrentRun(history, found, origin)).sort(order);
}

/// The lanes from the top: every member in the roster's order, then origins that are members no more.
export function lanesOf(members, history) {
  const listed = new Set(members.map(({ id }) => id));
  return [...listed, ...history.origins.filter((origin) => !listed.has(origin)).sort()];
}

/// The part of time that is looked at: `right` is the time at the right edge, `scale` how many pixels one unit of time has.
export class TimeWindow {
  static SCALE_MIN = 0.05;
  static SCALE_MAX = 60;
  right = 0;
  scale = 16;
  width = 0;

  xOf(time) {
    return this.width - (this.right - time) * this.scale;
  }

  timeAt(x) {
    return this.right - (this.width - x) / this.scale;
  }

  get left() {
    return this.timeAt(0);
  }

  /// Zooms so that the time at `x` stays there.
  zoom(factor, x) {
    const time = this.timeAt(x);
    this.scale = Math.min(TimeWindow.SCALE_MAX, Math.max(TimeWindow.SCALE_MIN, this.scale * factor));
    this.right = time + (this.width - x) / this.scale;
  }

  pan(pixels) {
    this.right -= pixels / this.scale;
  }

  /// The right edge that shows the present: some room behind the newest time, and no emptiness before the oldest while all fits.
  present(oldest, newest, roomRight, roomLeft) {
    return Math.max(newest + roomRight / this.scale, oldest + (this.width - roomLeft) / this.scale);
  }

  /// Times for the marks of the axis: round ones, at least `apart` pixels from each other.
  ticks(apart) {
    const least = apart / this.scale;
    const power = 10 ** Math.floor(Math.log10(least));
    const step = Math.max(1, [1, 2, 5, 10].map((times) => times * power).find((size) => size >= least * 0.999));
    const marks = [];
    for (let time = Math.max(0, Math.ceil(this.left / step)) * step; time <= this.right; time += step) marks.push(time);
    return marks;
  }
}
