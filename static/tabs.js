// Which of an origin's tabs sends the queue that they share, and what they tell each other. Where there are no Web Locks
// (a page that is not on a secure origin) each tab sends: then a write may go out twice, which its key makes harmless.

export class Tabs {
  #channel = null;
  #release = () => {};
  #closing = new AbortController();
  isSender = false;

  /// Calls `onsender()` once this tab is the one that sends, which may be never, and `onmessage(message)` with what
  /// other tabs post.
  constructor(name, { onsender, onmessage }) {
    const take = () => {
      this.isSender = true;
      onsender();
    };
    if (globalThis.BroadcastChannel) {
      this.#channel = new BroadcastChannel(`lamplight:${name}`);
      this.#channel.onmessage = ({ data }) => onmessage(data);
    }
    if (!globalThis.navigator?.locks) return void queueMicrotask(take);
    const held = new Promise((resolve) => { this.#release = resolve; });
    navigator.locks.request(`lamplight:${name}`, { signal: this.#closing.signal }, () => {
      take();
      // The lock is held until then, or until the tab is gone.
      return held;
    }).catch(() => { /* Closed before its turn came. */ });
  }

  post(message) {
    this.#channel?.postMessage(message);
  }

  close() {
    this.isSender = false;
    this.#closing.abort();
    this.#release();
    this.#channel?.close();
  }
}
