// Brings the log into the diagram's history: first the newest ops, then what comes, then what was before. Late ops have
// earlier stamps than what is here already, so "what is new" is asked an origin at a time: its own stamps always rise.
import { request } from "./connection.js";
import { entryOf } from "./diagram-model.js";
import { parseStamp } from "./words.js";

const PAGE = 1000;
/// Late ops can turn the verdicts of those behind them, which are then asked for again, at most so often.
const TURNS_EVERY_MS = 1000;

export class LogFeed {
  failure = null;
  #history;
  #heads = new Map();
  #pool = null;
  #hasOlder = false;
  #busy = false;
  #turnedFrom = null;
  #turnsAt = 0;

  /// `reset` gives an empty history: the pool or the node has become another.
  constructor(reset) {
    this.reset = reset;
  }

  /// Asks for what the pool's heads say is new. One call at a time: what comes meanwhile is seen at the next.
  async follow(pool, now) {
    if (this.#busy) return;
    this.#busy = true;
    try {
      const identity = `${pool.pool?.id} ${pool.node}`;
      if (this.#pool !== identity) await this.#begin(pool, identity);
      else await this.#forward(pool);
      await this.#turn(now);
      await this.#backward(pool);
      this.failure = null;
    } catch (problem) {
      this.failure = problem;
    }
    this.#busy = false;
  }

  /// The heads were read before the page, so that what arrives in between is asked for, at worst twice.
  async #begin(pool, identity) {
    const page = await ask(`order=desc&limit=${PAGE}`);
    this.#history = this.reset();
    this.#heads = headsOf(pool);
    this.#pool = identity;
    this.#older(page, pool);
  }

  async #forward(pool) {
    const heads = headsOf(pool);
    const grown = [...heads].filter(([origin, seq]) => seq > (this.#heads.get(origin) ?? 0));
    // Longer away than the history is long (a page that was hidden): the newest ops are nearer than the way there.
    const missed = grown.reduce((sum, [origin, seq]) => sum + seq - (this.#heads.get(origin) ?? 0), 0);
    if (missed > 5 * PAGE) return this.#begin(pool, this.#pool);
    // One that has just left the pool is listed no more, and its last ops may have come with its leaving.
    const left = [...this.#heads.keys()].filter((origin) => !heads.has(origin));
    await Promise.all([...grown.map(([origin]) => origin), ...left].map((origin) => this.#catchUp(origin)));
    this.#heads = heads;
  }

  async #catchUp(origin) {
    // Of an origin without an op here, only what falls into the time that is kept.
    let since = this.#history.chain(origin).at(-1)?.stamp ?? `${this.#history.ops[0]?.time ?? 0}@${origin}`;
    while (since !== null) {
      const page = await ask(`origin=${origin}&since=${since}&limit=${PAGE}`);
      this.#noteTurn(this.#history.take(page.ops));
      since = page.next;
    }
  }

  #noteTurn(late) {
    if (late && this.#history.canTurnAfter(late) && !(this.#turnedFrom?.time <= late.time)) this.#turnedFrom = late;
  }

  /// The verdicts behind the earliest late op, asked for again.
  async #turn(now) {
    if (!this.#turnedFrom || now - this.#turnsAt < TURNS_EVERY_MS) return;
    this.#turnsAt = now;
    let since = this.#turnedFrom.stamp;
    this.#turnedFrom = null;
    while (since !== null) {
      const page = await ask(`since=${since}&limit=${PAGE}`);
      // New ones among these wait for their origin's turn: one taken before its predecessor would hide that for ever.
      this.#history.renew(page.ops);
      since = page.next;
    }
  }

  /// One more page of what was before, until the history is full or the log's beginning is reached.
  async #backward(pool) {
    const oldest = this.#history.ops[0];
    if (this.#hasOlder && !this.#history.isFull) this.#older(await ask(`order=desc&limit=${PAGE}&since=${oldest.stamp}`), pool);
  }

  #older(page, pool) {
    this.#hasOlder = page.next !== null;
    // What the node has forgotten is not here either.
    this.#history.isBounded = this.#hasOlder || Number(pool.horizon ?? 0) > 0;
    this.#history.take(page.ops);
  }
}

const headsOf = (pool) => new Map(pool.members.map(({ id, head }) => [id, Number(head?.seq ?? 0)]));

async function ask(query) {
  const { content } = await request(`/v1/log?${query}`);
  return { ops: content.ops.map(entryOf), next: content.next };
}
