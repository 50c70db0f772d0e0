// A link into a folded section opens it. Browsers that do so by themselves find it open.
function unfold() {
  const place = document.getElementById(decodeURIComponent(location.hash.slice(1)));
  if (!place) return;
  const own = place.querySelector(":scope > details.deeper");
  if (own) own.open = true;
  for (let box = place.closest("details"); box; box = box.parentElement.closest("details")) box.open = true;
  place.scrollIntoView();
}
addEventListener("hashchange", unfold);
addEventListener("DOMContentLoaded", unfold);
// Formulas that are typeset above the place move it.
addEventListener("load", () => window.MathJax?.startup?.promise?.then(unfold));
