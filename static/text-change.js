// Changes of a plain string: what an edit of a text field was, and where places are after edits of others. Pure.
import { isHighSurrogate } from "./text-item.js";

/// The one replacement that makes `after` of `before`, as `{ index, removed, inserted }`; null if they are equal. `caret`
/// is where the caret stands in `after`: of equal places ("a" typed into "aaa") it is the one that was edited.
export function difference(before, after, caret = after.length) {
  if (before === after) return null;
  const shorter = Math.min(before.length, after.length);
  const sameEnd = (length) => before[before.length - 1 - length] === after[after.length - 1 - length];
  let end = 0;
  const behindCaret = Math.min(shorter, after.length - caret);
  while (end < behindCaret && sameEnd(end)) end += 1;
  let index = 0;
  while (index < shorter - end && before[index] === after[index]) index += 1;
  while (end < shorter - index && sameEnd(end)) end += 1;
  // A surrogate pair of which one half stayed is replaced whole.
  if (index > 0 && isHighSurrogate(before.charCodeAt(index - 1))) index -= 1;
  if (end > 0 && isLowSurrogate(before.charCodeAt(before.length - end))) end -= 1;
  return { index, removed: before.length - end - index, inserted: after.slice(index, after.length - end) };
}

/// The string after a delta.
export function applied(string, delta) {
  let result = "";
  let at = 0;
  for (const { retain = 0, insert = "", delete: removed = 0 } of delta) {
    result += string.slice(at, at + retain) + insert;
    at += retain + removed;
  }
  return result + string.slice(at);
}

/// Where a position is after a delta. It stays before what is inserted right at it.
export function movedPosition(delta, position) {
  let before = 0;
  let after = 0;
  for (const { retain = 0, insert = "", delete: removed = 0 } of delta) {
    if (position <= before) return after;
    if (position <= before + retain) break;
    before += retain + removed;
    after += retain + insert.length;
  }
  return position <= before ? after : position - before + after;
}

/// Where the units of a range are after a delta: in ranges `[from, to]` that leave out what was inserted and deleted.
export function movedRange(delta, from, to) {
  const ranges = [];
  let before = 0;
  let after = 0;
  for (const { retain = 0, insert = "", delete: removed = 0 } of [...delta, { retain: Infinity }]) {
    const begin = Math.max(from, before);
    const end = Math.min(to, before + retain);
    if (begin < end) ranges.push([begin - before + after, end - before + after]);
    before += retain + removed;
    after += retain + insert.length;
  }
  return ranges;
}

/// A text as a text field can show it, of the same length. A field turns a carriage return into a line feed, or into
/// nothing: a visible sign keeps all places right, and the return itself stays in the text.
export const showable = (string) => string.replaceAll("\r", "\u240D");

const isLowSurrogate = (unit) => unit >= 0xdc00 && unit <= 0xdfff;
