"""Pages of the documentation lead somewhere, say first what they are for, and all stand in the navigation.

scripts/docs builds the site and checks the same on what was built.
"""

from __future__ import annotations

import re
import runpy
import unicodedata
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
PAGES = sorted(DOCS.rglob("*.md"))
ROOT_PAGES = [ROOT / name for name in ("README.md", "CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md")]
EVERY_PAGE = pytest.mark.parametrize(
    "page", [*ROOT_PAGES, *PAGES], ids=lambda page: str(page.relative_to(ROOT))
)


def prose(page: Path) -> str:
    """The text of a page without its blocks of code."""
    return re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)


def anchor(heading: str) -> str:
    """The place that MkDocs makes of a heading: ASCII letters, digits and hyphens."""
    text = re.sub(r"\[([^]]*)\]\([^)]*\)|[`*]", r"\1", heading)
    text = unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode()
    return re.sub(r"[-\s]+", "-", re.sub(r"[^\w\s-]", "", text).strip().lower())


def anchors(page: Path) -> set[str]:
    return {anchor(heading) for heading in re.findall(r"^#+ (.*)$", prose(page), re.MULTILINE)}


@EVERY_PAGE
def test_links_lead_to_files_and_places(page: Path) -> None:
    broken = []
    for target in re.findall(r"\]\(([^)\s]+)\)", prose(page)):
        if target.startswith(("http://", "https://", "mailto:")):
            continue
        name, _, place = target.partition("#")
        file = (page.parent / name).resolve() if name else page
        is_file = file.is_file()
        if not is_file or (place and place not in anchors(file)):
            broken.append(target)
    assert broken == [], "links of the site lead to files, not to folders"


@EVERY_PAGE
def test_the_first_sentence_says_what_the_page_is_for(page: Path) -> None:
    text = re.sub(r"^<!--.*?-->\n+", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    title, first = text.split("\n\n")[:2]
    assert re.fullmatch(r"# .+", title)
    assert re.match(r"(?:\*\*vinr\*\*|[A-Z]).*[.:?]", first, re.DOTALL), first


def test_every_page_stands_once_in_the_navigation() -> None:
    text = (ROOT / "mkdocs.yml").read_text(encoding="utf-8").partition("\nnav:\n")[2]
    shown = re.findall(r"(?:: |- )([\w./-]+\.md)$", text, re.MULTILINE)
    assert len(shown) == len(set(shown))
    made = {"index.md", "contributing.md", "changelog.md", "security.md"}
    made |= {f"examples/{path.stem}.md" for path in (ROOT / "examples").glob("*.ipynb")}
    assert set(shown) == {page.relative_to(DOCS).as_posix() for page in PAGES} | made


def test_messages_that_the_page_of_troubles_quotes_are_those_of_the_software() -> None:
    source = "".join(path.read_text(encoding="utf-8") for path in sorted((ROOT / "src").rglob("*.py")))
    source = re.sub(r'"\s*\n\s*f?"', "", source)
    rows = re.findall(r"^\| (.*?) \|", prose(DOCS / "troubleshooting.md"), re.MULTILINE)
    quotes = [part for row in rows for part in re.findall(r"`([^`]*)`", row) if not part.startswith("vinr:")]
    assert len(quotes) >= 8
    missing = [part for quote in quotes for part in quote.split("…") if part.strip() not in source]
    assert missing == []


def test_faults_of_a_built_site_are_found(tmp_path: Path) -> None:
    (tmp_path / "a.html").write_text(
        '<h1 id="top">A</h1><img src="data:,"><a href="b.html#here">b</a><a href="#top">a</a>',
        encoding="utf-8",
    )
    (tmp_path / "b.html").write_text('<p id="here"><a href="https://example.org">far</a>', encoding="utf-8")
    faults = runpy.run_path(str(ROOT / "scripts" / "check_site.py"))["faults"]
    assert list(faults(tmp_path)) == []
    (tmp_path / "c.html").write_text(
        '<script src="https://example.org/x.js"></script><a href="d.html">d</a><a href="b.html#there">b</a>',
        encoding="utf-8",
    )
    assert list(faults(tmp_path)) == [
        "c.html loads https://example.org/x.js",
        "c.html leads to d.html, which is not there",
        "c.html leads to b.html#there, which has no such place",
    ]
