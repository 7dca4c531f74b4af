"""Segments and points on workers: what one process makes of them, also where some of them are killed."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

import vinr
from clips import moving_shapes, write_clip
from command_line import Run, refused
from compare_kills import run as compare
from compare_kills import without_times
from fresh import run_fresh
from vinr.bench.run import run_recipe
from vinr.codecs.anchors import parse_anchor
from vinr.comparison.on_workers import Place, PointTask, order_of, run_point
from vinr.comparison.plan import Budget, ComparedFile, FitJob
from vinr.comparison.points import CodecRun, PointJob
from vinr.comparison.runs import Setup, View
from vinr.config import default_model
from vinr.decoding import on_workers
from vinr.decoding.streams import CropWindow
from vinr.encoding.on_workers import ClipSource
from vinr.errors import OutputError, UsageError
from vinr.fit import Event, JobEnded, Noted, OfJob, Resumed, RoundDone
from vinr.scale.workers import Workers
from vinr.video.source import open_video

ray = pytest.importorskip("ray", reason="the extra vinr[ray] is not installed")
SETTINGS: dict[str, Any] = {
    "preset": "nerv-tiny",
    "epochs": 12,
    "segment": "6f",
    "device": "cpu",
    "overrides": ["fit.phases=[]", "fit.precision=fp32"],
}
NUM_SEGMENTS = 3
NO_BUDGET = Budget(epochs=1, times=(), seed=None, overrides=())
PATIENCE_SECONDS = 120


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    """Two CPUs of Ray, which all tests share."""
    environment = {
        "env_vars": {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        "worker_process_setup_hook": "often_kept.keep_state_at_once",
    }
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    ray.init(
        address="local",
        num_cpus=2,
        include_dashboard=False,
        logging_level="ERROR",
        log_to_driver=False,
        object_store_memory=100 * 2**20,
        runtime_env=environment,
    )
    for number, handler in before.items():  # later tests of this process expect their own
        signal.signal(number, handler)
    yield
    ray.shutdown()


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    clip = moving_shapes(num_frames=6 * NUM_SEGMENTS, height=24, width=40)
    return write_clip(tmp_path_factory.mktemp("video") / "clip.mkv", clip)


@pytest.fixture(scope="module")
def whole(video: Path, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The file that this process writes alone."""
    path = tmp_path_factory.mktemp("whole") / "clip.vinr"
    vinr.encode(video, path, **SETTINGS)
    return path.read_bytes()


def processes_of_workers() -> list[int]:
    """Return the numbers of the processes that run jobs of this process."""
    parents, names = {}, {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                status = (entry / "status").read_text(encoding="utf-8")
                names[int(entry.name)] = (entry / "cmdline").read_bytes()
            except OSError:
                continue
            parents[int(entry.name)] = int(status.partition("PPid:")[2].split()[0])
    mine = []
    for number, parent in parents.items():
        if names[number].startswith(b"ray::_perform") and parents.get(parent) == os.getpid():
            mine.append(number)
    return mine


@pytest.mark.usefixtures("cluster")
def test_workers_write_the_same_bytes_and_tell_what_they_do(
    video: Path, whole: bytes, tmp_path: Path
) -> None:
    events: list[Any] = []
    report = vinr.encode(video, tmp_path / "clip.vinr", workers=2, on_event=events.append, **SETTINGS)
    assert (tmp_path / "clip.vinr").read_bytes() == whole
    assert [path.name for path in tmp_path.iterdir()] == ["clip.vinr"]
    assert report.num_frames == 6 * NUM_SEGMENTS
    told = [event for event in events if isinstance(event, OfJob) and isinstance(event.event, RoundDone)]
    assert {event.number for event in told} == set(range(NUM_SEGMENTS))
    assert {event.name for event in told} == {"segment 1", "segment 2", "segment 3"}
    assert sorted(event.number for event in events if isinstance(event, JobEnded)) == [0, 1, 2]
    (plan,) = [event.text for event in events if isinstance(event, Noted)]
    assert "3 networks: " in plan
    assert "on 2 workers of 1 CPU thread" in plan


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="finds processes by Linux's /proc")
@pytest.mark.usefixtures("cluster")
def test_a_worker_that_is_killed_is_replaced_and_its_fit_goes_on(
    video: Path, whole: bytes, tmp_path: Path
) -> None:
    events: list[Any] = []
    killed: list[int] = []

    def kill_once(event: Any) -> None:
        if isinstance(event, OfJob) and isinstance(event.event, RoundDone) and not killed:
            for process in processes_of_workers():
                os.kill(process, signal.SIGKILL)
                killed.append(process)
        if isinstance(event, OfJob):
            events.append(event.event)

    vinr.encode(video, tmp_path / "clip.vinr", workers=2, on_event=kill_once, **SETTINGS)
    assert (tmp_path / "clip.vinr").read_bytes() == whole
    died = [event.text for event in events if isinstance(event, Noted)]
    assert died
    assert all("its worker died" in text for text in died)
    assert any(isinstance(event, Resumed) for event in events)


