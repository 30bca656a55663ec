// An editor with y-websocket itself, as Debian has it and tests/setup.sh unpacks it, for tests/texts.py. Takes commands on stdin, one
// JSON array a line, and answers each with a line. Counts how often it connects.
import { createRequire } from "node:module";
import { createInterface } from "node:readline";

const load = createRequire(new URL("../target/yjs/node_modules/", import.meta.url));
const Y = load("yjs");
const { WebsocketProvider } = load("y-websocket");

const [server, room] = process.argv.slice(2);
const doc = new Y.Doc();
const text = doc.getText("text");
let connects = 0;
const closes = [];
const warnings = [];
console.warn = (words) => void warnings.push(words);

class Counted extends WebSocket {
  constructor(url) {
    super(url);
    this.addEventListener("open", () => void (connects += 1));
  }
}

const provider = new WebsocketProvider(server, room, doc, { WebSocketPolyfill: Counted, disableBc: true });
provider.on("connection-close", ({ code }) => void closes.push(code));

const commands = {
  read: () => ({ text: text.toString(), synced: provider.synced, connects, closes, warnings }),
  type: (string) => text.insert(text.length, string),
  show: (state) => provider.awareness.setLocalState(state),
  others: () => [...provider.awareness.getStates()].filter(([client]) => client !== doc.clientID).map(([, state]) => state),
  disconnect: () => provider.disconnect(),
  connect: () => provider.connect(),
};

createInterface({ input: process.stdin }).on("line", (line) => {
  const [name, ...given] = JSON.parse(line);
  process.stdout.write(`${JSON.stringify(commands[name](...given) ?? null)}\n`);
});
