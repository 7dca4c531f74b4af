"""The progress of jobs that run several at a time, in one display: a bar for all, one for each at work."""

from __future__ import annotations

from rich.progress import Progress, TaskID

from vinr.errors import plural
from vinr.fit.events import Collapsed, JobEnded, Noted, NotKept, OfJob, Resumed, RoundDone


class JobBars:
    """Shows events of jobs on ``bar``, whose task ``whole`` is that of all of them."""

    def __init__(self, bar: Progress, whole: TaskID) -> None:
        self._bar, self._whole = bar, whole
        self._tasks: dict[int, TaskID] = {}
        self._progress: dict[int, float] = {}
        self._num_ended = 0

    def show(self, event: OfJob | JobEnded) -> None:
        """Show an event; what needs a line gets one, with the name of its job."""
        if isinstance(event, JobEnded):
            self._num_ended += 1
            self._progress.pop(event.number, None)
            if event.number in self._tasks:
                self._bar.remove_task(self._tasks.pop(event.number))
            self._show_whole(event.total)
            return
        match event.event:
            case RoundDone(epochs_done=epochs, progress=progress, psnr_db=psnr_db):
                self._show_job(event, progress, f"epoch {epochs:.1f}  {psnr_db:.2f} dB")
            case Collapsed():
                self._say(event.name, str(event.event))
            case Resumed(epochs_done=epochs):
                self._say(event.name, f"resumed after {epochs:.1f} epochs")
            case Noted(text=text):
                self._say(event.name, text)
            case NotKept(reason=reason):
                self._say(event.name, f"the state could not be saved: {reason}; the fit continues")

    def _say(self, name: str, text: str) -> None:
        self._bar.console.print(f"{name}: {text}", markup=False)

    def _show_job(self, event: OfJob, progress: float, detail: str) -> None:
        number = event.number
        if number not in self._tasks:
            self._tasks[number] = self._bar.add_task(event.name, total=1.0, detail="")
        self._bar.update(self._tasks[number], completed=progress, detail=detail)
        self._progress[number] = progress
        self._show_whole(event.total)

    def _show_whole(self, total: int) -> None:
        done = self._num_ended + sum(self._progress.values())
        detail = f"{self._num_ended} of {plural(total, 'job')} done"
        self._bar.update(self._whole, completed=done / total, detail=detail)
