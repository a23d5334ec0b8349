"use strict";
const NARROW_PX = 640;
const CELL_PX = 34; // a heat map's cell below this has no room for its number

const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

function themed(figure, width) {
  const { data, layout } = structuredClone(figure);
  layout.font = { family: colour("--sans"), size: 12, color: colour("--muted") };
  layout.hoverlabel = {
    bgcolor: colour("--surface"), bordercolor: colour("--line"), align: "left",
    font: { family: colour("--sans"), color: colour("--ink") },
  };
  for (const axis of Object.keys(layout).filter((key) => /^[xy]axis/.test(key))) {
    layout[axis].gridcolor = colour("--line");
    layout[axis].fixedrange = true; // a finger that scrolls the page must not zoom
  }
  for (const trace of data.filter((one) => one.type === "heatmap")) {
    trace.colorscale = [[0, colour("--heat-low")], [1, colour("--heat-high")]];
    if (width < CELL_PX * trace.z[0].length + 150) trace.texttemplate = "";
    if (width < NARROW_PX) trace.showscale = false;
  }
  return { data, layout };
}

function draw(place) {
  const figure = JSON.parse(document.getElementById(place.dataset.figure).textContent);
  const { data, layout } = themed(figure, place.clientWidth);
  layout.width = place.clientWidth;
  Plotly.react(place, data, layout, { displayModeBar: false });
}

function sortBy(table, column, numeric) {
  const heading = table.tHead.rows[0].cells[column];
  const first = numeric ? "descending" : "ascending";
  const order = heading.getAttribute("aria-sort");
  const next = order === null ? first : order === "ascending" ? "descending" : "ascending";
  for (const cell of table.tHead.rows[0].cells) cell.removeAttribute("aria-sort");
  heading.setAttribute("aria-sort", next);
  const sign = next === "ascending" ? 1 : -1;
  const key = (row) => row.cells[column].dataset.key;
  const compare = (a, b) => {
    if (key(a) === "" || key(b) === "") return (key(a) === "") - (key(b) === ""); // empty cells stay last
    return sign * (numeric ? Number(key(a)) - Number(key(b)) : key(a).localeCompare(key(b), "en", { numeric: true }));
  };
  table.tBodies[0].append(...[...table.tBodies[0].rows].sort(compare));
}

for (const table of document.querySelectorAll("table.sortable")) {
  [...table.tHead.rows[0].cells].forEach((cell, column) => {
    const numeric = cell.classList.contains("number");
    cell.querySelector("button").addEventListener("click", () => sortBy(table, column, numeric));
  });
}
const places = document.querySelectorAll("[data-figure]");
const widths = new Map();
const watcher = new ResizeObserver((entries) => {
  for (const { target } of entries) {
    const width = target.clientWidth;
    if (width === 0 || widths.get(target) === width) continue;
    widths.set(target, width);
    requestAnimationFrame(() => draw(target)); // not inside the observer: drawing changes heights
  }
});
for (const place of places) {
  widths.set(place, place.clientWidth);
  draw(place);
  watcher.observe(place);
}
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => places.forEach(draw));
