// The words the page uses for ids, stamps, ages, commands and problems. Pure.
import { clip, compact } from "./json.js";

/// UUIDs made close together begin alike, so both ends are shown.
export const shortId = (id) => (id.length > 12 ? `${id.slice(0, 4)}…${id.slice(-4)}` : id);
export const shortVersion = (version) => version.slice(0, 8);

/// `42@<node>` as its two parts.
export function parseStamp(stamp) {
  const at = stamp.indexOf("@");
  return { time: stamp.slice(0, at), node: stamp.slice(at + 1) };
}

/// How the members are called and coloured: by their place among the sorted names, which is the same on every node.
export function roster(pool) {
  const key = ({ name, id }) => `${name}\n${id}`;
  const members = [...(pool?.members ?? [])].sort((a, b) => (key(a) < key(b) ? -1 : 1));
  const places = new Map(members.map((member, place) => [member.id, place]));
  return {
    members,
    name: (id) => members[places.get(id)]?.name || shortId(id),
    colour: (id) => (places.has(id) ? `node-${places.get(id) % 8}` : "node-unknown"),
  };
}

/// Whether all up to a stamp is final, as a pool says it.
export function isFinal(stamp, pool) {
  return pool?.frontier !== undefined && stamp !== undefined && BigInt(parseStamp(stamp).time) <= BigInt(pool.frontier);
}

export function count(number, noun) {
  return `${Number(number).toLocaleString("en")} ${noun}${Number(number) === 1 ? "" : "s"}`;
}

/// How long ago, coarsely, so that the text does not flicker.
export function age(ms) {
  if (ms === undefined || ms === null) return "never";
  const seconds = Math.floor(Number(ms) / 1000);
  if (seconds < 3) return "now";
  if (seconds < 120) return `${seconds} s ago`;
  if (seconds < 7200) return `${Math.floor(seconds / 60)} min ago`;
  return `${Math.floor(seconds / 3600)} h ago`;
}

/// A command as verb, target and detail. An unknown command is shown as it came: newer nodes may know more.
export function commandWords(command) {
  const [[kind, body] = ["nothing", {}]] = Object.entries(command);
  const target = body?.collection === undefined ? "" : `${body.collection}/${body.id}`;
  switch (kind) {
    case "put": return { verb: "put", target, detail: clip(compact(body.value), 200) };
    case "merge": return { verb: "merge into", target, detail: clip(compact(body.value), 200) };
    case "patch": return { verb: "patch", target, detail: clip(compact(body.patch), 200) };
    case "delete": return { verb: "delete", target, detail: "" };
    case "text": return { verb: "edit", target, detail: count(bytesOf(body.update ?? ""), "byte") };
    case "add": return { verb: "add member", target: body.name || shortId(body.node), detail: "" };
    default: return { verb: kind, target, detail: clip(compact(body), 200) };
  }
}

/// How many bytes a base64 text stands for.
const bytesOf = (base64) => Math.floor((base64.replace(/=+$/, "").length * 3) / 4);

export function guardWords(guard) {
  const [[kind, body] = ["nothing", {}]] = Object.entries(guard);
  const target = `${body?.collection}/${body?.id}`;
  switch (kind) {
    case "exists": return `only if ${target} exists`;
    case "absent": return `only if ${target} is absent`;
    case "version": return `only if ${target} is at version ${shortVersion(body.version)}`;
    default: return `only if ${kind} ${clip(compact(body), 80)}`;
  }
}

/// A problem document (RFC 9457), or an error thrown on the way, as one sentence for a reader.
export const problemWords = (problem) => problem?.detail || problem?.title || problem?.message || "It failed, and the node did not say why.";
