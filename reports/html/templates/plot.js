// The plot: Vega draws it, and the pickers and the pointer set its parameters. vl-convert adds vegaEmbed, and page.js
// defines pointAt.
const plot = document.querySelector(".plot");
const { view } = await vegaEmbed(plot, JSON.parse(document.getElementById("size-plot").textContent));

function hide() {
  const hidden = document.querySelectorAll("tr[data-row][hidden]");
  view.signal("hidden", [...hidden].map((line) => Number(line.dataset.row))).runAsync();
}

function rowOf(item) {
  return item?.mark.marktype === "line" ? null : (item?.datum?.row ?? null); // a line belongs to several rows
}

document.addEventListener("picked", hide);
document.addEventListener("pointed", (event) => view.signal("pointed", event.detail).runAsync());
view.addEventListener("pointerover", (_, item) => pointAt(rowOf(item)));
view.addEventListener("pointerout", () => pointAt(null));
hide();
