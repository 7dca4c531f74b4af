"""Where the clips of recipes lie: three in an installed package, all others in the user's folder.

::

    DATA/uvg/Beauty_1920x1080_120fps_420_8bit_YUV.yuv     a file whose name starts with the clip's
    DATA/davis/bmx-trees/frames/00000.jpg                 or a folder of images, with or without frames/
    DATA/davis/bmx-trees/masks/00000.png                  and the masks of its object
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

from vinr.errors import InputError, argument
from vinr.video.samples import sample_clip

BUNNY: Final = "bunny"
# Clips that come with the package of samples.
SAMPLES: Final = {BUNNY: "bigbuckbunny.mp4", "bikes": "bikes.mp4", "carphone": "carphone_pristine.mp4"}
TOGETHER: Final = "+"
SUFFIXES: Final = (".mp4", ".mkv", ".y4m", ".yuv", ".avi", ".webm", ".mov")
FRAMES: Final = "frames"
MASKS: Final = "masks"
OBJECT_MASK: Final = "object"
ALL: Final = "*"

# Where to get a data set, and in which form the papers use it: part of the error that names a missing clip.
DATASETS: Final[dict[str, str]] = {
    "uvg": "https://ultravideo.fi: 7 clips of 1080×1920 at 120 fps, 8-bit 4:2:0",
    "davis": "https://davischallenge.org: DAVIS-2016 at full resolution, 1080×1920",
    "mcl-jcv": "https://mcl.usc.edu/mcl-jcv-dataset: videoSRC01 to videoSRC30, 1080×1920",
    "ucf101": "https://www.crcv.ucf.edu/data/UCF101.php: training split, at 2 fps and 256×320",
    "kth": "https://www.csc.kth.se/cvap/actions: 120×160 at 25 fps",
    "ava": "https://research.google.com/ava: 10 films of 1 to 2 hours, at 1 fps and 256×384",
}


def find_clip(name: str, data: Path | None) -> Path:
    """Return the path of ``bunny``, ``bikes`` or ``carphone``, or of ``dataset/clip`` below ``data``.

    Raises
    ------
    InputError
        If there is no folder of data, or the clip is not in it: the path where it is expected is named.
    """
    if name in SAMPLES:
        return sample_clip(SAMPLES[name])
    dataset, _, clip = name.partition("/")
    folder = _folder(name, dataset, data)
    path = _in_folder(folder, clip)
    if path is None:
        raise InputError(
            f"clip {name}: expected {folder / clip}.mp4 (or another video whose name starts so) or a folder "
            f"of images {folder / clip}/{FRAMES}; {_source(dataset)}"
        )
    return path


def find_clips(name: str, data: Path | None) -> list[Path]:
    """Return the paths of ``dataset/*``, sorted, or of ``bunny+dataset/clip``; else :func:`find_clip`'s.

    Raises
    ------
    InputError
        As :func:`find_clip`, and if the data set's folder is empty.
    """
    if TOGETHER in name:
        return [path for part in name.split(TOGETHER) for path in find_clips(part, data)]
    dataset, _, clip = name.partition("/")
    if clip != ALL:
        return [find_clip(name, data)]
    folder = _folder(name, dataset, data)
    paths = sorted(path for path in folder.iterdir() if path.is_dir() or path.suffix.lower() in SUFFIXES)
    if not paths:
        raise InputError(f"clips {name}: {folder} has no videos and no folders of images; {_source(dataset)}")
    return list(map(_frames_of, paths))


def find_masks(name: str, data: Path | None) -> Path:
    """Return the folder with the masks of a clip's object.

    Raises
    ------
    InputError
        If it is not there.
    """
    # DAVIS has its images in the clip's folder or in frames/ below it; masks/ lies in the clip's folder.
    path = find_clip(name, data)
    folder = path.parent / MASKS if path.name == FRAMES else path / MASKS
    if not folder.is_dir():
        raise InputError(f"clip {name}: expected a folder of masks {folder}, an image for each frame")
    return folder


def comes_with_vinr(name: str) -> bool:
    """Return whether a clip, or each of several, lies in the package of samples."""
    return all(part in SAMPLES for part in name.split(TOGETHER))


def _folder(name: str, dataset: str, data: Path | None) -> Path:
    if data is None:
        raise InputError(
            f"clip {name} does not come with vinr; give the folder that holds {dataset}/: "
            f"{argument('data', 'FOLDER')}, or run the recipe at a smaller {argument('scale')}"
        )
    if not data.is_dir():
        raise InputError(f"data folder {data}: is not a folder; give the one that holds {dataset}/")
    folder = data / dataset
    if not folder.is_dir():
        raise InputError(f"clip {name}: expected the folder {folder}; {_source(dataset)}")
    return folder


def _source(dataset: str) -> str:
    return DATASETS.get(dataset, "see docs/bench.md")


def _in_folder(folder: Path, clip: str) -> Path | None:
    if (folder / clip).is_dir():
        return _frames_of(folder / clip)
    # Recipes and the names of files need not agree in case.
    clip = clip.lower()
    for path in sorted(folder.iterdir()):
        name, rest = path.stem.lower()[: len(clip)], path.stem[len(clip) :]
        # Beauty_1920x1080 is the clip Beauty, Beauty2 is not.
        if name == clip and not rest[:1].isalnum() and path.suffix.lower() in SUFFIXES:
            return path
    return None


def _frames_of(path: Path) -> Path:
    return path / FRAMES if (path / FRAMES).is_dir() else path
