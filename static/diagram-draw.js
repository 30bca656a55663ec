// Paints the space-time diagram on a canvas: one lane a node, time to the right. It reads a scene and keeps nothing.
// Only what lies in the window is looked at, and where ops lie closer than a pixel only one a pixel is painted, so that
// a frame costs by the canvas's width and not by the history's length.
import { concurrentRun, relationTo } from "./diagram-model.js";

export const TOP = 30;
export const BOTTOM = 24;
const FONT = "system-ui, 'DejaVu Sans', sans-serif";
/// Below so many pixels a unit of time, single ops are ticks, and edges a grey that says nothing.
const DOTS_FROM_SCALE = 3;
const EDGES_FROM_SCALE = 3.5;
const TICKS_APART = 76;

/// The scene: `{ ctx, width, height, history, window, lanes: [{ id, name, colour, note, clock, silent }], laneHeight,
/// frontier, holders, found, hovered, past, colours }`.
export function paint(scene) {
  const { ctx, width, height, colours } = scene;
  ctx.globalAlpha = 1;
  ctx.fillStyle = colours.sunk;
  ctx.fillRect(0, 0, width, height);
  paintFinalGround(scene);
  paintAxis(scene);
  paintLanes(scene);
  if (scene.found) paintCones(scene);
  const [from, to] = scene.history.range(scene.window.left - 8 / scene.window.scale, scene.window.right + 8 / scene.window.scale);
  if (scene.window.scale >= EDGES_FROM_SCALE) paintEdges(scene, from, to);
  if (scene.window.scale >= DOTS_FROM_SCALE) paintDots(scene, from, to);
  else paintTicks(scene, from, to);
  paintMarks(scene);
  paintNames(scene);
  paintLines(scene);
}

/// Where a lane's line runs: below its name where there is room for both.
export function laneY({ laneHeight }, place) {
  return TOP + laneHeight * place + (laneHeight >= 50 ? laneHeight * 0.64 : laneHeight / 2);
}

/// The size of a dot, which follows the zoom.
export const dotRadius = (scale) => Math.min(6.5, Math.max(2.2, scale * 0.42));

/// What is final stands in the light; the light ends at the frontier.
function paintFinalGround({ ctx, width, height, window, frontier, colours }) {
  const edge = Math.min(width, window.xOf(frontier + 0.5));
  if (edge <= 0) return;
  ctx.fillStyle = colours.lit;
  ctx.fillRect(0, TOP - 6, edge, height - TOP - BOTTOM + 6);
}

function paintAxis({ ctx, height, window, colours }) {
  ctx.lineWidth = 1;
  ctx.strokeStyle = colours.line;
  ctx.fillStyle = colours.quiet;
  ctx.font = `11px ${FONT}`;
  ctx.textAlign = "center";
  ctx.textBaseline = "alphabetic";
  ctx.beginPath();
  for (const time of window.ticks(TICKS_APART)) {
    const x = Math.round(window.xOf(time)) + 0.5;
    ctx.moveTo(x, TOP - 6);
    ctx.lineTo(x, height - BOTTOM);
    ctx.fillText(String(time), x, height - 8);
  }
  ctx.stroke();
}

/// A lane is drawn through up to the clock that its node is known to have, and dotted behind: so its lag is seen.
function paintLanes(scene) {
  const { ctx, width, window, lanes } = scene;
  ctx.lineWidth = 1.5;
  lanes.forEach((lane, place) => {
    const y = laneY(scene, place);
    const clock = Math.min(width, Math.max(0, window.xOf(lane.clock)));
    ctx.strokeStyle = lane.colour;
    ctx.globalAlpha = 0.45;
    line(ctx, 0, y, clock, y);
    ctx.setLineDash([2, 5]);
    line(ctx, clock, y, width, y);
    ctx.setLineDash([]);
    // Not a line through: what is known of this node ends here.
    if (lane.silent && clock < width) line(ctx, clock, y - 9, clock, y + 9);
  });
  ctx.globalAlpha = 1;
}

/// For the chosen op: on each lane a full band for what it had seen, an open one for what was concurrent, a pale one for
/// what had seen it.
function paintCones(scene) {
  const { ctx, width, window, lanes, found, history, colours } = scene;
  lanes.forEach(({ id, colour }, place) => {
    const y = laneY(scene, place);
    const [last, first] = [history.get(id, found.seen.get(id) ?? 0), history.get(id, found.seenBy.get(id) ?? 0)];
    ctx.fillStyle = colour;
    if (last) band(ctx, 0, window.xOf(last.time) + 9, y, 0.26, width);
    if (first) band(ctx, window.xOf(first.time) - 9, width, y, 0.1, width);
    if (id === found.entry.origin) return;
    const run = concurrentRun(history, found, id);
    if (run.length === 0) return;
    const [from, to] = [window.xOf(run[0].time) - 10, window.xOf(run.at(-1).time) + 10];
    ctx.strokeStyle = colours.accent;
    ctx.lineWidth = 1.5;
    ctx.setLineDash([4, 3]);
    ctx.beginPath();
    ctx.roundRect(Math.max(-20, from), y - 11, Math.min(width + 20, to) - Math.max(-20, from), 22, 11);
    ctx.stroke();
    ctx.setLineDash([]);
  });
}

