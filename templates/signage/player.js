// A signage screen: asks for its document, keeps the last one it could verify, and shows it by the service's clock. See
// docs/signage-feed.md.
//
//     clock.js     what time it is            schedule.js  what is shown now, and what comes next (pure)
//     feed.js      the document, verified     leaves.js    a section as leaves; typeset.js makes them fit
//     pictures.js  the pictures, verified     show.js      the glass
//     proof.js     heartbeats, the log        sound.js     chime and voice
//     pair.js      a screen without a name    worker.js    the player itself without a network

import { Clock, stamp } from "./clock.js";
import { Feed } from "./feed.js";
import { openIdentity, pair } from "./pair.js";
import { Pictures } from "./pictures.js";
import { Proof } from "./proof.js";
import { fresh, instead, kindAt, next, stays } from "./schedule.js";
import { Show } from "./show.js";
import { Sound } from "./sound.js";
import { openStore } from "./store.js";

const STEP_MS = 250;
const FIRST_POLL_S = 5; // as long as there is no document
const PICTURE_PATIENCE_MS = 1_500;
const REOPEN_MS = 60_000;
const LOOK_FOR_UPDATE_MS = 15 * 60_000;
const KEEP_CLOCK_MS = 30_000;

const { mode, screen, base, words: said } = document.documentElement.dataset;
const words = JSON.parse(said);
const options = new URLSearchParams(location.search);

class Player {
  #clock;
  #store;
  #feed;
  #pictures;
  #show;
  #proof;
  #sound = options.get("sound") === "1" ? new Sound(words, mode) : null;

  #document = null; // what is shown; the feed may already have the next one
  #section = null; // on the glass
  #kind = null; // of what is on the glass; null before the first time
  #painted = null; // when the section was painted first, and of which document
  #until = 0; // monotonic, of the leaf
  #renderedAt = null;
  #etag = null; // of the document that is on the glass
  #takeover = null; // its state, for the desk
  #onlineSince = null;
  #isAsking = false;
  #asksAgain = false;
  #pollAt = 0;
  #clockKeptAt = 0;
  #isOutdated = false;

