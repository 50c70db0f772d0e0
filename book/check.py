"""What a built site must hold: every link inside it leads somewhere, and no page needs another site to be shown."""

import re
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

NEEDED = {
    "script": "src",
    "img": "src",
    "source": "src",
    "video": "src",
    "audio": "src",
    "iframe": "src",
    "link": "href",
}
IN_STYLE = re.compile(r"url\(\s*['\"]?([^'\")]+)|@import\s+['\"]([^'\"]+)")


class Page(HTMLParser):
    """ids: the places that a link can lead to.  links: of <a>.  needed: what a browser fetches to show the page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.ids: set[str] = set()
        self.links: list[str] = []
        self.needed: list[str] = []
        self.classes: set[str] = set()
        self.feed(text)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attributes}
        self.ids |= {given[name] for name in ("id", "name") if name in given}
        self.classes |= set(given.get("class", "").split())
        if tag == "a" and "href" in given:
            self.links.append(given["href"])
        if tag in NEEDED and NEEDED[tag] in given and given.get("rel") not in ("canonical", "alternate"):
            self.needed.append(given[NEEDED[tag]])
        self.needed += [found for pair in IN_STYLE.findall(given.get("style", "")) for found in pair if found]


def problems(site: Path) -> Iterator[str]:
    """A sentence for each link that leads nowhere, each file of another site, and each page with markup gone wrong."""
    pages = {path.resolve(): Page(path.read_text("utf-8")) for path in site.rglob("*.html")}
    for path, page in pages.items():
        name = path.relative_to(site.resolve())
        for link in [*page.links, *page.needed]:
            address = urlsplit(link)
            if address.scheme or address.netloc:
                if link in page.needed and address.scheme != "data":
                    yield f"{name} needs {link}, which is not in the book"
                continue
            there = (path.parent / unquote(address.path)).resolve() if address.path else path
            if not there.is_file():
                yield f"{name} links to {link}, which does not exist"
            elif address.fragment and there in pages and unquote(address.fragment) not in pages[there].ids:
                yield f"{name} links to {link}: that page has no such place"
        if "problematic" in page.classes:
            yield f"{name} holds markup that Sphinx could not read"
    for path in site.rglob("*.css"):
        for link in (found for pair in IN_STYLE.findall(path.read_text("utf-8")) for found in pair if found):
            if urlsplit(link).netloc:
                yield f"{path.relative_to(site)} needs {link}, which is not in the book"
