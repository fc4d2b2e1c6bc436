// Text into pages that fit the glass, by measuring and never by counting: nothing is cut, nothing gets smaller.

const CLAUSE_END = /(?<=[、。，．！？；])(?![」』）！？])|(?<=】)|(?=（(?![ぁ-んァ-ヶー]+）))/u; // furigana stays with its word
const BLANK_END = /(?<=\s)(?=\S)/u;
const CLAUSE_PAUSE = /[、，,；;:：]\s*$/u;
const SENTENCE_END = /[。！？.!?\n][」』）]?\s*$/u;

/** A line that nobody has cut into phrases yet: at its blanks, and after each clause. */
export function phrasesOf(line) {
  return line.split(BLANK_END).flatMap((part) => part.split(CLAUSE_END));
}

/** Fills an element with phrases, each on one line if it can be. One that ends in a line feed ends its line. */
export function fill(element, phrases) {
  element.replaceChildren(...phrases.flatMap(nodesOf));
  const { paddingLeft, paddingRight } = getComputedStyle(element);
  // A pixel for the rounding: a phrase that is as wide as the line fits it.
  const line = element.clientWidth - parseFloat(paddingLeft) - parseFloat(paddingRight) + 1;
  for (const phrase of element.querySelectorAll(".phrase")) {
    if (phrase.getBoundingClientRect().width > line) loosen(phrase);
  }
}

/** A phrase wider than the line may break: in Japanese where the browser finds a phrase, in Chinese between its words. */
function loosen(phrase) {
  phrase.classList.add("long");
  const { lang } = phrase.closest("[lang]");
  if (!lang.startsWith("zh")) return;
  const words = wordsOf(phrase.textContent, lang).map((word) => {
    const span = document.createElement("span");
    span.className = "phrase";
    span.textContent = word;
    return [span, document.createElement("wbr")];
  });
  phrase.replaceChildren(...words.flat());
}

/** Signs stay with the word before them, and an opening bracket with the one after it. */
function wordsOf(text, lang) {
  const words = [];
  for (const { segment, isWordLike } of new Intl.Segmenter(lang, { granularity: "word" }).segment(text)) {
    const isTied = words.length > 0 && (!isWordLike || /[（「『【]$/u.test(words.at(-1)));
    if (isTied && !/^[（「『【]/u.test(segment)) words[words.length - 1] += segment;
    else words.push(segment);
  }
  return words;
}

function nodesOf(phrase) {
  const text = phrase.trimEnd();
  const rest = phrase.slice(text.length);
  const nodes = [];
  if (text) {
    const span = document.createElement("span");
    span.className = "phrase";
    span.textContent = text;
    nodes.push(span);
  }
  if (rest.includes("\n")) nodes.push(document.createElement("br"));
  else nodes.push(rest ? document.createTextNode(rest) : document.createElement("wbr"));
  return nodes;
}

/** Whether everything in this box stands inside it. */
export function fits(box) {
  return box.scrollHeight <= box.clientHeight + 1 && box.scrollWidth <= box.clientWidth + 1;
}

/**
 * The parts as pages. `draw(parts)` puts some of them into the box that is measured; `split(part)` makes a part that no
 * page can hold into smaller ones, or gives null.
 */
export function paginate(parts, draw, box, split) {
  const pages = [];
  let rest = parts;
  while (rest.length > 0) {
    let most = mostThatFit(rest, draw, box);
    if (most === 0) {
      const smaller = split(rest[0]);
      if (smaller) {
        rest = [...smaller, ...rest.slice(1)];
        continue;
      }
      most = 1;
    }
    if (most < rest.length) most = calmEnd(rest, most);
    pages.push(rest.slice(0, most));
    rest = rest.slice(most);
  }
  return pages;
}

function mostThatFit(parts, draw, box) {
  const isGood = (number) => {
    draw(parts.slice(0, number));
    return fits(box);
  };
  if (isGood(parts.length)) return parts.length;
  let [some, tooMany] = [0, parts.length];
  while (some + 1 < tooMany) {
    const middle = Math.floor((some + tooMany) / 2);
    if (isGood(middle)) some = middle;
    else tooMany = middle;
  }
  return some;
}

/** Where a page that is not the last one ends: after a sentence or a clause in its second half, else leaving no scrap. */
function calmEnd(parts, most) {
  const lengths = parts.map(lengthOf);
  const total = sum(lengths);
  for (const pause of [SENTENCE_END, CLAUSE_PAUSE]) {
    for (let end = most; end > most / 2; end -= 1) {
      if (pause.test(textOf(parts[end - 1]))) return end;
    }
  }
  let end = most;
  const isScrap = () => total - sum(lengths.slice(0, end)) < total / 3;
  while (end > 1 && isScrap() && sum(lengths.slice(0, end)) > total / 2) end -= 1;
  return end;
}

export const textOf = (part) => (typeof part === "string" ? part : part.text);
const lengthOf = (part) => textOf(part).length;
const sum = (numbers) => numbers.reduce((one, other) => one + other, 0);

const GRAPHEMES = new Intl.Segmenter(undefined, { granularity: "grapheme" });

/** A phrase in two halves, between letters; null for a single letter. */
export function halves(text) {
  const letters = Array.from(GRAPHEMES.segment(text), ({ segment }) => segment);
  if (letters.length < 2) return null;
  const middle = Math.ceil(letters.length / 2);
  return [letters.slice(0, middle).join(""), letters.slice(middle).join("")];
}

const DENSE = /[\p{Script=Han}\p{Script=Hiragana}\p{Script=Katakana}\p{Script=Hangul}]/gu;

/** The seconds it takes to read this: 4 letters a second in Japanese, Chinese and Korean, 13 in Latin ones. */
export function readingTime(text) {
  const dense = text.match(DENSE)?.length ?? 0;
  return dense / 4 + (text.length - dense) / 13;
}
