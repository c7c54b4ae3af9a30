"use strict";

// Sorting: the title of each column becomes a button. A second press reverses the order.
const MISSING = "-";

function sortKey(cell) {
  const text = cell.textContent.trim();
  if (text === MISSING) return null;
  const number = /^<?\s*[+-]?[\d,]*\.?\d+(e[+-]?\d+)?/.exec(text);
  return number && cell.classList.contains("n") ? parseFloat(number[0].replace(/[<,\s]/g, "")) : text;
}

function compare(a, b, sign) {
  if (a === null || b === null) return (a === null) - (b === null); // a missing figure is last in both orders
  if (typeof a === "number" && typeof b === "number") return sign * (a - b);
  return sign * String(a).localeCompare(String(b), "en", { numeric: true });
}

function sortTable(table, column, heading) {
  const descending = heading.getAttribute("aria-sort") === "ascending";
  for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
  heading.setAttribute("aria-sort", descending ? "descending" : "ascending");
  const lines = [...table.tBodies[0].rows].map((row) => [sortKey(row.cells[column]), row]);
  lines.sort((a, b) => compare(a[0], b[0], descending ? -1 : 1));
  table.tBodies[0].append(...lines.map((line) => line[1]));
}

for (const table of document.querySelectorAll("table")) {
  [...table.tHead.rows[0].cells].forEach((heading, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...heading.childNodes);
    button.addEventListener("click", () => sortTable(table, column, heading));
    heading.append(button);
  });
}

// Picking: only what fits every chosen value is shown. An element without a value fits every choice. An element with
// several values, one a line, fits each of them.
const picker = document.querySelector(".picker");

function fits(element, chosen) {
  return chosen.every(([name, value]) => element.dataset[name]?.split("\n").includes(value) ?? true);
}

function pick() {
  const chosen = [...new FormData(picker)].filter(([, value]) => value !== "");
  const hidden = new Set();
  for (const element of document.querySelectorAll("[data-config]")) {
    element.hidden = !fits(element, chosen);
    if (element.hidden && element.tagName === "TR") hidden.add(element.dataset.row);
  }
  const all = document.querySelectorAll("tr[data-row]").length;
  picker.querySelector("output").textContent = `${all - hidden.size} of ${all} files`;
  document.dispatchEvent(new Event("picked"));
}

if (picker) {
  picker.hidden = false;
  picker.addEventListener("change", pick);
  picker.addEventListener("submit", (event) => event.preventDefault());
  picker.addEventListener("reset", () => setTimeout(pick)); // after the values are reset
  pick();
}

// Pointing: a mark of the plot and its line of the table show each other.
const lines = document.querySelectorAll("tr[data-row]");

function pointAt(row) {
  for (const line of lines) line.classList.toggle("pointed", Number(line.dataset.row) === row);
  document.dispatchEvent(new CustomEvent("pointed", { detail: row }));
}

for (const line of lines) {
  line.addEventListener("pointerenter", () => pointAt(Number(line.dataset.row)));
  line.addEventListener("pointerleave", () => pointAt(null));
}
