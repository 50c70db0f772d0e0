// What a page of JupyterLab answers about the notebook in it, for browser.py. JupyterLab shows its parts as
// window.jupyterapp if its server was started with --expose-app-in-browser.

const panel = () => window.jupyterapp?.shell.currentWidget;
const cells = () => panel().content.widgets;
const shown = (node) => node.getClientRects().length > 0;

window.course = {
  isOpen: () => Boolean(panel()?.content?.widgets?.length && panel().sessionContext?.session?.kernel),
  run: (command, options) => window.jupyterapp.commands.execute(command, options).then(() => null),

  // Of each cell: is it shown, and is its code?
  visible: () => cells().map((cell) => shown(cell.node)),
  codeShown: () => cells().map((cell) => Boolean(cell.inputArea && shown(cell.inputArea.editorWidget.node))),

  // Where the kernel is: the number of code cells that have run, and whether it waits.
  progress: () => ({
    done: cells().filter((cell) => cell.model.type === "code" && cell.model.executionCount).length,
    idle: panel().sessionContext.session.kernel.status === "idle",
    waiting: cells().filter((cell) => cell.model.type === "code" && cell.node.innerText.includes("[*]:")).length,
  }),

  outputs: () => cells().map((cell) => (cell.model.type === "code" ? cell.model.outputs.toJSON() : [])),

  // Sentences about what is broken on the page, each with the number of its cell.
  faults: () => {
    const style = document.head.appendChild(document.createElement("style"));
    style.textContent = "mjx-assistive-mml { display: none !important }"; // not seen, and wider than what is seen
    const found = cells().flatMap((cell, i) => faultsOf(cell.node).map((fault) => `cell ${i}: ${fault}`));
    style.remove();
    return found;
  },

  // What of a cell's text, in the theme of now, is hard to tell from its background.
  pale: () => cells().flatMap((cell, i) => paleIn(cell.node).map((text) => `cell ${i}: ${text}`)),

  scroller: () => panel().content.node.querySelector(".jp-WindowedPanel-outer") ?? panel().content.node,
};

function faultsOf(node) {
  const found = [];
  for (const image of node.querySelectorAll("img"))
    if (image.naturalWidth === 0) found.push(`a broken picture, ${image.src.slice(0, 80)}`);
  for (const error of node.querySelectorAll("mjx-merror, [data-mjx-error], merror"))
    found.push(`a formula that cannot be set: ${error.getAttribute("data-mjx-error") ?? error.textContent}`);
  for (const formula of node.querySelectorAll("mjx-container"))
    if (/\\[a-zA-Z]/.test(formula.textContent)) found.push(`a command that MathJax does not know: ${formula.textContent}`);
  for (const text of node.querySelectorAll(".jp-RenderedMarkdown")) {
    const prose = text.cloneNode(true);
    prose.querySelectorAll("code, pre, mjx-container").forEach((part) => part.remove());
    const raw = prose.textContent.match(/\$[^$]*\$|\\(tag|frac|bar|mathbb|left|sqrt)\b.*/);
    if (raw) found.push(`a formula that was not set: ${raw[0].slice(0, 80)}`);
  }
  for (const text of ["Error displaying widget", "Loading widget...", "Javascript Error", "Model not found"])
    if (node.textContent.includes(text) && !node.querySelector(".cm-content")?.textContent.includes(text))
      found.push(text);
  for (const part of node.querySelectorAll(".jp-RenderedMarkdown, .jp-OutputArea-output, .cm-scroller"))
    if (shown(part) && part.scrollWidth > part.clientWidth + 2)
      found.push(`${part.className.split(" ").pop()} is cut off: ${part.scrollWidth} pixels wide, ${part.clientWidth} shown`);
  return found;
}

function paleIn(node) {
  const found = new Set();
  const walker = document.createTreeWalker(node, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const text = walker.currentNode.textContent.trim();
    const parent = walker.currentNode.parentElement;
    if (!text || !shown(parent) || !parent.closest(".jp-RenderedMarkdown, .jp-OutputArea-output")) continue;
    if (parent.closest("mjx-assistive-mml, .jp-RenderedMarkdown pre")) continue; // not seen; JupyterLab's own colours
    const style = getComputedStyle(parent);
    const ratio = contrast(style.color, background(parent));
    if (ratio < 3) found.add(`"${text.slice(0, 30)}", ${style.color} on ${background(parent)}, contrast ${ratio.toFixed(1)}`);
  }
  return [...found];
}

function background(node) {
  for (let at = node; at; at = at.parentElement) {
    const colour = getComputedStyle(at).backgroundColor;
    if (!/rgba\(.*, 0\)|transparent/.test(colour)) return colour;
  }
  return "rgb(255, 255, 255)";
}

// The ratio of WCAG 2: 1 for equal colours, 21 for black on white.
function contrast(one, other) {
  const light = (colour) => {
    const [r, g, b] = colour.match(/[\d.]+/g).map((v) => (v / 255 <= 0.03928 ? v / 255 / 12.92 : ((v / 255 + 0.055) / 1.055) ** 2.4));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b + 0.05;
  };
  const [a, b] = [light(one), light(other)];
  return Math.max(a, b) / Math.min(a, b);
}
