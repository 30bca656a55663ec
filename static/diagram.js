// The space-time diagram as a part of the page: follows the log, moves the window of time, and lets an op be chosen by
// pointer or keyboard. What is painted is diagram-draw.js's affair, what is true diagram-model.js's. It knows nothing of
// the documents: whoever made it is told when they are to be shown at another time.
import { renew } from "./dom.js";
import { LogFeed } from "./diagram-feed.js";
import { History, TimeWindow, concurrent, lanesOf, relations } from "./diagram-model.js";
import { BOTTOM, TOP, dotRadius, laneY, paint } from "./diagram-draw.js";
import { opDetails, opTip, opWords } from "./view-op.js";
import { holdersOf } from "./view-pool.js";
import { age, count, problemWords } from "./words.js";

/// The lanes share this height while each has at least LANE_MIN of it, so that the card keeps its size.
const LANES_HEIGHT = 192;
const LANE_MIN = 34;
const ROOM_RIGHT = 64;
const ROOM_LEFT = 26;
const HIT_RADIUS = 14;
/// While the present is followed, about so much time of the clock on the wall fits, so that a busy pool does not race by.
const SIGHT_MS = 9_000;
const SCALE_LEAST = 2.4;
const SCALE_MOST = 18;
/// How fast what moves gets there: the time in which two thirds of the way are made.
const FOLLOW_MS = 160;
const RESCALE_MS = 900;

export class Diagram {
  #place;
  #canvas;
  #ctx;
  #onShowAt;
  #history = new History();
  #feed = new LogFeed(() => this.#reset());
  #window = new TimeWindow();
  #pool = null;
  #nodes = null;
  #lanes = [];
  #colours = null;
  #found = null;
  #hovered = null;
  #past = null;
  #frontierShown = null;
  #isFollowing = true;
  #isZoomed = false;
  #paces = [];
  #planned = false;
  #drawnAt = 0;
  #isSeen = true;
  #pointers = new Map();
  #still = matchMedia("(prefers-reduced-motion: reduce)");

  /// `place` is the section of the page; `onShowAt(time)` is called when documents are to be shown as they were.
  constructor(place, { onShowAt }) {
    this.#place = place;
    this.#canvas = place.querySelector("canvas");
    this.#ctx = this.#canvas.getContext("2d", { alpha: false });
    this.#onShowAt = onShowAt;
    this.#listen();
    this.#details();
  }

  /// What the pool is now. Asks the log for what is new while the diagram is on the screen.
  async take(pool, nodes) {
    this.#pool = pool;
    this.#nodes = nodes;
    if (!this.#canvas.checkVisibility()) return;
    await this.#feed.follow(pool, performance.now());
    this.#note();
    this.#lanes = this.#laneList();
    this.#say();
    this.#plan();
  }

  /// Marks the time at which the documents are shown; null for now.
  markPast(time) {
    if (time === this.#past) return;
    this.#past = time;
    this.#details();
    this.#plan();
  }

  #reset() {
    this.#history = new History();
    this.#found = this.#hovered = this.#frontierShown = null;
    this.#paces = [];
    this.#details();
    return this.#history;
  }

  #laneList() {
    const members = this.#nodes.members;
    const byId = new Map(members.map((member) => [member.id, member]));
    const colours = this.#colourTable();
    return lanesOf(members, this.#history).map((id) => {
      const member = byId.get(id);
      return { id, name: this.#nodes.name(id), colour: colours[this.#nodes.colour(id)], clock: Number(member?.clock ?? 0), silent: !member?.alive, note: laneNote(member, this.#pool) };
    });
  }