@pytest.mark.usefixtures("cluster")
def test_a_driver_that_is_killed_leaves_what_resume_goes_on_from(
    video: Path, whole: bytes, tmp_path: Path
) -> None:
    output = tmp_path / "clip.vinr"
    code = f"import vinr; vinr.encode({str(video)!r}, {str(output)!r}, workers=2, **{SETTINGS!r})"
    driver = subprocess.Popen([sys.executable, "-c", code])
    kept = tmp_path / "clip.vinr.partial" / "segment-00000.safetensors"
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not kept.exists() and driver.poll() is None and time.monotonic() < deadline:
        time.sleep(0.01)
    driver.kill()
    driver.wait()
    assert kept.exists()
    assert not output.exists()
    vinr.encode(video, output, workers=2, resume=True, **SETTINGS)
    assert output.read_bytes() == whole


@pytest.mark.usefixtures("cluster")
def test_an_interruption_of_the_driver_keeps_the_fits_of_all_workers(
    video: Path, whole: bytes, tmp_path: Path
) -> None:
    output, begun = tmp_path / "clip.vinr", set[int]()

    def stop(event: Any) -> None:
        if isinstance(event, OfJob) and isinstance(event.event, RoundDone):
            begun.add(event.number)
        if len(begun) == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        vinr.encode(video, output, workers=2, on_event=stop, **SETTINGS)
    kept = {path.name for path in (tmp_path / "clip.vinr.partial").glob("*.safetensors")}
    assert len(kept) == 2
    vinr.encode(video, output, resume=True, **SETTINGS)  # without workers, too
    assert output.read_bytes() == whole


@pytest.mark.usefixtures("cluster")
def test_frames_are_decoded_on_workers_and_written_in_order(
    whole: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(on_workers, "BLOCK_FRAMES", 4)
    file = tmp_path / "clip.vinr"
    file.write_bytes(whole)
    shown: list[tuple[int, int]] = []
    for number, options in enumerate([{}, {"fps_scale": 2}, {"frames": "17,3,5:16:2"}]):
        paths = [tmp_path / f"{count}-{number}.mkv" for count in (1, 2)]
        shown.clear()
        settings: dict[str, Any] = {"codec": "ffv1", "device": "cpu", **options}
        vinr.decode(file, paths[0], **settings)
        vinr.decode(file, paths[1], workers=2, on_frame=lambda *done: shown.append(done), **settings)
        assert paths[0].read_bytes() == paths[1].read_bytes()
        assert shown[0][0] == 4
        assert shown[-1][0] == shown[-1][1]


@pytest.mark.usefixtures("cluster")
def test_an_error_of_a_worker_is_that_of_the_command(tmp_path: Path, run: Run) -> None:
    clip = write_clip(tmp_path / "clip.mkv", moving_shapes(num_frames=4, height=24, width=40))
    settings = ["--preset", "nerv-tiny", "--epochs", "1", "--device", "cuda:7", "--workers", "2"]
    status, out, err = run("encode", clip, tmp_path / "clip.vinr", *settings)
    assert (status, out) == (2, "")
    assert "device 'cuda:7' is not there" in err
    assert [path.name for path in tmp_path.iterdir()] == ["clip.mkv"]


@pytest.mark.slow
@pytest.mark.usefixtures("cluster")
def test_rows_of_a_table_run_on_workers(tmp_path: Path) -> None:
    events: list[Any] = []
    recipe = "hnerv-table-8"
    result = run_recipe(recipe, scale="tiny", out=tmp_path, device="cpu", workers=2, on_event=events.append)
    ended = [event for event in events if isinstance(event, JobEnded)]
    assert len(ended) == ended[0].total == len(list((tmp_path / "jobs").glob("*.json")))
    assert all(not row.missing for row in result.rows.values())
    assert (tmp_path / f"{recipe}-tiny.md").exists()


# -- points of a comparison ----------------------------------------------------------------------------------


ANCHORS = ["x264:30:40", "vp9-5:40"]
EPOCHS = 20  # so long that a fit is still at work when its first event has come


@dataclass
class Alone:
    """A comparison that this process has made: its report without times, its files and its page."""

    folder: Path
    report: dict[str, Any]

    def files(self, folder: Path) -> dict[str, bytes]:
        return {path.name: path.read_bytes() for path in (folder / "page-files").iterdir()}

    def check(self, folder: Path, report: Any) -> None:
        """Assert that a comparison in ``folder`` came to the same, and that nothing is left beside it."""
        assert without_times(report) == self.report
        assert self.files(folder) == self.files(self.folder)
        assert pictures(folder) == pictures(self.folder)
        assert sorted(path.name for path in folder.iterdir()) == ["page-files", "page.html"]


def pictures(folder: Path) -> list[str]:
    page = (folder / "page.html").read_text(encoding="utf-8")
    found = re.findall(r"data:image/png;base64,[^\"']+", page)
    assert found
    return found


def compare_in(folder: Path, video: Path, file: bytes, **options: Any) -> Any:
    """Compare in ``folder``: a file, two networks that are fitted, and two codecs."""
    (folder.parent / "clip.vinr").write_bytes(file)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        return compare(video, files=["../clip.vinr"], anchors=ANCHORS, epochs=EPOCHS, **options)


@pytest.fixture(scope="module")
def alone(video: Path, whole: bytes, tmp_path_factory: pytest.TempPathFactory) -> Alone:
    folder = tmp_path_factory.mktemp("alone") / "page"
    folder.mkdir()
    return Alone(folder, without_times(compare_in(folder, video, whole)))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "page"
    path.mkdir()
    return path


@pytest.mark.usefixtures("cluster")
def test_points_are_measured_on_workers_as_in_one_process(
    video: Path, whole: bytes, alone: Alone, folder: Path
) -> None:
    events: list[Event] = []
    shares: list[float] = []
    report = compare_in(
        folder,
        video,
        whole,
        workers=2,
        on_event=events.append,
        on_progress=lambda text, share: shares.append(share),
    )
    alone.check(folder, report)
    ended = [event for event in events if isinstance(event, JobEnded)]
    names = {f"{curve.name}, {point.setting}" for curve in report.curves for point in curve.points}
    assert {event.name for event in ended} == names
    assert {event.total for event in ended} == {len(names)}
    fitted = {
        event.name for event in events if isinstance(event, OfJob) and isinstance(event.event, RoundDone)
    }
    assert len(fitted) == 2
    assert shares[0] == 0
    assert shares[-1] == 1
    assert "2 workers: seconds and frames/s are those of points beside others" in (
        folder / "page.html"
    ).read_text(encoding="utf-8")


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="finds processes by Linux's /proc")
@pytest.mark.usefixtures("cluster")
def test_the_point_of_a_worker_that_is_killed_is_measured_by_another(
    video: Path, whole: bytes, alone: Alone, folder: Path
) -> None:
    notes: list[str] = []
    events: list[Event] = []
    killed: list[int] = []

    def kill_once(event: Event) -> None:
        if isinstance(event, OfJob):
            events.append(event.event)
            if isinstance(event.event, RoundDone) and not killed:
                killed.extend(processes_of_workers())
                for process in killed:
                    os.kill(process, signal.SIGKILL)

    report = compare_in(folder, video, whole, workers=2, on_event=kill_once, on_note=notes.append)
    assert killed
    alone.check(folder, report)
    assert any("parameters: its worker died" in note for note in notes)
    assert any(isinstance(event, Resumed) for event in events)


