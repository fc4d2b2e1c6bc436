// What a screen remembers over a restart: its document, its clock, what it has shown. IndexedDB, as promises.

const KEPT = "kept"; // by name
const PLAYS = "plays"; // by a number that only goes up, also when rows were taken away

class Store {
  #database;

  static async open(name) {
    const store = new Store();
    const request = indexedDB.open(name, 1);
    request.onupgradeneeded = () => {
      request.result.createObjectStore(KEPT);
      request.result.createObjectStore(PLAYS, { autoIncrement: true });
    };
    store.#database = await done(request);
    return store;
  }

  get(name) {
    return done(this.#table(KEPT, "readonly").get(name));
  }

  /** Written through to the disk: the power of a screen is cut every evening. */
  put(name, value) {
    return done(this.#table(KEPT, "readwrite", { durability: "strict" }).put(value, name));
  }

  forget(name) {
    return done(this.#table(KEPT, "readwrite").delete(name));
  }

  addPlay(play) {
    return done(this.#table(PLAYS, "readwrite").add(play));
  }

  /** The oldest, each with its `sequence`. */
  async firstPlays(most) {
    const table = this.#table(PLAYS, "readonly");
    const [keys, plays] = await Promise.all([done(table.getAllKeys(null, most)), done(table.getAll(null, most))]);
    return plays.map((play, place) => ({ sequence: keys[place], ...play }));
  }

  /** Takes away those up to and with this one. */
  dropPlays(last) {
    return done(this.#table(PLAYS, "readwrite").delete(IDBKeyRange.upperBound(last)));
  }

  #table(name, mode, options = {}) {
    return this.#database.transaction(name, mode, options).objectStore(name);
  }
}

/** The same for a browser that cannot keep anything: an alert is shown all the same, but not after a restart. */
class Forgetful {
  #kept = new Map();
  #plays = [];
  #sequence = 0;

  get = async (name) => this.#kept.get(name);
  put = async (name, value) => void this.#kept.set(name, value);
  forget = async (name) => void this.#kept.delete(name);
  addPlay = async (play) => void this.#plays.push({ sequence: (this.#sequence += 1), ...play });
  firstPlays = async (most) => this.#plays.slice(0, most);
  dropPlays = async (last) => void (this.#plays = this.#plays.filter((play) => play.sequence > last));
}

export async function openStore(name) {
  try {
    return await Store.open(name);
  } catch (error) {
    console.warn(`nothing can be kept on this screen: ${error.message}`);
    return new Forgetful();
  }
}

function done(request) {
  return new Promise((resolve, reject) => {
    request.onsuccess = () => resolve(request.result);
    request.onerror = () => reject(request.error);
  });
}
