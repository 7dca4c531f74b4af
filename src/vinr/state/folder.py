"""The folder ``OUTPUT.partial``: what is kept of an encode or a comparison until its output is complete.

::

    lock ─> whose state is there? ─┬─ none, or nothing of value ──────> made, or cleared
            refuse, or continue    ├─ of the same job, --resume ──────> used
                                   ├─ of the same job, --force ───────> cleared
                                   └─ of another job ─────────────────> set aside as OUTPUT.partial-1
    work ─> output complete ─> cleared, removed, unlocked

A comparison resumes by itself: its state says for each point what it belongs to.

Only files with vinr's own names are ever removed. A folder with anything else in it stays. A child that is
forked from the process of the encode changes nothing.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import secrets
import stat
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from itertools import count
from os import PathLike
from pathlib import Path
from typing import Any, Final, Self

from vinr.errors import OutputError, argument
from vinr.files import (
    as_output_error,
    atomic_path,
    check_parent,
    check_target,
    choose_or_force,
    clear_abandoned,
    exists_as_other,
    flush,
    followed,
)
from vinr.temporaries import TOKEN_BYTES, Maker, hidden_name, try_lock
from vinr.units import FrameSize, SizeLike

JOB_NAME: Final = "job.json"
# What is worth keeping: checkpoints of training, and finished segments; of a comparison, points and the facts
# that are known of networks.
STATE: Final = re.compile(r"((fit|segment)-\d{5,}|(network|point)-[0-9a-f]{32})\.safetensors")
# What an unfinished comparison shows so far. It is no state: nothing continues with it.
PAGE_SO_FAR: Final = "so-far.html"
OUR_FILES: Final = re.compile(rf"{STATE.pattern}|{re.escape(JOB_NAME)}|{re.escape(PAGE_SO_FAR)}")
# Their temporary files, left by a process that was killed: whoever looks holds the folder's lock.
OUR_TEMPORARIES: Final = re.compile(rf"\.({OUR_FILES.pattern})\.[0-9a-f]+\.(part|lock)")
MAX_JOB_BYTES: Final = 1 << 20


@dataclass(frozen=True)
class EncodeJob:
    """What a state belongs to: the names of the inputs, and which part of their frames; ``work`` names the
    job.

    The names are without their folders, so that a project can be moved. New content under an old name is not
    noticed here: training compares the frames themselves.
    """

    inputs: tuple[str, ...]
    frames: tuple[int | None, int | None]
    crop: SizeLike | None
    resize: SizeLike | None
    work: str = "encode"

    @classmethod
    def of(
        cls,
        inputs: Sequence[str | PathLike[str]],
        *,
        frames: tuple[int | None, int | None] | None = None,
        crop: SizeLike | None = None,
        resize: SizeLike | None = None,
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
            "crop": None if self.crop is None else FrameSize.of(self.crop).stored(),
            "resize": None if self.resize is None else FrameSize.of(self.resize).stored(),
        }


def partial_folder(output: Path) -> Path:
    """Return where a job for ``output`` keeps its state: beside it, or beside what a link points to."""
    target = followed(output)
    return target.with_name(target.name + ".partial")


def is_expected(output: Path) -> bool:
    """Return whether ``output`` is complete: just what the state beside it was to become."""
    expected = _read_job(partial_folder(output)).get("output")
    return expected is not None and output.is_file() and expected == _fingerprint(output)


def holds_token(folder: Path, token: str) -> bool:
    """Return whether ``folder`` is that of the :class:`StateFolder` of this token, seen from any machine."""
    return _read_job(folder).get("token") == token


def holds_state(output: Path) -> bool:
    """Return whether an interrupted job has left state beside ``output``."""
    return bool(_states(partial_folder(output)))


class StateFolder:
    """Locks ``output`` for one job and manages its ``OUTPUT.partial``; a context manager.

    Entering refuses what could not be written in the end, and changes nothing. :meth:`prepare` makes the
    folder, :meth:`finish` removes it. Leaving without :meth:`finish` keeps it if it holds state, so that
    ``--resume`` can continue.

    Parameters
    ----------
    output
        The file to write; for a symbolic link, what it points to.
    job
        What is encoded.
    settings
        The settings in short, for whoever opens ``job.json``; they are not compared.
    resume, force
        As in :func:`vinr.encoding.encode.encode`. ``resume`` None: resume if the state belongs to this job.
    on_note
        Called with each line about what was done with an older folder.

    Raises
    ------
    OutputError
        If another process encodes to the same output; the output exists; the folder holds an interrupted job
        without ``resume`` or ``force``, or another job with ``resume``; or it is a symbolic link, not a
        folder, or another user's. From all methods, in a forked child.
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
        self._target = output
        self._output = followed(output)
        self.folder = partial_folder(output)
        self._job, self.work = job.document(), job.work
        self._about: dict[str, Any] = {"settings": dict(settings or {})}
        self._resume, self._force, self._on_note = resume, force, on_note
        self._stack, self._maker = ExitStack(), Maker()
        self.token = secrets.token_hex(TOKEN_BYTES)

    def __enter__(self) -> Self:
        check_parent(self._output)
        with ExitStack() as stack, as_output_error(self._target):
            lock = self._output.with_name(hidden_name(self._output, "partial.lock"))
            if exists_as_other(lock, stat.S_ISREG, follow_symlinks=False):
                use = f"vinr locks that name while it writes {self._target}"
                raise OutputError(f"{lock}: is not a regular file, and {use}; remove it")
            if not stack.enter_context(try_lock(lock)):
                busy = f"another {self.work} is writing it"
                raise OutputError(f"{self._target}: {busy}; wait for that or choose another name")
            self._check_folder()
            if self._resume is None:
                self._resume = self.folder.is_dir() and not self._is_other()
            self._check_output()
            self._check_state()
            self._stack, self._maker = stack.pop_all(), Maker()
        return self

    def __exit__(self, *exception: object) -> None:
        # An empty folder that cannot be removed does no harm; an exception that is being raised matters more.
        with self._stack, suppress(OSError):
            if self._maker.is_here and self.folder.is_dir() and not _states(self.folder):
                self._clear()

    def check_process(self) -> None:
        """Raise :class:`OutputError` in a child that was forked since this was entered."""
        if not self._maker.is_here:
            owner = "the process that this one was forked from"
            raise OutputError(f"{self._target}: is encoded by {owner}; end the child with os._exit")

    @property
    def decided_seconds(self) -> float | None:
        """The time that the run to be resumed was given; None where nothing is resumed or it is not known."""
        seconds = _read_job(self.folder).get("decided_seconds") if self._resume else None
        return float(seconds) if isinstance(seconds, (int, float)) and seconds > 0 else None

    @property
    def decided_model(self) -> str | None:
        """The model of the run to be resumed; None where nothing is resumed or it is not known."""
        model = _read_job(self.folder).get("decided_model") if self._resume else None
        return model if isinstance(model, str) else None

    def prepare(self, *, decided_seconds: float | None = None, decided_model: str | None = None) -> Path:
        """Create the folder, or make it ready for this encode, and return it.

        ``decided_seconds``, ``decided_model``: the time and the model of the encode, which may have been
        chosen by what a machine can do.
        """
        self.check_process()
        with as_output_error(self.folder):
            states = _states(self.folder)
            if states and self._is_other():
                self._set_aside()
            elif not (states and self._resume):
                self._clear(keep_folder=True)
            if not self.folder.exists():
                self.folder.mkdir(0o700)
                flush(self.folder.parent)
        if decided_seconds is not None:
            self._about["decided_seconds"] = decided_seconds
        if decided_model is not None:
            self._about["decided_model"] = decided_model
        self._write_job({})
        return self.folder

    def expect(self, content: bytes) -> None:
        """Note what the output will hold, so that a later ``--resume`` can tell that it is finished."""
        self.expect_file(len(content), hashlib.sha256(content).hexdigest())

    def expect_file(self, num_bytes: int, sha256: str) -> None:
        """Note size and SHA-256 of what the output will hold, as :meth:`expect` does."""
        self.check_process()
        # Without the note, --resume only codes once more; writing the output itself may still succeed.
        with suppress(OutputError):
            self._write_job({"output": {"num_bytes": num_bytes, "sha256": sha256}})

    def finish(self) -> None:
        """Remove the folder. The output is complete, so that a failure here is only a note."""
        self.check_process()
        try:
            self._clear()
            others = sorted(self.folder.iterdir()) if self.folder.is_dir() else []
        except OSError as error:
            self._on_note(f"{self.folder}: cannot be removed ({error.strerror or error}); remove it yourself")
            return
        if others:
            name = others[0].name
            self._on_note(f"{self.folder}: contains {name}, which vinr did not write; the folder stays")

    # -- what is refused -------------------------------------------------------------------------------------

    def _check_folder(self) -> None:
        if self.folder.is_symlink():
            raise OutputError(f"{self.folder}: is a symbolic link, which vinr does not follow; remove it")
        if not self.folder.exists():
            return
        if not self.folder.is_dir():
            raise OutputError(f"{self.folder}: is not a folder; remove it or choose another output")
        if not _is_this_users(self.folder):
            raise OutputError(f"{self.folder}: belongs to another user; choose another output")
        for path in self.folder.iterdir():
            if _is_vinrs(path.name) and exists_as_other(path, stat.S_ISREG, follow_symlinks=False):
                raise OutputError(f"{path}: is not a regular file; remove it or choose another output")

    def _check_output(self) -> None:
        if self._resume and not self._force and self._output.is_file():
            # Killed between the last rename and the removal of the folder: only tidying up is left.
            is_finished = is_expected(self._output)
            if is_finished or not _states(self.folder):
                self._clear()
                clear_abandoned(self._output)
            if is_finished:
                raise OutputError(f"{self._target}: is already complete; there is nothing to resume")
            if not _states(self.folder):
                raise OutputError(
                    f"{self._target}: exists already, and no interrupted {self.work} of it can be resumed; "
                    f"{choose_or_force()}"
                )
        check_target(self._target, force=self._force)

    def _check_state(self) -> None:
        if not _states(self.folder):
            return
        if self._is_other():
            if self._resume:
                raise OutputError(
                    f"{self.folder}: holds an interrupted {self.work} of {self._described()}; "
                    f"leave {argument('resume')} out to start again, which sets that state aside"
                )
        elif not self._resume and not self._force:
            raise OutputError(
                f"{self.folder} holds an interrupted {self.work}; continue it with "
                f"{argument('resume', True)}, or start again with {argument('force', True)}"
            )

    # -- whose it is -----------------------------------------------------------------------------------------

    def _is_other(self) -> bool:
        """Return whether the state in the folder is known to belong to another job."""
        job = _read_job(self.folder)
        # Without a readable job.json nothing is known, and training compares the frames anyway.
        is_known = isinstance(job.get("inputs"), list)
        return is_known and any(job.get(key) != value for key, value in self._job.items())

    def _described(self) -> str:
        """Return the inputs of the job in the folder, and those of its edits that differ from this job's."""
        job = _read_job(self.folder)
        text = ", ".join(map(str, job["inputs"]))
        for key in ("frames", "crop", "resize"):
            if job.get(key) != self._job[key]:
                text += f", {key} {job.get(key)}"
        return text

    def _write_job(self, more: Mapping[str, Any]) -> None:
        from importlib.metadata import version

        document = {"vinr": version("vinr"), **self._job, **self._about, "token": self.token, **more}
        with atomic_path(self.folder / JOB_NAME, force=True) as temporary:
            temporary.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")

    # -- what is removed -------------------------------------------------------------------------------------

    def _clear(self, *, keep_folder: bool = False) -> None:
        """Remove vinr's own files, and the folder if nothing else is in it."""
        if not self.folder.is_dir():
            return
        # The job goes last (False sorts before True): as long as there is state, its owner must be known.
        for path in sorted(self.folder.iterdir(), key=lambda path: path.name == JOB_NAME):
            if _is_vinrs(path.name):
                path.unlink()
        if not keep_folder and not any(self.folder.iterdir()):
            self.folder.rmdir()

    def _set_aside(self) -> None:
        """Rename the folder to the first free one of ``OUTPUT.partial-1``, ``-2``, …"""
        described = self._described()
        for number in count(1):
            aside = self.folder.with_name(f"{self.folder.name}-{number}")
            if not aside.exists() and not aside.is_symlink():
                break
        self.folder.rename(aside)
        flush(aside.parent)
        self._on_note(
            f"{self.folder} held an interrupted {self.work} of {described}; it is kept as {aside.name}"
        )


