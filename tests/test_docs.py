"""The pages of docs: their links, their place in the contents, the errors that they explain; and the English of all."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
SOURCES = ("acmix_nas", "search_spaces", "strategies")
PAGES = sorted(page for page in DOCS.rglob("*.md") if "_build" not in page.parts)
NOTEBOOKS = sorted((ROOT / "examples").glob("*.ipynb"))
FENCE = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)
WORDS_A_SENTENCE = 18
# What English is not to be here, how a docstring does not begin, and the words that every reader has to learn.
NO_VERBS = {
    "A", "All", "An", "Another", "As", "At", "Both", "Each", "Every", "Everything", "For", "From", "How", "In", "It", "Its",
    "No", "None", "Nothing", "Of", "One", "So", "That", "The", "These", "This", "Those", "What", "Where", "Whether", "Which",
    "With",
}  # fmt: skip
AVOIDED = ("as of", "those that", "those which", "the former", "the latter", "what was found", "in order to", "utilise")
CONCEPTS = (
    "Slot", "Operator", "Candidate", "Stage I", "Stage II", "ACmix", "Search space", "Architecture", "Supernet", "Strategy",
    "Cost", "Budget", "Ranking", "Inherited weights", "Finalists and race", "Warm start", "Baseline", "Regret",
)  # fmt: skip


def named(page: Path) -> str:
    return str(page.relative_to(ROOT))


every_page = pytest.mark.parametrize("page", PAGES, ids=named)
every_text = pytest.mark.parametrize("page", [*PAGES, *NOTEBOOKS], ids=named)


def text_of(page: Path) -> str:
    """Return the Markdown of a page, or of a notebook's cells."""
    if page.suffix == ".md":
        return page.read_text()
    cells = json.loads(page.read_text())["cells"]
    return "\n\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown")


def without_code(text: str) -> str:
    return re.sub(r"`[^`\n]+`", "code", FENCE.sub("", text))


