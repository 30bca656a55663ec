// Numbers come back as they were put, by programs that write them each in their own way.
import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import test from "node:test";
import { Node } from "./support/nodes.mjs";

/// Doubles at the edges of what is written with and without an exponent, and of integers of 53 and 64 bits.
const DOUBLES = [
  0, 1, -1, 0.1, 1 / 3, -1.5, 1e15, 1e16, 123456789012345680, 1e17, 1e20, -1e20, 1e21, 1e22, 1.2345678901234568e20, 999999999999999900000,
  2 ** 53, 2 ** 53 + 2, 2 ** 60, 2 ** 63, -(2 ** 63), 2 ** 64, 2 ** 65, 1e-6, 1e-7, 1.5e300, 5e-324, 2.2250738585072014e-308, Number.MAX_VALUE, -Number.MAX_VALUE,
];

async function put(node, text) {
  const answer = await fetch(`${node.url}/v1/docs/numbers/n`, { method: "PUT", body: text, headers: { "Content-Type": "application/json" } });
  assert.ok(answer.ok, `${text}: ${await answer.text()}`);
}

const got = async (node) => (await fetch(`${node.url}/v1/docs/numbers/n`)).text();

function ran(command, args, input) {
  const { stdout, stderr, status } = spawnSync(command, args, { input, encoding: "utf8" });
  assert.equal(status, 0, `${command}: ${stderr}`);
  return stdout;
}

test("JavaScript gets the doubles that it has put", async (t) => {
  const node = await Node.start(t, "numbers");
  await put(node, JSON.stringify(DOUBLES));
  assert.deepEqual(JSON.parse(await got(node)), DOUBLES);
  await put(node, JSON.stringify(JSON.parse(await got(node))));
  assert.deepEqual(JSON.parse(await got(node)), DOUBLES);
});

test("Python gets the numbers that it has put, integers of 64 bits among them", async (t) => {
  const node = await Node.start(t, "numbers");
  const made = "import json, random; random.seed(7); print(json.dumps([2**64 - 1, 2**63, -2**63, 2**53 + 1, 2**64, 2**70, 10**20, 1e20, 1e16, 0.1, 5e-324, 1.7976931348623157e308]"
    + " + [random.uniform(-1, 1) * 10.0**random.randint(-300, 300) for _ in range(200)]))";
  const text = ran("python3", ["-c", made]);
  await put(node, text);
  const same = "import json, sys; a, b = (json.loads(line) for line in sys.stdin); assert a == b, [(x, y) for x, y in zip(a, b) if x != y]; print(json.dumps(b))";
  const again = ran("python3", ["-c", same], `${text.trim()}\n${await got(node)}\n`);
  await put(node, again);
  ran("python3", ["-c", same], `${text.trim()}\n${await got(node)}\n`);
});

test("jq gets the doubles that it has put", async (t) => {
  const node = await Node.start(t, "numbers");
  const text = ran("jq", ["-c", "."], JSON.stringify(DOUBLES));
  await put(node, text);
  const same = ran("jq", ["-c", "-s", ".[0] == .[1], .[1]"], `${text}\n${await got(node)}`).split("\n");
  assert.equal(same[0], "true");
  await put(node, same[1]);
  assert.equal(ran("jq", ["-s", ".[0] == .[1]"], `${text}\n${await got(node)}`).trim(), "true");
});
