// The carets and selections of others, drawn over a <textarea>. A hidden mirror of the text with the same font and width
// wraps as the field does, so that a mark in the mirror lies where the field has that place.
// The overlay takes no clicks and is hidden from screen readers: the field itself is the control.
import { h } from "./dom.js";
import { EMBED } from "./text.js";
import { showable } from "./text-change.js";

export const PALETTE = ["#b3261e", "#8a5300", "#4d6b00", "#00735c", "#006a9c", "#3d56c5", "#8639b3", "#b0197e"];
const NAME_MAX = 30;
/// More would hide the text.
const CARETS_MAX = 50;
const COPIED = ["font", "fontKerning", "letterSpacing", "wordSpacing", "textIndent", "textTransform", "textAlign", "direction", "tabSize", "lineHeight", "paddingTop", "paddingRight", "paddingBottom", "paddingLeft"];

export const paletteColour = (client) => PALETTE[client % PALETTE.length];

export class TextCarets {
  #area;
  #text;
  #presence;
  #mirror = h("div");
  #overlay = h("div", { "aria-hidden": "true", class: "text-carets" }, this.#mirror);
  #planned = null;
  #endings;

  constructor({ area, text, presence }) {
    this.#area = area;
    this.#text = text;
    this.#presence = presence;
    Object.assign(this.#overlay.style, { position: "absolute", overflow: "hidden", pointerEvents: "none", zIndex: 1 });
    Object.assign(this.#mirror.style, { boxSizing: "border-box", color: "transparent", whiteSpace: "pre-wrap", overflowWrap: "break-word" });
    area.after(this.#overlay);
    const draw = () => this.#plan();
    const sizes = new ResizeObserver(draw);
    sizes.observe(area);
    area.addEventListener("scroll", draw);
    this.#endings = [text.subscribe(draw), presence.subscribe(draw), () => sizes.disconnect(), () => area.removeEventListener("scroll", draw)];
    draw();
  }

  destroy() {
    cancelAnimationFrame(this.#planned);
    for (const end of this.#endings) end();
    this.#overlay.remove();
  }

  #plan() {
    this.#planned ??= requestAnimationFrame(() => {
      this.#planned = null;
      this.#draw();
    });
  }

  #draw() {
    const carets = this.#carets();
    this.#overlay.hidden = carets.length === 0;
    if (carets.length === 0) return this.#mirror.replaceChildren();
    const { offsetLeft, offsetTop, clientLeft, clientTop, clientWidth, clientHeight, scrollLeft, scrollTop } = this.#area;
    const size = { left: offsetLeft + clientLeft, top: offsetTop + clientTop, width: clientWidth, height: clientHeight };
    for (const [name, value] of Object.entries(size)) this.#overlay.style[name] = `${value}px`;
    const style = getComputedStyle(this.#area);
    for (const name of COPIED) this.#mirror.style[name] = style[name];
    this.#mirror.style.width = `${clientWidth}px`;
    this.#mirror.style.transform = `translate(${-scrollLeft}px, ${-scrollTop}px)`;
    this.#mirror.replaceChildren(...marked(showable(this.#text.toString(EMBED)), carets));
    for (const label of this.#mirror.querySelectorAll(".text-caret-name")) settle(label, scrollTop, clientWidth);
  }

  /// What the others' presence says of their carets, as far as it can be believed.
  #carets() {
    const carets = [];
    for (const [client, state] of this.#presence.others) {
      const anchor = this.#text.resolvePosition(state?.cursor?.anchor);
      const head = this.#text.resolvePosition(state?.cursor?.head);
      if (anchor === null || head === null) continue;
      const { name, color, colorLight } = state.user ?? {};
      const colour = isColour(color) ? color : paletteColour(client);
      carets.push({
        name: typeof name === "string" && name.trim() !== "" ? [...name].slice(0, NAME_MAX).join("") : "Somebody",
        colour,
        light: isColour(colorLight) ? colorLight : `color-mix(in srgb, ${colour} 25%, transparent)`,
        from: Math.min(anchor, head), to: Math.max(anchor, head), head,
      });
    }
    return carets.slice(0, CARETS_MAX);
  }
}

/// Puts a name where it hides least: behind its caret if the line ends there, or else above it, and below it on the first
/// line that is seen.
function settle(label, scrollTop, width) {
  const { offsetLeft, offsetTop, dataset } = label.parentNode;
  const hasRoom = offsetLeft + label.offsetWidth + 4 < width;
  if (dataset.ends !== undefined && hasRoom) {
    Object.assign(label.style, { left: "4px", top: "0.1em" });
    return;
  }
  label.style[offsetTop - scrollTop < label.offsetHeight ? "top" : "bottom"] = "100%";
  if (!hasRoom) Object.assign(label.style, { left: "auto", right: "-1px" });
}

/// The text as nodes, with the selections as coloured stretches and the carets between them.
function marked(text, carets) {
  const last = Math.max(...carets.map(({ to }) => to));
  // What follows the line of the last mark moves none.
  const lineEnd = text.indexOf("\n", last);
  const end = lineEnd === -1 ? text.length : lineEnd;
  const edges = [...new Set([0, end, ...carets.flatMap(({ from, to }) => [from, to])])].sort((a, b) => a - b);
  return edges.flatMap((edge, place) => {
    const here = carets.filter(({ head }) => head === edge).map((caret) => caretMark(caret, edge === text.length || text[edge] === "\n"));
    const next = edges[place + 1];
    if (next === undefined) return here;
    const stretch = h("span", null, text.slice(edge, next));
    const selection = carets.find(({ from, to }) => from <= edge && next <= to && from < to);
    if (selection) stretch.style.backgroundColor = selection.light;
    return [...here, stretch];
  });
}

/// Without a width of its own, so that lines break as if it were not there.
function caretMark({ name, colour }, endsLine) {
  const label = h("span", { class: "text-caret-name" }, name);
  Object.assign(label.style, {
    position: "absolute", left: "-1px", padding: "0 0.3em", border: `1px solid ${colour}`, borderRadius: "3px",
    background: "color-mix(in srgb, Canvas 84%, transparent)", color: "CanvasText", font: "11px/1.3 system-ui, sans-serif", whiteSpace: "nowrap", textIndent: "0",
  });
  const bar = h("span");
  Object.assign(bar.style, { position: "absolute", left: "-1px", top: "0", width: "2px", height: "1.2em", backgroundColor: colour });
  const caret = h("span", { class: "text-caret", "data-ends": endsLine }, bar, label);
  caret.style.position = "relative";
  return caret;
}

const isColour = (value) => typeof value === "string" && value.length < 100 && CSS.supports("color", value);
