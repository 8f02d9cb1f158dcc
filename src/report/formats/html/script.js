"use strict";
// What a column is sorted by: the plain number where there is one, else the text.
function key(row, column) {
  const cell = row.cells[column];
  return cell.dataset.value === undefined ? cell.textContent.trim() : parseFloat(cell.dataset.value);
}
function sort(table, column, turn) {
  // The dense model stays on top, and what is missing goes last, whichever way.
  const rows = Array.from(table.tBodies[0].rows).filter(row => !row.classList.contains("dense"));
  const compare = (a, b) => typeof a === "string" ? a.localeCompare(b, "en", { numeric: true }) : a - b;
  const keyed = rows.map(row => [key(row, column), row]);
  keyed.sort(([a], [b]) => Number.isNaN(a) - Number.isNaN(b) || turn * compare(a, b) || 0);
  table.tBodies[0].append(...keyed.map(([, row]) => row));
  table.classList.add("sorted");
}
for (const table of document.querySelectorAll("table.sortable")) {
  const heads = Array.from(table.tHead.rows[0].cells);
  for (const [column, head] of heads.entries()) {
    // Printed headings are repeated on every page, but not what is a button in them.
    const button = document.createElement("span");
    button.setAttribute("role", "button");
    button.tabIndex = 0;
    button.append(...head.childNodes);
    head.append(button);
    button.addEventListener("keydown", event => {
      if (event.key !== "Enter" && event.key !== " ") return;
      event.preventDefault();
      button.click();
    });
    button.addEventListener("click", () => {
      const turned = { ascending: "descending", descending: "ascending" };
      const order = turned[head.getAttribute("aria-sort")] ?? head.dataset.first ?? "ascending";
      for (const other of heads) other.removeAttribute("aria-sort");
      head.setAttribute("aria-sort", order);
      sort(table, column, order === "ascending" ? 1 : -1);
    });
  }
}
// The question of a long prompt is at its end.
for (const text of document.querySelectorAll(".prompt .text")) text.scrollTop = text.scrollHeight;
