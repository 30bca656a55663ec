// The documents as they were at an earlier time: a slider over Lamport time, and what the node answers to `at=`. It
// reads only; nothing of the past can be written.
import { request } from "./connection.js";
import { h, renew } from "./dom.js";
import { compact } from "./json.js";
import { problemWords } from "./words.js";

/// While the slider moves, the node is asked at most so often.
const ASK_AT_MOST_EVERY_MS = 120;
const DOCUMENTS_MAX = 200;

export class Past {
  /// The time shown; null for now.
  time = null;
  /// What was asked for last; the documents stay until the next ones are here, so that the page does not flash.
  documents = null;
  /// The time that these are of.
  documentsTime = null;
  hasMore = false;
  failure = null;
  #slider;
  #place;
  #horizon = 0;
  #clock = 0;
  #timer = null;
  #askedAt = 0;
  #serial = 0;
  #wanted;
  #changed;

  /// `wanted()` tells `{ collection, filter }`; `changed()` is called whenever there is something else to show.
  constructor(place, { wanted, changed }) {
    this.#place = place;
    this.#slider = place.querySelector("input");
    this.#wanted = wanted;
    this.#changed = changed;
    this.#slider.addEventListener("input", () => {
      const time = Number(this.#slider.value);
      // The right end is now, as the slider shows it.
      this.show(time >= Number(this.#slider.max) ? null : time);
    });
    place.addEventListener("click", ({ target }) => {
      if (!target.closest("[data-past=now]")) return;
      this.show(null);
      this.#slider.focus();
    });
  }

  /// Shows the documents at a time, or as they are now.
  show(time) {
    this.time = time;
    this.failure = null;
    if (time === null) {
      this.documents = null;
      this.#serial += 1;
      clearTimeout(this.#timer);
    } else this.ask();
    this.draw();
    this.#changed();
  }

  /// Asks anew: for another time, collection or filter.
  ask() {
    if (this.time === null) return;
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => this.#askNow(), Math.max(0, this.#askedAt + ASK_AT_MOST_EVERY_MS - performance.now()));
  }

  async #askNow() {
    this.#askedAt = performance.now();
    const serial = ++this.#serial;
    const { collection, filter } = this.#wanted();
    const { time } = this;
    const query = new URLSearchParams({ at: String(time), limit: String(DOCUMENTS_MAX) });
    if (filter !== "") query.set("filter", filter);
    try {
      const { content } = await request(`/v1/docs/${encodeURIComponent(collection)}?${query}`);
      if (serial !== this.#serial) return;
      this.documents = content.docs.map((doc) => ({ ...doc, isText: doc.text === true, text: compact(doc.value), lit: 0 }));
      this.documentsTime = time;
      this.hasMore = content.next !== null;
      this.failure = null;
    } catch (problem) {
      if (serial !== this.#serial) return;
      this.failure = problem.type?.endsWith(":past-forgotten")
        ? `This node has forgotten the operations up to time ${problem.horizon}. Choose that time or a later one.` : problemWords(problem);
    }
    this.#changed();
  }

  /// Follows the pool: the slider reaches from what is forgotten to now.
  follow(pool) {
    this.#horizon = Number(pool.horizon ?? 0);
    this.#clock = Number(pool.clock);
    this.draw();
  }

  draw() {
    const slider = this.#slider;
    slider.min = String(this.#horizon);
    slider.max = String(Math.max(this.#clock, this.#horizon + 1));
    const shown = String(this.time ?? slider.max);
    if (slider.value !== shown) slider.value = shown;
    const isPast = this.time !== null;
    slider.setAttribute("aria-valuetext", isPast ? `time ${this.time} of ${this.#clock}, past` : "now");
    this.#place.classList.toggle("past", isPast);
    renew(this.#place.querySelector(".past-words"), isPast ? [h("b", {}, `At time ${this.time}`), h("span", {}, ", read only")] : h("span", { class: "quiet" }, "Now"));
    const now = this.#place.querySelector("[data-past=now]");
    now.classList.toggle("away", !isPast);
    now.setAttribute("tabindex", isPast ? "0" : "-1");
  }
}
