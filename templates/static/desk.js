// What scripts add to pages that work without them. No state lives here.
"use strict";

document.documentElement.classList.add("scripted");

// A summary of faults takes the focus, so that it is read first.
document.getElementById("faults")?.focus();

// Hold to send: the act happens at the end of the hold, never at the press; letting go, sliding off or Esc stops it.
for (const button of document.querySelectorAll("[data-hold]")) {
  const lasts = Number(button.dataset.hold);
  const label = button.querySelector(".label");
  const fill = button.querySelector(".fill");
  const said = document.getElementById(button.dataset.says);
  const words = label.textContent;
  const form = button.form;
  let began = null;
  let timer = null;
  let done = false;

  const show = () => {
    const passed = Math.min(1, (performance.now() - began) / lasts);
    fill.style.width = `${passed * 100}%`;
    const left = Math.ceil((lasts * (1 - passed)) / 1000);
    const counting = button.dataset.counting.replace("{s}", String(left));
    if (label.textContent !== counting) label.textContent = counting;
    if (passed >= 1) return finish();
    timer = requestAnimationFrame(show);
  };
  const start = (event) => {
    if (done || began !== null || (event.button ?? 0) !== 0) return;
    event.preventDefault();
    began = performance.now();
    said.textContent = "";
    show();
  };
  const stop = () => {
    if (done || began === null) return;
    cancelAnimationFrame(timer);
    began = null;
    fill.style.width = "0";
    label.textContent = words;
    said.textContent = button.dataset.released;
  };
  const finish = () => {
    done = true;
    const held = document.createElement("input");
    held.type = "hidden";
    held.name = "checked";
    held.value = "held";
    form.append(held);
    button.setAttribute("aria-disabled", "true");
    form.submit();
  };
  button.addEventListener("pointerdown", start);
  button.addEventListener("pointerup", stop);
  button.addEventListener("pointercancel", stop);
  button.addEventListener("pointerleave", stop);
  button.addEventListener("contextmenu", (event) => event.preventDefault());
  addEventListener("keydown", (event) => { if (event.key === "Escape") stop(); });
  // A click without a hold (a keyboard, a screen reader, a switch) opens the step that asks.
  button.addEventListener("click", (event) => {
    event.preventDefault();
    if (event.detail === 0 && !done) {
      const check = document.getElementById(button.dataset.check);
      check.open = true;
      check.querySelector("input, button").focus();
    }
  });
}

// Two presses of one button are one: the second does nothing while the first is on its way.
for (const form of document.querySelectorAll("form[method=post]")) {
  form.addEventListener("submit", (event) => {
    if (form.dataset.sent) return event.preventDefault();
    if (!form.hasAttribute("hx-post")) form.dataset.sent = "1";
  });
}
addEventListener("pageshow", () => { for (const form of document.forms) delete form.dataset.sent; });

// The page says when it stops being renewed by itself.
const lost = document.getElementById("updates-lost");
if (lost) {
  let silent = null;
  document.body.addEventListener("htmx:sseError", () => { silent ??= setTimeout(() => { lost.hidden = false; }, 10000); });
  document.body.addEventListener("htmx:sseOpen", () => { clearTimeout(silent); silent = null; lost.hidden = true; });
}

// What renews itself says in one sentence how it stands now (`data-tell`); a change of it is told once, politely.
const told = document.getElementById("told");
const standing = new Map();
const tellChanges = () => {
  for (const one of document.querySelectorAll("[data-tell]")) {
    const before = standing.get(one.id);
    standing.set(one.id, one.dataset.tell);
    if (before !== undefined && before !== one.dataset.tell) told.textContent = one.dataset.tell;
  }
};
if (told) {
  tellChanges();
  document.body.addEventListener("htmx:afterSettle", tellChanges);
}
