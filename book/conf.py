"""Sphinx's settings for the book, and what its pages need beyond them. `book/build.py` calls it."""

import re
import sys
from html import escape, unescape
from pathlib import Path

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.transforms.post_transforms import SphinxPostTransform
from sphinx.util.nodes import make_refnode

sys.path.insert(0, str(Path(__file__).resolve().parent))
from docstrings import as_rest  # noqa: E402

project = "ddpm_lesson"
copyright = "its contributors. Code: MIT; prose and figures: CC BY 4.0"
extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.viewcode", "sphinx.ext.mathjax", "sphinx-mathjax-offline"]
root_doc = "index"

nb_execution_mode = "off"
nb_merge_streams = True
nb_code_prompt_show = nb_code_prompt_hide = "Code"
myst_enable_extensions = ["dollarmath", "amsmath"]
myst_dmath_double_inline = True
myst_heading_anchors = 4
smartquotes = False  # what a command prints stands here as it is printed
mathjax3_config = mathjax4_config = {  # formulas at the left, so that their tags fit beside them; before Sphinx 9: 3
    "chtml": {"displayAlign": "left", "displayIndent": "1em", "scale": 0.9}
}
suppress_warnings = ["myst.header"]  # a notebook may begin with ###, before its first section

autodoc_member_order = "bysource"
autodoc_inherit_docstrings = False
autodoc_default_options = {"ignore-module-all": True, "show-inheritance": True}
add_module_names = False

html_theme = "furo"
html_title = "Diffusion models, derived and checked"
html_static_path = ["static"]
html_css_files = ["book.css"]
html_js_files = ["book.js"]
html_copy_source = False
html_domain_indices = html_use_index = False  # search and the sidebar lead there
pygments_style, pygments_dark_style = "default", "github-dark"

DOLLARS = re.compile(r"\$([^$]+)\$")


class Pages(SphinxPostTransform):
    """What a page needs that neither MyST nor Sphinx does."""

    default_priority = 1

    def run(self) -> None:
        for formula in self.document.findall(nodes.math_block):  # whole, so that \tag may follow lines with \\
            text = formula.astext()
            formula.children = [nodes.Text(rf"\[{text}\]")]
            formula["no-wrap"] = formula["nowrap"] = True
        for html in self.document.findall(nodes.raw):
            if html["format"] == "html":  # formulas within <details>
                html.children = [nodes.Text(DOLLARS.sub(inline_formula, html.astext()))]
        for comment in list(self.document.findall(nodes.comment)):
            if comment.astext() == "deeper":
                collapse(comment.parent)
        for name in list(self.document.findall(nodes.literal)):
            self.link_to_package(name)
            if has_parent(name, nodes.entry):
                name.children = breakable(name.astext())

    def link_to_package(self, name: nodes.literal) -> None:
        """`schedules.linear` becomes a link to where the page of the package describes it."""
        domain, full = self.env.domains["py"], f"ddpm_lesson.{name.astext().removeprefix('ddpm_lesson.')}"
        if isinstance(name.parent, nodes.reference) or "." not in name.astext() or full not in domain.objects:
            return
        there = domain.objects[full]
        link = make_refnode(self.app.builder, self.env.docname, there.docname, there.node_id, [])
        name.replace_self(link)
        link += name


def inline_formula(found: re.Match) -> str:
    return rf'<span class="math notranslate nohighlight">\({escape(unescape(found[1]))}\)</span>'


def collapse(section: nodes.section) -> None:
    """Everything below the heading of a section, folded until it is clicked."""
    title, *rest = [child for child in section.children if not isinstance(child, nodes.comment)]
    begin, middle, end = '<details class="deeper"><summary>', "</summary>", "</details>"
    section.children = []
    section += [html(begin), title, html(middle), *rest, html(end)]


def has_parent(node: nodes.Node, kind: type[nodes.Node]) -> bool:
    while (node := node.parent) is not None and not isinstance(node, kind):
        pass
    return node is not None


def breakable(name: str) -> list[nodes.Node]:
    """In a table a line may end after each underscore and dot of a long name."""
    parts = re.split(r"(?<=[_.:/])(?=\w)", name) if len(name) > 20 and " " not in name else [name]
    return [piece for part in parts for piece in (nodes.Text(part), html("<wbr>"))][:-1]


def html(text: str) -> nodes.raw:
    return nodes.raw("", text, format="html")


def plain_docstring(app: Sphinx, what: str, name: str, found: object, options: object, lines: list[str]) -> None:
    text = "\n".join(lines)
    if not (getattr(found, "__module__", None) or name).startswith("ddpm_lesson"):
        return  # a name that a module imports, which is left out later
    lines[:] = [] if text.startswith("Alias for field number") else as_rest(text).splitlines()


def setup(app: Sphinx) -> None:
    app.add_post_transform(Pages)
    app.connect("autodoc-process-docstring", plain_docstring)