@pytest.mark.usefixtures("cluster")
def test_a_comparison_on_workers_that_is_stopped_leaves_a_page_and_goes_on_without(
    video: Path, whole: bytes, alone: Alone, folder: Path
) -> None:
    seen: set[type] = set()

    def stop(event: Event) -> None:
        if isinstance(event, JobEnded) or (isinstance(event, OfJob) and isinstance(event.event, RoundDone)):
            seen.add(type(event))
        if len(seen) == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        compare_in(folder, video, whole, workers=2, on_event=stop)
    partial = folder / "page.html.partial"
    so_far = (partial / "so-far.html").read_text(encoding="utf-8")
    assert re.search(r"[1-5] of 6 points are here; repeat the command to measure the rest", so_far)
    kept = list(partial.glob("point-*"))
    assert kept
    fits: list[str] = []
    alone.check(folder, compare_in(folder, video, whole, on_progress=lambda text, share: fits.append(text)))
    measured = {text for text in fits if "x264" in text or "VP9" in text}
    assert len(measured) == 3


def test_what_workers_cannot_compare_is_refused(video: Path, tmp_path: Path, run: Run) -> None:
    page = tmp_path / "page.html"
    for words, *arguments in [
        ("each worker reads the video itself", "-", page, "--workers", "2"),
        ("--gpus-per-worker 1 has no effect without --workers", video, page, "--gpus-per-worker", "1"),
        ("unknown device 'tpu'", video, page, "--workers", "2", "--device", "tpu"),
    ]:
        refused(run("compare", *arguments), words)
    assert list(tmp_path.iterdir()) == []


