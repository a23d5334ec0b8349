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

// where a page is narrow, a row becomes a block of names and values (report.css); without a script, tables scroll
for (const table of document.querySelectorAll(".scroll > table:not(.sides)")) {
  const headings = [...table.tHead.rows].at(-1).cells;
  for (const cell of table.tBodies[0].querySelectorAll("td:not([data-label])")) {
    cell.dataset.label = headings[cell.cellIndex].textContent;
  }
  table.classList.add("stacking");
}
for (const table of document.querySelectorAll("table.sortable")) {
  [...table.tHead.rows[0].cells].forEach((cell, column) => {
    const numeric = cell.classList.contains("number");
    cell.querySelector("button")?.addEventListener("click", () => sortBy(table, column, numeric));
  });
}
function enlargeable() {
  const dialog = document.getElementById("enlarged");
  if (!dialog) return;
  const shown = document.createElement("img");
  dialog.prepend(shown);
  for (const image of document.querySelectorAll(".gallery img, .thumbs img, .suspects img, .pairs img, .four img")) {
    const button = document.createElement("button");
    button.type = "button";
    button.className = "enlarge";
    button.setAttribute("aria-label", `Enlarge: ${image.alt}`);
    image.replaceWith(button);
    button.append(image);
    button.addEventListener("click", () => {
      shown.src = image.src;
      shown.alt = image.alt;
      dialog.querySelector("span").textContent = image.alt;
      dialog.showModal();
    });
  }
  dialog.addEventListener("click", (event) => event.target === dialog && dialog.close()); // beside the picture
}

function sortGallery(select) {
  const list = document.querySelector("ol.gallery");
  const score = (item) => (select.value === "" ? Number(item.dataset.miou) : JSON.parse(item.dataset.ious)[select.value]);
  select.addEventListener("change", () => {
    const items = [...list.children].sort((a, b) => (score(a) ?? 2) - (score(b) ?? 2)); // without the class: last
    list.append(...items);
    const having = items.filter((item) => score(item) !== null).length;
    document.getElementById("sorted").textContent = select.value === "" ? "" : `${having} of these show it, worst first`;
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
enlargeable();
const sorting = document.getElementById("sort-by");
if (sorting) sortGallery(sorting);

let closed = [];
addEventListener("beforeprint", () => {
  closed = [...document.querySelectorAll("details:not([open])")];
  for (const one of closed) one.open = true;
  document.documentElement.classList.add("printing");
  places.forEach(draw); // in the width and the colours of paper
});
addEventListener("afterprint", () => {
  document.documentElement.classList.remove("printing");
  for (const one of closed) one.open = false;
  places.forEach(draw);
});
