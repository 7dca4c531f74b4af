"""Turns README.md into the description that PyPI shows: links of the source lead to the tag of the version.

Where ``urls.Source`` of pyproject.toml is not set, there is nothing to lead to: links become plain text, and
pictures are left out.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from hatchling.metadata.plugin.interface import MetadataHookInterface

PICTURE = re.compile(r"!\[([^]]*)\]\((?!https?:)([^)\s]+)\)")
LINK = re.compile(r"(?<!!)\[([^]]*)\]\((?!https?:|#)([^)\s]+)\)")


class ReadmeHook(MetadataHookInterface):
    """Sets the readme of the package."""

    def update(self, metadata: dict[str, Any]) -> None:
        """Set it."""
        text = Path(self.root, "README.md").read_text(encoding="utf-8")
        source = metadata.get("urls", {}).get("Source", "")
        shown = with_absolute_links(text, source.rstrip("/"), f"v{metadata['version']}")
        metadata["readme"] = {"content-type": "text/markdown", "text": shown}


def with_absolute_links(text: str, source: str, tag: str) -> str:
    """Return ``text`` with the links and pictures of the repository ``source`` at ``tag``; empty: none."""
    if not source:
        return LINK.sub(r"\1", PICTURE.sub("", text))
    text = PICTURE.sub(rf"![\1]({source}/raw/{tag}/\2)", text)
    return LINK.sub(rf"[\1]({source}/blob/{tag}/\2)", text)
