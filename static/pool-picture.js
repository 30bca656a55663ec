// The pool as a picture: its nodes on a ring, this node's links to them, and who is behind, silent, or holds finality
// back. Places are in percent and sizes in pixels, so that it fits any width and its words keep their size.
import { s } from "./dom.js";
import { age, count, shortId } from "./words.js";

/// More nodes than this do not fit on the ring; the list below the picture has them all.
export const NODES_MAX = 12;
/// Past so many nodes, only names stand beside them, and who holds finality back.
const NOTES_MAX = 4;
/// Past so many, not even that has room: the hourglass in its lamp says it, and the sentence below the list.
const HOLDS_MAX = 8;
const HOLDS = "holds finality back";
const LINK_SAID = { linked: "linked", dialling: "dialling, not linked", none: "not linked" };

export function poolPicture(pool, nodes, holders) {
  const { members } = nodes;
  if (!pool || members.length > NODES_MAX) return null;
  const places = members.map((_, index) => placeOf(index, members.length));
  const own = members.findIndex((member) => member.self);
  const holding = new Set(holders.map(({ member }) => member));
  return s("svg", { class: `pool-picture ${members.length > 3 ? "many" : ""}`, role: "img", "aria-label": said(pool, nodes, holding) },
    members.map((member, index) => index !== own && own >= 0 && link(member, places[own], places[index], pool.cut)),
    members.map((member, index) => spot(member, places[index], nodes, pool, holding.has(member.id), members.length)));
}

/// On the ring, beginning at the top; two stand beside each other, and one alone in the middle.
function placeOf(index, total) {
  if (total === 1) return { x: 50, y: 44 };
  if (total === 2) return { x: index === 0 ? 24 : 76, y: 42 };
  const turn = (index / total) * 2 * Math.PI - Math.PI / 2;
  return { x: 50 + 30 * Math.cos(turn), y: total === 3 ? 54 + 18 * Math.sin(turn) : 50 + (total > NOTES_MAX ? 35 : 17) * Math.sin(turn) };
}

const percent = (number) => `${Math.round(number * 100) / 100}%`;

/// Whole where it stands; broken, with a gap and two strokes, where it was cut; dashed or dotted where there is none yet.
function link(member, from, to, isCut) {
  const state = isCut ? "cut" : member.link;
  const between = (share) => ({ x: from.x + (to.x - from.x) * share, y: from.y + (to.y - from.y) * share });
  const piece = (a, b) => s("line", { x1: percent(a.x), y1: percent(a.y), x2: percent(b.x), y2: percent(b.y), class: `wire-line ${state}` });
  const middle = between(0.5);
  return s("g", { key: `link ${member.id}` },
    state === "linked" || state === "dialling" ? piece(from, to) : [piece(from, between(0.42)), piece(between(0.58), to)],
    (state === "cut" || state === "none") && s("svg", { x: percent(middle.x), y: percent(middle.y), overflow: "visible" },
      s("path", { class: "cut-mark", d: "M-7 7 L-1 -7 M1 7 L7 -7" })));
}

function spot(member, place, nodes, pool, isHolding, total) {
  const lag = Number(pool.clock) - Number(member.clock);
  const notes = total <= NOTES_MAX ? notesOf(member, lag) : [];
  if (isHolding && total <= HOLDS_MAX) notes.push(HOLDS);
  // Words stand away from the middle, where the links are.
  const first = place.y < 45 && total > 2 ? -28 - 15 * notes.length : 37;
  return s("svg", { x: percent(place.x), y: percent(place.y), overflow: "visible", class: `spot ${nodes.colour(member.id)} ${member.alive ? "" : "silent"}`, key: member.id },
    member.alive && s("circle", { class: "halo", r: "22" }),
    member.self && s("circle", { class: "self-ring", r: "17.5" }),
    s("circle", { class: "bulb", r: "11.5" }),
    isHolding && s("path", { class: "holding", d: "M-4.500 -6 H4.500 L-4.500 6 H4.500 Z" }),
    s("text", { class: "spot-name", y: String(first) }, nodes.name(member.id)),
    notes.map((note, line) => s("text", { class: `spot-note ${note === HOLDS ? "strong" : ""}`, y: String(first + 16 + 15 * line) }, note)));
}

/// Short lines: on a narrow page there is room for some twenty letters.
function notesOf(member, lag) {
  if (member.self) return ["this node", `clock ${member.clock}`];
  if (member.evicted) return ["evicted"];
  const notes = lag > 0 ? [`${lag} behind`] : [`clock ${member.clock}`];
  if (!member.alive) notes.push(`heard ${age(member.heard_ms_ago)}`);
  return notes;
}

/// The picture in a sentence a node.
function said(pool, nodes, holding) {
  const sentences = nodes.members.map((member) => {
    const parts = [member.self ? "this node" : pool.cut ? "link cut" : LINK_SAID[member.link] ?? member.link, `clock ${member.clock}`];
    if (!member.alive) parts.push(`last heard ${age(member.heard_ms_ago)}`);
    if (holding.has(member.id)) parts.push("holds finality back");
    return `${nodes.name(member.id) || shortId(member.id)}: ${parts.join(", ")}.`;
  });
  return `The pool has ${count(nodes.members.length, "node")}. ${sentences.join(" ")}`;
}
