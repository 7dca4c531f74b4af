"""What the site adds to docs/: pages of the repository's root, and the notebooks with their outputs.

Called by MkDocs (mkdocs.yml, `hooks`). README.md is the first page. Links out of docs/ become links of the
site.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import nbformat
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parent.parent
ROOT_PAGES = {
    "README.md": "index.md",
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
    "SECURITY.md": "security.md",
}
PICTURES = ("image/png", "image/jpeg")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that lie outside docs/."""
    for name, page in ROOT_PAGES.items():
        text = (ROOT / name).read_text(encoding="utf-8").replace("](docs/", "](")
        files.append(File.generated(config, page, content=_with_site_links(text, depth=0)))
    for path in sorted((ROOT / "examples").glob("*.ipynb")):
        files.append(File.generated(config, f"examples/{path.stem}.md", content=notebook_page(path)))
    return files


def on_page_markdown(markdown: str, page: Page, **_: Any) -> str:
    """Turn links to the root of the repository and to notebooks into links of the site."""
    return _with_site_links(markdown, depth=page.file.src_uri.count("/"))


def _with_site_links(text: str, depth: int) -> str:
    up = "../" * depth
    for name, target in ROOT_PAGES.items():
        text = re.sub(rf"\]\((?:\.\./)*{name}(?=[)#])", f"]({up}{target}", text)
    return re.sub(r"\]\((?:\.\./)*examples/(\w+)\.ipynb\)", rf"]({up}examples/\1.md)", text)


def notebook_page(path: Path) -> str:
    """Return a notebook as Markdown: its texts, its code, and what that printed and drew."""
    parts = []
    for cell in nbformat.read(path, as_version=4).cells:
        if cell.cell_type == "markdown":
            parts.append(cell.source)
            continue
        parts.append(f"```python\n{cell.source}\n```")
        parts.extend(map(_shown, cell.outputs))
    return "\n\n".join(part for part in parts if part) + "\n"


def _shown(output: Any) -> str:
    if output.output_type == "stream":
        return f"```text\n{output.text.rstrip()}\n```"
    data = output.get("data", {})
    for kind in PICTURES:
        if kind in data:
            content = data[kind].replace("\n", "")
            return f'<img alt="what the cell above draws" src="data:{kind};base64,{content}">'
    if "text/html" in data:
        return str(data["text/html"])
    return f"```text\n{data['text/plain']}\n```" if "text/plain" in data else ""
