// What this screen has shown, told to the service: heartbeats, and the log of plays, which waits for the network. A screen
// without a token tells nothing.

import { stamp } from "./clock.js";

const PLAYER = "1";
const A_BEAT = 200; // plays
const MOST_KEPT = 50_000; // some five days without network
const USUAL_BEAT_S = 30;
const SHORTEST_PAUSE_MS = 2_500; // the service takes one in two seconds
const PATIENCE_MS = 10_000;

export class Proof {
  #address;
  #token;
  #store;
  #clock;
  #forget;
  #status;
  #nextAt = 0; // readings of the monotonic clock
  #lastAt = -Infinity;
  #beatS = USUAL_BEAT_S;
  #isSending = false;

  /** `status` gives what a heartbeat says of the glass; `forget` is called when the token is no longer good. */
  constructor({ address, token, store, clock, status, forget }) {
    this.#address = address;
    this.#token = token;
    this.#store = store;
    this.#clock = clock;
    this.#status = status;
    this.#forget = forget;
  }

  /** One section has been on the glass from … until. */
  async played({ item, etag, from, until }) {
    if (!this.#token) return;
    const sequence = await this.#store.addPlay({ item, etag, from: stamp(from), until: stamp(until) });
    if (sequence > MOST_KEPT) await this.#store.dropPlays(sequence - MOST_KEPT);
  }

  /** Something happened that the desk waits for: the next heartbeat comes as soon as it may. */
  soon() {
    this.#nextAt = Math.min(this.#nextAt, this.#lastAt + SHORTEST_PAUSE_MS);
  }

  /** Called again and again; sends when it is time. */
  async tick() {
    if (!this.#token || this.#isSending || performance.now() < this.#nextAt) return;
    this.#isSending = true;
    this.#lastAt = performance.now();
    this.#nextAt = this.#lastAt + this.#beatS * 1000;
    try {
      await this.#send();
    } catch (error) {
      console.warn(`no heartbeat: ${error.message}`); // without network, mostly; the next one comes at its time
    } finally {
      this.#isSending = false;
    }
  }

  async #send() {
    const plays = await this.#store.firstPlays(A_BEAT);
    const answer = await fetch(this.#address, {
      method: "POST",
      headers: { authorization: `Bearer ${this.#token}`, "content-type": "application/json" },
      body: JSON.stringify({ player: PLAYER, at: stamp(this.#clock.now()), ...this.#status(), plays }),
      signal: AbortSignal.timeout(PATIENCE_MS),
    });
    if (answer.status === 401 || answer.status === 409) {
      this.#token = null;
      await this.#forget();
      return;
    }
    if (answer.status === 429 || answer.status === 503) {
      const pause = Number(answer.headers.get("retry-after")) || USUAL_BEAT_S;
      this.#nextAt = this.#lastAt + pause * 1000;
      return;
    }
    if (!answer.ok) throw new Error(`answered ${answer.status}`);
    const { taken, beat_s } = await answer.json();
    if (beat_s > 0) this.#beatS = beat_s;
    if (plays.length > 0) await this.#store.dropPlays(taken);
    if (plays.length === A_BEAT) this.soon();
  }
}
