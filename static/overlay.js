// What queued writes make of a document before a node has said so: merge patch (RFC 7396), JSON Patch (RFC 6902) with
// `increment`, and guards, as far as they can be judged from one document. It need not be exact: the node's word takes
// its place. Pure; no value that is given to it is changed.
import { equal, isObject } from "./selector.js";

/// The document as it is with the writes on it: null if it is not there. `base` is the node's word, or null; `writes` are
/// those of the queue that touch the document, in order.
export function overlaid(base, writes, collection, id) {
  let now = { there: base !== null, value: base?.value, version: base?.version };
  let pending = false;
  for (const { guards, commands, receipt } of writes) {
    // The node's word has the write in it already.
    if (receipt && base && !isBefore(base.stamp, receipt.stamp)) continue;
    pending = true;
    if (receipt?.verdict === "rejected") continue;
    now = written(now, guards, commands, (target) => target.collection === collection && target.id === id);
  }
  if (!pending) return base;
  if (!now.there) return null;
  return { ...(base ?? { collection, id, version: null, stamp: null, status: null }), value: now.value, pending: true };
}

/// One write, wholly or not at all.
function written(before, guards, commands, isTarget) {
  const holds = ([kind, target]) => {
    if (!isTarget(target)) return true;
    if (kind === "absent") return !before.there;
    // Of a document with another queued write on it, the version is not known.
    return before.there && (kind === "exists" || before.version === undefined || before.version === target.version);
  };
  if (!guards.every((guard) => holds(Object.entries(guard)[0]))) return before;
  let now = before;
  for (const command of commands) {
    const [kind, target] = Object.entries(command)[0];
    if (!isTarget(target)) continue;
    // A merge creates, and a deletion of what is not there does nothing.
    if (kind === "patch" && !now.there) return before;
    const value = result(kind, target, now.value);
    if (kind !== "delete" && value === undefined) return before;
    now = { there: kind !== "delete", value, version: undefined };
  }
  return now;
}

function result(kind, target, value) {
  switch (kind) {
    case "put": return target.value;
    case "merge": return merged(value, target.value);
    case "patch": return patched(value, target.patch);
    default: return undefined;
  }
}

function merged(value, patch) {
  if (!isObject(patch)) return patch;
  const now = isObject(value) ? { ...value } : {};
  for (const [key, part] of Object.entries(patch)) {
    if (part === null) delete now[key];
    else set(now, key, merged(Object.hasOwn(now, key) ? now[key] : undefined, part));
  }
  return now;
}

/// The patched value; undefined where a step fails.
export function patched(value, steps) {
  const draft = { "": JSON.parse(JSON.stringify(value)) };
  try {
    for (const step of steps) take(draft, step);
    return draft[""];
  } catch {
    return undefined;
  }
}

/// A step fails by throwing; the draft, whose only member is the document, is then thrown away.
function take(draft, { op, path, from, value, by }) {
  switch (op) {
    case "add": return add(draft, path, value);
    case "remove": return remove(draft, path);
    case "replace": {
      read(draft, path);
      const [holder, key] = place(draft, path);
      return set(holder, key, value);
    }
    case "copy": return add(draft, path, JSON.parse(JSON.stringify(read(draft, from))));
    case "move": {
      const moved = read(draft, from);
      remove(draft, from);
      return add(draft, path, moved);
    }
    case "test": return must(equal(read(draft, path), value));
    case "increment": {
      const [holder, key] = place(draft, path);
      must(typeof holder[key] === "number");
      holder[key] += by;
      return;
    }
    default: must(false);
  }
}

function add(draft, path, value) {
  const [holder, key] = place(draft, path);
  if (!Array.isArray(holder)) return set(holder, key, value);
  const index = key === "-" ? holder.length : Number(key);
  must(index <= holder.length);
  holder.splice(index, 0, value);
}

function remove(draft, path) {
  read(draft, path);
  const [holder, key] = place(draft, path);
  if (Array.isArray(holder)) holder.splice(Number(key), 1);
  else delete holder[key];
}

function read(draft, path) {
  const [holder, key] = place(draft, path);
  must(Object.hasOwn(holder, key));
  return holder[key];
}

/// Where a JSON Pointer leads: what holds the place, and the key there.
function place(draft, path) {
  const keys = path.split("/").map((key) => key.replaceAll("~1", "/").replaceAll("~0", "~"));
  must(keys[0] === "");
  let holder = draft;
  for (const key of keys.slice(0, -1)) {
    must(Object.hasOwn(holder, key));
    holder = holder[key];
    must(holder !== null && typeof holder === "object");
  }
  const key = keys.at(-1);
  must(!Array.isArray(holder) || key === "-" || /^(0|[1-9]\d*)$/.test(key));
  return [holder, key];
}

/// As JSON.parse would: assigning to `__proto__` would change what the object is.
function set(holder, key, value) {
  if (key === "__proto__") Object.defineProperty(holder, key, { value, writable: true, enumerable: true, configurable: true });
  else holder[key] = value;
}

function must(holds) {
  if (!holds) throw new Error("the step does not fit");
}

/// Whether a stamp lies before another in the pool's order: by time, which may pass 2^53, then by origin.
export function isBefore(left, right) {
  const [leftTime, leftOrigin] = left.split("@");
  const [rightTime, rightOrigin] = right.split("@");
  if (leftTime.length !== rightTime.length) return leftTime.length < rightTime.length;
  return leftTime === rightTime ? leftOrigin < rightOrigin : leftTime < rightTime;
}
