// The examples of docs/client.md, each run as it stands in a process of its own against three real nodes: it must print
// what the document says it prints.
import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { readFileSync } from "node:fs";
import { fileURLToPath } from "node:url";
import test from "node:test";
import { startPool, until } from "./support/nodes.mjs";

const ROOT = fileURLToPath(new URL("..", import.meta.url));
const document = readFileSync(`${ROOT}/docs/client.md`, "utf8");
const examples = [...document.matchAll(/^```js\n([^`]*(?:`[^`\n]+`[^`]*)*)^```\n```text\n([^`]*)^```$/gm)];

test("the examples of docs/client.md print what it says", async (t) => {
  assert.equal(examples.length, document.match(/^```js$/gm).length, "each example has what it prints below it");
  const nodes = await startPool(t, 3);
  for (const [, code, wanted] of examples) {
    assert.ok(code.trim().split("\n").length <= 5, `five lines:\n${code}`);
    await t.test(code.split("\n").slice(2).join(" ").slice(0, 70), (t) => prints(t, atNodes(code, nodes), wanted));
  }
});

/// The ports of the demo are others here, and one that has no node, 7174, is one that has none here.
const atNodes = (code, nodes) =>
  code.replace(/http:\/\/127\.0\.0\.1:717([1-4])/g, (_, digit) => nodes[digit - 1]?.url ?? "http://127.0.0.1:1");

async function prints(t, code, wanted) {
  const child = spawn(process.execPath, ["--experimental-websocket", "--input-type=module", "--eval", code], { cwd: ROOT });
  t.after(() => child.kill());
  let [printed, failures] = ["", ""];
  child.stdout.on("data", (text) => { printed += text; });
  child.stderr.on("data", (text) => { failures += text; });
  await until(() => printed === wanted || child.exitCode !== null || printed.length > wanted.length, `it prints ${wanted}, but not ${printed}`).catch(() => {});
  assert.equal(printed, wanted, failures);
  assert.ok(!child.exitCode, failures);
}
