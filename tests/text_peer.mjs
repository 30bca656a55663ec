// Texts of static/text.js for tests/text_fuzz.py: takes commands on stdin, one JSON array a line, and answers each with
// a line. Every delta is applied to a plain string, which must then be the text.
import { webcrypto } from "node:crypto";
import { createInterface } from "node:readline";
import { BrokenBytes, EMBED, Text } from "../static/text.js";
import { Undo } from "../static/text-undo.js";

// Debian 12 has Node 18, where it is not global.
globalThis.crypto ??= webcrypto;

const peers = new Map();
const bytes = (hex) => new Uint8Array(Buffer.from(hex, "hex"));
const hex = (array) => Buffer.from(array).toString("hex");

function open(name, client) {
  const text = client === null ? new Text() : new Text({ client });
  const peer = { text, undo: new Undo(text, { groupMs: 0 }), mirror: "", updates: [] };
  text.subscribe(({ delta, update, local }) => {
    peer.mirror = applied(peer.mirror, delta);
    if (local) peer.updates.push(hex(update));
  });
  peers.set(name, peer);
  return peer;
}

function applied(string, delta) {
  let result = "";
  let at = 0;
  for (const { retain = 0, insert = "", delete: removed = 0 } of delta) {
    result += string.slice(at, at + retain) + insert;
    at += retain + removed;
  }
  if (at > string.length) throw new Error(`The delta ${JSON.stringify(delta)} is longer than the text.`);
  return result + string.slice(at);
}

const commands = {
  open: (_peer, name, client) => void open(name, client),
  close: (_peer, name) => void peers.delete(name),
  replace: ({ text, updates }, _name, index, length, string) => {
    text.replace(index, length, string);
    return updates.splice(0);
  },
  undo: ({ undo, updates }) => {
    undo.undo();
    return updates.splice(0);
  },
  redo: ({ undo, updates }) => {
    undo.redo();
    return updates.splice(0);
  },
  apply: ({ text }, _name, update) => text.applyUpdate(bytes(update)),
  state: ({ text }, _name, vector) => ({
    text: text.toString(),
    shown: text.toString(EMBED),
    length: text.length,
    vector: hex(text.encodeStateVector()),
    update: hex(text.encodeStateAsUpdate(vector ? bytes(vector) : null)),
    waits: text.isWaiting,
  }),
  position: ({ text }, _name, index, assoc) => text.relativePosition(index, assoc),
  resolve: ({ text }, _name, position) => text.resolvePosition(position),
};

for await (const line of createInterface({ input: process.stdin })) {
  const [command, name, ...values] = JSON.parse(line);
  const peer = peers.get(name);
  let answer;
  try {
    answer = { ok: commands[command](peer, name, ...values) ?? null };
  } catch (error) {
    answer = error instanceof BrokenBytes ? { broken: error.message } : { error: error.stack };
  }
  if (peer && peer.mirror !== peer.text.toString(EMBED)) answer = { error: `The deltas give ${JSON.stringify(peer.mirror)}.` };
  process.stdout.write(`${JSON.stringify(answer)}\n`);
}
