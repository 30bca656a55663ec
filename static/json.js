// JSON text in and out without loss. A document may hold 64-bit integers, which JavaScript's numbers round; so long
// integers are kept as their own text, and what a user types is checked here but sent as typed. Pure.

/// Whether this browser can keep a number's text (JSON.rawJSON). Where it cannot, long integers are never written.
const keepsText = typeof JSON.rawJSON === "function";
const longInteger = /(^|[:[,\s])-?\d{16,}/;

/// Like JSON.parse, except that integers which a double cannot hold stay exact through `compact` and `pretty`.
export function parse(text) {
  if (!keepsText || !longInteger.test(text)) return JSON.parse(text);
  return JSON.parse(text, (_key, value, context) =>
    typeof value === "number" && Number.isInteger(value) && !Number.isSafeInteger(value) && /^-?\d+$/.test(context.source)
      ? JSON.rawJSON(context.source)
      : value);
}

export const compact = (value) => JSON.stringify(value);
export const pretty = (value) => JSON.stringify(value, null, 2);

/// What is wrong with a document as typed, in a sentence; null if nothing is.
export function fault(text) {
  if (text.trim() === "") return "A document needs a JSON value, such as {} or \"text\".";
  try {
    JSON.parse(text);
  } catch (error) {
    return `Not valid JSON: ${error.message.replace(/^JSON\.parse: /, "")}.`.replace(/\.\.$/, ".");
  }
  if (!keepsText && longInteger.test(text)) {
    return "This browser would round so long an integer. Use a newer browser, or write the document over the REST interface.";
  }
  return null;
}

/// What is wrong with a filter as typed; an empty one is no filter.
export function filterFault(text) {
  if (text.trim() === "") return null;
  try {
    const value = JSON.parse(text);
    if (value !== null && typeof value === "object" && !Array.isArray(value)) return null;
  } catch { /* The sentence below tells what is expected, which helps more than the place of the slip. */ }
  return "A filter is a JSON object, such as {\"done\": false} or {\"hour\": {\"$gte\": 18}}.";
}

/// The text cut to at most `max` characters, with an ellipsis if anything was cut.
export const clip = (text, max) => (text.length > max ? `${text.slice(0, max)}…` : text);
