// Building and renewing DOM trees. Views build their whole tree with `h` on every render; `morph` brings the tree on
// the page to the same shape and touches only what differs, so that focus, caret and scroll place survive.
// Text enters only as text nodes and attributes: nothing here parses HTML.

/// One element. `key` names it among its siblings, so that `morph` finds it again after insertions and removals.
export function h(tag, attributes, ...children) {
  return build(document.createElement(tag), tag, attributes, children);
}

/// The same for a part of a picture.
export function s(tag, attributes, ...children) {
  return build(document.createElementNS("http://www.w3.org/2000/svg", tag), tag, attributes, children);
}

function build(element, tag, attributes, children) {
  for (const [name, value] of Object.entries(attributes ?? {})) {
    if (value === null || value === undefined || value === false) continue;
    if (name === "key") element.dataset.key = value;
    // The text of a field is a starting value: from then on it is the user's, and `morph` leaves it alone.
    else if (name === "value" && (tag === "textarea" || tag === "input")) element.value = value;
    else element.setAttribute(name, value === true ? "" : value);
  }
  for (const child of children.flat(Infinity)) {
    if (child !== null && child !== undefined && child !== false) element.append(child);
  }
  return element;
}

/// A part that is made only where it is needed: it stays untouched while the part on the page with its key was made of
/// the same `memo`, a text that says all that `make` depends on. For rows that are many and seldom change.
export function kept(tag, key, memo, make) {
  const stand = h(tag, { key, "data-stands": true });
  stands.set(stand, { memo, make });
  return stand;
}

/// The stands that `kept` made, and what the parts on the page were made of.
const stands = new WeakMap();
const memos = new WeakMap();

function made(stand) {
  const { memo, make } = stands.get(stand);
  const part = make();
  memos.set(part, memo);
  return part;
}

/// A part that comes onto the page as a whole, with all that stands in it made.
function settled(part) {
  if (stands.has(part)) return made(part);
  for (const stand of part.querySelectorAll?.("[data-stands]") ?? []) stand.replaceWith(made(stand));
  return part;
}

/// Gives `place` the children `wanted`, keeping every node that can stay.
export function renew(place, ...wanted) {
  const holder = document.createElement("div");
  holder.append(...wanted.flat(Infinity).filter((child) => child !== null && child !== undefined && child !== false));
  morphChildren(place, holder);
}

function morph(from, to) {
  if (from.nodeType === Node.TEXT_NODE) {
    if (from.data !== to.data) from.data = to.data;
    return;
  }
  const stand = stands.get(to);
  if (stand && memos.get(from) === stand.memo) return;
  memos.set(from, stand?.memo);
  if (stand) to = stand.make();
  for (const { name } of [...from.attributes]) {
    if (!to.hasAttribute(name)) from.removeAttribute(name);
  }
  for (const { name, value } of to.attributes) {
    if (from.getAttribute(name) !== value) from.setAttribute(name, value);
  }
  if (from.nodeName !== "TEXTAREA") morphChildren(from, to);
}

function morphChildren(from, to) {
  const keyed = new Map();
  const plain = [];
  for (const child of from.childNodes) {
    if (child.dataset?.key === undefined) plain.push(child);
    else keyed.set(child.dataset.key, child);
  }
  const pairs = [...to.childNodes].map((wanted) => {
    const key = wanted.dataset?.key;
    const found = key === undefined ? plain.shift() : keyed.get(key);
    return found?.nodeName === wanted.nodeName ? [found, wanted] : [settled(wanted), null];
  });
  // What goes is taken out first: the rest then keeps its order, and a node that holds the focus (or an iframe, which
  // would load again) is not moved when something before it comes or goes.
  const staying = new Set(pairs.map(([node]) => node));
  for (const child of [...from.childNodes]) {
    if (!staying.has(child)) child.remove();
  }
  let cursor = from.firstChild;
  for (const [node, wanted] of pairs) {
    if (node === cursor) cursor = cursor.nextSibling;
    else from.insertBefore(node, cursor);
    if (wanted) morph(node, wanted);
  }
}
