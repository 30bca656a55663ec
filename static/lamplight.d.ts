// The types of lamplight.js; docs/client.md shows its use.

/** What JSON can say. */
export type Json = null | boolean | number | string | Json[] | { [key: string]: Json };

/** Connects to a pool through any of its nodes, given by their URLs; in a browser, by default to the page's own. */
export function connect(urls?: string | readonly string[], options?: Options): Pool;

export interface Options {
  /** The WebSocket class to use, where there is no global one: `ws` in Node 20, or its flag `--experimental-websocket`. */
  WebSocket?: WebSocketClass;
  /** Used to read one document, and to ask another node for what was seen on the one before. */
  fetch?: (url: string, init?: any) => Promise<any>;
  /** Where the queue waits; IndexedDB in a browser, else memory. */
  storage?: QueueStorage;
  /** Names the queue: two pools used from one origin need two names. "lamplight" if left out. */
  name?: string;
  /** Most writes that wait for a node; 10,000 if left out. */
  queueMax?: number;
  /** Reads a node's JSON; for integers past 2^53, which JSON.parse rounds. */
  parse?: (text: string) => any;
  /** Shown to nodes that ask for one (docs/security.md). A function is asked at each opening and request, for a token that changes. */
  token?: string | (() => string | null | undefined);
  onstate?: (state: State) => void;
  /** As `onrefused` of the pool. */
  onrefused?: (reason: string) => void;
  onrejected?: (error: LamplightError, write: QueuedWrite) => void;
}

/** What is used of a WebSocket. */
export type WebSocketClass = new (url: string, protocols?: string[]) => {
  readonly readyState: number;
  onopen: ((event: any) => void) | null;
  onmessage: ((event: any) => void) | null;
  onclose: ((event: any) => void) | null;
  onerror: ((event: any) => void) | null;
  send(text: string): void;
  close(): void;
};

/** Keeps queued writes, in the order of adding. */
export interface QueueStorage {
  load(): Promise<QueueEntry[]>;
  add(entry: QueueEntry): Promise<unknown>;
  remove(key: string): Promise<unknown>;
  /** Whether other tabs use it too, so that they must agree on who sends. */
  readonly isShared?: boolean;
}

export interface QueueEntry {
  key: string;
  text: string;
}

export class MemoryStorage implements QueueStorage {
  load(): Promise<QueueEntry[]>;
  add(entry: QueueEntry): Promise<void>;
  remove(key: string): Promise<void>;
}

export type State = "connecting" | "online" | "offline" | "closed";

export class Pool {
  private constructor();
  readonly state: State;
  /** The node that is dialled or connected. */
  readonly url: string;
  /** How many writes no node has accepted yet. */
  readonly queued: number;
  onstate: ((state: State) => void) | null;
  /** Called when a node does not take the token, or asks for one; it is dialled again all the same. */
  onrefused: ((reason: string) => void) | null;
  /** Called when a write was refused, at once or at its final place; also for writes of earlier pages. */
  onrejected: ((error: LamplightError, write: QueuedWrite) => void) | null;
  /** The documents of a collection; `T` is what you know of their values. */
  collection<T = any>(name: string): Collection<T>;
  /** One operation over many documents, wholly or not at all. */
  tx(commands: Command[], options?: { guards?: Guard[]; wait?: Wait }): Write;
  /** A room of those who are here. */
  room<S = any>(name: string): { join(state?: S | null): Room<S> };
  /** The text document `collection/id`, which several edit at once. */
  text(collection: string, id: string): Promise<SharedText>;
  /** Kept once no write waits for a node. */
  settled(): Promise<void>;
  /** Dials now, without waiting for the next try. */
  reconnect(): void;
  /** Leaves this node for the next. */
  leave(): void;
  /** Ends the connection, the live queries and the rooms. Queued writes stay in the browser's storage. */
  close(): void;
}

export class Collection<T = any> {
  private constructor();
  readonly name: string;
  /** Creates or replaces a document. */
  put(id: string, value: T, options?: WriteOptions): Write;
  /** Creates a document under a new id, which the promise has as `id`. */
  add(value: T, options?: WriteOptions): Write & { readonly id: string };
  /** Changes members of a document (RFC 7396), and creates one that is absent; null removes a member. One that was seen must still be there, unless guards say otherwise. */
  merge(id: string, change: MergePatch<T>, options?: WriteOptions): Write;
  /** Changes places of a document (RFC 6902, and `increment`). */
  patch(id: string, steps: PatchStep[], options?: WriteOptions): Write;
  delete(id: string, options?: WriteOptions): Write;
  /** The document with the queued writes on it, or null. */
  get(id: string): Promise<Doc<T> | null>;
  /** Live documents; without `tell` they are read by `for await`, or as `docs`. */
  watch(tell: Tell<T>): LiveQuery<T>;
  watch(options?: WatchOptions<T>, tell?: Tell<T> | null): LiveQuery<T>;
}

export type MergePatch<T> = T extends readonly any[] ? T : T extends object ? { [K in keyof T]?: MergePatch<T[K]> | null } : T;

