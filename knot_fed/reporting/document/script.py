"""The script of a page: sorts tables and saves figures as SVG files; a page without scripts lacks these only."""

SCRIPT = """
for (const head of document.querySelectorAll("table.sortable thead th")) {
  const button = document.createElement("button");
  button.type = "button";
  button.append(...head.childNodes);
  head.append(button);
  button.addEventListener("click", () => {
    const up = head.getAttribute("aria-sort") !== "ascending", body = head.closest("table").tBodies[0];
    for (const other of head.parentNode.children) other.removeAttribute("aria-sort");
    head.setAttribute("aria-sort", up ? "ascending" : "descending");
    const key = row => row.cells[head.cellIndex].dataset.key ?? "";
    const compare = (a, b) => {
      if (a === "" || b === "") return (a === "") - (b === "");
      const order = isNaN(a) || isNaN(b) ? a.localeCompare(b) : a - b;
      return up ? order : -order;
    };
    body.append(...[...body.rows].sort((a, b) => compare(key(a), key(b))));
  });
}
// Programs for vector graphics know no CSS variables: write the light colours in their place.
const plain = drawn => {
  const scheme = drawn.match(/<style>svg \\{([^}]*)\\}/)[1];
  const colours = Object.fromEntries([...scheme.matchAll(/--(\\w+): (#\\w+);/g)].map(found => found.slice(1)));
  return drawn.replace(/<style>svg \\{.*?<\\/style>/s, "").replace(/var\\(--(\\w+)\\)/g, (_, name) => colours[name]);
};
for (const figure of document.querySelectorAll("figure[data-name]")) {
  const number = figure.id.split("-")[1], button = document.createElement("button");
  button.type = "button";
  button.textContent = "SVG";
  button.setAttribute("aria-label", `SVG of figure ${number}`);
  button.addEventListener("click", () => {
    const bytes = Uint8Array.from(atob(figure.querySelector("img").src.split(",")[1]), sign => sign.charCodeAt(0));
    const link = document.createElement("a");
    const file = new Blob([plain(new TextDecoder().decode(bytes))], { type: "image/svg+xml" });
    link.href = URL.createObjectURL(file);
    link.download = `${figure.dataset.name}.svg`;
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 1000);
  });
  figure.querySelector(".tools").append(button);
}
"""
