"""Open the notebooks in JupyterLab in a headless Chromium, run them there with Run All, and look at the page.

    python tests/browser.py [NAME ...] [--out FOLDER] [--browser PROGRAM] [--minutes N] [--stored]

For each notebook, in a copy: its collapsed sections and folded code are hidden when it opens; Run All executes every
cell without an error; with every section open no picture and no formula is broken, nothing is cut off at a width of
1000 pixels, each widget changes what it shows and brings it back, animations move, text stands out from its background
in the light and in the dark theme, the browser's console is silent, and the page asks the network for nothing but its
badge. Pictures of the whole page in both themes are written to the folder (a temporary one by default): look at them.
--stored shows the stored outputs and runs nothing. It needs playwright and an installed Chromium or Chrome;
`make browser-test` calls it. Some ten minutes on two idle cores. Ends with 1 if anything is wrong.
"""

import argparse
import base64
import runpy
import shutil
import sys
import tempfile
import time
from pathlib import Path

from lab_server import ROOT, jupyterlab
from playwright.sync_api import Locator, Page, sync_playwright

BUILD = runpy.run_path(str(ROOT / "notebooks" / "build.py"))
FORM, READ = BUILD["form"], BUILD["read_notebook"]
BROWSERS = "chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome", "msedge"
WIDTH, HEIGHT = 1000, 2400
PATIENCE = 600_000  # milliseconds in which a page must have opened, on a machine as busy as it may be
THEMES = {"light": "JupyterLab Light", "dark": "JupyterLab Dark"}
# Stands for Colab's, which is the one thing that a page fetches.
BADGE = "<svg xmlns='http://www.w3.org/2000/svg' width='117' height='20'><rect width='117' height='20'/></svg>"


