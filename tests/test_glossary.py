"""docs/glossary.md: every term stands where the glossary says, and its Chinese words are those of the notebooks."""

import re
import unicodedata
from pathlib import Path

import pytest
from test_docs import FOLDER, build, course, misplaced, page, tables

ROWS = next(iter(tables(page("glossary.md")).values()))
CHINESE = re.compile(r"[\u4e00-\u9fff]+")
TITLE = re.compile("【.*?】")  # of the blog post


def name(term: str) -> str:
    """What a term is sorted by: a symbol by its name, an accented letter by the plain one."""
    plain = unicodedata.normalize("NFD", re.sub(r"^\$(\\bar)?\\?", "", term))
    return "".join(letter for letter in plain if letter.isascii()).lower()


def notation(notebook: str) -> list[tuple[str, str]]:
    """Symbol and Chinese words of each row of a notebook's table of symbols."""
    rows = re.findall(r"^\| (\$.*) \|$", "\n".join(cell.source for cell in read(notebook).cells), re.M)
    cells = [(re.split(r"(?<!\\) \| ", row)[0], re.split(r" \| ", row)[-1]) for row in rows]
    return [(symbol, words) for symbol, words in cells if CHINESE.search(words)]


def read(notebook: str):
    return build.read_source(FOLDER / "source" / f"{notebook}.py")


NOTEBOOKS = sorted(path.stem for path in Path(FOLDER).glob("source/*.py"))


def test_terms_are_sorted_and_complete():
    assert len(ROWS) > 90
    assert [name(term) for term, *_ in ROWS] == sorted({name(term) for term, *_ in ROWS})
    for term, meaning, chinese, _ in ROWS:
        assert meaning and CHINESE.search(chinese), f"{term} must have a meaning and its Chinese word"


def test_every_term_stands_in_its_section():
    assert list(misplaced([where for *_, where in ROWS], course())) == []
    assert all(where != "not yet" for *_, where in ROWS)


@pytest.mark.parametrize("notebook", NOTEBOOKS)
def test_the_glossary_has_the_notebooks_chinese_words(notebook):
    text = TITLE.sub("", "\n".join(cell.source for cell in read(notebook).cells))
    known = {word for *_, chinese, _ in ROWS for word in re.split("[,、]", chinese)}
    used = {word for line in text.splitlines() for word in CHINESE.findall(line)} - {"中文"}
    parts = {part for word in known for part in [word, *CHINESE.findall(word)]}
    assert used and used <= parts


@pytest.mark.parametrize("notebook", [name for name in NOTEBOOKS if notation(name)])
def test_symbols_have_the_same_word_in_glossary_and_notation(notebook):
    """In the glossary a Chinese word of the notation stands beside one of the symbols that it has there."""
    of = {word: term for term, _, chinese, _ in ROWS for word in re.split("[,、]", chinese)}
    for symbols, words in notation(notebook):
        letters = [symbol.strip(" ,") for symbol in re.findall(r"\$([^$]+)\$", symbols)]
        pieces = {piece.split("=")[0].strip() for letter in letters for piece in [letter, *letter.split(", ")]}
        for word in re.split("[,、]", words):
            term = of[word]
            assert any(f"${piece}" in term or f"{piece}$" in term or f" {piece}" in term for piece in pieces), (
                term,
                word,
            )
