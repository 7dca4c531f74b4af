"""Checks a built site: no page loads anything from elsewhere, and no internal link or anchor is broken.

    python scripts/check_site.py site

Standard library only. Exit status 1, and a line for each fault, if there are any.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Final
from urllib.parse import unquote, urlsplit

# Attributes by which a page loads something; those of <a> only lead somewhere.
LOADING: Final = {
    "img": ("src", "srcset"),
    "script": ("src",),
    "link": ("href",),
    "iframe": ("src",),
    "source": ("src", "srcset"),
    "video": ("src", "poster"),
    "audio": ("src",),
    "object": ("data",),
    "embed": ("src",),
}


class Page(HTMLParser):
    """What a page loads, where it leads, and which places in it can be led to."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.loads: list[str] = []
        self.links: list[str] = []
        self.places: set[str] = {""}
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = {name: value or "" for name, value in attrs}
        self.places.update(values[name] for name in ("id", "name") if name in values)
        if tag == "a" and "href" in values:
            self.links.append(values["href"])
        self.loads += [values[name] for name in LOADING.get(tag, ()) if name in values]


def faults(folder: Path) -> Iterator[str]:
    """Yield a line for each fault of the site in ``folder``."""
    pages = {path.resolve(): Page(path) for path in sorted(folder.rglob("*.html"))}
    for path, page in pages.items():
        name = path.relative_to(folder.resolve())
        for address in page.loads:
            if urlsplit(address).scheme not in ("", "data") or address.startswith("//"):
                yield f"{name} loads {address}"
        if name.name == "404.html":
            continue  # shown under any address, so its links have none of their own
        for address in page.links:
            link = urlsplit(address)
            if link.scheme or link.netloc:
                continue
            target = (path.parent / unquote(link.path)).resolve() if link.path else path
            if target.is_dir():
                target /= "index.html"
            if not target.exists():
                yield f"{name} leads to {address}, which is not there"
            elif target in pages and unquote(link.fragment) not in pages[target].places:
                yield f"{name} leads to {address}, which has no such place"


def main(folder: Path) -> int:
    """Print the faults; return the exit status."""
    lines = list(faults(folder))
    print("\n".join(lines) or f"{folder}: nothing from elsewhere, no broken link")
    return 1 if lines else 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
