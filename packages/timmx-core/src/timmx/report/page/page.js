// Sorts tables, copies commands and switches the theme.
"use strict";

const collator = new Intl.Collator(undefined, { numeric: true, sensitivity: "base" });

for (const table of document.querySelectorAll("table")) {
  const body = table.tBodies[0];
  for (const [column, head] of [...table.tHead.rows[0].cells].entries()) {
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = head.textContent;
    head.replaceChildren(button);
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
