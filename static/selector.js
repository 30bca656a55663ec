// Whether a document is in a filter, as the nodes judge it (src/document/selector.rs): a queued write must show in a
// live query, or leave it, before any node has seen the write. It refuses nothing: the node names what is wrong with a
// filter, and until then an unknown operator holds for no document. Pure.

/// Whether the value of a document meets a filter.
export function matches(filter, value) {
  return Object.entries(filter).every(([key, condition]) => {
    switch (key) {
      case "$and": return condition.every((part) => matches(part, value));
      case "$or": return condition.some((part) => matches(part, value));
      case "$not": return !matches(condition, value);
      default: return meets(condition, find(key.split("."), value));
    }
  });
}

/// A field that is absent is `undefined`, which no JSON value is. A number goes to that element of an array.
function find(path, value) {
  return path.reduce((found, key) => (holds(found, key) ? found[key] : undefined), value);
}

function holds(value, key) {
  if (Array.isArray(value)) return /^(0|[1-9]\d*)$/.test(key) && Object.hasOwn(value, key);
  return isObject(value) && Object.hasOwn(value, key);
}

function meets(condition, value) {
  const operators = isObject(condition) ? Object.entries(condition) : [];
  // An object without operators is a value like any other.
  if (!operators.some(([key]) => key.startsWith("$"))) return value !== undefined && equal(condition, value);
  return operators.every(([operator, operand]) => {
    switch (operator) {
      case "$exists": return (value !== undefined) === operand;
      case "$ne": return value === undefined || !equal(operand, value);
      case "$not": return !meets(operand, value);
      case "$contains": return Array.isArray(value) && value.some((one) => meets(operand, one));
      case "$in": return value !== undefined && operand.some((one) => equal(one, value));
      case "$gt": return order(value, operand) > 0;
      case "$gte": return order(value, operand) >= 0;
      case "$lt": return order(value, operand) < 0;
      case "$lte": return order(value, operand) <= 0;
      default: return false;
    }
  });
}

/// Negative, zero or positive; NaN, which is none of these, if the two are not of one type that has an order.
function order(left, right) {
  if (typeof left === "number" && typeof right === "number") return left - right;
  if (typeof left === "string" && typeof right === "string") return byCodePoint(left, right);
  return NaN;
}

/// Text in the order of the nodes, by code points. JavaScript compares code units, in which those past U+FFFF come
/// before some that are less.
export function byCodePoint(left, right) {
  const length = Math.min(left.length, right.length);
  for (let place = 0; place < length; place += 1) {
    const [a, b] = [left.charCodeAt(place), right.charCodeAt(place)];
    if (a !== b) return isSurrogate(a) === isSurrogate(b) ? a - b : isSurrogate(a) ? 1 : -1;
  }
  return left.length - right.length;
}

const isSurrogate = (unit) => unit >= 0xd800 && unit <= 0xdfff;

export const isObject = (value) => value !== null && typeof value === "object" && !Array.isArray(value);

/// Whether two JSON values are equal, whatever the order of their members.
export function equal(left, right) {
  if (left === right) return true;
  if (Array.isArray(left)) {
    return Array.isArray(right) && left.length === right.length && left.every((one, place) => equal(one, right[place]));
  }
  if (!isObject(left) || !isObject(right)) return false;
  const keys = Object.keys(left);
  return keys.length === Object.keys(right).length
    && keys.every((key) => Object.hasOwn(right, key) && equal(left[key], right[key]));
}
