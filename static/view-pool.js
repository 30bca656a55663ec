// The pool as this node sees it: who this node is, the strip that tells of its links (and cuts them), the members.
import { h } from "./dom.js";
import { age, count, shortId } from "./words.js";

const WIRES_SHOWN_MAX = 7;
const LINK_MARKS = { self: "◆", linked: "●", dialling: "◌", none: "○" };
const LINK_WORDS = { self: "this node", linked: "linked", dialling: "dialling", none: "none" };
const STATE_WORDS = { joining: "has no pool yet", "catching-up": "catching up", member: "member", retired: "has retired" };

export function identity(pool, nodes) {
  if (!pool) return null;
  return [
    lamp(nodes.colour(pool.node), true),
    h("span", { class: "name" }, nodes.name(pool.node)),
    h("span", { class: "quiet" }, h("code", { title: pool.node }, shortId(pool.node)), ` · ${STATE_WORDS[pool.state] ?? pool.state}`),
  ];
}

export function connectionState(state) {
  const words = { connecting: "Connecting…", connected: "Connected", offline: "Offline, trying again" };
  return h("span", { class: `pill ${state}` }, h("span", { class: "dot", "aria-hidden": "true" }), words[state]);
}

/// The strip is always there and keeps its height, so that cutting the links moves nothing on the page.
export function linkStrip({ pool, unreachable, cutting }, nodes) {
  if (!pool) return h("div", { class: "strip" }, h("p", { role: "status" }, unreachable ? "This node does not answer." : "Asking the node…"));
  const others = nodes.members.filter((member) => !member.self);
  return h("div", { class: `strip ${pool.cut ? "cut" : ""}` },
    wires(pool, others, nodes),
    h("p", { role: "status" }, stripWords(pool, others, unreachable)),
    h("button", { type: "button", "data-action": pool.cut ? "join" : "cut", class: pool.cut ? "primary" : "", "aria-disabled": (cutting || unreachable) && "true" },
      pool.cut ? "Join links" : "Cut links"));
}

function stripWords(pool, others, unreachable) {
  if (unreachable) return [h("b", {}, "This node does not answer."), h("span", { class: "detail" }, " What you see is what was last heard.")];
  if (pool.cut) return [h("b", {}, "This node is cut off."), h("span", { class: "detail" }, " It goes on working; its writes reach the others when the links are joined.")];
  if (others.length === 0) return "This node is alone in its pool.";
  const linked = others.filter((member) => member.link === "linked").length;
  return `Linked to ${linked} of ${count(others.length, "other")}.`;
}

/// A little picture of the links: this node's lamp, and a wire to each other lamp, whole or broken.
function wires(pool, others, nodes) {
  return h("div", { class: "wires", "aria-hidden": "true" },
    lamp(nodes.colour(pool.node), true),
    others.slice(0, WIRES_SHOWN_MAX).map((member) => h("span", { class: "pair", key: member.id },
      h("span", { class: `wire ${member.link === "linked" && !pool.cut ? "" : "broken"}` }), lamp(nodes.colour(member.id), member.alive))));
}

/// Who keeps things from becoming final is named once that lasts: for a moment after each write it is everyone.
const HELD_BACK_SHOWN_MS = 4_000;

/// How far all is final, after the clock.
export function finality(pool) {
  if (pool.frontier === undefined) return "";
  return pool.final_lag === "0" ? " · all final" : ` · final to ${pool.frontier}, ${pool.final_lag} behind`;
}

/// Those who hold finality back for longer than a moment.
export const holdersOf = (pool) => (pool?.held_back_by ?? []).filter(({ why, since_ms }) => why === "eviction" || !(since_ms < HELD_BACK_SHOWN_MS));

/// Who holds finality back, in a sentence.
export function heldBack(pool, nodes) {
  const holders = holdersOf(pool);
  if (holders.length === 0) return null;
  return ["What is new becomes final when ", holders.map((holder, place) => [place > 0 && ", ", h("b", {}, nodes.name(holder.member)),
    holder.why === "eviction" ? " is evicted: other members have not answered that yet" : ` is heard of again (last ${age(holder.since_ms)})`]), "."];
}

/// The address that two members or more say they are reached at, in a sentence; at most one of them is.
export function sharedAddress(pool, nodes) {
  const all = pool?.members ?? [];
  const at = (url) => all.filter(({ urls }) => urls?.includes(url));
  const url = all.flatMap(({ urls }) => urls ?? []).find((url) => at(url).length > 1);
  if (!url) return null;
  return [`${at(url).length} members say that they are reached at `, h("code", {}, url), " (", at(url).map((member, place) => [place > 0 && ", ", h("b", {}, nodes.name(member.id))]),
    "): give each an address of its own with --advertise."];
}

export function members(pool, nodes) {
  if (!pool) return h("p", { class: "empty" }, "Waiting for the member list…");
  return h("table", { class: "members", "aria-labelledby": "pool-title" },
    h("thead", {}, h("tr", {}, ["Member", "Link", "Clock", "Head", "Heard"].map((name) => h("th", { scope: "col" }, name)))),
    h("tbody", {}, nodes.members.map((member) => memberRow(member, nodes))));
}

function memberRow(member, nodes) {
  return h("tr", { key: member.id, class: member.alive ? "" : "silent" },
    h("th", { scope: "row" }, h("div", { class: `who ${nodes.colour(member.id)}` }, lamp(nodes.colour(member.id), member.alive),
      h("span", { class: "name" }, nodes.name(member.id)), h("code", { class: "quiet", title: member.id }, shortId(member.id)))),
    h("td", { class: `link ${member.link}` }, h("span", { "aria-hidden": "true" }, `${LINK_MARKS[member.link] ?? "○"} `), member.evicted ? "evicted" : LINK_WORDS[member.link] ?? member.link),
    h("td", { class: "number" }, member.clock),
    h("td", { class: "number" }, member.head?.seq ?? "0"),
    h("td", { class: "number" }, member.self ? "–" : age(member.heard_ms_ago)));
}

/// A lamp in the member's colour: lit if it was heard of lately, an empty ring if not.
function lamp(colour, lit) {
  return h("span", { class: `lamp ${colour} ${lit ? "" : "dark"}`, "aria-hidden": "true" });
}