function band(ctx, from, to, y, alpha, width) {
  const [left, right] = [Math.max(-20, from), Math.min(width + 20, to)];
  if (right <= left) return;
  ctx.globalAlpha = alpha;
  ctx.beginPath();
  ctx.roundRect(left, y - 9, right - left, 18, 9);
  ctx.fill();
  ctx.globalAlpha = 1;
}

/// What each op had newly seen: a thin line from there to it. The edges of the chosen op's past are drawn stronger.
function paintEdges(scene, from, to) {
  const { ctx, window, history, lanes, found, colours } = scene;
  const places = new Map(lanes.map(({ id }, place) => [id, place]));
  const strong = new Path2D();
  ctx.lineWidth = 1;
  const thin = lanes.map(() => new Path2D());
  for (let index = from; index < to; index += 1) {
    const entry = history.ops[index];
    for (const [node, seq] of entry.seen) {
      const cause = history.get(node, seq);
      const lane = places.get(node);
      if (!cause || lane === undefined || !places.has(entry.origin)) continue;
      const isPast = found && (entry === found.entry || relationTo(found, entry) === "past");
      const path = isPast ? strong : thin[lane];
      path.moveTo(window.xOf(cause.time), laneY(scene, lane));
      path.lineTo(window.xOf(entry.time), laneY(scene, places.get(entry.origin)));
    }
  }
  ctx.globalAlpha = (found ? 0.2 : 0.42) * Math.min(1, (window.scale - 2.5) / 4);
  lanes.forEach(({ colour }, lane) => {
    ctx.strokeStyle = colour;
    ctx.stroke(thin[lane]);
  });
  ctx.globalAlpha = 0.55;
  ctx.strokeStyle = colours.ink;
  ctx.stroke(strong);
  ctx.globalAlpha = 1;
}

/// Final: a full disc. Tentative: a ring. Rejected: a cross. About members: a diamond, full or hollow likewise.
function paintDots(scene, from, to) {
  const { ctx, window, history, lanes, frontier, colours } = scene;
  const radius = dotRadius(window.scale);
  const sheets = new Map(lanes.map(({ id, colour }, place) => [id, { colour, y: laneY(scene, place), full: new Path2D(), open: new Path2D(), cross: new Path2D() }]));
  for (let index = from; index < to; index += 1) {
    const entry = history.ops[index];
    const sheet = sheets.get(entry.origin);
    if (!sheet) continue;
    const x = window.xOf(entry.time);
    if (entry.rejected) addCross(sheet.cross, x, sheet.y, radius * 0.95);
    else if (entry.membership) addDiamond(entry.time <= frontier ? sheet.full : sheet.open, x, sheet.y, radius * 1.35);
    else addDisc(entry.time <= frontier ? sheet.full : sheet.open, x, sheet.y, radius);
  }
  ctx.lineWidth = Math.min(2, radius * 0.5);
  for (const { colour, full, open, cross } of sheets.values()) {
    ctx.fillStyle = colour;
    ctx.fill(full);
    // The edges that arrive at a ring end at its rim.
    ctx.fillStyle = colours.sunk;
    ctx.fill(open);
    ctx.strokeStyle = colour;
    ctx.stroke(open);
    ctx.strokeStyle = colours.bad;
    ctx.stroke(cross);
  }
}

function addDisc(path, x, y, radius) {
  path.moveTo(x + radius, y);
  path.arc(x, y, radius, 0, 2 * Math.PI);
}

function addDiamond(path, x, y, radius) {
  path.moveTo(x, y - radius);
  path.lineTo(x + radius, y);
  path.lineTo(x, y + radius);
  path.lineTo(x - radius, y);
  path.closePath();
}

function addCross(path, x, y, radius) {
  path.moveTo(x - radius, y - radius);
  path.lineTo(x + radius, y + radius);
  path.moveTo(x - radius, y + radius);
  path.lineTo(x + radius, y - radius);
}

/// Ops closer than dots: a tick a pixel and lane, high for final, low for tentative, below the line for rejected.
function paintTicks(scene, from, to) {
  const { ctx, window, history, lanes, frontier, colours } = scene;
  const sheets = new Map(lanes.map(({ id, colour }, place) => [id, { colour, y: laneY(scene, place), last: [-1, -1, -1] }]));
  for (let index = from; index < to; index += 1) {
    const entry = history.ops[index];
    const sheet = sheets.get(entry.origin);
    if (!sheet) continue;
    const kind = entry.rejected ? 2 : entry.time <= frontier ? 0 : 1;
    const x = Math.round(window.xOf(entry.time));
    if (sheet.last[kind] === x) continue;
    sheet.last[kind] = x;
    ctx.fillStyle = kind === 2 ? colours.bad : sheet.colour;
    if (kind === 2) ctx.fillRect(x, sheet.y + 2, 1, 9);
    else if (kind === 0) ctx.fillRect(x, sheet.y - 7, 1, 14);
    else ctx.fillRect(x, sheet.y - 3, 1, 6);
  }
}