  async start() {
    this.#store = await openStore(`signage-${mode}-${screen}`);
    this.#clock = new Clock(await this.#store.get("clock"));
    this.#feed = new Feed({ address: `${base}/${screen}.json`, place: { mode, screen }, clock: this.#clock, store: this.#store });
    this.#pictures = new Pictures(`signage-pictures-${mode}-${screen}`, this.#clock);
    this.#show = new Show({ words, pictures: this.#pictures, clock: this.#clock });
    this.#proof = await this.#openProof();
    await this.#feed.recall();
    if (this.#feed.document) this.#adopt();
    this.#step();
    setInterval(() => this.#step(), STEP_MS);
    this.#listen();
    this.#keepWhole();
  }

  async #openProof() {
    const identity = await openIdentity();
    const known = await identity.get("screen");
    return new Proof({
      address: `${base}/${screen}/heartbeat`,
      token: known?.screen === screen ? known.token : null,
      store: this.#store,
      clock: this.#clock,
      status: () => this.#status(),
      forget: () => identity.forget("screen"),
    });
  }

  // What is asked

  /** One question at a time. A hint in the middle of one asks again after it. */
  async #ask() {
    this.#asksAgain = true;
    if (this.#isAsking) return;
    this.#isAsking = true;
    while (this.#asksAgain) {
      this.#asksAgain = false;
      await this.#question();
    }
    this.#isAsking = false;
  }

  async #question() {
    const isNew = await this.#feed.ask();
    this.#pollAt = performance.now() + (this.#feed.document?.poll_s ?? FIRST_POLL_S) * 1000;
    this.#onlineSince = this.#feed.trouble ? null : (this.#onlineSince ?? this.#clock.now());
    if (!this.#feed.trouble) this.#keepClock();
    if (isNew) this.#adopt();
    else if (this.#feed.document) this.#takePictures(this.#feed.document);
  }

  /** A verified document waits a moment for its pictures; an emergency waits for nothing, and overtakes what waits. */
  async #adopt() {
    const { document: adopted, etag } = this.#feed;
    const pictures = this.#takePictures(adopted);
    if (kindAt(adopted, this.#clock.now()) !== "takeover") {
      await Promise.race([pictures, new Promise((resolve) => setTimeout(resolve, PICTURE_PATIENCE_MS))]);
    }
    if (adopted === this.#feed.document) this.#switchTo(adopted, etag);
  }

  /** It takes the place of the last one, whole and at once. */
  #switchTo(adopted, etag) {
    const now = this.#clock.now();
    const news = this.#document ? fresh(adopted, this.#document, now) : null;
    this.#show.frame(adopted);
    [this.#document, this.#etag] = [adopted, etag];
    if (kindAt(adopted, now) === "takeover" && adopted.takeover.id !== this.#takeover?.id) this.#tell("prepared");
    if (news) this.#begin(news);
    else this.#advance();
    delete document.body.dataset.painted; // until this one is
    this.#note();
  }

  async #takePictures(of) {
    try {
      await this.#pictures.take(of);
    } catch (error) {
      console.warn(`no pictures: ${error.message}`); // the browser keeps nothing; texts go on
    }
  }

  /** The hint says only that something changed; asking goes on without it. */
  #listen() {
    const hints = new EventSource(`${base}/${screen}/events`);
    hints.addEventListener("changed", () => this.#ask());
    let wasOpen = false;
    hints.addEventListener("open", () => {
      if (wasOpen) this.#ask(); // whatever was said in between was not heard
      wasOpen = true;
    });
    hints.addEventListener("error", () => {
      if (hints.readyState !== EventSource.CLOSED) return; // the browser opens it again itself
      setTimeout(() => this.#listen(), REOPEN_MS * (0.5 + Math.random()));
    });
  }

  // What is shown

  #step() {
    const now = performance.now();
    if (now >= this.#pollAt || this.#clock.hasLeapt) {
      this.#pollAt = now + FIRST_POLL_S * 1000;
      this.#ask();
    }
    if (now - this.#clockKeptAt > KEEP_CLOCK_MS) this.#keepClock();
    this.#proof.tick();
    this.#show.tick();
    this.#advance();
  }

  /** One thing at most changes on the glass. */
  #advance() {
    const now = this.#clock.now();
    const shown = this.#section;
    if (shown && !stays(shown, this.#document, now)) this.#begin(instead(shown, this.#document, now));
    else if (shown && performance.now() >= this.#until) this.#turn();
    else if (!shown && kindAt(this.#document, now) !== this.#kind) this.#begin(next(this.#document, now));
    else if (!shown && this.#isOutdated) location.reload();
  }

  #turn() {
    const seconds = this.#show.turn();
    if (seconds !== null) this.#stay(seconds);
    else if (this.#isOutdated && this.#section.kind !== "takeover") location.reload();
    else this.#begin(next(this.#document, this.#clock.now(), this.#section));
  }

  #begin(section) {
    this.#noteEnd();
    this.#section = section;
    this.#painted = null;
    this.#kind = kindAt(this.#document, this.#clock.now());
    if (section === null) {
      this.#endTakeover();
      this.#show.quiet(this.#kind, this.#feed.heardAt);
      this.#stay(Infinity);
      return;
    }
    if (section.kind === "takeover") this.#sound?.announce(this.#document.takeover, section.thing);
    else this.#endTakeover();
    try {
      this.#stay(this.#show.begin(section, this.#feed.heardAt));
    } catch (error) {
      if (section.kind === "takeover") this.#tell("failed", error.message);
      this.#until = performance.now() + FIRST_POLL_S * 1000;
      console.error(error);
    }
  }

  #stay(seconds) {
    this.#until = performance.now() + seconds * 1000;
    this.#note();
  }

  /** After the browser has drawn it, it is on the glass, and not before. */
  #note() {
    const [section, etag] = [this.#section, this.#etag];
    requestAnimationFrame(() =>
      requestAnimationFrame(() => {
        if (section !== this.#section || etag !== this.#etag) return;
        this.#renderedAt = this.#clock.now();
        this.#painted ??= { from: this.#renderedAt, etag };
        document.body.dataset.painted = etag ?? "";
        if (section?.kind === "takeover" && this.#takeover?.state !== "showing") this.#tell("showing");
      }),
    );
  }

  #noteEnd() {
    if (!this.#section || this.#painted === null) return;
    const play = { item: this.#section.thing.id, ...this.#painted, until: this.#clock.now() };
    this.#proof.played(play).catch((error) => console.warn(`not noted: ${error.message}`));
  }

  // What is told

  #tell(state, why = "") {
    this.#takeover = { id: this.#document.takeover.id, state, at: stamp(this.#clock.now()), why };
    this.#proof.soon();
  }

  #endTakeover() {
    this.#sound?.stop();
    if (this.#takeover) this.#proof.soon();
    this.#takeover = null;
  }

  #status() {
    return {
      etag: this.#etag,
      online_since: this.#onlineSince === null ? null : stamp(this.#onlineSince),
      showing: {
        kind: this.#kind,
        item: this.#section?.thing.id ?? null,
        language: this.#section?.told.language ?? null,
        rendered_at: this.#renderedAt === null ? null : stamp(this.#renderedAt),
      },
      takeover: this.#takeover,
      viewport: [innerWidth, innerHeight],
    };
  }

  // The player itself

  #keepClock() {
    this.#clockKeptAt = performance.now();
    this.#store.put("clock", this.#clock.kept()).catch((error) => console.warn(`clock not kept: ${error.message}`));
  }

  /** Fonts that come and a glass that turns: whatever is shown is set anew, so that nothing is cut. */
  #keepWhole() {
    const again = () => {
      const seconds = this.#show.again(this.#feed.heardAt);
      if (seconds !== null) this.#stay(seconds);
    };
    addEventListener("resize", again);
    document.fonts.addEventListener("loadingdone", again);
    document.fonts.forEach((font) => font.load().catch((error) => console.warn(`no font: ${error.message}`)));
  }

  /** A new player is taken over between two notices, never in an emergency. */
  expectUpdates(registration) {
    const hadWorker = navigator.serviceWorker.controller !== null;
    navigator.serviceWorker.addEventListener("controllerchange", () => (this.#isOutdated = hadWorker));
    setInterval(() => registration.update().catch(() => console.info("no look for a new player")), LOOK_FOR_UPDATE_MS);
  }
}

async function keepPlayer(player) {
  if (!("serviceWorker" in navigator)) {
    console.warn("without https this screen cannot start while there is no network");
    return;
  }
  const registration = await navigator.serviceWorker.register(`${base}/worker.js`, { scope: base, updateViaCache: "none" });
  player?.expectUpdates(registration);
  await navigator.storage.persist();
}

if (options.has("size")) document.documentElement.style.setProperty("--k", Number(options.get("size")) || 1);

let player = null;
if (screen === "") {
  pair(base, new Show({ words, clock: new Clock() }), words);
} else {
  player = new Player();
  await player.start();
}
keepPlayer(player).catch((error) => console.warn(`the player is not kept: ${error.message}`));