class Notebook:
    """A notebook in a page of the browser.  faults: sentences about what is wrong, as they are found."""

    def __init__(self, page: Page, address: str, path: Path):
        self.page, self.name, self.stored, self.faults = page, path.stem, READ(path), []
        self.codes = [cell for cell in self.stored.cells if cell.cell_type == "code"]
        page.on("console", lambda message: self.heard(message.text) if message.type == "error" else None)
        page.on("pageerror", lambda error: self.heard(str(error)))
        page.route(lambda url: not url.startswith(("http://127.0.0.1:", "data:", "blob:")), self.outside)
        page.add_init_script(path=Path(__file__).with_suffix(".js"))
        page.goto(address.format(path.name), timeout=PATIENCE)
        page.wait_for_function("window.course.isOpen()", timeout=PATIENCE)
        self.settle()

    def heard(self, text: str) -> None:
        self.faults.append(f"the browser's console says: {text[:300]}")

    def outside(self, route) -> None:
        if "colab-badge.svg" in route.request.url:
            return route.fulfill(body=BADGE, content_type="image/svg+xml")
        self.faults.append(f"asked the network for {route.request.url}")
        route.abort()

    def ask(self, question: str, *arguments):
        return self.page.evaluate(f"(given) => window.course.{question}(...given)", list(arguments))

    def settle(self) -> None:
        """Wait until formulas and pictures are there: until the page keeps its height for a second."""
        height = None
        while height != (height := self.page.evaluate("window.course.scroller().scrollHeight")):
            self.page.wait_for_timeout(1000)

    def expect(self, what: str, got: list[bool], expected: list[bool]) -> None:
        wrong = [i for i, pair in enumerate(zip(got, expected, strict=True)) if pair[0] != pair[1]]
        if wrong:
            self.faults.append(f"{what} is not as it should be in cells {wrong}")

    def check_what_is_hidden(self) -> None:
        below = [
            hidden and "deeper" not in FORM.tags(cell)
            for cell, hidden in zip(self.stored.cells, FORM.deeper(self.stored.cells), strict=True)
        ]
        self.expect("what is collapsed", [not shown for shown in self.ask("visible")], below)
        code = [
            cell.cell_type == "code" and not FORM.hides_code(cell) and not hidden
            for cell, hidden in zip(self.stored.cells, below, strict=True)
        ]
        self.expect(
            "what code is shown",
            [a and b.cell_type == "code" for a, b in zip(self.ask("codeShown"), self.stored.cells, strict=True)],
            code,
        )

    def run_all(self, minutes: float) -> None:
        self.ask("run", "notebook:clear-all-cell-outputs")
        self.page.get_by_role("menuitem", name="Run", exact=True).click()
        self.page.get_by_role("menuitem", name="Run All Cells", exact=True).click()
        end, still = time.monotonic() + 60 * minutes, 0
        while still < 5:  # seconds in which nothing runs and nothing waits
            if time.monotonic() > end:
                self.faults.append(f"not done after {minutes:g} minutes: {self.ask('progress')}")
                return
            self.page.wait_for_timeout(1000)
            now = self.ask("progress")
            still = still + 1 if now["idle"] and not now["waiting"] else 0
        if now["done"] != len(self.codes):
            self.faults.append(f"Run All ran {now['done']} of {len(self.codes)} code cells")
        for i, (cell, outputs) in enumerate(zip(self.stored.cells, self.ask("outputs"), strict=True)):
            stored = [said(output) for output in cell.get("outputs", [])]
            for kind, text in (said(output) for output in outputs):
                if kind == "error" or kind == "stderr" and "stderr" not in dict(stored):
                    self.faults.append(f"cell {i} gives {kind}: {text[-300:]}")

    def check_widgets(self) -> int:
        """Move each slider, and choose from each list; the output beside it must follow, and come back."""
        moved = 0
        for box in self.page.locator(".jupyter-widgets.widget-interact").all():
            output = box.locator(".jp-OutputArea").first
            for control in box.locator(".noUi-handle, select").all():
                before = content(output)
                self.move(control, 1)
                changed = self.waited(lambda output=output, before=before: content(output) not in ("", before))
                self.move(control, -1)
                back = changed and self.waited(lambda output=output, before=before: content(output) == before)
                if not back:
                    how = "does not come back to what it showed" if changed else "changes nothing"
                    self.faults.append(f"a widget {how}: {box.inner_text()[:80]!r}")
                moved += 1
        expected = sum("interact(" in cell.source for cell in self.codes)
        if (boxes := self.page.locator(".jupyter-widgets.widget-interact").count()) != expected:
            self.faults.append(f"{expected} cells call interact, {boxes} widgets are shown")
        return moved

    def move(self, control: Locator, by: int) -> None:
        """One step, the other way at the end of a list or of a slider."""
        control.scroll_into_view_if_needed()
        if control.evaluate("node => node.tagName") == "SELECT":
            count = control.evaluate("node => node.options.length")
            control.select_option(index=(control.evaluate("node => node.selectedIndex") + by) % count)
        else:
            control.focus()
            control.press("ArrowRight" if by > 0 else "ArrowLeft")

    def waited(self, condition, seconds: float = 60) -> bool:
        end = time.monotonic() + seconds
        while not condition():
            if time.monotonic() > end:
                return False
            self.page.wait_for_timeout(100)
        return True

    def check_animations(self) -> int:
        moving = [image for image in self.page.locator(".jp-OutputArea img").all() if is_animated(image)]
        for image in moving:
            image.scroll_into_view_if_needed()
            first = image.screenshot()
            if not self.waited(lambda image=image, first=first: image.screenshot() != first, 10):
                self.faults.append(f"an animation stands still: {image.get_attribute('alt')}")
        if (expected := sum("plots.animate(" in cell.source for cell in self.codes)) != len(moving):
            self.faults.append(f"{expected} cells call plots.animate, {len(moving)} animations are shown")
        return len(moving)

    def check_page(self) -> None:
        self.page.evaluate("document.querySelectorAll('details').forEach((part) => { part.open = true })")
        self.settle()
        self.faults += self.ask("faults")

    def picture(self, theme: str, folder: Path) -> None:
        """The whole page in this theme, in slices; and text in it that does not stand out."""
        self.ask("run", "apputils:change-theme", {"theme": THEMES[theme]})
        self.page.wait_for_timeout(2000)
        self.settle()
        self.faults += [f"{theme}, {pale}" for pale in self.ask("pale")]
        height, step = self.page.evaluate(
            "(({scrollHeight, clientHeight}) => [scrollHeight, clientHeight])(window.course.scroller())"
        )
        for n, top in enumerate(range(0, height, step)):
            self.page.evaluate("(top) => { window.course.scroller().scrollTop = top }", top)
            self.page.wait_for_timeout(200)
            self.page.screenshot(path=folder / f"{self.name}_{theme}_{n:02}.png")


