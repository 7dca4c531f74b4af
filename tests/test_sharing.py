"""One decoder for several threads and for forked processes; the cache and the locks that this takes."""

from __future__ import annotations

import os
import pickle
import random
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from threading import Event, Thread
from typing import Any

import pytest
import torch

import vinr
from fresh import run_fresh
from random_files import random_file, random_network
from vinr import device
from vinr.bitstream import Container, SectionKind
from vinr.decoding.networks import CACHED_CHUNKS
from vinr.device import memory_kept
from vinr.models import list_models
from vinr.models.layers.encodings import no_graph_replaced
from vinr.sharing import LruCache, SharedLock
from vinr.video.spec import Query, VideoSpec

VIDEO = VideoSpec(12, 16, 24)
needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="processes cannot be forked on this system")


@pytest.fixture(autouse=True)
def _switch_often() -> Iterator[None]:
    """Let Python change threads every 10 µs, so that what is not safe shows."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    yield
    sys.setswitchinterval(before)


def in_threads(*works: Callable[[], object]) -> None:
    threads = [Thread(target=work) for work in works]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def in_a_fork(work: Callable[[], bool]) -> int:
    """Return the process in which ``work`` runs; its exit status is 0 if that returns True."""
    process = os.fork()
    if not process:
        status = 1
        try:
            status = 0 if work() else 1
        finally:
            os._exit(status)
    return process


def read_frames(video: vinr.VideoDecoder, right: torch.Tensor, seed: int, count: int) -> list[str]:
    """Read random frames and say which are not as they should be."""
    generator, wrong = random.Random(seed), []
    for _ in range(count):
        index = generator.randrange(len(video))
        try:
            if not torch.equal(video[index], right[index]):
                wrong.append(f"frame {index} differs")
        except Exception as error:
            wrong.append(repr(error))
    return wrong


# -- decoding ------------------------------------------------------------------------------------------------


def some_or_slow() -> list[Any]:
    """How many frames each reader asks for: few of some kinds of model, and many of all with -m slow."""
    kinds = ["hnerv", "ffnerv", "tnerv", "six networks"]
    many = [pytest.param(name, 30, marks=pytest.mark.slow) for name in [*list_models(), "six networks"]]
    return [*((name, 7) for name in kinds), *many]


@needs_fork
@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
@pytest.mark.parametrize(("name", "count"), some_or_slow())
def test_a_shared_decoder_gives_the_right_frames(name: str, count: int, tmp_path: Path) -> None:
    lengths, model = ((2,) * 6, None) if name == "six networks" else ((), name)
    path = random_file(tmp_path / "a.vinr", VIDEO, name=model, lengths=lengths)
    with vinr.open(path, device="cpu") as alone:
        right = torch.stack(list(alone))
    with vinr.open(path, device="cpu") as video:
        wrong: list[str] = []
        in_threads(*(lambda s=seed: wrong.extend(read_frames(video, right, s, count)) for seed in range(4)))
        forks = [in_a_fork(lambda s=seed: not read_frames(video, right, s, count)) for seed in (7, 8)]
        ends = [os.waitpid(process, 0)[1] for process in forks]
        wrong += [] if torch.equal(torch.stack(list(video)), right) else ["afterwards"]
    assert (wrong, ends) == ([], [0, 0])


@needs_fork
def test_forks_decode_after_many_threads_have_computed(tmp_path: Path) -> None:
    """MKL keeps buffers by thread; a child of a process that had many looked for its own without end."""
    path = random_file(tmp_path / "a.vinr", VIDEO)
    code = (
        "import os, threading, torch, vinr\n"
        "torch.set_num_threads(1)\n"
        f"video = vinr.open({str(path)!r}, device='cpu')\n"
        "frame, matrix = video[0], torch.randn(64, 64)\n"
        "for _ in range(100):\n"
        "    threads = [threading.Thread(target=lambda: matrix @ matrix) for _ in range(6)]\n"
        "    [thread.start() for thread in threads]\n"
        "    [thread.join() for thread in threads]\n"
        "for _ in range(4):\n"
        "    process = os.fork()\n"
        "    if not process:\n"
        "        os._exit(not (torch.equal(video[0], frame) and (matrix @ matrix).isfinite().all()))\n"
        "    assert os.waitpid(process, 0)[1] == 0\n"
    )
    run = run_fresh("import warnings; warnings.simplefilter('ignore')\n" + code)
    assert (run.returncode, run.stderr) == (0, b"")


def test_a_network_is_loaded_once(tmp_path: Path) -> None:
    # No more chunks than are kept: threads far apart may read a chunk again that was dropped between them.
    path = random_file(tmp_path / "a.vinr", VideoSpec(CACHED_CHUNKS, 16, 24))
    with vinr.open(path, device="cpu") as video:
        list(video)
        once = video.file.bytes_read
    with vinr.open(path, device="cpu") as video:
        in_threads(*[lambda: list(video)] * 4)
        assert video.file.bytes_read == once


def test_threads_play_at_the_same_time(tmp_path: Path) -> None:
    with vinr.open(random_file(tmp_path / "a.vinr", VIDEO), device="cpu") as video:
        right = torch.stack(list(video))
        played: list[torch.Tensor] = []
        in_threads(*[lambda: played.append(torch.cat(list(video.play())))] * 3)
        assert [torch.equal(frames, right) for frames in played] == [True] * 3


@needs_fork
def test_a_fork_decodes_after_threads_of_openmp_have_run(tmp_path: Path) -> None:
    with vinr.open(random_file(tmp_path / "a.vinr", VIDEO), device="cpu") as video:
        right = video[3]
        torch.set_num_threads(2)
        try:
            torch.rand(10**6).exp()  # in threads, which a forked process lacks
            process = in_a_fork(lambda: torch.equal(video[3], right) and bool(torch.rand(10**6).exp().sum()))
            assert os.waitpid(process, 0)[1] == 0
        finally:
            torch.set_num_threads(1)


def test_a_network_that_is_traced_in_one_thread_decodes_in_others() -> None:
    model = random_network("nerv", VIDEO)
    query = Query.of_frames(torch.tensor([5]))
    with torch.inference_mode():
        right = model(query)
    frames: list[torch.Tensor] = []
    replaced: list[object] = []

    def decode() -> None:
        with torch.inference_mode():
            frames.append(model(query))

    def replacement(function: Callable[..., torch.Tensor], *arguments: object) -> torch.Tensor:
        replaced.append(function)
        return function(*arguments)

    with no_graph_replaced(replacement):
        in_threads(decode)
        assert replaced == []
        decode()
        assert len(replaced) == 1
    decode()
    assert len(replaced) == 1
    assert [torch.equal(frame, right) for frame in frames] == [True] * 3


# -- the cache -----------------------------------------------------------------------------------------------


def test_what_was_used_last_is_kept() -> None:
    cache: LruCache[int, int] = LruCache(2)
    made: list[int] = []

    def get(key: int, state: object = None) -> int:
        return cache.get(key, lambda: made.append(key) or 10 * key, state)  # type: ignore[func-returns-value]

    assert [get(key) for key in (1, 2, 1, 3, 1, 2)] == [10, 20, 10, 30, 10, 20]
    assert made == [1, 2, 3, 2]
    assert get(2, "other") == 20
    assert (made, len(cache)) == ([1, 2, 3, 2, 2], 1)
    assert len(pickle.loads(pickle.dumps(cache))) == 0


def test_more_is_kept_while_it_is_small() -> None:
    cache: LruCache[int, bytes] = LruCache(1, max_bytes=100, num_bytes=len)
    for key in range(5):
        cache.get(key, lambda: bytes(30))
    assert len(cache) == 3
    cache.get(9, lambda: bytes(500))
    assert len(cache) == 1


def test_one_thread_makes_a_value_while_others_wait_and_none_waits_for_another_value() -> None:
    cache: LruCache[str, int] = LruCache(4)
    started, go_on, found, made = Event(), Event(), [], []

    def make() -> int:
        started.set()
        assert go_on.wait(60)
        made.append(1)
        return 7

    threads = [Thread(target=lambda: found.append(cache.get("slow", make))) for _ in range(4)]
    threads[0].start()
    assert started.wait(60)
    for thread in threads[1:]:
        thread.start()
    assert cache.get("other", lambda: 3) == 3  # the lock is free meanwhile
    go_on.set()
    for thread in threads:
        thread.join()
    assert (found, made) == ([7] * 4, [1])


def test_an_error_leaves_nothing_behind() -> None:
    cache: LruCache[int, int] = LruCache(2)
    with pytest.raises(ZeroDivisionError):
        cache.get(1, lambda: 1 // 0)
    assert cache.get(1, lambda: 5) == 5


@needs_fork
@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
def test_a_fork_does_not_wait_for_threads_that_it_lacks() -> None:
    cache: LruCache[int, int] = LruCache(2)
    cache.get(0, lambda: 4)
    lock = SharedLock()
    started, go_on = [Event(), Event()], Event()

    def hold() -> None:
        with lock:
            started[0].set()
            go_on.wait(60)

    def make() -> int:
        started[1].set()
        go_on.wait(60)
        return 1

    threads = [Thread(target=hold), Thread(target=cache.get, args=(1, make))]
    for thread in threads:
        thread.start()
    assert all(event.wait(60) for event in started)

    def work() -> bool:
        with lock:
            return (cache.get(1, lambda: 2), cache.get(0, lambda: 5)) == (2, 4)

    process = in_a_fork(work)
    status = os.waitpid(process, 0)[1]
    go_on.set()
    for thread in threads:
        thread.join()
    assert (status, cache.get(1, lambda: 3)) == (0, 1)


# -- memory and files ----------------------------------------------------------------------------------------


@pytest.fixture
def library_calls(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What is called of the C library, which is not."""
    calls: list[str] = []

    class Library:
        """Stands for the library of the process."""

        def __init__(self, name: None) -> None:
            self.mallopt = lambda parameter, value: calls.append("mallopt")
            self.malloc_trim = lambda padding: calls.append("malloc_trim")

    monkeypatch.setattr(device.ctypes, "CDLL", Library)
    return calls


