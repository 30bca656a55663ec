// A node played by the test: each WebSocket that a client opens is in `dials`, in order, and the test speaks for the
// node at its other end.

export class FakeNet {
  dials = [];

  constructor() {
    const { dials } = this;
    this.WebSocket = class {
      sent = [];
      readyState = 0;

      constructor(url) {
        this.url = url;
        dials.push(this);
      }

      send(text) {
        this.sent.push(JSON.parse(text));
      }

      close() {
        this.readyState = 3;
      }

      // What follows is the test's.

      /// The node takes the connection and answers the first ping.
      welcome(clock = "10", key_span) {
        this.readyState = 1;
        this.onopen();
        this.say({ type: "pong", id: "welcome", clock, key_span });
        return this;
      }

      say(...messages) {
        for (const message of messages) this.onmessage({ data: JSON.stringify(message) });
      }

      drop() {
        this.readyState = 3;
        this.onclose?.({});
      }

      /// What was sent of one type, oldest first.
      of(type) {
        return this.sent.filter((message) => message.type === type);
      }

      /// Answers all pings as a node does.
      pong() {
        for (const { id } of this.of("ping").splice(0)) if (id !== "welcome") this.say({ type: "pong", id, clock: "20" });
      }
    };
  }

  get last() {
    return this.dials.at(-1);
  }
}

/// Lets all promises go on.
export const settle = () => new Promise((resolve) => setImmediate(() => setImmediate(resolve)));

export const doc = (id, value, time = 1) =>
  ({ collection: "notes", id, version: `v${JSON.stringify(value)}`, stamp: `${time}@a`, status: "final", value });

export const receipt = ({ id, commands }, time, status = "tentative", more = {}) =>
  ({ type: "receipt", id, op: `a.${time}`, stamp: `${time}@a`, status, verdict: status === "rejected" ? "rejected" : "applied", docs: commands.map(() => ({})), ...more });

export const problem = (id, slug, status) =>
  ({ type: "error", ...(id === undefined ? {} : { id }), problem: { type: `urn:lamplight:problem:${slug}`, title: slug, status, detail: `it is ${slug}` } });