def anchors(page: Path) -> set[str]:
    """Return what GitHub and MyST call the headings of a page."""
    headings = re.findall(r"^#+ (.+)$", FENCE.sub("", page.read_text()), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@every_page
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", without_code(page.read_text())):
        if target.startswith(("https://", "http://")):
            continue
        file, _, anchor = target.partition("#")
        found = (page.parent / file).resolve() if file else page
        assert found.exists(), target
        assert not anchor or anchor in anchors(found), target


@every_page
def test_files_that_are_named_exist(page: Path) -> None:
    """In text and in commands: the files of the repository."""
    for name in re.findall(r"(?<![\w/.])(?:docs|experiments|tests)/[\w/.-]*\w", page.read_text()):
        assert name.startswith("docs/_build") or (ROOT / name).exists(), name


def contents(page: Path) -> Iterator[Path]:
    """Yield the page, and every page that its contents lead to."""
    yield page
    for block in re.findall(r"^```\{toctree\}\n(.*?)^```$", page.read_text(), re.MULTILINE | re.DOTALL):
        for line in filter(None, map(str.strip, block.splitlines())):
            if (ROOT / "examples" / f"{line}.ipynb") in NOTEBOOKS:
                yield ROOT / "examples" / f"{line}.ipynb"  # which the build copies beside the page
            elif not line.startswith(":"):
                yield from contents((page.parent / f"{line}.md").resolve())


def test_every_page_is_in_the_contents_once() -> None:
    assert sorted(contents(DOCS / "index.md")) == sorted([*PAGES, *NOTEBOOKS])


@cache
def texts() -> frozenset[str]:
    """Return every text in the sources, with … for whatever is put into it."""

    def text(node: ast.AST) -> str | None:
        if isinstance(node, ast.JoinedStr):
            return "".join(text(part) or "…" for part in node.values)
        return node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else None

    files = [file for folder in SOURCES for file in (ROOT / folder).rglob("*.py")]
    nodes = (node for file in files for node in ast.walk(ast.parse(file.read_text())))
    return frozenset(re.sub("…+", "…", found) for node in nodes if (found := text(node)))


def test_errors_are_quoted_as_they_are() -> None:
    quoted = re.findall(r"^### `(.+)`$", (DOCS / "troubleshooting.md").read_text(), re.MULTILINE)
    assert len(quoted) >= 15
    assert [message for message in quoted if message not in texts()] == []


def test_the_equalities_name_functions_and_tests_that_exist() -> None:
    page = FENCE.sub("", (DOCS / "equalities.md").read_text())
    names = {part for name in re.findall(r"`([A-Za-z_]\w+(?:\.\w+)?)`", page) for part in name.split(".")}
    files = [file for folder in (*SOURCES, "tests") for file in (ROOT / folder).rglob("*.py")]
    defined = {name for file in files for name in re.findall(r"\b(?:def|class) (\w+)", file.read_text())}
    assert sum(name.startswith("test_") for name in names) >= 20
    assert names - defined == {"nn", "Conv2d", "norms", "conv", "fc", "shift", "reflect", "mask"}


def test_every_word_is_explained() -> None:
    page = (DOCS / "concepts.md").read_text()
    for word in CONCEPTS:
        assert re.search(rf"^### {word}\n\n\w.*\.\n", page, re.MULTILINE), word


def sentences(text: str) -> list[str]:
    """Return the sentences of the prose, without code, tables and headings. An item of a list ends one, as a paragraph does."""
    text = re.sub(r"!?\[([^\]]*)\]\([^)]*\)", r"\1", without_code(text))
    lines = [line.strip() for line in text.splitlines()]
    prose = "\n".join("" if line.startswith(("|", "#", "%", "<!--")) else line for line in lines)
    blocks = re.split(r"\n\s*\n|\n(?=[-*] |\d+\. )", prose)
    found = (part for block in blocks for part in re.split(r"(?<=[.!?])\**\s+", block.strip()))
    return [sentence for sentence in found if len(sentence.split()) > 1]


@every_text
def test_sentences_are_short(page: Path) -> None:
    said = sorted(sentences(text_of(page)), key=lambda sentence: len(sentence.split()))
    words = [len(sentence.split()) for sentence in said]
    assert sum(words) <= WORDS_A_SENTENCE * len(words), said[-1]
    assert max(words, default=0) <= 3 * WORDS_A_SENTENCE, said[-1]


@every_text
def test_words_are_plain(page: Path) -> None:
    text = " ".join(without_code(text_of(page)).split()).lower()
    assert [phrase for phrase in AVOIDED if re.search(rf"\b{phrase}\b", text)] == []


def test_the_measure_of_english_measures() -> None:
    text = "# A title of many words\n\nOne two three. Four `five six` 0.7!\n\n| a | b |\n\n- seven eight\n- nine ten\n"
    assert [len(sentence.split()) for sentence in sentences(text)] == [3, 3, 3, 3]


def no_verbs(code: str) -> list[str]:
    """Return the functions and methods whose docstring does not begin with a verb. Tests are left out: their names say it."""
    functions = (node for node in ast.walk(ast.parse(code)) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))
    said = ((f.name, ast.get_docstring(f)) for f in functions if not f.name.startswith("test_"))
    return [name for name, text in said if text and (text.split()[0] in NO_VERBS or not text[0].isupper())]


def test_docstrings_begin_with_a_verb() -> None:
    files = [file for folder in (*SOURCES, "tests", "docs/_ext") for file in sorted((ROOT / folder).rglob("*.py"))]
    assert [f"{named(file)}: {name}" for file in files for name in no_verbs(file.read_text())] == []


def test_the_measure_of_docstrings_measures() -> None:
    code = """
class Thing:
    '''A thing.'''
    @property
    def size(self): '''The size.'''
    def shape(self): '''(H, W)'''
    def area(self): '''Return the area.'''
    def test_area(self): '''The area.'''
async def wait(): '''Whether to wait.'''
def plain(): pass
"""
    assert sorted(no_verbs(code)) == ["shape", "size", "wait"]
