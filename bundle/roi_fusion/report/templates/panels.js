// Linked panels of a patient, and the list of patients. Everything shows without this script: one slice, or all at once.
"use strict";
document.documentElement.classList.add("scripted");

for (const patient of document.querySelectorAll(".patient[data-positions]")) {
  const positions = JSON.parse(patient.dataset.positions);
  const areas = JSON.parse(patient.dataset.areas);
  const columns = Number(patient.style.getPropertyValue("--columns"));
  const slide = patient.querySelector(".slide");
  const mark = patient.querySelector(".mark");
  const profile = patient.querySelector(".profile");
  const show = (wanted) => {
    const k = Math.min(Math.max(Math.round(wanted), 0), positions.length - 1);
    patient.style.setProperty("--column", k % columns);
    patient.style.setProperty("--row", Math.floor(k / columns));
    slide.value = k;
    mark.setAttribute("x1", k + 0.5);
    mark.setAttribute("x2", k + 0.5);
    const area = areas[k] ? `, lesion ${areas[k].toFixed(2)} cm²` : "";
    patient.querySelector(".where").textContent =
      `slice ${k + 1} of ${positions.length}, ${patient.dataset.axis} ${positions[k].toFixed(1)} mm${area}`;
    patient.dispatchEvent(new CustomEvent("slice", { detail: k }));
  };
  patient.step = (by) => show(Number(slide.value) + by);
  patient.toSlice = show;
  slide.addEventListener("input", () => show(Number(slide.value)));
  profile.addEventListener("click", (event) => {
    const box = profile.getBoundingClientRect();
    show(((event.clientX - box.left) / box.width) * positions.length - 0.5);
  });
  let turned = 0;
  for (const pane of patient.querySelectorAll(".window")) {
    pane.addEventListener("wheel", (event) => {
      if (event.ctrlKey || patient.querySelector(".montage").checked) return;
      const atEnd = event.deltaY > 0 ? Number(slide.value) === 0 : Number(slide.value) === positions.length - 1;
      if (atEnd) return; // the page scrolls on
      event.preventDefault();
      turned += event.deltaMode === 1 ? event.deltaY * 16 : event.deltaY;
      const steps = Math.trunc(turned / 40);
      turned -= steps * 40;
      if (steps) patient.step(-steps); // towards the feet, as the wheel turns down
    }, { passive: false });
    pane.addEventListener("pointermove", (event) => {
      const box = pane.getBoundingClientRect();
      patient.style.setProperty("--x", `${(100 * (event.clientX - box.left)) / box.width}%`);
      patient.style.setProperty("--y", `${(100 * (event.clientY - box.top)) / box.height}%`);
      patient.classList.add("pointed");
    });
    pane.addEventListener("pointerleave", () => patient.classList.remove("pointed"));
  }
  show(Number(slide.value));
}

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || event.target.closest("select, input:not([type=checkbox]), canvas")) return;
  const patient = [...document.querySelectorAll(".patient[data-positions]")].find((p) => p.offsetParent !== null);
  if (!patient) return;
  const by = { ArrowUp: 1, ArrowRight: 1, ArrowDown: -1, ArrowLeft: -1, PageUp: 5, PageDown: -5 }[event.key];
  if (by) {
    event.preventDefault();
    patient.step(by);
  } else if (event.key.toLowerCase() === "o") {
    patient.querySelector(".outlines").click();
  }
});

window.addEventListener("hashchange", () => window.scrollTo(0, 0));

for (const head of document.querySelectorAll(".patients th[data-sort]")) {
  head.addEventListener("click", () => {
    const column = head.cellIndex, body = head.closest("table").tBodies[0], number = head.dataset.sort === "number";
    const up = head.getAttribute("aria-sort") === (number ? "descending" : "ascending");
    const sign = up === number ? 1 : -1;
    for (const other of head.parentNode.cells) other.removeAttribute("aria-sort");
    head.setAttribute("aria-sort", sign === 1 ? "ascending" : "descending");
    const value = (row) => row.cells[column].dataset.value;
    const compare = number ? (a, b) => value(a) - value(b) : (a, b) => value(a).localeCompare(value(b));
    body.append(...[...body.rows].sort((a, b) => sign * compare(a, b)));
  });
}

for (const filter of document.querySelectorAll(".filter")) {
  filter.addEventListener("input", () => {
    const wanted = filter.value.toLowerCase();
    for (const row of document.querySelector(".patients").tBodies[0].rows) {
      row.hidden = !row.cells[1].dataset.value.toLowerCase().includes(wanted);
    }
  });
}
