// Tables sort by a click on a header; figures fill the window by a click, and go back by another.
const number = (text) => parseFloat(text.replace(/,/g, ""));

const compare = (one, other) => {
  const [a, b] = [number(one), number(other)];
  if (Number.isNaN(a) || Number.isNaN(b)) {
    return one.localeCompare(other);
  }
  return a - b;
};

const sort = (table, column, direction) => {
  const body = table.tBodies[0];
  const text = (row) => row.cells[column].textContent.trim();
  const rows = [...body.rows].sort((one, other) => {
    const [a, b] = [text(one), text(other)];
    // A dash, which is no value, stays at the end.
    if (a === "-" || b === "-") return (a === "-") - (b === "-");
    return direction * compare(a, b);
  });
  body.append(...rows);
};

for (const table of document.querySelectorAll("table")) {
  const headers = [...table.tHead.rows[0].cells];
  headers.forEach((header, column) => {
    const button = document.createElement("button");
    button.append(...header.childNodes);
    header.append(button);
    button.addEventListener("click", () => {
      const up = header.getAttribute("aria-sort") !== "ascending";
      headers.forEach((other) => other.removeAttribute("aria-sort"));
      header.setAttribute("aria-sort", up ? "ascending" : "descending");
      sort(table, column, up ? 1 : -1);
    });
  });
}

const zoom = document.getElementById("zoom");
for (const image of document.querySelectorAll("p > img")) {
  image.addEventListener("click", () => {
    const [shown] = zoom.children;
    shown.src = image.src;
    shown.alt = image.alt;
    zoom.showModal();
  });
}
zoom.addEventListener("click", () => zoom.close());
