// Uses the client as a typed program does; checked by tsc, never run. Lines below @ts-expect-error must be refused.
import { connect, Doc, LamplightError, MemoryStorage, Pool, Receipt } from "../../static/lamplight.js";

interface Note {
  text: string;
  cups: number;
  tags?: string[];
}

const pool: Pool = connect(["http://127.0.0.1:7171"], {
  storage: new MemoryStorage(),
  WebSocket,
  token: () => "a token",
  onrefused: (reason) => reason.trim(),
  fetch,
  queueMax: 100,
  onstate: (state) => console.log(state === "online"),
  onrejected: (error, { commands }) => console.log(error.slug, commands.length),
});
connect();
connect("http://127.0.0.1:7171").close();

const notes = pool.collection<Note>("notes");

export async function write(): Promise<Receipt> {
  const write = notes.put("tea", { text: "Assam", cups: 1 }, { ifAbsent: true, wait: 2 });
  const receipt = await write;
  const final: Receipt = await receipt.final;
  if (final.status === "rejected") console.log(final.reason);
  await notes.merge("tea", { cups: 2, tags: null });
  await notes.patch("tea", [{ op: "increment", path: "/cups", by: 1 }, { op: "remove", path: "/tags" }]);
  const id: string = notes.add({ text: "Oil", cups: 0 }).id;
  await notes.delete(id, { ifVersion: "0" });
  await pool.tx([{ put: { collection: "a", id: "b", value: 1 } }, { delete: { collection: "a", id: "c" } }], {
    guards: [{ exists: { collection: "a", id: "c" } }],
    wait: "final",
  });
  return write.final;
}

export async function read(): Promise<number> {
  const doc: Doc<Note> | null = await notes.get("tea");
  const live = notes.watch({ filter: { cups: { $gte: 1 } }, sort: (a, b) => a.value.cups - b.value.cups }, (docs, meta) => {
    for (const change of meta.changes) {
      if (change.type !== "removed") console.log(change.doc.value.text, docs[0]?.pending);
    }
  });
  await live.ready;
  for await (const docs of notes.watch()) if (docs.length > 3) break;
  notes.watch((docs) => docs.map(({ value }) => value.cups));
  return doc?.value.cups ?? live.docs.length;
}

export function meet(): void {
  const room = pool.room<{ name: string }>("kitchen").join({ name: "Ada" });
  room.onchange = (peers) => console.log(peers.map(({ state }) => state.name));
  room.set(null).set({ name: "Ben" });
  room.leave();
}

export async function edit(area: HTMLTextAreaElement): Promise<number> {
  const text = await pool.text("pads", "plan");
  text.onstate = ({ link, unsaved }) => console.log(link, unsaved);
  (await text.bind(area, { name: "Ada" })).undo();
  text.close();
  return text.state.unsaved;
}

export function refuse(error: unknown): void {
  if (error instanceof LamplightError && error.status === 409) console.log(error.problem.detail, error.uncertain);
  // @ts-expect-error A note has cups.
  notes.put("tea", { text: "Assam" });
  // @ts-expect-error There is no such step.
  notes.patch("tea", [{ op: "set", path: "/cups", value: 1 }]);
  // @ts-expect-error A pool comes from connect.
  new Pool();
  // @ts-expect-error A document is not changed in place.
  notes.watch((docs) => { docs[0]!.value = { text: "", cups: 0 }; });
  // @ts-expect-error No such state.
  if (pool.state === "gone") pool.reconnect();
}
