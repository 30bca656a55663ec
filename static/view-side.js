// Up to three nodes side by side, each page served by its own node in a frame: no request crosses an origin.
import { h } from "./dom.js";
import { nodeOf } from "./http.js";

const FRAMES_MAX = 3;

/// What the frames show: all that a page shows, or the text before all else. The first is what they show unasked.
export const VIEWS = ["all", "text"];

export function viewButtons(view) {
  return [["all", "Everything"], ["text", "Text"]].map(([name, words]) =>
    h("button", { type: "button", "data-action": `view-${name}`, "aria-pressed": String(view === name) }, words));
}

/// The members that have an address a browser can open. A frame's address comes from data, so only http(s) is let in.
export function showable(nodes) {
  return nodes.members.map((member) => ({ member, address: addressOf(member) })).filter(({ address }) => address !== null);
}

/// Which members are shown: those chosen before, then this node, then the living; in the order of the roster.
export function choose(candidates, chosenBefore) {
  const rank = ({ member }) => (chosenBefore.includes(member.id) ? 0 : member.self ? 1 : member.alive ? 2 : 3);
  const best = [...candidates].sort((a, b) => rank(a) - rank(b)).slice(0, FRAMES_MAX);
  return candidates.filter((candidate) => best.includes(candidate));
}

export function frames(shown, total, { collection, text, view }, nodes) {
  if (shown.length === 0) return h("p", { class: "empty" }, "Waiting for members that have an address…");
  return [
    h("div", { class: "frames", key: "frames" }, shown.map(({ member, address }) => {
      const source = new URL(`${address.replace(/\/+$/, "")}/`);
      source.searchParams.set("embed", "1");
      source.searchParams.set("collection", collection);
      if (text !== null) source.searchParams.set("text", text);
      if (view !== VIEWS[0]) source.searchParams.set("view", view);
      return h("iframe", { key: member.id, title: `The node ${nodes.name(member.id)}`, src: source.href });
    })),
    shown.some(({ member }) => !member.self) && h("p", { class: "quiet more", key: "framing" },
      `A frame that stays empty: start its node with --allow-origin ${location.origin}.`),
    total > shown.length && h("p", { class: "quiet more", key: "more" }, `${shown.length} of ${total} members are shown.`),
  ];
}

function addressOf(member) {
  // This node is where the page came from, whatever address it gives to others.
  if (member.self) return nodeOf(import.meta.url);
  return (member.urls ?? []).find((url) => URL.canParse(url) && /^https?:$/.test(new URL(url).protocol)) ?? null;
}
