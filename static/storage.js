// Where queued writes wait: in IndexedDB, which survives a reload and is shared by the tabs of one origin, or in memory.
// Either is a list in the order of adding: `load()`, `add(entry)`, `remove(key)`, each answering a promise; an entry is
// `{ key, text }`, two strings. An application of Node may bring one of its own.

const STORE = "queue";

/// For Node, for tests, and where a browser forbids IndexedDB.
export class MemoryStorage {
  #entries = new Map();

  async load() {
    return [...this.#entries.values()];
  }

  async add(entry) {
    this.#entries.set(entry.key, entry);
  }

  async remove(key) {
    this.#entries.delete(key);
  }
}

export class IndexedDbStorage {
  #database;
  /// Tabs share it, so they must agree on who sends.
  isShared = true;

  constructor(name) {
    this.#database = new Promise((resolve, reject) => {
      const opening = indexedDB.open(`lamplight:${name}`, 1);
      opening.onupgradeneeded = () => {
        opening.result.createObjectStore(STORE, { autoIncrement: true }).createIndex("key", "key", { unique: true });
      };
      opening.onsuccess = () => resolve(opening.result);
      opening.onerror = () => reject(opening.error);
    });
    // Each use tells of it.
    this.#database.catch(() => {});
  }

  load() {
    return this.#run("readonly", (store) => store.getAll());
  }

  add(entry) {
    return this.#run("readwrite", (store) => store.add(entry));
  }

  remove(key) {
    return this.#run("readwrite", (store) => {
      const finding = store.index("key").getKey(key);
      finding.onsuccess = () => {
        if (finding.result !== undefined) store.delete(finding.result);
      };
      return finding;
    });
  }

  /// One transaction; its promise is kept once the transaction is complete, for only then is the entry safe.
  async #run(mode, use) {
    const transaction = (await this.#database).transaction(STORE, mode);
    const request = use(transaction.objectStore(STORE));
    return new Promise((resolve, reject) => {
      transaction.oncomplete = () => resolve(request.result);
      transaction.onabort = transaction.onerror = () => reject(transaction.error);
    });
  }
}
