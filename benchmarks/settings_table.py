"""Writes docs/settings.md: every setting with its type, default, allowed values and meaning."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from vinr.cli.settings_list import ARCHITECTURE, SettingEntry, default_text, list_settings
from vinr.models import built_in_models, describe_model

PATH = Path(__file__).resolve().parent.parent / "docs" / "settings.md"

HEAD = """# Settings

Every key that `--set` takes, as in `--set fit.epochs=100`, and `overrides=` of the Python functions. Written
by `python benchmarks/settings_table.py`; `vinr settings` prints the same for one section or key, together
with what a model's preset file sets instead of the defaults.

```sh
vinr settings fit                            # one section: fit, compress, decode or architecture
vinr settings fit.schedule                   # a key, with the keys below it
vinr settings architecture --model hinerv
vinr encode in.mp4 out.vinr --set fit.seed=7 --set 'fit.loss={l1 = 0.7, ssim = 0.3}'
```

Values are written as in TOML: `true`, `0.5`, `[1, 2]`, `{l2 = 1.0}`; text needs no quotes unless it stands in
a list or table. Keys with `[]` belong to each table of a list, which is set as a whole:
`--set 'fit.phases=[{share = 0.3, quantization = "qat"}]'`. A default of *none* is had by leaving the key out.
Defaults are those of the software; recipes and presets set some of them otherwise.
"""

INTRODUCTIONS = {
    "fit": "How a network is trained.",
    "compress": "How a trained network is written.",
    "decode": "How frames are computed; `vinr decode` and `vinr eval` take these alone.",
}
TITLES = ("key", "type", "allowed", "default", "meaning")


def table(entries: Sequence[SettingEntry]) -> list[str]:
    """Return the lines of a table."""
    lines = [f"| {' | '.join(TITLES)} |", "|" + "---|" * len(TITLES)]
    for entry in entries:
        cells = [f"`{entry.key}`", entry.type, entry.allowed, default_text(entry), entry.meaning]
        lines.append(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |")
    return lines


def render() -> str:
    """Return the whole page."""
    lines = [HEAD]
    for section, introduction in INTRODUCTIONS.items():
        lines += [f"## {section}", "", introduction, "", *table(list_settings(section)), ""]
    for model in sorted(built_in_models()):
        lines += [f"## architecture of {model}", "", describe_model(model), ""]
        lines += [*table(list_settings(ARCHITECTURE, model)), ""]
    return "\n".join(lines)


def main() -> None:
    """Write the page."""
    argparse.ArgumentParser(description=__doc__).parse_args()
    PATH.write_text(render(), encoding="utf-8")


if __name__ == "__main__":
    main()
