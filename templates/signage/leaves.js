// A section as leaves: what stands on the glass one after another, each a node that fits and its seconds.
//
// Text is set with textContent and nothing else.

import { qrOf } from "./qr.js";
import { fill, halves, paginate, phrasesOf, readingTime, textOf } from "./typeset.js";

const PICTURE_S = 10;
const SHORTEST_S = 8;
const LONGEST_S = 20;
const NAMES = ["first", "second", "in the body"]; // how an alert's name is set, the best way first

/** `stage`: the element in which leaves stand, already as large as it will be. `told`: words and pictures. */
export function leavesOf(section, stage, told) {
  const leaves = section.kind === "takeover" ? alertLeaves(section, stage) : noticeLeaves(section, stage, told);
  stage.querySelectorAll(".measured").forEach((node) => node.remove());
  return leaves;
}

/** A leaf made of its template, in the stage but not seen: so it has its size. */
function put(stage, name, lang) {
  const node = document.getElementById(name).content.firstElementChild.cloneNode(true);
  node.lang = lang;
  node.classList.add("measured");
  stage.append(node);
  return node;
}

// Notices

function noticeLeaves(section, stage, { words, pictures }) {
  const { thing, told } = section;
  const made = (look) => noticeLeaf(thing, told, stage, words, look);
  const isHeaded = hasRoom(made({ phrases: [], isHeaded: true }).querySelector(".body"));
  const leaves = told.pages.flatMap((page) => textLeaves(page, (phrases) => made({ phrases, isHeaded })));
  if (leaves.length === 0 || !isHeaded) leaves.unshift(...headlineLeaves(told, made));
  const picture = section.isFirst ? pictures.of(thing.image) : null;
  return picture ? [...leaves, pictureLeaf(picture, thing.image, stage, told.lang)] : leaves;
}

function textLeaves({ phrases, seconds }, made) {
  const body = made([]).querySelector(".body");
  const pages = paginate(phrases, (some) => fill(body, some), body, halves);
  const whole = phrases.join("").length;
  return pages.map((page) => {
    const share = Math.ceil((seconds * page.join("").length) / whole);
    return { node: made(page), seconds: pages.length > 1 ? Math.max(SHORTEST_S, share) : seconds };
  });
}

/** A headline without text, or one that would leave the text no room: it stands by itself. */
function headlineLeaves(told, made) {
  const look = { isHeaded: false, isHeadline: true };
  const body = made({ phrases: [], ...look }).querySelector(".body");
  const pages = paginate(phrasesOf(told.headline), (some) => fill(body, some), body, halves);
  return pages.map((phrases) => ({ node: made({ phrases, ...look }), seconds: SHORTEST_S }));
}

function noticeLeaf(thing, told, stage, words, { phrases, isHeaded, isHeadline = false }) {
  const node = put(stage, "notice", told.lang);
  const more = node.querySelector(".more");
  if (thing.link) {
    more.hidden = false;
    more.lang = wordsIn(words, told.language) === words.ja ? "ja" : "en";
    more.querySelector(".qr").append(qrOf(thing.link));
    more.querySelector(".caption").textContent = wordsIn(words, told.language).more;
  }
  const headline = node.querySelector(".headline");
  headline.hidden = !isHeaded;
  fill(headline, phrasesOf(told.headline));
  const body = node.querySelector(".body");
  body.classList.toggle("as-headline", isHeadline);
  fill(body, phrases);
  return node;
}

/** Two lines at least: with one a page would be a flicker. */
function hasRoom(body) {
  return body.clientHeight >= 2 * parseFloat(getComputedStyle(body).lineHeight);
}

function pictureLeaf(address, image, stage, lang) {
  const node = put(stage, "picture", lang);
  const picture = node.querySelector("img");
  picture.src = address;
  picture.alt = image.alt;
  return { node, seconds: PICTURE_S };
}

// Alerts

function alertLeaves(section, stage) {
  const { thing, told } = section;
  const bodyBelow = (name) => alertLeaf([], section, stage, name).querySelector(".body");
  const name = NAMES.find((each) => hasRoom(bodyBelow(each))) ?? NAMES.at(-1);
  const body = bodyBelow(name);
  const pages = paginate(partsOf(section, name), (some) => fillLines(body, some), body, (part) => {
    const two = halves(part.text);
    return two && [{ ...part, text: two[0] }, { ...part, text: two[1] }];
  });
  return pages.map((page) => {
    const seconds = Math.max(thing.seconds, readingTime(page.map(textOf).join("")));
    return { node: alertLeaf(page, section, stage, name), seconds: Math.ceil(Math.min(seconds, LONGEST_S)) };
  });
}

/**
 * The head stays in the first language, so that the level is on the glass at every moment; the body takes turns. A name that
 * would leave the body no room stands there itself.
 */
function alertLeaf(parts, section, stage, size) {
  const { thing, told } = section;
  const [first] = thing.languages;
  const { level, name } = headOf(first.lines, thing);
  const node = put(stage, "alert", told.lang);
  const head = node.querySelector(".head");
  head.lang = first.lang;
  node.style.setProperty("--ground", thing.colour.hex);
  node.style.setProperty("--ink", thing.colour.text);
  node.dataset.colour = thing.colour.name;
  node.querySelector(".level").textContent = level;
  node.querySelector(".level").hidden = level === "";
  setName(node.querySelector(".name"), name, size);
  fillLines(node.querySelector(".body"), parts);
  return node;
}

/** The largest size is for one line: what is longer stands in the next one, over several. */
function setName(element, name, size) {
  element.hidden = size === "in the body";
  element.textContent = name;
  const isLong = element.scrollWidth > element.clientWidth + 1;
  element.classList.toggle("second", isLong || size === "second");
  fill(element, phrasesOf(name));
}

function headOf(lines, alert) {
  const hasLevel = alert.level !== null && lines.length > 1;
  return { level: hasLevel ? lines[0] : "", name: lines[hasLevel ? 1 : 0] };
}

/** What stands below: in the first language what the head leaves, in another one everything. */
function partsOf({ thing, told, isFirst }, name) {
  const { level } = headOf(thing.languages[0].lines, thing);
  const above = (level ? 1 : 0) + (name === "in the body" ? 0 : 1);
  const below = isFirst ? told.lines.slice(above) : told.lines;
  const lines = below.length > 0 ? below : [thing.area || thing.headline || thing.event];
  return lines.flatMap((line, place) =>
    phrasesOf(`${line}\n`).map((text) => ({ text, line: place, role: roleOf(line, thing, isFirst) })),
  );
}

function roleOf(line, alert, isFirst) {
  if (!isFirst) return "other";
  return alert.area !== "" && line.endsWith(alert.area) ? "area" : "act";
}

function fillLines(body, parts) {
  const lines = Map.groupBy(parts, (part) => part.line);
  body.replaceChildren(
    ...Array.from(lines.values(), ([first]) => {
      const line = document.createElement("p");
      line.className = first.role;
      return line;
    }),
  );
  Array.from(lines.values()).forEach((line, place) => fill(body.children[place], line.map(textOf)));
}

export function wordsIn(words, language) {
  return language === "ja" || language === "easy-ja" ? words.ja : words.en;
}
