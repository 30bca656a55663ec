// Real nodes on this machine for tests in Node: processes that end with the test, by their id.
import { spawn } from "node:child_process";
import { once } from "node:events";
import path from "node:path";
import { fileURLToPath } from "node:url";

const ROOT = path.resolve(path.dirname(fileURLToPath(import.meta.url)), "../..");
const PROGRAM = process.env.LAMPLIGHT_PROGRAM ?? path.join(process.env.CARGO_TARGET_DIR ?? path.join(ROOT, "target"), "debug", "lamplight");
const PATIENCE_MS = 20_000;
const LOOK_EVERY_MS = 20;

/// Waits until a condition has a value, and returns that; `sentence` says what was awaited in vain.
export async function until(condition, sentence) {
  const end = Date.now() + PATIENCE_MS;
  for (;;) {
    const value = await condition();
    if (value) return value;
    if (Date.now() > end) throw new Error(`not within ${PATIENCE_MS / 1000} s: ${sentence}`);
    await new Promise((resolve) => setTimeout(resolve, LOOK_EVERY_MS));
  }
}

export class Node {
  /// Starts a node in memory and waits until it is ready. Its port is the system's choice, or `port`, and is read from
  /// what it says. `flags` are further ones of `serve`.
  static async start(test, name, join = [], port = 0, flags = []) {
    const joins = join.flatMap((url) => ["--join", url]);
    const child = spawn(PROGRAM, ["serve", "--memory", "--listen", `127.0.0.1:${port}`, "--name", name, ...joins, ...flags], { stdio: ["ignore", "pipe", "pipe"] });
    const node = new Node(name, child);
    test.after(() => node.kill());
    await until(() => {
      if (child.exitCode !== null) throw new Error(`${name} ended:\n${node.output}`);
      node.url = /url="([^"]+)"/.exec(node.output)?.[1];
      return node.output.includes("ready: it takes reads and writes");
    }, `${name} is ready`);
    return node;
  }

  constructor(name, child) {
    this.name = name;
    this.child = child;
    this.output = "";
    for (const stream of [child.stdout, child.stderr]) stream.on("data", (text) => { this.output += text; });
  }

  async kill() {
    if (this.child.exitCode !== null || this.child.signalCode !== null) return;
    this.child.kill("SIGKILL");
    await once(this.child, "exit");
  }

  /// A request; its JSON.
  async call(path, method = "GET", body = undefined) {
    const content = body === undefined ? {} : { body: JSON.stringify(body), headers: { "Content-Type": "application/json" } };
    const answer = await fetch(this.url + path, { method, ...content });
    const json = await answer.json();
    if (!answer.ok) throw new Error(`${method} ${path} on ${this.name}: ${answer.status} ${json.detail}`);
    return json;
  }

  /// All documents of a collection, by id.
  async docs(collection) {
    const docs = {};
    let after = "";
    do {
      const page = await this.call(`/v1/docs/${collection}?limit=1000${after}`);
      for (const { id, value } of page.docs) docs[id] = value;
      after = page.next === null ? "" : `&after=${encodeURIComponent(page.next)}`;
    } while (after !== "");
    return docs;
  }

  async isLinkedTo(count) {
    const { members } = await this.call("/v1/pool");
    return members.filter(({ link }) => link === "linked").length === count;
  }
}

/// So many nodes of one pool, all linked.
export async function startPool(test, count) {
  const nodes = [await Node.start(test, "n1")];
  for (let place = 2; place <= count; place += 1) nodes.push(await Node.start(test, `n${place}`, [nodes[0].url]));
  for (const node of nodes) await until(() => node.isLinkedTo(count - 1), `${node.name} links to all others`);
  return nodes;
}
