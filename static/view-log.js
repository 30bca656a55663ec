// The log as a list of operations in the pool's total order, newest on top.
import { h, kept } from "./dom.js";
import { commandWords, guardWords, parseStamp } from "./words.js";

const COMMANDS_SHOWN_MAX = 3;

export function operations(log, failure, nodes) {
  if (failure) return h("p", { class: "empty" }, `The log cannot be shown: ${failure}`);
  if (!log) return h("p", { class: "empty" }, "Waiting for the log…");
  if (log.length === 0) return h("p", { class: "empty" }, "No operation yet.");
  return h("ol", { class: "ops" }, log.map((op) => operation(op, nodes)));
}

function operation(op, nodes) {
  const rejected = op.verdict === "rejected";
  const hidden = op.commands.length - COMMANDS_SHOWN_MAX;
  const memo = [op.verdict, op.reason, op.status, nodes.name(op.origin), nodes.colour(op.origin)].join(" ");
  return kept("li", op.op, memo, () => h("li", { key: op.op, class: rejected ? "rejected" : "", title: `${op.op}, written ${op.wall}` },
    h("div", { class: "when" }, stampMark(op.stamp, nodes)),
    h("div", { class: "what" },
      op.commands.slice(0, COMMANDS_SHOWN_MAX).map(commandLine),
      hidden > 0 && h("p", { class: "quiet" }, `and ${hidden} more`),
      op.guards?.length > 0 && h("p", { class: "quiet" }, op.guards.slice(0, COMMANDS_SHOWN_MAX).map(guardWords).join(", ")),
      rejected && h("p", { class: "reason" }, `Rejected: ${op.reason ?? "its condition did not hold at its place in the order"}`)),
    h("div", { class: "verdict" },
      h("p", {}, h("span", { class: "mark", "aria-hidden": "true" }, rejected ? "✕" : "✓"), rejected ? "rejected" : "applied"),
      h("p", { class: "quiet" }, h("span", { class: "mark", "aria-hidden": "true" }, op.status === "final" ? "●" : "○"), op.status === "final" ? "final" : "tentative"))));
}

function commandLine(command) {
  const { verb, target, detail } = commandWords(command);
  return h("p", {}, `${verb} `, h("b", {}, target), detail && [" ", h("code", {}, detail)]);
}

/// A stamp with its node named and coloured.
export function stampMark(stamp, nodes) {
  const { time, node } = parseStamp(stamp);
  return h("span", { class: `stamp ${nodes.colour(node)}`, title: stamp }, h("span", { class: "time" }, `${time}@`), h("span", { class: "name" }, nodes.name(node)));
}
