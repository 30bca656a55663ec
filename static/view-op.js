// One op of the diagram in words: the panel below the canvas, the tip at the pointer, and what a screen reader says.
import { h } from "./dom.js";
import { count } from "./words.js";
import { stampMark } from "./view-log.js";

const CONCURRENT_SHOWN_MAX = 16;
const COMMANDS_SHOWN_MAX = 6;

const isFinalAt = (entry, frontier) => entry.time <= frontier;

/// The chosen op: `{ entry, others }`, `others` being those concurrent with it; null if none is chosen.
export function opDetails(chosen, { nodes, frontier, isBounded, past }) {
  if (!chosen) {
    return h("p", { class: "empty", key: "none" }, "Choose an operation to see its commands, its verdict and what it was concurrent with.");
  }
  const { entry, others } = chosen;
  return h("div", { class: "op", key: "op" },
    h("div", { class: "op-what" },
      h("h3", {}, stampMark(entry.stamp, nodes), " ", h("span", { class: "quiet" }, `operation ${entry.seq} of ${nodes.name(entry.origin)} · ${wallWords(entry.wall)}`)),
      h("ul", { class: "commands" }, entry.commands.slice(0, COMMANDS_SHOWN_MAX).map(({ verb, target, detail }) =>
        h("li", {}, `${verb} `, h("b", {}, target), detail && [" ", h("code", {}, detail)]))),
      entry.commandCount > COMMANDS_SHOWN_MAX && h("p", { class: "quiet" }, `and ${count(entry.commandCount - COMMANDS_SHOWN_MAX, "more command")}`),
      entry.guards.length > 0 && h("p", { class: "quiet guards" }, entry.guards.join(", "))),
    h("div", { class: "op-verdict" },
      verdict(entry, frontier),
      entry.rejected && h("p", { class: "reason" }, entry.reason ?? "Its condition did not hold at its place in the order."),
      h("div", { class: "buttons" },
        h("button", { type: "button", "data-diagram": "show-at", "aria-disabled": past === entry.time && "true" }, "Show documents at this op"),
        h("button", { type: "button", class: "quiet-button", "data-diagram": "close" }, "Close"))),
    h("div", { class: "op-others" },
      h("p", {}, concurrentWords(others.length, isBounded, isFinalAt(entry, frontier))),
      h("div", { class: "others" },
        others.slice(0, CONCURRENT_SHOWN_MAX).map((other) => h("button", { type: "button", class: "quiet-button", key: other.op, "data-diagram": "go",
          "data-origin": other.origin, "data-seq": String(other.seq), "aria-label": `Go to ${other.time} of ${nodes.name(other.origin)}` }, stampMark(other.stamp, nodes))),
        others.length > CONCURRENT_SHOWN_MAX && h("span", { class: "quiet", key: "more" }, `and ${(others.length - CONCURRENT_SHOWN_MAX).toLocaleString("en")} more`))));
}

function concurrentWords(number, isBounded, isFinal) {
  const where = isBounded ? " among the operations in this diagram" : "";
  if (number === 0) return [h("b", {}, isFinal ? "Concurrent with none" : "Concurrent with none so far"), `${where}: it had seen, or was seen by, every other one.`];
  return [h("b", {}, `Concurrent with ${count(number, "operation")}`), `${where}: neither had seen the other.`];
}

function verdict(entry, frontier) {
  const isFinal = isFinalAt(entry, frontier);
  return h("p", { class: `verdict ${entry.rejected ? "rejected" : ""}` },
    h("span", { class: "mark", "aria-hidden": "true" }, entry.rejected ? "✕" : isFinal ? "●" : "○"),
    h("b", {}, entry.rejected ? "rejected" : "applied"),
    isFinal ? ", final: nothing can come before it any more" : ", tentative: an earlier one may still be heard of");
}

export function opTip(entry, nodes, frontier) {
  const [{ verb, target } = { verb: "nothing", target: "" }] = entry.commands;
  const more = entry.commandCount > 1 ? ` and ${entry.commandCount - 1} more` : "";
  return [stampMark(entry.stamp, nodes), h("span", {}, ` ${verb} ${target}${more} · ${statusWord(entry, frontier)}`)];
}

/// What the live region says of the op that the keyboard has come to.
export function opWords(entry, concurrentCount, nodes, frontier) {
  const commands = entry.commands.slice(0, 2).map(({ verb, target, detail }) => [verb, target, detail.slice(0, 60)].filter(Boolean).join(" ")).join("; ");
  const others = concurrentCount === 0 ? "concurrent with none" : `concurrent with ${count(concurrentCount, "operation")}`;
  return `${entry.time} of ${nodes.name(entry.origin)}: ${commands}. ${statusWord(entry, frontier)}, ${others}.`;
}

const statusWord = (entry, frontier) => `${entry.rejected ? "rejected" : "applied"}, ${isFinalAt(entry, frontier) ? "final" : "tentative"}`;

/// The origin's wall clock in the reader's time zone; as it came, if it cannot be read.
function wallWords(wall) {
  const date = new Date(wall);
  return Number.isNaN(date.getTime()) ? wall : date.toLocaleString(undefined, { dateStyle: "medium", timeStyle: "medium" });
}
