// The time of the service, on a machine whose own clock may be wrong by a day.
//
// Time goes on by the monotonic clock, which nobody can set; the `Date` of every answer that was understood puts it
// right. What is kept over a restart is the difference to the machine's clock, and an instant before which it cannot be.

const LEAP_MS = 5_000;
const COARSE_MS = 1_500; // `Date` has whole seconds: smaller differences would only make the clock tremble

export class Clock {
  #at; // the time …
  #since; // … at this reading of the monotonic clock
  #offset; // from the machine's clock

  constructor(kept = null) {
    this.#set(Math.max(Date.now() + (kept?.offset ?? 0), kept?.seen ?? 0));
  }

  /** Milliseconds since 1970, by the service's clock. */
  now() {
    return this.#at + performance.now() - this.#since;
  }

  /** What the service said the time is (a `Date` header), in an answer to what was asked at this reading. */
  heard(date, askedAt) {
    const said = Date.parse(date);
    if (Number.isNaN(said)) return;
    const at = said + 500 + (performance.now() - askedAt) / 2;
    if (Math.abs(at - this.now()) > COARSE_MS) this.#set(at);
    else this.#offset = this.now() - Date.now();
  }

  /** Whether the machine's clock was set, or the machine slept: only the service knows which. */
  get hasLeapt() {
    return Math.abs(this.#drift) > LEAP_MS;
  }

  /** Nobody can be asked. Having slept is believed, so that nothing stays past its end; going back is not. */
  settle() {
    if (this.#drift > LEAP_MS) this.#set(this.now() + this.#drift);
    else this.#offset = this.now() - Date.now();
  }

  /** To be kept for the next start. */
  kept() {
    return { offset: this.#offset, seen: this.now() };
  }

  get #drift() {
    return Date.now() + this.#offset - this.now();
  }

  #set(at) {
    this.#at = at;
    this.#since = performance.now();
    this.#offset = at - Date.now();
  }
}

const ZONE = "Asia/Tokyo";
const HOURS = new Intl.DateTimeFormat("ja-JP", { timeZone: ZONE, hour: "2-digit", minute: "2-digit", hourCycle: "h23" });
const DAYS = new Intl.DateTimeFormat("ja-JP", { timeZone: ZONE, month: "long", day: "numeric", weekday: "short" });
const HOUR = new Intl.DateTimeFormat("en", { timeZone: ZONE, hour: "numeric", hourCycle: "h23" });

/** 03:12 */
export const hourAndMinute = (at) => HOURS.format(at);

/** 12月1日（火） */
export const day = (at) => DAYS.format(at).replace("(", "（").replace(")", "）");

/** 0–23 */
export const hour = (at) => Number(HOUR.format(at));

/** RFC 3339, for the service. */
export const stamp = (at) => new Date(at).toISOString();
