// The month and the week by keyboard and by drag. Moving is always confirmed on the page of the notice itself.
"use strict";

const days = document.querySelector("table.month, table.week");
if (days) {
  const cells = [...days.querySelectorAll("td[data-day]")];
  const start = days.querySelector("td.today") ?? cells[0];
  for (const cell of cells) cell.tabIndex = cell === start ? 0 : -1;
  days.addEventListener("keydown", (event) => {
    const here = cells.indexOf(event.target.closest("td[data-day]"));
    if (here < 0) return;
    const step = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -7, ArrowDown: 7 }[event.key];
    if (step !== undefined) {
      const next = cells[here + step];
      if (!next) return;
      event.preventDefault();
      cells[here].tabIndex = -1;
      next.tabIndex = 0;
      next.focus();
    } else if (event.key === "PageUp" || event.key === "PageDown") {
      event.preventDefault();
      document.querySelector(event.key === "PageUp" ? "[rel=prev]" : "[rel=next]").click();
    } else if (event.key === "Enter" && event.target === cells[here]) {
      cells[here].querySelector("a")?.click();
    } else if (event.key === "m" && event.target.closest("td") === cells[here]) {
      const entry = event.target.closest("[data-move]") ?? cells[here].querySelector("[data-move]");
      if (entry) location.assign(entry.dataset.move);
    }
  });
  let dragged = null;
  days.addEventListener("dragstart", (event) => { dragged = event.target.closest("[data-move]"); });
  days.addEventListener("dragover", (event) => {
    if (dragged && event.target.closest("td[data-day]")) event.preventDefault();
  });
  days.addEventListener("drop", (event) => {
    const cell = event.target.closest("td[data-day]");
    if (!dragged || !cell) return;
    event.preventDefault();
    const at = cell.dataset.hour ? dragged.dataset.at.replace(/^\d+/, cell.dataset.hour) : dragged.dataset.at;
    location.assign(`${dragged.dataset.move}?at=${encodeURIComponent(`${cell.dataset.day} ${at}`)}`);
  });
}
