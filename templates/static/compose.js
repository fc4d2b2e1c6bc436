// Writing a notice: saved by itself, and the phone line's text aloud.
"use strict";

const form = document.getElementById("compose");
const saved = document.getElementById("saved");
let changed = false;
form.addEventListener("input", () => { changed = true; });
form.addEventListener("submit", () => { changed = false; });

if (form.dataset.autosave) {
  setInterval(async () => {
    if (!changed) return;
    changed = false;
    const fields = new FormData(form);
    fields.delete("image");
    try {
      const answer = await fetch(form.dataset.autosave, { method: "POST", body: fields, redirect: "error" });
      if (!answer.ok) throw new Error(String(answer.status));
      saved.innerHTML = await answer.text();
      const version = saved.querySelector("[data-version]");
      if (version) form.elements.version.value = version.dataset.version;
    } catch {
      changed = true; // tried again; what is typed stands on the page
    }
  }, 20000);
}

document.addEventListener("click", (event) => {
  const button = event.target.closest("[data-hear]");
  if (!button || !("speechSynthesis" in window)) return;
  speechSynthesis.cancel();
  const spoken = new SpeechSynthesisUtterance(button.closest("article").querySelector(".as-typed").textContent);
  spoken.lang = "ja-JP";
  speechSynthesis.speak(spoken);
});
