"""The gallery's page, from the JSON document that lies beside it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from vinr.bench.pages import markdown_table, show_value
from vinr.bench.report import conditions, given_options, window_notes

# The first line of the page. A README.md that begins otherwise is somebody's own and is not replaced.
MARK: Final = "<!-- written by benchmarks.gallery -->"

Document = Mapping[str, Any]


def gallery_page(document: Document) -> str:
    """Return the page as Markdown; pictures lie beside it."""
    data = " --data FOLDER" if document["has_data"] else ""
    command = f"python -m benchmarks.gallery --scale {document['scale']}{data}"
    parts = [
        f"{MARK}\n\n# {document['title']}",
        document["text"],
        f"Made by `{command}`{given_options(document['settings'])}. {document['note']}".strip(),
    ]
    for section in document["sections"]:
        parts += _section(section)
    jobs = [network for section in document["sections"] for network in section["networks"]]
    parts += ["## Whose frames these are", *document["credits"], "## Measured", conditions(jobs)]
    return "\n\n".join(parts) + "\n"


def _section(section: Document) -> list[str]:
    parts = [f"## {section['title']}"]
    if section["left_out"]:
        return [*parts, section["left_out"]]
    parts += [" ".join([section["text"], *_clips(section)])]
    if section["networks"]:
        parts.append(_table(section))
        parts += window_notes(network["ms_ssim_window"] for network in section["networks"])
        parts += [_picture(section, network) for network in section["networks"]]
    if section["num_missing"]:
        parts.append(f"{section['num_missing']} jobs have not ended.")
    return parts


def _clips(section: Document) -> list[str]:
    """Return what was fitted, once for each clip."""
    return list(dict.fromkeys(_clip(network) for network in section["networks"]))


def _clip(network: Document) -> str:
    first, stop = network["setup"].get("frames") or (0, network["num_frames"])
    size = f"{network['height']}×{network['width']}"
    grown = network["setup"].get("grow")
    masks = f"; masks grown by {grown} pixels" if grown else ""
    return f"Fitted: {network['clip']}, frames {first} to {stop - 1}, {size} pixels{masks}."


def _table(section: Document) -> str:
    figures: Mapping[str, Any] = section["figures"]
    head = ["network", *(figure["title"] for figure in figures.values())]
    rows = []
    for network in section["networks"]:
        cells = [network["label"]]
        for name, figure in figures.items():
            cells.append(show_value(network["values"][name], figure["digits"]))
        rows.append(cells)
    return markdown_table(head, rows)


def _picture(section: Document, network: Document) -> str:
    frames = ", ".join(str(index) for index in network["frames"])
    panels = ", ".join(section["panels"].values())
    return f"**{network['label']}**\n\n![{network['label']}, frames {frames}: {panels}]({network['picture']})"
