// Sorts and filters tables, shows the details of a grid, copies commands and switches the theme.
"use strict";

const collator = new Intl.Collator(undefined, { numeric: true, sensitivity: "base" });

for (const table of document.querySelectorAll("table")) {
  const body = table.tBodies[0];
  for (const [column, head] of [...table.tHead.rows[0].cells].entries()) {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...head.childNodes);
    head.append(button);
    head.setAttribute("aria-sort", "none");
    button.addEventListener("click", () => {
      const down = head.getAttribute("aria-sort") === "ascending";
      for (const other of table.tHead.rows[0].cells) other.setAttribute("aria-sort", "none");
      head.setAttribute("aria-sort", down ? "descending" : "ascending");
      const rows = [...body.rows].filter((row) => row.cells.length > column);
      const keyed = rows.map((row) => [key(row.cells[column]), row]);
      keyed.sort(([a], [b]) => compare(a, b, down ? -1 : 1));
      body.append(...keyed.map(([, row]) => row));
    });
  }
}

// Tables that are too long for a glance get a field: rows that contain all its words are shown.
for (const box of document.querySelectorAll(".box")) {
  const rows = [...box.querySelectorAll("tbody tr")];
  if (rows.length <= 10) continue;
  const line = document.createElement("div"), field = document.createElement("input"), count = document.createElement("span");
  line.className = "filter";
  field.type = "search";
  field.placeholder = "filter rows";
  field.setAttribute("aria-label", `Filter the rows of ${box.getAttribute("aria-label")}`);
  count.setAttribute("role", "status");
  line.append(field, count);
  box.before(line);
  const texts = new Map();
  let waiting = 0;
  const apply = () => {
    const words = field.value.toLowerCase().split(/\s+/).filter(Boolean);
    let shown = 0;
    for (const row of rows) {
      if (!texts.has(row)) texts.set(row, [...row.cells].map((cell) => cell.textContent).join(" ").toLowerCase());
      row.hidden = !words.every((word) => texts.get(row).includes(word));
      shown += !row.hidden;
    }
    count.textContent = words.length ? `${shown.toLocaleString("en")} of ${rows.length.toLocaleString("en")} rows` : "";
    box.dispatchEvent(new Event("filtered"));
  };
  field.addEventListener("input", () => {
    cancelAnimationFrame(waiting);
    waiting = requestAnimationFrame(apply);
  });
}

// The details of a grid's cell are shown next to it on hover and on focus. Arrow keys move the focus; Tab leaves the grid.
const tip = document.createElement("div");
tip.id = "tip";
tip.setAttribute("role", "tooltip");
tip.hidden = true;
document.body.append(tip);

function showTip(cell) {
  tip.textContent = cell.dataset.detail;
  tip.hidden = false;
  cell.setAttribute("aria-describedby", "tip");
  const place = cell.getBoundingClientRect(), own = tip.getBoundingClientRect();
  const below = place.bottom + 6 + own.height <= innerHeight;
  tip.style.top = `${below ? place.bottom + 6 : Math.max(4, place.top - 6 - own.height)}px`;
  tip.style.left = `${Math.max(8, Math.min(place.left, document.documentElement.clientWidth - own.width - 8))}px`;
}

function hideTip() {
  tip.hidden = true;
  document.querySelector("[aria-describedby=tip]")?.removeAttribute("aria-describedby");
}

for (const grid of document.querySelectorAll(".grid")) {
  const cells = [...grid.querySelectorAll("td[title]")];
  for (const cell of cells) {
    cell.dataset.detail = cell.title;
    cell.removeAttribute("title"); // the browser would show it too
  }
  const enter = (cell) => {
    grid.querySelector("td[tabindex='0']")?.setAttribute("tabindex", "-1");
    cell?.setAttribute("tabindex", "0");
  };
  enter(cells[0]);
  grid.closest(".box").addEventListener("filtered", () => {
    hideTip();
    if (!grid.querySelector("tr:not([hidden]) td[tabindex='0']")) enter(grid.querySelector("tbody tr:not([hidden]) td[data-detail]"));
  });
  grid.addEventListener("focusin", (event) => {
    const cell = event.target.closest("td[data-detail]");
    if (!cell) return;
    enter(cell);
    showTip(cell);
  });
  grid.addEventListener("focusout", hideTip);
  grid.addEventListener("pointerover", (event) => {
    const cell = event.target.closest("td[data-detail]");
    if (cell && event.pointerType !== "touch") showTip(cell); // a touch gives the focus
  });
  grid.addEventListener("pointerout", (event) => {
    if (event.pointerType !== "touch") hideTip();
  });
  grid.addEventListener("keydown", (event) => {
    const cell = event.target.closest("td[data-detail]");
    if (!cell) return;
    if (event.key === "Escape") return hideTip();
    const [down, right] = { ArrowDown: [1, 0], ArrowUp: [-1, 0], ArrowRight: [0, 1], ArrowLeft: [0, -1] }[event.key] ?? [0, 0];
    if (!down && !right) return;
    event.preventDefault();
    const rows = [...grid.tBodies[0].rows].filter((row) => !row.hidden);
    let row = rows.indexOf(cell.parentElement), column = cell.cellIndex;
    do { // empty cells are skipped
      row += down;
      column += right;
      if (rows[row]?.cells[column]?.dataset.detail) return rows[row].cells[column].focus();
    } while (rows[row]?.cells[column]);
  });
}
addEventListener("scroll", hideTip, { capture: true, passive: true });

// A cell's value: null if it is missing, a number if it has one, else its text.
function key(cell) {
  if ("none" in cell.dataset) return null;
  if (!("order" in cell.dataset)) return cell.textContent;
  const order = cell.dataset.order;
  return order.endsWith("inf") ? (order.startsWith("-") ? -Infinity : Infinity) : Number(order);
}

// Missing values sort last in both directions.
function compare(a, b, direction) {
  if (a === null || b === null) return (a === null) - (b === null);
  if (typeof a === "number" && typeof b === "number") return direction * (a < b ? -1 : a > b ? 1 : 0);
  if (typeof a === "number" || typeof b === "number") return typeof a === "number" ? -1 : 1;
  return direction * collator.compare(a, b);
}

for (const command of document.querySelectorAll(".command")) {
  const button = command.querySelector("button");
  button.hidden = false;
  button.addEventListener("click", async () => {
    const code = command.querySelector("code");
    try {
      await navigator.clipboard.writeText(code.textContent);
      button.textContent = "copied";
    } catch {
      getSelection().selectAllChildren(code); // without permission, the user copies the selection
      button.textContent = "selected";
    }
    setTimeout(() => (button.textContent = "copy"), 1500);
  });
}

const preferred = matchMedia("(prefers-color-scheme: dark)");
const toggle = document.getElementById("theme");

function isDark() {
  const chosen = document.documentElement.dataset.theme;
  return chosen ? chosen === "dark" : preferred.matches;
}

function themeChanged() {
  const other = isDark() ? "light" : "dark";
  toggle.textContent = `◐ ${other}`;
  toggle.setAttribute("aria-label", `Show in ${other} colors`);
  dispatchEvent(new Event("themechange"));
}

toggle.hidden = false;
toggle.addEventListener("click", () => {
  document.documentElement.dataset.theme = isDark() ? "light" : "dark";
  themeChanged();
});
preferred.addEventListener("change", themeChanged);
themeChanged();
