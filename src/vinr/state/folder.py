"""The folder ``OUTPUT.partial``: what is kept of an encode or a comparison until its output is whole.

::

    lock ─> whose state lies there? ─┬─ none, or nothing of value ──────> made, or cleared
            refuse, or go on         ├─ of the same job, --resume ──────> used
                                     ├─ of the same job, --force ───────> cleared
                                     └─ of another job ─────────────────> set aside as OUTPUT.partial-1
    work ─> output whole ─> cleared, removed, unlocked

A comparison resumes by itself: what it keeps says for each point what that is of.

Only what vinr wrote is ever removed: files of its own names. A folder that holds anything else stays. A child
that is forked from the process of the encode touches nothing.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from itertools import count
from os import PathLike
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

from vinr.errors import OutputError
from vinr.files import atomic_path, check_parent, check_target, clear_abandoned, flush, followed, said_of
from vinr.temporaries import Maker, hidden_name, try_lock

JOB_NAME: Final = "job.json"
# What is worth keeping: checkpoints of fits, and segments that are done; of a comparison, points and what is
# known of networks.
STATE: Final = re.compile(r"((fit|segment)-\d{5,}|(network|point)-[0-9a-f]{32})\.safetensors")
OWN: Final = re.compile(rf"{STATE.pattern}|{re.escape(JOB_NAME)}")
# Temporary files of those, of a process that was killed: the folder is locked, so that none is alive.
OWN_TEMPORARY: Final = re.compile(rf"\.({OWN.pattern})\.[0-9a-f]+\.(part|lock)")
MAX_JOB_BYTES: Final = 1 << 20


@dataclass(frozen=True)
class EncodeJob:
    """What a state is of: the inputs by name, and which part of their frames; ``work`` says what is done.

    The names are without their folders, so that a project can be moved. Other content under an old name is
    not seen here: a fit compares the frames themselves.
    """

    inputs: tuple[str, ...]
    frames: tuple[int | None, int | None]
    crop: tuple[int, int] | None
    resize: tuple[int, int] | None
    work: str = "encode"

    @classmethod
    def of(
        cls,
        inputs: Sequence[str | PathLike[str]],
        *,
        frames: tuple[int | None, int | None] | None = None,
        crop: tuple[int, int] | None = None,
        resize: tuple[int, int] | None = None,
        work: str = "encode",
    ) -> EncodeJob:
        """Return the job of an encode (or other ``work``) with these arguments."""
        names = tuple(os.path.basename(os.path.realpath(path)) for path in inputs)
        return cls(names, frames or (None, None), crop, resize, work)

    def document(self) -> dict[str, Any]:
        """Return the job as plain JSON values."""
        return {
            "inputs": list(self.inputs),
            "frames": list(self.frames),
            "crop": None if self.crop is None else list(self.crop),
            "resize": None if self.resize is None else list(self.resize),
        }


def partial_folder(output: Path) -> Path:
    """Return where work on ``output`` keeps its state; of a link, beside what it points to."""
    target = followed(output)
    return target.with_name(target.name + ".partial")


def is_expected(output: Path) -> bool:
    """Return whether ``output`` is whole and what the state beside it was to become."""
    expected = _read_job(partial_folder(output)).get("output")
    return expected is not None and output.is_file() and expected == _fingerprint(output.read_bytes())


def holds_state(output: Path) -> bool:
    """Return whether an interrupted job has left something to go on from beside ``output``."""
    return bool(_states(partial_folder(output)))


class StateFolder:
    """Locks ``output`` for one job and looks after its ``OUTPUT.partial``; a context manager.

    Entering refuses what could not be written in the end, and changes nothing. :meth:`prepare` makes the
    folder, :meth:`finish` removes it. Leaving otherwise keeps it if it holds state, so that ``--resume`` can
    go on.

    Parameters
    ----------
    output
        The file to write; of a symbolic link, what it points to.
    job
        What is encoded.
    settings
        The settings in short, for whoever opens ``job.json``; they are not compared.
    resume, force
        As :func:`vinr.encoding.encode.encode` takes them. ``resume`` None: if the state is of this job.
    on_note
        Takes each line about what was done with an older folder.

    Raises
    ------
    OutputError
        If another process encodes to the same output; the output exists; the folder holds an interrupted
        encode and neither ``resume`` nor ``force`` is given, or that of another job and ``resume`` is given;
        or it is a symbolic link, no folder, or another user's. From all methods, in a forked child.
    """

    def __init__(
        self,
        output: Path,
        job: EncodeJob,
        *,
        settings: Mapping[str, str] | None = None,
        resume: bool | None = False,
        force: bool = False,
        on_note: Callable[[str], None],
    ) -> None:
        self._given = output
        self._output = followed(output)
        self.folder = partial_folder(output)
        self._job, self._work = job.document(), job.work
        self._about = {"settings": dict(settings or {})}
        self._resume, self._force, self._on_note = resume, force, on_note
        self._stack, self._maker = ExitStack(), Maker()

    def __enter__(self) -> Self:
        check_parent(self._output)
        with ExitStack() as stack, said_of(self._given):
            lock = self._output.with_name(hidden_name(self._output, "partial.lock"))
            if lock.is_symlink() or (lock.exists() and not lock.is_file()):
                raise OutputError(
                    f"{lock}: is not a regular file, and vinr locks that name while it writes {self._given}; "
                    "remove it"
                )
            if not stack.enter_context(try_lock(lock)):
                raise OutputError(
                    f"{self._given}: another {self._work} is writing it; wait for it or choose another name"
                )
            self._check_folder()
            if self._resume is None:
                self._resume = self.folder.is_dir() and not self._is_other()
            self._check_output()
            self._check_state()
            self._stack, self._maker = stack.pop_all(), Maker()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # An empty folder that cannot be removed now is in nobody's way; what raised is what matters.
        with self._stack, suppress(OSError):
            if self._maker.is_here and self.folder.is_dir() and not _states(self.folder):
                self._clear()

    def check_process(self) -> None:
        """Raise :class:`OutputError` in a child that was forked since this was entered."""
        if not self._maker.is_here:
            raise OutputError(
                f"{self._given}: is encoded by the process that this one was forked from; "
                "end the child with os._exit"
            )

    def prepare(self) -> Path:
        """Make the folder, or make it fit for this encode, and return it."""
        self.check_process()
        with said_of(self.folder):
            states = _states(self.folder)
            if states and self._is_other():
                self._set_aside()
            elif not (states and self._resume):
                self._clear(keep_folder=True)
            if not self.folder.exists():
                self.folder.mkdir(0o700)
                flush(self.folder.parent)
        self._write_job({})
        return self.folder

    def expect(self, content: bytes) -> None:
        """Note what the output will hold, so that a later ``--resume`` can tell that it is finished."""
        self.check_process()
        # Without the note, --resume does the coding once more. The output itself may still find its place.
        with suppress(OutputError):
            self._write_job({"output": _fingerprint(content)})

    def finish(self) -> None:
        """Remove the folder: the output is whole, whatever comes of this."""
        self.check_process()
        try:
            self._clear()
            left = sorted(path.name for path in self.folder.iterdir()) if self.folder.is_dir() else []
        except OSError as error:
            self._on_note(f"{self.folder}: cannot be removed ({error.strerror or error}); remove it")
            return
        if left:
            self._on_note(f"{self.folder}: contains {left[0]}, which vinr did not write; the folder stays")

    # -- what is refused -------------------------------------------------------------------------------------

    def _check_folder(self) -> None:
        if self.folder.is_symlink():
            raise OutputError(f"{self.folder}: is a symbolic link, not a folder of vinr; remove it")
        if not self.folder.exists():
            return
        if not self.folder.is_dir():
            raise OutputError(f"{self.folder}: is not a folder; remove it or choose another output")
        if not _is_ours(self.folder):
            raise OutputError(f"{self.folder}: belongs to another user; choose another output")
        for path in self.folder.iterdir():
            if _is_own(path.name) and (path.is_symlink() or not path.is_file()):
                raise OutputError(f"{path}: is not a regular file; remove it or choose another output")

    def _check_output(self) -> None:
        if self._resume and not self._force and self._output.is_file():
            is_finished = is_expected(self._output)
            if is_finished or not _states(self.folder):
                self._clear()
                clear_abandoned(self._output)
            if is_finished:
                raise OutputError(f"{self._given}: is already finished; there is nothing to resume")
            if not _states(self.folder):
                raise OutputError(
                    f"{self._given}: exists already, and there is no interrupted {self._work} to resume; "
                    "choose another name or overwrite it with --force"
                )
        check_target(self._given, force=self._force)

    def _check_state(self) -> None:
        if not _states(self.folder):
            return
        if self._is_other():
            if self._resume:
                raise OutputError(
                    f"{self.folder}: holds an interrupted {self._work} of {self._described()}; "
                    "leave out --resume to start anew; this state is then set aside"
                )
        elif not self._resume and not self._force:
            raise OutputError(
                f"{self.folder} holds an interrupted {self._work}; give --resume to go on with it, "
                "--force to start anew"
            )

    # -- whose it is -----------------------------------------------------------------------------------------

    def _is_other(self) -> bool:
        """Return whether the state there is known to be of another job."""
        found = _read_job(self.folder)
        # Without a readable job.json nothing is known, and the fit compares the frames anyway.
        return isinstance(found.get("inputs"), list) and any(
            found.get(key) != value for key, value in self._job.items()
        )

    def _described(self) -> str:
        found = _read_job(self.folder)
        edits = [key for key in ("frames", "crop", "resize") if found.get(key) != self._job[key]]
        return ", ".join([*map(str, found["inputs"]), *(f"{key} {found.get(key)}" for key in edits)])

    def _write_job(self, more: Mapping[str, Any]) -> None:
        from importlib.metadata import version

        document = {"vinr": version("vinr"), **self._job, **self._about, **more}
        with atomic_path(self.folder / JOB_NAME, force=True) as temporary:
            temporary.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")

    # -- what is removed -------------------------------------------------------------------------------------

    def _clear(self, *, keep_folder: bool = False) -> None:
        """Remove vinr's own files, and the folder if nothing else is in it."""
        if not self.folder.is_dir():
            return
        # The job goes last: as long as there is state, it must be known whose it is.
        own = [path for path in self.folder.iterdir() if _is_own(path.name)]
        for path in sorted(own, key=lambda path: path.name == JOB_NAME):
            path.unlink()
        if not keep_folder and not any(self.folder.iterdir()):
            self.folder.rmdir()

    def _set_aside(self) -> None:
        """Rename the folder to the first free of ``OUTPUT.partial-1`` and on."""
        described = self._described()
        aside = next(
            path
            for path in (self.folder.with_name(f"{self.folder.name}-{number}") for number in count(1))
            if not path.exists() and not path.is_symlink()
        )
        self.folder.rename(aside)
        flush(aside.parent)
        self._on_note(
            f"{self.folder} held an interrupted {self._work} of {described}; it is kept as {aside.name}"
        )


def _states(folder: Path) -> list[Path]:
    if not folder.is_dir():
        return []
    return [path for path in folder.iterdir() if STATE.fullmatch(path.name)]


def _read_job(folder: Path) -> dict[str, Any]:
    try:
        with open(folder / JOB_NAME, "rb") as file:
            found = json.loads(file.read(MAX_JOB_BYTES))
    except (OSError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _is_own(name: str) -> bool:
    return OWN.fullmatch(name) is not None or OWN_TEMPORARY.fullmatch(name) is not None


def _is_ours(folder: Path) -> bool:
    """Return whether this user made ``folder``."""
    if os.name == "nt":
        return True
    owner = folder.lstat().st_uid
    return owner == os.geteuid() or owner == _owner_of_new_files(folder.parent)


def _owner_of_new_files(folder: Path) -> int:
    """Return who owns a file made in ``folder``: on some network file systems, not its maker."""
    with tempfile.TemporaryFile(dir=folder) as file:
        return os.fstat(file.fileno()).st_uid


def _fingerprint(content: bytes) -> dict[str, Any]:
    return {"num_bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
