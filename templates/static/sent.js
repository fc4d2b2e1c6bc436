// The board of a message: what scripts add to a page that is whole without them.
"use strict";

const board = document.getElementById("board");

// The time since the act counts on between two looks at the server.
let began = performance.now();
const count = () => {
  const shown = document.getElementById("elapsed");
  if (!shown?.dataset.from) return;
  const s = Number(shown.dataset.from) + Math.floor((performance.now() - began) / 1000);
  if (s < 6000) shown.textContent = `${String(Math.floor(s / 60)).padStart(2, "0")}:${String(s % 60).padStart(2, "0")}`;
};
setInterval(count, 1000);

// What one has opened stays open; a change of the sentence is told once, and a tick of a number never.
let opened = [];
let sentence = document.getElementById("sentence")?.textContent;
let toldAt = -Infinity;
let later = null;
const bare = (words) => words.replace(/[0-9,]+/g, "");
const tell = (words) => {
  const told = document.getElementById("told");
  clearTimeout(later);
  later = setTimeout(() => { told.textContent = words; toldAt = performance.now(); }, Math.max(0, toldAt + 5000 - performance.now()));
};
board?.addEventListener("htmx:beforeSwap", () => { opened = [...board.querySelectorAll("details[open]")].map((one) => one.id); });
board?.addEventListener("htmx:afterSwap", () => {
  for (const id of opened) { const one = document.getElementById(id); if (one) one.open = true; }
  began = performance.now();
  const now = document.getElementById("sentence")?.textContent;
  if (now && bare(now) !== bare(sentence ?? "")) tell(now);
  sentence = now;
});