def test_memory_is_kept_until_its_last_user_ends(library_calls: list[str]) -> None:
    cpu = torch.device("cpu")
    first, second = memory_kept(cpu), memory_kept(cpu)
    first.__enter__()
    kept = ["mallopt"] * len(device.KEEPING_MALLOC)
    assert library_calls == kept
    second.__enter__()
    first.__exit__(None, None, None)
    assert library_calls == kept
    second.__exit__(None, None, None)
    assert library_calls == [*kept, *["mallopt"] * len(device.DEFAULT_MALLOC), "malloc_trim"]


@needs_fork
@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
def test_a_fork_keeps_memory_for_its_own_thread_alone(library_calls: list[str]) -> None:
    cpu, is_kept, is_over = torch.device("cpu"), Event(), Event()

    def keep() -> None:
        with memory_kept(cpu):
            is_kept.set()
            is_over.wait(60)

    thread = Thread(target=keep)
    thread.start()
    assert is_kept.wait(60)
    without = in_a_fork(lambda: library_calls[-1] == "malloc_trim")
    with memory_kept(cpu):
        within = in_a_fork(lambda: library_calls[-1] == "mallopt")
    ends = [os.waitpid(process, 0)[1] for process in (without, within)]
    is_over.set()
    thread.join()
    assert ends == [0, 0]
    assert library_calls[-1] == "malloc_trim"


@needs_fork
def test_forked_processes_read_a_file_from_where_they_want(tmp_path: Path) -> None:
    path = random_file(tmp_path / "a.vinr", VIDEO, lengths=(6, 6))
    with open(path, "rb") as file, Container.open(path) as by_path, Container.open(file) as by_file:
        for container in (by_path, by_file):
            right = [container.read(SectionKind.WEIGHTS, number) for number in range(2)]

            def work(container: Container = container, right: list[bytes] = right) -> bool:
                found = (
                    container.read(SectionKind.WEIGHTS, turn % 2) == right[turn % 2] for turn in range(300)
                )
                return all(found)

            forks = [in_a_fork(work) for _ in range(2)]
            mine = work()
            assert [os.waitpid(process, 0)[1] for process in forks] == [0, 0]
            assert mine
