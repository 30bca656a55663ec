// Who writes on this page: a name and a colour, which others see at the caret. They are kept in this browser, and made
// up at first: a friendly name tells people apart better than "Anonymous" does.
import { PALETTE } from "./text-carets.js";

export const NAME_MAX = 30;

const KEPT_AS = "lamplight.user";
const HOW = ["Amber", "Brave", "Bright", "Calm", "Clever", "Cosy", "Gentle", "Golden", "Happy", "Kind", "Lively", "Lucky", "Merry", "Nimble", "Quick", "Quiet", "Silver", "Sunny", "Swift", "Wise", "Bold", "Crimson", "Daring", "Eager", "Fair", "Honest", "Jolly", "Noble", "Patient", "Proud"];
const WHO = ["Badger", "Beaver", "Crane", "Dolphin", "Falcon", "Finch", "Fox", "Hare", "Hedgehog", "Heron", "Ibex", "Lark", "Lynx", "Marten", "Moth", "Otter", "Owl", "Robin", "Seal", "Swan", "Bee", "Cricket", "Deer", "Ermine", "Goldfinch", "Kestrel", "Magpie", "Newt", "Puffin", "Wren"];

const oneOf = (list) => list[crypto.getRandomValues(new Uint32Array(1))[0] % list.length];
const isColour = (value) => /^#[0-9a-f]{6}$/i.test(value);

/// The user of this browser, as `{ name, color }`.
export function userOfThisBrowser() {
  const kept = read();
  const name = typeof kept?.name === "string" ? trimmed(kept.name) : "";
  const user = { name: name || `${oneOf(HOW)} ${oneOf(WHO)}`, color: isColour(kept?.color) ? kept.color : oneOf(PALETTE) };
  keepUser(user);
  return user;
}

export function keepUser(user) {
  try {
    localStorage.setItem(KEPT_AS, JSON.stringify(user));
  } catch { /* Where nothing may be kept, the name lasts as long as the page. */ }
}

/// A name as it is shown: one line, and not longer than there is room for.
export const trimmed = (name) => [...name.replace(/\s+/g, " ").trim()].slice(0, NAME_MAX).join("");

function read() {
  try {
    return JSON.parse(localStorage.getItem(KEPT_AS));
  } catch {
    return null;
  }
}