def said(output: dict) -> tuple[str, str]:
    """What kind an output is (error, stderr, or other), and its text."""
    if output["output_type"] == "error":
        return "error", f"{output['ename']}: {output['evalue']}"
    is_stderr = output["output_type"] == "stream" and output["name"] == "stderr"
    return ("stderr", "".join(output["text"])) if is_stderr else ("other", "")


def content(output: Locator) -> str:
    """What an output shows: its text, and the addresses of its pictures, which hold them."""
    return output.evaluate("node => node.innerText.trim() + [...node.querySelectorAll('img')].map(i => i.src).join()")


def is_animated(image: Locator) -> bool:
    """Whether it is a PNG of several frames, which the page itself holds."""
    address = image.get_attribute("src") or ""
    return address.startswith("data:image/png") and b"acTL" in base64.b64decode(address.split(",", 1)[1])


def look_at(page: Page, address: str, path: Path, options) -> list[str]:
    notebook, begun = Notebook(page, address, path), time.monotonic()
    notebook.check_what_is_hidden()
    if not options.stored:
        notebook.run_all(options.minutes)
        notebook.check_what_is_hidden()
    notebook.ask("run", "notebook:expand-all-headings")
    notebook.check_page()
    moved = 0 if options.stored else notebook.check_widgets()
    animations = notebook.check_animations()
    for theme in THEMES:
        notebook.picture(theme, options.out)
    told = f"{len(notebook.codes)} code cells, {moved} widgets moved, {animations} animations"
    print(f"{notebook.name}: {told}, {time.monotonic() - begun:.0f} s, {len(notebook.faults)} faults", flush=True)
    for fault in notebook.faults:
        print(f"    {fault}", flush=True)
    return notebook.faults


def main() -> int:
    known = sorted(path.stem for path in (ROOT / "notebooks").glob("*.ipynb"))
    parser = argparse.ArgumentParser(description="Run the notebooks in JupyterLab in a headless browser.")
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(known)} [all]")
    parser.add_argument("--out", type=Path, help="a folder for the pictures [a temporary one]")
    parser.add_argument("--browser", help=f"a program [the first there is of {', '.join(BROWSERS)}]")
    parser.add_argument("--minutes", type=float, default=30, help="how long a notebook may take [30]")
    parser.add_argument("--stored", action="store_true", help="look at the stored outputs; run nothing")
    options = parser.parse_args()
    if unknown := sorted(set(options.names) - set(known)):
        parser.error(f"no notebook {', '.join(unknown)}; there are {', '.join(known)}")
    browser = options.browser or next(filter(None, map(shutil.which, BROWSERS)), None)
    if browser is None:
        parser.error(f"found none of the browsers {', '.join(BROWSERS)}: name a Chromium or Chrome with --browser")
    options.out = options.out or Path(tempfile.mkdtemp(prefix="pages-"))
    options.out.mkdir(parents=True, exist_ok=True)
    faults = []
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as scratch, sync_playwright() as playwright:
        course = Path(scratch) / "course"
        course.mkdir()
        for path in sorted((ROOT / "notebooks").glob("*.ipynb")):
            shutil.copy(path, course)
        started = playwright.chromium.launch(executable_path=browser, args=["--disable-dev-shm-usage"])
        with jupyterlab(Path(scratch)) as address:
            for name in options.names or known:
                page = started.new_page(viewport={"width": WIDTH, "height": HEIGHT})
                faults += look_at(page, address, ROOT / "notebooks" / f"{name}.ipynb", options)
                page.close()
        started.close()
    print(f"Pictures of the pages, to be looked at: {options.out}")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