def test_a_worker_that_does_not_reach_the_folder_of_the_page_says_so(tmp_path: Path, video: Path) -> None:
    (anchor, _) = parse_anchor("x264")
    setup = Setup(
        str(video), "cpu", View("nearest", (0,), CropWindow(0, 0, 8, 8)), NO_BUDGET, tmp_path, False
    )
    with open_video(video) as reader:
        place = Place(ClipSource.of(str(video), reader), tmp_path, "the driver's", {})
    task = PointTask(PointJob("x264 medium", "CRF 30", CodecRun(anchor, 30)), setup, place)
    with pytest.raises(
        OutputError, match=r"cannot be reached from .*; write the page to a folder that all nodes"
    ):
        run_point(task, False, lambda event: None)


def test_the_largest_networks_begin_first() -> None:
    fits = [FitJob(default_model(), None, params=count) for count in (10, 20, 40)]
    works = [CodecRun(parse_anchor("x264")[0], 30), ComparedFile("a.vinr", "a.vinr"), *fits]
    assert order_of([PointJob("curve", str(number), work) for number, work in enumerate(works)]) == [
        0,
        1,
        4,
        3,
        2,
    ]


def test_auto_is_the_device_that_a_worker_has() -> None:
    assert Workers(2).device("auto") == "cpu"
    assert Workers(2, gpus=0.5).device("auto") == "cuda"
    assert Workers(2, gpus=0.5).device("cpu") == "cpu"
    assert Workers(2).device("cuda:1") == "cuda:1"


# -- without Ray ---------------------------------------------------------------------------------------------


TWO_CLUSTERS = """
import os

from vinr.scale.pool import open_pool
from vinr.scale.workers import Workers

def double(job, again, on_event):
    on_event(job)
    return 2 * job, os.nice(0)

os.nice(1)
for _ in range(2):
    with open_pool(Workers(1)) as pool:
        ended = list(pool.run(double, [3, 4], on_event=lambda number, event: None))
        print(sorted(each.value() for each in ended))
"""


def test_one_process_may_start_workers_again() -> None:
    # Every cluster numbers its jobs from 1: what belongs to the first one must not be taken for the second's.
    done = run_fresh(TWO_CLUSTERS)
    # A worker does not give way more than the process that started it does.
    niceness = os.nice(0) + 1
    ended = f"[(6, {niceness}), (8, {niceness})]"
    assert done.stdout.decode().splitlines() == [ended, ended], done.stderr.decode()[-2000:]


@pytest.mark.parametrize("switch", [["--workers", "2"], ["--ray", "auto"]])
def test_without_ray_the_error_names_the_extra(
    switch: list[str], video: Path, tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    status, out, err = run("encode", video, tmp_path / "clip.vinr", "--epochs", "1", *switch)
    assert (status, out) == (2, "")
    assert err == (
        "vinr: --workers and --ray run jobs on Ray, which is not installed: pip install 'vinr[ray]', "
        "or leave them out\n"
    )
    assert list(tmp_path.iterdir()) == []


def test_an_address_where_no_cluster_is_is_refused_at_once(video: Path, tmp_path: Path, run: Run) -> None:
    with socket.socket() as free:  # bound, so that no other program takes it, and not listening
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
        given = ("--preset", "nerv-tiny", "--epochs", "5", "--ray", address)
        result = run("encode", video, tmp_path / "clip.vinr", *given)
    refused(result, f"no Ray cluster answers at {address}: ")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("cluster")
def test_another_cluster_than_the_connected_one_is_refused(video: Path, tmp_path: Path, run: Run) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        address = f"127.0.0.1:{other.getsockname()[1]}"
        given = ("--preset", "nerv-tiny", "--epochs", "5", "--ray", address)
        result = run("encode", video, tmp_path / "clip.vinr", *given)
    refused(result, "this process is connected to the Ray cluster at", f"not to {address}")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"gpus_per_worker": 0.5}, "gpus_per_worker 0.5 has no effect without workers or ray"),
        ({"threads_per_worker": 2}, "threads_per_worker 2 has no effect without workers or ray"),
        (
            {"workers": 2, "threads": 2},
            "those of workers are threads_per_worker",
        ),
        ({"workers": 0}, "workers 0: give the jobs at a time, 1 to 10,000"),
        ({"workers": 2, "gpus_per_worker": 1.5}, "give a share of a GPU such as 0.5, or whole GPUs"),
        ({"workers": 2, "threads_per_worker": 0}, "threads_per_worker 0: give threads of a worker"),
    ],
)
def test_workers_that_are_refused(arguments: dict[str, Any], words: str, video: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=words):
        vinr.encode(video, tmp_path / "clip.vinr", epochs=1, **arguments)
    assert list(tmp_path.iterdir()) == []


def test_a_pipe_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="each worker reads the video itself"):
        vinr.encode("-", tmp_path / "clip.vinr", epochs=1, workers=2)


def test_encoding_does_not_load_ray() -> None:
    loaded = run_fresh("import sys, vinr.cli.app, vinr.encoding.encode; print('ray' in sys.modules)").stdout
    assert loaded == b"False\n"
