// An editor of a text as a page has it, for tests/texts.py: static/text.js and its provider, in Node. Takes commands on stdin, one
// JSON array a line, and answers each with a line.
import { createInterface } from "node:readline";
import { Text } from "../static/text.js";
import { TextProvider } from "../static/text-provider.js";

const [node, collection, id] = process.argv.slice(2);
const text = new Text();
let state = {};
const provider = new TextProvider({ text, nodes: [node], collection, id, onState: (now) => { state = now; } });

const commands = {
  read: () => ({ text: text.toString(), ...state }),
  /// Edits at a place between 0 and 1 of the text, never within a character.
  edit: (place, gone, written) => {
    const string = text.toString();
    let at = Math.floor(place * (string.length + 1));
    if (at > 0 && at < string.length && string.codePointAt(at - 1) > 0xffff) at -= 1;
    let end = Math.min(at + gone, string.length);
    if (end > 0 && end < string.length && string.codePointAt(end - 1) > 0xffff) end += 1;
    text.replace(at, end - at, written);
    return text.length;
  },
  end: () => {
    provider.destroy();
    process.exit(0);
  },
};

createInterface({ input: process.stdin }).on("line", (line) => {
  const [name, ...given] = JSON.parse(line);
  process.stdout.write(`${JSON.stringify(commands[name](...given))}\n`);
});