def _states(folder: Path) -> list[Path]:
    if not folder.is_dir():
        return []
    return [path for path in folder.iterdir() if STATE.fullmatch(path.name)]


def _read_job(folder: Path) -> dict[str, Any]:
    try:
        with open(folder / JOB_NAME, "rb") as file:
            job = json.loads(file.read(MAX_JOB_BYTES))
    except (OSError, ValueError, RecursionError):
        return {}
    return job if isinstance(job, dict) else {}


def _is_vinrs(name: str) -> bool:
    return OUR_FILES.fullmatch(name) is not None or OUR_TEMPORARIES.fullmatch(name) is not None


def _is_this_users(folder: Path) -> bool:
    """Return whether this user made ``folder``."""
    if os.name == "nt":
        return True
    owner = folder.lstat().st_uid
    return owner == os.geteuid() or owner == owner_of_new_files(folder.parent)


def owner_of_new_files(folder: Path) -> int:
    """Return who owns a file created in ``folder``: on some network file systems, not its creator."""
    with tempfile.TemporaryFile(dir=folder) as file:
        return os.fstat(file.fileno()).st_uid


def _fingerprint(path: Path) -> dict[str, Any]:
    with open(path, "rb") as file:
        return {"num_bytes": path.stat().st_size, "sha256": hashlib.file_digest(file, "sha256").hexdigest()}