  /// The colours as the stylesheet has them now; a canvas cannot read its names.
  #colourTable() {
    if (this.#colours) return this.#colours;
    const probe = document.createElement("span");
    this.#place.append(probe);
    const read = (className, name) => {
      probe.className = className;
      probe.style.color = `var(--${name})`;
      return getComputedStyle(probe).color;
    };
    const table = {};
    for (const name of ["sunk", "card", "ink", "quiet", "line", "accent", "bad"]) table[name] = read("", name);
    table.accentInk = read("", "accent-ink");
    table.lit = read("", "ground-final");
    for (const name of [0, 1, 2, 3, 4, 5, 6, 7, "unknown"].map((hue) => `node-${hue}`)) table[name] = read(name, "node");
    probe.remove();
    return (this.#colours = table);
  }

  // ---- Words beside the canvas ----

  #say() {
    const ops = this.#history.ops.length;
    const failure = this.#feed.failure;
    renew(this.#place.querySelector(".diagram-count"), failure ? `The log cannot be read: ${problemWords(failure)}`
      : `${this.#history.isBounded ? "the last " : ""}${count(ops, "operation")}`);
    const follow = this.#place.querySelector("[data-diagram=follow]");
    follow.setAttribute("aria-pressed", String(this.#isFollowing));
    // A verdict turns with a late op, a status with the frontier.
    if (this.#found) this.#details();
  }

  #details() {
    const chosen = this.#found?.entry;
    // A full history forgets its oldest ops, the chosen one as well.
    const found = chosen && this.#history.get(chosen.origin, chosen.seq) === chosen ? relations(this.#history, chosen) : null;
    this.#found = found;
    renew(this.#place.querySelector(".op-details"), opDetails(found && { entry: found.entry, others: concurrent(this.#history, found) },
      { nodes: this.#nodes, frontier: this.#frontier, isBounded: this.#history.isBounded, past: this.#past }));
  }

  get #frontier() {
    return Number(this.#pool?.frontier ?? 0);
  }

  // ---- Choosing ----

  #choose(entry, isByKey = false) {
    this.#found = entry ? { entry } : null;
    this.#details();
    if (entry) {
      const others = concurrent(this.#history, this.#found).length;
      this.#place.querySelector(".diagram-said").textContent = opWords(entry, others, this.#nodes, this.#frontier);
      if (isByKey) this.#bringIntoSight(entry.time);
    }
    this.#plan();
  }

  #bringIntoSight(time) {
    const x = this.#window.xOf(time);
    const margin = Math.min(80, this.#window.width / 5);
    if (x < margin) this.#move(x - margin);
    else if (x > this.#window.width - margin && !this.#isFollowing) this.#move(x - this.#window.width + margin);
  }

  /// The op at a point, the nearest within reach.
  #opAt(x, y) {
    const scene = { laneHeight: this.#laneHeight };
    const reach = HIT_RADIUS / this.#window.scale;
    const time = this.#window.timeAt(x);
    let best = null;
    this.#lanes.forEach(({ id }, place) => {
      const above = Math.abs(laneY(scene, place) - y);
      const entry = above > HIT_RADIUS + 4 ? null : this.#history.nearest(id, time);
      if (!entry || Math.abs(entry.time - time) > reach) return;
      const distance = Math.hypot(above, this.#window.xOf(entry.time) - x);
      if (!best || distance < best.distance) best = { entry, distance };
    });
    return best?.entry ?? null;
  }

  /// The op that an arrow key leads to: along its lane, or to the nearest in time on the next lane that has one.
  #neighbour(key) {
    const chosen = this.#found?.entry;
    if (!chosen) return this.#history.ops.at(-1);
    if (key === "ArrowLeft") return this.#history.get(chosen.origin, chosen.seq - 1);
    if (key === "ArrowRight") return this.#history.get(chosen.origin, chosen.seq + 1);
    const step = key === "ArrowUp" ? -1 : 1;
    let place = this.#lanes.findIndex(({ id }) => id === chosen.origin) + step;
    while (this.#lanes[place] && this.#history.chain(this.#lanes[place].id).length === 0) place += step;
    return this.#lanes[place] && this.#history.nearest(this.#lanes[place].id, chosen.time);
  }

  // ---- Moving and zooming ----

  #move(pixels) {
    this.#isFollowing = false;
    this.#window.pan(-pixels);
    this.#say();
    this.#plan();
  }

  #zoom(factor, x = this.#window.width / 2) {
    this.#isZoomed = true;
    // While the present is followed it stays where it is.
    this.#window.zoom(factor, this.#isFollowing ? this.#window.width - ROOM_RIGHT : x);
    this.#plan();
  }

  #follow() {
    this.#isFollowing = true;
    this.#isZoomed = false;
    if (this.#lanes.length > 0) this.#say();
    this.#plan();
  }

  #listen() {
    const canvas = this.#canvas;
    // The width is told here, so that no frame has to ask the page for its layout.
    new ResizeObserver(([{ contentRect }]) => {
      this.#window.width = Math.floor(contentRect.width);
      this.#plan();
    }).observe(canvas.parentElement);
    new IntersectionObserver(([entry]) => {
      this.#isSeen = entry.isIntersecting;
      this.#plan();
    }).observe(canvas);
    for (const query of ["(prefers-color-scheme: dark)", "(prefers-contrast: more)"]) {
      matchMedia(query).addEventListener("change", () => {
        this.#colours = null;
        if (this.#nodes) this.#lanes = this.#laneList();
        this.#plan();
      });
    }
    canvas.addEventListener("keydown", (event) => this.#onKey(event));
    canvas.addEventListener("wheel", (event) => this.#onWheel(event), { passive: false });
    canvas.addEventListener("pointerdown", (event) => this.#onDown(event));
    canvas.addEventListener("pointermove", (event) => this.#onMove(event));
    for (const type of ["pointerup", "pointercancel"]) canvas.addEventListener(type, (event) => this.#onUp(event));
    canvas.addEventListener("pointerleave", () => this.#hover(null));
    this.#place.addEventListener("click", ({ target }) => this.#onClick(target.closest("[data-diagram]")?.dataset ?? {}));
  }

  #onClick({ diagram, origin, seq }) {
    switch (diagram) {
      case "zoom-in": return this.#zoom(1.6);
      case "zoom-out": return this.#zoom(1 / 1.6);
      case "follow": return this.#follow();
      case "show-at": return this.#found && this.#onShowAt(this.#found.entry.time);
      case "close": {
        this.#choose(null);
        return this.#canvas.focus();
      }
      case "go": {
        const entry = this.#history.get(origin, Number(seq));
        return entry && this.#choose(entry, true);
      }
    }
  }

  #onKey(event) {
    const { key } = event;
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    if (key.startsWith("Arrow") && event.shiftKey) this.#move({ ArrowLeft: -120, ArrowRight: 120 }[key] ?? 0);
    else if (key.startsWith("Arrow")) this.#chooseIfAny(this.#neighbour(key));
    else if (key === "Home") this.#chooseIfAny(this.#history.ops[0]);
    else if (key === "End") {
      this.#follow();
      this.#chooseIfAny(this.#history.ops.at(-1));
    } else if (key === "Enter") this.#place.querySelector(".op-details button")?.focus();
    else if (key === "Escape") this.#choose(null);
    else if (key === "+" || key === "=") this.#zoom(1.6);
    else if (key === "-") this.#zoom(1 / 1.6);
    else if (key === "0") this.#follow();
    else return;
    event.preventDefault();
  }

  #chooseIfAny(entry) {
    if (entry) this.#choose(entry, true);
  }

  /// A wheel scrolls the page, unless it is a pinch (which comes as a wheel with Ctrl) or the diagram has the focus.
  #onWheel(event) {
    const isSideways = Math.abs(event.deltaX) > Math.abs(event.deltaY);
    if (!isSideways && !event.ctrlKey && document.activeElement !== this.#canvas) return;
    event.preventDefault();
    if (isSideways) this.#move(event.deltaX);
    else this.#zoom(Math.exp(-event.deltaY * (event.ctrlKey ? 0.01 : 0.0015)), event.offsetX);
  }

  #onDown(event) {
    if (event.button !== 0) return;
    this.#canvas.setPointerCapture(event.pointerId);
    this.#pointers.set(event.pointerId, { x: event.offsetX, y: event.offsetY, moved: 0 });
  }

  #onMove(event) {
    const pointer = this.#pointers.get(event.pointerId);
    if (!pointer) return this.#hover(event.pointerType === "mouse" ? this.#opAt(event.offsetX, event.offsetY) : null);
    const { x } = pointer;
    const other = [...this.#pointers].find(([id]) => id !== event.pointerId)?.[1];
    pointer.moved += Math.abs(event.offsetX - x);
    if (other) {
      const [before, after] = [Math.abs(other.x - x), Math.abs(other.x - event.offsetX)];
      if (before > 8 && after > 8) this.#zoom(after / before, (other.x + event.offsetX) / 2);
    } else if (pointer.moved > 4) this.#move(x - event.offsetX);
    pointer.x = event.offsetX;
  }

  #onUp(event) {
    const pointer = this.#pointers.get(event.pointerId);
    this.#pointers.delete(event.pointerId);
    if (pointer && pointer.moved <= 4 && event.type === "pointerup") this.#choose(this.#opAt(event.offsetX, event.offsetY));
  }

  #hover(entry) {
    if (entry === this.#hovered) return;
    this.#hovered = entry;
    this.#canvas.style.cursor = entry ? "pointer" : "";
    const tip = this.#place.querySelector(".diagram-tip");
    tip.hidden = !entry;
    if (entry) {
      renew(tip, opTip(entry, this.#nodes, this.#frontier));
      const place = this.#lanes.findIndex(({ id }) => id === entry.origin);
      const x = Math.min(this.#window.width - tip.offsetWidth - 4, Math.max(4, this.#window.xOf(entry.time) - tip.offsetWidth / 2));
      const y = laneY({ laneHeight: this.#laneHeight }, place) - dotRadius(this.#window.scale) - tip.offsetHeight - 8;
      tip.style.transform = `translate(${x}px, ${Math.max(0, y)}px)`;
    }
    this.#plan();
  }

  // ---- Painting ----

  get #laneHeight() {
    return Math.max(LANE_MIN, LANES_HEIGHT / Math.max(1, this.#lanes.length));
  }

  /// How much Lamport time goes by in the time on the wall that is to be in sight.
  #note() {
    const now = performance.now();
    this.#paces.push([now, this.#history.newestTime]);
    while (this.#paces[0][0] < now - SIGHT_MS) this.#paces.shift();
  }

  get #scaleWanted() {
    const gone = this.#history.newestTime - (this.#paces[0]?.[1] ?? 0);
    return Math.min(SCALE_MOST, Math.max(SCALE_LEAST, (this.#window.width - ROOM_RIGHT) / Math.max(1, gone)));
  }

  #plan() {
    if (this.#planned || !this.#isSeen) return;
    this.#planned = true;
    requestAnimationFrame((now) => {
      this.#planned = false;
      this.#frame(now);
    });
  }

  #frame(now) {
    if (!this.#fit()) return;
    // After a pause the first step is a short one.
    const isMoving = this.#step(Math.min(50, now - this.#drawnAt));
    this.#drawnAt = now;
    const holders = holdersOf(this.#pool).slice(0, HOLDERS_NAMED_MAX).map(({ member }) => this.#nodes.name(member)).join(", ");
    paint({
      ctx: this.#ctx, width: this.#window.width, height: this.#height, history: this.#history, window: this.#window,
      lanes: this.#lanes, laneHeight: this.#laneHeight, frontier: this.#frontierShown ?? 0, frontierSaid: this.#frontier,
      holders, found: this.#found, hovered: this.#hovered, past: this.#past, colours: this.#colourTable(),
    });
    if (isMoving) this.#plan();
  }

  get #height() {
    return TOP + BOTTOM + Math.max(LANES_HEIGHT, this.#laneHeight * this.#lanes.length);
  }

  /// Brings the canvas to the size of its place, in the screen's own pixels; false while it has none.
  #fit() {
    const { width } = this.#window;
    if (width === 0) return false;
    const ratio = devicePixelRatio || 1;
    const [wide, high] = [Math.round(width * ratio), Math.round(this.#height * ratio)];
    if (this.#canvas.width !== wide || this.#canvas.height !== high) {
      [this.#canvas.width, this.#canvas.height] = [wide, high];
      this.#canvas.style.height = `${this.#height}px`;
    }
    this.#ctx.setTransform(ratio, 0, 0, ratio, 0, 0);
    return true;
  }

  /// Moves the window and the frontier on by so many milliseconds; returns whether they are not yet where they belong.
  #step(ms) {
    const window = this.#window;
    const share = (time) => (this.#still.matches ? 1 : 1 - Math.exp(-ms / time));
    let isMoving = false;
    if (this.#isFollowing) {
      if (!this.#isZoomed) {
        const ratio = this.#scaleWanted / window.scale;
        // A factor a twentieth off is near enough: the pace is never quite even.
        if (Math.abs(Math.log(ratio)) > 0.05) {
          window.scale *= ratio ** share(RESCALE_MS);
          isMoving = true;
        }
      }
      const newest = Math.max(this.#history.newestTime, this.#frontier);
      const wanted = window.present((this.#history.ops[0]?.time ?? 1) - 1, newest, ROOM_RIGHT, ROOM_LEFT);
      // From far away one jumps: nobody follows a flight over thousands of ops.
      const way = wanted - window.right;
      const isNear = Math.abs(way * window.scale) < 2 * window.width;
      window.right = isNear ? window.right + way * share(FOLLOW_MS) : wanted;
      if (Math.abs(wanted - window.right) * window.scale > 0.3) isMoving = true;
      else window.right = wanted;
    }
    this.#frontierShown ??= this.#frontier;
    const way = this.#frontier - this.#frontierShown;
    this.#frontierShown += way * share(FOLLOW_MS * 1.4);
    if (Math.abs(this.#frontier - this.#frontierShown) * window.scale > 0.3) return true;
    this.#frontierShown = this.#frontier;
    return isMoving;
  }
}

const HOLDERS_NAMED_MAX = 3;

function laneNote(member, pool) {
  if (!member) return "has left the pool";
  const words = [`clock ${member.clock}`];
  if (member.self) words.push("this node");
  if (!member.alive) words.push(`last heard ${age(member.heard_ms_ago)}`);
  if (holdersOf(pool).some((holder) => holder.member === member.id)) words.push("holds finality back");
  return words.join(" · ");
}
