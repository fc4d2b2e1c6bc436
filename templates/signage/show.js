// The glass: the frame that stays, and the leaf that changes.
//
// Leaves cross-fade, or are cut where somebody is sensitive to motion; an emergency always appears by one cut. Nothing
// flashes. All of it moves by a few pixels with each leaf, so that nothing burns in.

import { day, hour, hourAndMinute } from "./clock.js";
import { leavesOf, wordsIn } from "./leaves.js";
import { fill, phrasesOf } from "./typeset.js";

const STALE_MS = 15 * 60_000;
const SHIFTS = [[0, 0], [4, 0], [4, 4], [0, 4], [-4, 4], [-4, 0], [-4, -4], [0, -4], [4, -4]];
const WIDEST_MARK = "88／88";

const part = (id) => document.getElementById(id);
const made = (name) => part(name).content.firstElementChild.cloneNode(true);

export class Show {
  #words;
  #pictures;
  #clock;
  #leaf = null;
  #leaves = [];
  #place = 0;
  #section = null;
  #shift = 0;

  constructor({ words, pictures = null, clock }) {
    this.#words = words;
    this.#pictures = pictures;
    this.#clock = clock;
  }

  /** What surrounds everything: the place, and in a drill its bands, at every moment. */
  frame({ screen, drill }) {
    part("place").textContent = [screen.site, screen.place].filter(Boolean).join("　");
    document.querySelectorAll(".band").forEach((band) => (band.hidden = drill === null));
    part("drill-foot").hidden = drill === null;
    if (drill === null) return;
    document.querySelectorAll(".drill-band").forEach((band) => (band.textContent = drill.band));
    document.querySelectorAll(".drill-band-other").forEach((band) => (band.textContent = drill.band_other));
    fill(part("drill-foot"), phrasesOf(drill.foot));
  }

  /** A section from its first leaf on. Gives the seconds of that leaf. */
  begin(section, heardAt) {
    this.#section = section;
    this.#view(section.kind);
    this.#foot(section, heardAt);
    this.#leaves = leavesOf(section, part("leaves"), { words: this.#words, pictures: this.#pictures });
    this.#place = -1;
    return this.turn();
  }

  /** The next leaf. Gives its seconds; null after the last one. */
  turn() {
    const leaf = this.#leaves[this.#place + 1];
    if (!leaf) return null;
    this.#place += 1;
    this.#mark();
    this.#put(leaf.node, { isCut: this.#section.kind === "takeover" });
    return leaf.seconds;
  }

  /** Nothing is told: the ward, the time, and whom to call. */
  quiet(kind, heardAt) {
    this.#section = null;
    this.#view(kind);
    part("told-by").textContent = "";
    part("mark").textContent = "";
    this.#updated(heardAt);
    const node = made("quiet");
    node.querySelector(".ward").textContent = this.#words.ward;
    this.#put(node, { isCut: true });
    fill(node.querySelector(".call"), this.#words.ja.nothing.split(/(?<= )/));
    this.tick();
  }

  /** A code to be typed at the desk, or a sentence in its place. */
  code(number, sentence) {
    this.#view("code");
    const node = made("code");
    node.querySelector(".ward").textContent = this.#words.ward;
    node.querySelector(".number").textContent = number;
    node.querySelector(".what").textContent = sentence;
    this.#put(node, { isCut: true });
  }

  /** The clocks on the glass. */
  tick() {
    const now = this.#clock.now();
    const time = hourAndMinute(now);
    part("time").textContent = time;
    document.body.classList.toggle("odd-hour", hour(now) % 2 === 1);
    const quiet = this.#leaf?.classList.contains("quiet") ? this.#leaf : null;
    if (!quiet) return;
    quiet.querySelector(".now").textContent = time;
    quiet.querySelector(".day").textContent = day(now);
  }

  /** Sets the same section anew: the fonts have come, or the glass has another size. */
  again(heardAt) {
    return this.#section ? this.begin(this.#section, heardAt) : null;
  }

  #view(kind) {
    document.body.dataset.view = kind;
  }

  #foot({ kind, thing, told }, heardAt) {
    const by = kind === "takeover" ? thing.issued : [thing.section?.name, thing.section?.phone].filter(Boolean).join("　");
    part("told-by").textContent = by;
    part("mark").textContent = `${WIDEST_MARK}　${this.#words.names[told.language] ?? told.lang}`;
    this.#updated(heardAt);
  }

  /** Which leaf of how many, of alerts which alert of how many, and the language in its own name. */
  #mark() {
    const { kind, told, number, of } = this.#section;
    const counts = kind === "takeover" && of > 1 ? [number, of] : [this.#place + 1, this.#leaves.length];
    const text = wordsIn(this.#words, told.language).page.replace("{n}", counts[0]).replace("{of}", counts[1]);
    const name = this.#words.names[told.language] ?? told.lang;
    part("mark").textContent = counts[1] > 1 ? `${text}　${name}` : name;
    part("mark").lang = told.lang;
  }

  /** Only where it is old: who looks at a screen wants to know that, and nothing else of its network. */
  #updated(heardAt) {
    const isOld = heardAt !== null && this.#clock.now() - heardAt > STALE_MS;
    part("updated").textContent = isOld ? this.#words.ja.updated.replace("{time}", hourAndMinute(heardAt)) : "";
  }

  #put(node, { isCut }) {
    const old = this.#leaf;
    node.classList.remove("measured");
    node.classList.toggle("cut", isCut);
    if (isCut) part("leaves").replaceChildren(); // also what was still fading
    part("leaves").append(node);
    this.#leaf = node;
    this.#move();
    if (old && !isCut) this.#fade(old);
  }

  #fade(old) {
    old.classList.add("leaving");
    old.addEventListener("animationend", () => old.remove(), { once: true });
    // Where motion is unwanted there is no animation, and so no end of one.
    if (getComputedStyle(old).animationName === "none") old.remove();
  }

  #move() {
    this.#shift = (this.#shift + 1) % SHIFTS.length;
    const [right, down] = SHIFTS[this.#shift];
    part("stage").style.setProperty("--right", right);
    part("stage").style.setProperty("--down", down);
  }
}
