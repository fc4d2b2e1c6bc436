// Asks for the screen's document, and lets through only one that this player can show whole.
//
// What is refused changes nothing: the last verified document stays, until each thing on it ends by itself.

const VERSION = 1;
const PATIENCE_MS = 10_000;
const LARGEST = 4 * 1024 * 1024; // letters; a document of a hundred notices has a hundredth of it

/** A document that is not shown. Says why. */
export class Refused extends Error {}

export class Feed {
  document = null;
  etag = null;
  heardAt = null; // when the service last answered, by the service's clock
  trouble = ""; // why the last question brought nothing

  #address;
  #place;
  #clock;
  #store;

  /** `place`: the mode and the screen that the document has to be for. */
  constructor({ address, place, clock, store }) {
    this.#address = address;
    this.#place = place;
    this.#clock = clock;
    this.#store = store;
  }

  /** The last verified document, from before the restart. It is verified again: an older player may have kept it. */
  async recall() {
    const kept = await this.#store.get("document");
    if (!kept) return;
    try {
      this.document = verified(kept.text, this.#place);
      this.etag = kept.etag;
      this.heardAt = kept.heardAt;
    } catch (error) {
      this.trouble = error.message;
    }
  }

  /** One question. Gives whether there is another document now; without an answer, and with a bad one, there is not. */
  async ask() {
    const askedAt = performance.now();
    try {
      const answer = await fetch(this.#address, {
        cache: "no-store",
        headers: this.etag ? { "if-none-match": this.etag } : {},
        signal: AbortSignal.timeout(PATIENCE_MS),
      });
      const text = answer.status === 304 ? null : await textOf(answer);
      const document = text === null ? this.document : verified(text, this.#place);
      this.#clock.heard(answer.headers.get("date"), askedAt);
      this.heardAt = this.#clock.now();
      this.trouble = "";
      if (text === null) return false;
      this.document = document;
      this.etag = answer.headers.get("etag");
      await this.#keep(text);
      return true;
    } catch (error) {
      this.trouble = error.message;
      this.#clock.settle();
      return false;
    }
  }

  /** For the next start. A full disk must not keep an alert from the glass. */
  async #keep(text) {
    try {
      await this.#store.put("document", { text, etag: this.etag, heardAt: this.heardAt });
    } catch (error) {
      console.warn(`the document cannot be kept: ${error.message}`);
    }
  }
}

async function textOf(answer) {
  if (answer.status !== 200) throw new Refused(`answered ${answer.status}`);
  if (Number(answer.headers.get("content-length")) > LARGEST) throw new Refused("larger than a document may be");
  const text = await answer.text();
  if (text.length > LARGEST) throw new Refused("larger than a document may be");
  return text;
}

/** The document in this text. Raises Refused unless it is one of this version, of this mode and for this screen. */
export function verified(text, { mode, screen }) {
  let document;
  try {
    document = JSON.parse(text);
  } catch {
    throw new Refused("not JSON");
  }
  must(isObject(document), "not a document");
  must(document.version === VERSION, `version ${document.version}`);
  must(document.mode === mode, `a document of the mode ${document.mode}`);
  must(document.screen?.id === screen, `a document of the screen ${document.screen?.id}`);
  must(Number.isFinite(document.poll_s) && document.poll_s > 0, "poll_s");
  must(isFramed(document, mode), "a drill without its words, or a live document with them");
  must(Array.isArray(document.items), "items");
  document.items.forEach(checkItem);
  if (document.takeover !== null) checkTakeover(document.takeover, mode);
  return document;
}

function isFramed({ drill }, mode) {
  if (mode !== "drill") return drill === null;
  return isObject(drill) && ["band", "band_other", "foot"].every((name) => isText(drill[name]) && drill[name] !== "");
}

function checkItem(item) {
  must(isText(item?.id), "an item without an id");
  must(isInstant(item.start) && isInstant(item.end), `the times of ${item.id}`);
  must(isList(item.languages, isToldItem), `the languages of ${item.id}`);
  must(item.image === null || isPicture(item.image), `the picture of ${item.id}`);
  must(item.link === null || /^https?:\/\//.test(item.link), `the link of ${item.id}`);
  must(item.section === null || (isText(item.section?.name) && isText(item.section.phone)), `who answers for ${item.id}`);
}

const isToldItem = (told) =>
  isTold(told) && isText(told.headline) && Array.isArray(told.pages) && told.pages.every((page) => isList(page?.phrases, isText) && page.seconds > 0);

const isPicture = (image) => isText(image.url) && isText(image.alt) && /^[0-9a-f]{64}$/.test(image.digest);

function checkTakeover(takeover, mode) {
  must(isObject(takeover) && isText(takeover.id) && isInstant(takeover.expires), "the takeover");
  must(isFramed(takeover, mode), "a takeover of the other mode");
  must(isList(takeover.alerts, isObject), "a takeover without alerts");
  for (const alert of takeover.alerts) {
    must(isText(alert.id), "an alert without an id");
    must(isInstant(alert.start) && isInstant(alert.expires), `the times of ${alert.id}`);
    must(isText(alert.issued) && alert.issued !== "", `the time of issue of ${alert.id}`);
    must(isColour(alert.colour?.hex) && isColour(alert.colour.text), `the colour of ${alert.id}`);
    must(alert.seconds > 0, `the seconds of ${alert.id}`);
    must(isList(alert.languages, (told) => isTold(told) && isList(told.lines, isText)), `the languages of ${alert.id}`);
  }
}

const isObject = (value) => typeof value === "object" && value !== null && !Array.isArray(value);
const isText = (value) => typeof value === "string";
const isInstant = (value) => isText(value) && !Number.isNaN(Date.parse(value));
const isColour = (value) => /^#[0-9A-Fa-f]{6}$/.test(value);
const isList = (value, isRight) => Array.isArray(value) && value.length > 0 && value.every(isRight);
const isTold = (told) => isText(told?.lang) && isText(told.language);

function must(isRight, what) {
  if (!isRight) throw new Refused(what);
}