export interface Doc<T = any> {
  readonly collection: string;
  readonly id: string;
  readonly value: T;
  /** Null, as stamp and status, of a document that no node has yet. */
  readonly version: string | null;
  readonly stamp: string | null;
  readonly status: "tentative" | "final" | null;
  /** Whether a queued write shows in it, or is still to be judged by a node. */
  readonly pending: boolean;
}

export interface WatchOptions<T = any> {
  /** A JSON selector, as in `GET /v1/docs/{collection}?filter=`. */
  filter?: Filter;
  /** The order of the documents; by id if left out. */
  sort?: (left: Doc<T>, right: Doc<T>) => number;
}

/** A field may go into objects and arrays ("a.b", "rows.0.k"); a condition is a value, or operators: `$gt $gte $lt $lte $ne $in $exists $contains $not`. */
export type Filter = { [field: string]: Json };

export type Tell<T> = (docs: readonly Doc<T>[], meta: Meta<T>) => void;

export interface Meta<T = any> {
  /** What differs from the call before. */
  readonly changes: readonly Change<T>[];
  /** Whether a node has given all documents, now or before. */
  readonly ready: boolean;
  readonly online: boolean;
  /** What the node refuses the query for, such as a filter that it cannot read. */
  readonly error: LamplightError | null;
}

export type Change<T = any> =
  | { type: "added"; id: string; doc: Doc<T>; before: undefined }
  | { type: "changed"; id: string; doc: Doc<T>; before: Doc<T> }
  | { type: "removed"; id: string; before: Doc<T> };

export interface LiveQuery<T = any> extends AsyncIterable<readonly Doc<T>[]> {
  readonly docs: readonly Doc<T>[];
  readonly ready: Promise<readonly Doc<T>[]>;
  readonly error: LamplightError | null;
  get(id: string): Doc<T> | undefined;
  close(): void;
}

/** "final": once the verdict is final. A number: once so many members hold it. */
export type Wait = "final" | number;

export interface WriteOptions {
  ifAbsent?: boolean;
  ifExists?: boolean;
  ifVersion?: string;
  wait?: Wait;
}

/** The promise of the receipt of a node that has accepted the write; it rejects where the write can never succeed. */
export interface Write extends Promise<Receipt> {
  /** The idempotency key. */
  readonly key: string;
  /** The final receipt, whose status may be "rejected". */
  readonly final: Promise<Receipt>;
}

export interface Receipt {
  readonly op: string;
  readonly stamp: string;
  readonly status: "tentative" | "final" | "rejected";
  readonly verdict: "applied" | "rejected";
  readonly docs: readonly { collection: string; id: string; version?: string; deleted?: true }[];
  readonly reason?: string;
  readonly held_by?: number;
  readonly final: Promise<Receipt>;
}

export interface QueuedWrite {
  readonly key: string;
  readonly guards: readonly Guard[];
  readonly commands: readonly Command[];
}

export interface Target {
  collection: string;
  id: string;
}

export type Guard = { exists: Target } | { absent: Target } | { version: Target & { version: string } };

export type Command =
  | { put: Target & { value: any } }
  | { merge: Target & { value: any } }
  | { patch: Target & { patch: PatchStep[] } }
  | { delete: Target };

export type PatchStep =
  | { op: "add" | "replace" | "test"; path: string; value: any }
  | { op: "remove"; path: string }
  | { op: "move" | "copy"; from: string; path: string }
  | { op: "increment"; path: string; by: number };

export interface Room<S = any> {
  readonly name: string;
  /** The name that the node gave to this connection; null while there is none. */
  readonly me: string | null;
  readonly peers: readonly Peer<S>[];
  readonly error: LamplightError | null;
  onchange: ((peers: readonly Peer<S>[]) => void) | null;
  /** Says this of myself, at most 4 KiB; null to watch without being seen. */
  set(state: S | null): this;
  leave(): void;
}

export interface Peer<S = any> {
  readonly peer: string;
  readonly node: string;
  readonly state: S;
}

export interface SharedText {
  /** The text itself, of text.js. */
  readonly text: any;
  /** Who is here, and where their carets are. */
  readonly presence: any;
  readonly state: TextState;
  onstate: ((state: TextState) => void) | null;
  /** Binds a textarea, with the others' carets and an undo of its own. */
  bind(area: HTMLTextAreaElement, user: { name: string; color?: string; colorLight?: string }): Promise<TextBinding>;
  close(): void;
}

export interface TextState {
  readonly link: "connecting" | "connected" | "offline" | "refused";
  /** Edits that no node is known to hold; they live in this page only. */
  readonly unsaved: number;
  readonly reason: unknown;
  /** The close code of a refusal: docs/websocket.md. */
  readonly code: number | null;
  readonly node: unknown;
}

export interface TextBinding {
  undo(): void;
  redo(): void;
  destroy(): void;
}

export class LamplightError extends Error {
  private constructor();
  /** What programs compare: a slug of docs/API.md, or queue-full, too-large, storage, offline, closed, verdict-unknown. */
  readonly slug: string;
  /** The HTTP status, or 0 if no node was asked. */
  readonly status: number;
  /** The node's problem (RFC 9457). */
  readonly problem: { type?: string; title?: string; status?: number; detail?: string; [member: string]: any };
  /** Whether another node, that never answered, may have taken the write. */
  readonly uncertain: boolean;
}
