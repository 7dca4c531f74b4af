"""Segments on workers: the bytes of one process, also where workers or the driver are killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import vinr
from clips import moving_shapes, write_clip
from command_line import Run
from fresh import run_fresh
from vinr.bench.run import run_recipe
from vinr.decoding import on_workers
from vinr.errors import UsageError
from vinr.fit import JobEnded, Noted, OfJob, Resumed, RoundDone

ray = pytest.importorskip("ray", reason="the extra vinr[ray] is not installed")
SETTINGS: dict[str, Any] = {
    "preset": "nerv-tiny",
    "epochs": 12,
    "segment": "6f",
    "device": "cpu",
    "overrides": ["fit.phases=[]", "fit.precision=fp32"],
}
NUM_SEGMENTS = 3
PATIENCE_SECONDS = 120


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    """Two CPUs of Ray, which all tests share."""
    environment = {
        "env_vars": {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        "worker_process_setup_hook": "often_kept.keep_state_at_once",
    }
    ray.init(
        address="local",
        num_cpus=2,
        include_dashboard=False,
        logging_level="ERROR",
        log_to_driver=False,
        object_store_memory=100 * 2**20,
        runtime_env=environment,
    )
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


# -- without Ray ---------------------------------------------------------------------------------------------


TWO_CLUSTERS = """
from vinr.scale.pool import open_pool
from vinr.scale.workers import Workers

def double(job, again, on_event):
    on_event(job)
    return 2 * job

for _ in range(2):
    with open_pool(Workers(1)) as pool:
        ended = list(pool.run(double, [3, 4], on_event=lambda number, event: None))
        print(sorted(each.value() for each in ended))
"""


def test_one_process_may_start_workers_again() -> None:
    # Every cluster numbers its jobs from 1: what belongs to the first one must not be taken for the second's.
    done = run_fresh(TWO_CLUSTERS)
    assert done.stdout.decode().splitlines() == ["[6, 8]", "[6, 8]"], done.stderr.decode()[-2000:]


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
