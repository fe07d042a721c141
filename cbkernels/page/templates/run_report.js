// Sorts tables, hides runs in a picture of several, shows the values of heat maps. Without it the page says the same.
"use strict";

function made(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...children);
  return element;
}

// --- tables ---

const UNITS = {k: 1e3, M: 1e6, G: 1e9, KiB: 2 ** 10, MiB: 2 ** 20, GiB: 2 ** 30, min: 60, h: 3600};

function numberOf(words) { // undefined where there is none
  if (/^-?inf/.test(words)) return words.startsWith("-") ? -Infinity : Infinity;
  const parts = [...words.matchAll(/([-+]?\d[\d,]*(?:\.\d+)?(?:e[-+]?\d+)?) ?(\w+)?/g)];
  const values = parts.map(([, digits, unit]) => Number(digits.replaceAll(",", "")) * (UNITS[unit] ?? 1));
  return /^\d+ (min|h) /.test(words) ? values[0] + values[1] : values[0];
}

function compared(a, b, isNumber) {
  if (!isNumber) return a.localeCompare(b, "en", {numeric: true});
  const [x, y] = [numberOf(a), numberOf(b)];
  return x === y ? 0 : x - y;
}

function makeSortable(table) {
  const body = table.tBodies[0], rows = [...body.rows], heads = [...table.tHead.rows[0].cells];
  heads.forEach((head, column) => {
    const button = made("button", {type: "button"}, head.textContent.trim()), isNumber = head.matches(".number");
    head.replaceChildren(button);
    const cell = row => row.cells[column].textContent.trim();
    button.onclick = () => {
      const now = {null: "ascending", ascending: "descending", descending: null}[head.getAttribute("aria-sort")];
      heads.forEach(each => each.removeAttribute("aria-sort"));
      if (now) head.setAttribute("aria-sort", now);
      const sign = now === "descending" ? -1 : 1;
      const known = row => !isNumber || numberOf(cell(row)) !== undefined;
      const order = (a, b) => known(b) - known(a) || sign * compared(cell(a), cell(b), isNumber);
      body.append(...now ? [...rows].sort(order) : rows);
    };
  });
}

// --- several runs in one picture ---

function makeHideable(image) {
  const [kind, content] = image.src.split(";base64,");
  if (kind !== "data:image/svg+xml") return;
  const bytes = Uint8Array.from(atob(content), letter => letter.charCodeAt(0));
  const drawn = new DOMParser().parseFromString(new TextDecoder().decode(bytes), kind.slice(5)).documentElement;
  for (const name of ["width", "height"]) drawn.removeAttribute(name);
  drawn.setAttribute("role", "img");
  drawn.setAttribute("aria-label", image.alt);
  const runs = made("fieldset", {class: "runs"}, made("legend", {}, "Runs in the picture"));
  image.dataset.runs.split("\n").forEach((name, place) => {
    const lines = drawn.querySelectorAll(`[id="series-${place}"]`);
    const box = made("input", {type: "checkbox"});
    box.checked = true;
    box.onchange = () => lines.forEach(line => { line.style.display = box.checked ? "" : "none"; });
    if (lines.length) runs.append(made("label", {}, box, ` ${name}`));
  });
  image.closest("figure").append(runs);
  image.replaceWith(drawn);
}

// --- values of heat maps ---

function cellsOf(line) { // "0*3 1.5" is 0 0 0 1.5
  return line.split(" ").flatMap(word => {
    const [value, times] = word.split("*");
    return Array(Number(times ?? 1)).fill(value);
  });
}

function makeReadable(image) {
  const {box, layers, steps, cells, unit} = image.dataset;
  const names = layers.split("\n"), epochs = steps.split(" "), values = cells.split("\n").map(cellsOf);
  const [left, top, width, height] = box.split(" ").map(Number);
  const said = made("output", {class: "value"});
  const mark = made("div", {class: "mark"});
  const area = made("div", {class: "cells", tabindex: 0, role: "application",
    "aria-label": "Values of the heat map: the arrow keys move from cell to cell"}, mark);
  Object.assign(area.style, {left: `${left}%`, top: `${top}%`, width: `${width}%`, height: `${height}%`});
  let row = 0, column = 0;
  const show = (toRow, toColumn) => {
    row = Math.min(Math.max(toRow, 0), names.length - 1);
    column = Math.min(Math.max(toColumn, 0), epochs.length - 1);
    Object.assign(mark.style, {display: "block", left: `${100 * column / epochs.length}%`,
      top: `${100 * row / names.length}%`, width: `${100 / epochs.length}%`, height: `${100 / names.length}%`});
    const x = left + width * (column + .5) / epochs.length, isAbove = row >= names.length / 2;
    Object.assign(said.style, {display: "block", left: `${x}%`, top: `${top + height * (row + !isAbove) / names.length}%`,
      transform: `translate(-${x}%, ${isAbove ? "calc(-100% - .4rem)" : ".4rem"})`}); // never beyond the picture
    const value = values[row][column];
    const words = {none: "not measured", nan: "a row holds NaN"}[value] ?? `${value} ${unit}`;
    said.textContent = `${names[row]}, epoch ${epochs[column]}: ${words}`;
  };
  area.onpointermove = area.onpointerdown = event => {
    const at = area.getBoundingClientRect();
    show(Math.floor((event.clientY - at.top) / at.height * names.length),
      Math.floor((event.clientX - at.left) / at.width * epochs.length));
  };
  const hide = () => [mark, said].forEach(each => { each.style.display = "none"; });
  area.onfocus = () => show(row, column);
  area.onblur = area.onpointerleave = hide;
  area.onkeydown = event => {
    const step = {ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1]}[event.key];
    if (event.key === "Escape") hide();
    if (!step) return;
    event.preventDefault();
    show(row + step[0], column + step[1]);
  };
  const frame = made("div", {class: "frame"});
  image.replaceWith(frame);
  frame.append(image, area, said);
}

document.querySelectorAll("table.sortable").forEach(makeSortable);
document.querySelectorAll("img[data-runs]").forEach(makeHideable);
document.querySelectorAll("img[data-cells]").forEach(makeReadable);
