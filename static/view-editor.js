// The words and small parts around the text field: the state of the connection, the texts to choose from, who else is
// here, and what to do where a text cannot be edited. Each function builds its whole tree; editor.js acts on the clicks.
import { h, s } from "./dom.js";
import { paletteColour } from "./text-carets.js";
import { NAME_MAX, trimmed } from "./user.js";
import { count } from "./words.js";

/// More stand in the documents' table, and any can be opened by its id.
const TEXTS_SHOWN_MAX = 12;
const OTHERS_SHOWN_MAX = 8;

/// Close codes of the node, as src/api/yjs.rs has them.
export const NO_TEXT = 4409;
export const GONE = 4410;
const TOO_LARGE = 4413;
const TOO_COSTLY = 4422;

export function editorState({ link, unsaved }) {
  const unsavedWords = unsaved > 0 ? `, ${unsaved.toLocaleString("en")} unsaved` : "";
  return h("span", { class: `pill ${link === "refused" ? "offline" : link}` },
    h("span", { class: "dot", "aria-hidden": "true" }),
    h("span", {}, stateWord(link) + (link === "connected" && unsaved === 0 ? ", all saved" : unsavedWords)));
}

/// The state without the count, for the live region: that one is not to speak at every key.
export const stateWord = (link) => ({ connecting: "Connecting…", connected: "Connected", offline: "Offline", refused: "Not editable" })[link];

export function editorHint({ link }, isCut) {
  if (link === "refused") return "";
  if (link !== "connected") return "The node does not answer. What you type stays on this page, and goes in as soon as it does.";
  if (isCut) return "This node is cut off. What you type is kept here, and merges with what the others type once links are joined.";
  return "Everyone on any node can type here at once. Ctrl+Z takes back only what you typed.";
}

export function textChoices(ids, open) {
  const shown = ids.slice(0, TEXTS_SHOWN_MAX);
  if (open !== null && !shown.includes(open)) shown.push(open);
  return [
    shown.map((id) => h("button", { type: "button", key: id, class: "text-choice", "data-editor": "open", "data-text": id, title: id, "aria-pressed": String(id === open) }, id)),
    ids.length > TEXTS_SHOWN_MAX && h("span", { class: "quiet", key: "/more" }, `and ${count(ids.length - TEXTS_SHOWN_MAX, "more text")}`),
  ];
}

/// Who else is here, each once however many pages they have open, by the presence that their editors sent: anybody's data, so only names and colours are believed.
export function others(states) {
  const people = new Map();
  for (const [client, state] of states) {
    const person = personOf(client, state?.user);
    const key = `${person.name} ${person.color}`;
    people.set(key, { ...person, key, times: (people.get(key)?.times ?? 0) + 1 });
  }
  const sorted = [...people.values()].sort((a, b) => (a.key < b.key ? -1 : 1));
  if (sorted.length === 0) return h("li", { class: "quiet", key: "/none" }, "nobody else is here");
  return [
    sorted.slice(0, OTHERS_SHOWN_MAX).map(({ key, name, color, times }) =>
      h("li", { class: "person", key, title: name }, dot(color), h("span", {}, name), times > 1 && h("span", { class: "quiet" }, `×${times}`))),
    sorted.length > OTHERS_SHOWN_MAX && h("li", { class: "quiet", key: "/more" }, `and ${sorted.length - OTHERS_SHOWN_MAX} more`),
  ];
}

function personOf(client, user) {
  const name = typeof user?.name === "string" ? trimmed(user.name.slice(0, 4 * NAME_MAX)) : "";
  const isColour = typeof user?.color === "string" && user.color.length < 100 && CSS.supports("color", user.color);
  return { name: name || "Somebody", color: isColour ? user.color : paletteColour(client) };
}

/// A picture, since the content policy lets no style stand in an element.
function dot(color) {
  return s("svg", { viewBox: "0 0 10 10", "aria-hidden": "true" }, s("circle", { cx: "5", cy: "5", r: "5", fill: color }));
}

/// What stands above the field where it cannot be typed into; null where it can. `there` is what the collection has under
/// the id now: "text", "json", or null for nothing.
export function refusal({ code, reason }, { collection, id }, there, failure) {
  const target = h("b", {}, `${collection}/${id}`);
  const notice = (words, ...buttons) => h("div", { class: "conflict", role: "alert", key: `refused ${code} ${there}` },
    h("p", {}, words), failure && h("p", { class: "error" }, failure), buttons.some(Boolean) && h("div", { class: "buttons" }, buttons));
  const button = (action, words) => h("button", { type: "button", "data-editor": action, key: action }, words);
  if (code === NO_TEXT || (code === GONE && there === "json")) {
    const words = code === GONE ? " has become a JSON document. What it read last stands below." : " is a JSON document, not a text. Edit it as JSON, or open another text here.";
    return notice([target, words], there === "json" && button("edit-json", "Edit as JSON"));
  }
  if (code === GONE && there === "text") {
    return notice([target, " was replaced by another text. What it read before stands below, for you to copy."], button("reopen", "Open the new text"));
  }
  if (code === GONE) {
    return notice([target, " was deleted. What it read last stands below, for you to copy."], button("put-back", "Put it back"), button("reopen", "Begin anew"));
  }
  const advice = {
    [TOO_LARGE]: " Copy what you need from below, then open it again and shorten it.",
    [TOO_COSTLY]: " Copy what you need from below, then delete the text and begin it again.",
  }[code] ?? "";
  return notice(["The node refused ", target, `: ${reason}.${advice}`.replace("..", ".")], button("reopen", "Open it again"));
}

export function pastNotice(time, there) {
  const words = { text: ", read only.", json: ": it was a JSON document then.", none: ": it did not exist then.", asking: "…" }[there];
  return h("p", { class: "editor-past-words", key: "past", role: "status" }, h("b", {}, `At time ${time}`), words);
}