/// The chosen op has a ring around it, the one under the pointer a thinner one.
function paintMarks(scene) {
  const { ctx, window, lanes, found, hovered, colours } = scene;
  const radius = dotRadius(window.scale) + 4.5;
  for (const [entry, width] of [[hovered, 1.25], [found?.entry, 2.5]]) {
    const place = entry ? lanes.findIndex(({ id }) => id === entry.origin) : -1;
    if (place < 0) continue;
    ctx.strokeStyle = colours.ink;
    ctx.lineWidth = width;
    ctx.beginPath();
    ctx.arc(window.xOf(entry.time), laneY(scene, place), radius, 0, 2 * Math.PI);
    ctx.stroke();
  }
}

function paintNames(scene) {
  const { ctx, width, lanes, laneHeight, colours } = scene;
  const isRoomy = laneHeight >= 50;
  ctx.textAlign = "left";
  ctx.textBaseline = "middle";
  lanes.forEach(({ name, note, colour }, place) => {
    const y = isRoomy ? TOP + laneHeight * place + laneHeight * 0.22 : laneY(scene, place);
    ctx.font = `600 13px ${FONT}`;
    const nameWidth = ctx.measureText(name).width;
    ctx.font = `12px ${FONT}`;
    const noteWidth = isRoomy ? Math.min(width - nameWidth - 34, ctx.measureText(note).width + 8) : 0;
    chip(ctx, 6, y, nameWidth + noteWidth + 12, colours.sunk, 0.82);
    ctx.fillStyle = colours.quiet;
    if (isRoomy) ctx.fillText(note, 12 + nameWidth + 8, y, noteWidth);
    ctx.font = `600 13px ${FONT}`;
    ctx.fillStyle = colour;
    ctx.fillText(name, 12, y);
  });
}

/// The frontier, and the time at which the documents are shown. Each carries its words at its head.
function paintLines(scene) {
  const { ctx, width, height, window, frontier, holders, frontierSaid, past, colours } = scene;
  const at = window.xOf(frontier + 0.5);
  const words = `final to ${frontierSaid}${holders ? ` · waits for ${holders}` : ""}`;
  if (at >= -1 && at <= width + 1) {
    ctx.strokeStyle = colours.accent;
    ctx.lineWidth = 2;
    line(ctx, at, TOP - 8, at, height - BOTTOM);
  }
  // Where the line is out of sight, its words stay at the edge behind which it is.
  headWords(scene, Math.min(width, Math.max(0, at)), at < 0 ? `◂ ${words}` : at > width ? `${words} ▸` : words, colours.accent, colours.accentInk);
  if (past === null) return;
  const shown = window.xOf(past + 0.5);
  if (shown < 0 || shown > width) return;
  ctx.strokeStyle = colours.ink;
  ctx.lineWidth = 1.5;
  ctx.setLineDash([6, 4]);
  line(ctx, shown, TOP - 8, shown, height - BOTTOM);
  ctx.setLineDash([]);
  ctx.font = `12px ${FONT}`;
  const label = `documents at ${past}`;
  const wide = ctx.measureText(label).width + 14;
  const left = Math.min(width - wide - 2, Math.max(2, shown - wide / 2));
  chip(ctx, left, height - BOTTOM + 11, wide, colours.ink, 1);
  ctx.fillStyle = colours.card;
  ctx.textAlign = "left";
  ctx.fillText(label, left + 7, height - BOTTOM + 11.5);
}

function headWords({ ctx, width }, at, words, ground, ink) {
  ctx.font = `600 12px ${FONT}`;
  const wide = Math.min(width - 8, ctx.measureText(words).width + 16);
  const left = Math.min(width - wide - 4, Math.max(4, at - wide / 2));
  chip(ctx, left, 13, wide, ground, 1);
  ctx.fillStyle = ink;
  ctx.textAlign = "left";
  ctx.textBaseline = "middle";
  ctx.fillText(words, left + 8, 13.5, wide - 16);
}

function chip(ctx, left, y, width, colour, alpha) {
  ctx.globalAlpha = alpha;
  ctx.fillStyle = colour;
  ctx.beginPath();
  ctx.roundRect(left, y - 9.5, width, 19, 9.5);
  ctx.fill();
  ctx.globalAlpha = 1;
}

function line(ctx, x1, y1, x2, y2) {
  ctx.beginPath();
  ctx.moveTo(x1, y1);
  ctx.lineTo(x2, y2);
  ctx.stroke();
}
