"""Cuts clips into segments, each represented by a network of its own, and joins clips in one network."""

from __future__ import annotations

import heapq
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

from vinr.bitstream import Span
from vinr.units import SegmentLength
from vinr.video.spec import VideoSpec

MAX_SEGMENT_BYTES: Final = 2 * 2**30


@dataclass(frozen=True)
class Job:
    """One network to fit, and its share of the pixels of all: it represents ``spans``, one after another."""

    spans: tuple[Span, ...]
    share: float

    def spec(self, specs: Sequence[VideoSpec] | Mapping[int, VideoSpec]) -> VideoSpec:
        """Return the video that the network represents, given the clips, or those of its spans."""
        lengths = tuple(span.num_frames for span in self.spans)
        return replace(specs[self.spans[0].clip], num_frames=sum(lengths), span_lengths=lengths)


def count_pixels(specs: Sequence[VideoSpec]) -> int:
    """Return frames × rows × columns, added up over ``specs``."""
    return sum(spec.num_pixels for spec in specs)


def split_segments(
    specs: Sequence[VideoSpec],
    length: SegmentLength | None,
    cuts: Sequence[Sequence[int]] | None = None,
) -> list[Job]:
    """Cut clips into segments, each fitted by a network of its own.

    Without ``length`` a clip is one segment unless its frames would fill more than 2 GiB. A clip's segments
    are equally long to within one frame. With ``cuts``, the frames of each clip with which scenes begin, in
    order, a segment ends at the last cut in the second half of its longest length, if there is one.
    """
    total = count_pixels(specs)
    jobs = []
    for clip, spec in enumerate(specs):
        longest = max(MAX_SEGMENT_BYTES // (_pixel_bytes(spec) * spec.height * spec.width), 1)
        if length is not None:
            longest = min(longest, length.num_frames(spec.frame_rate))
        stops = _even_stops(spec.num_frames, longest)
        if cuts is not None:
            stops = _stops_at_cuts(spec.num_frames, longest, cuts[clip])
        first = 0
        for stop in stops:
            share = (stop - first) * spec.height * spec.width / total
            jobs.append(Job((Span(clip, first, stop - first),), share))
            first = stop
    return jobs


def makespan(durations: Sequence[float], num_workers: int) -> float:
    """Return how long jobs take on ``num_workers``, each of which takes the next one when it is free."""
    duration, _ = busiest_worker(durations, num_workers)
    return duration


def busiest_worker(durations: Sequence[float], num_workers: int) -> tuple[float, int]:
    """Return how long the worker with the most is at work, and its number of jobs; see :func:`makespan`."""
    loads = [(0.0, 0)] * num_workers
    for duration in durations:
        load, count = heapq.heappop(loads)
        heapq.heappush(loads, (load + duration, count + 1))
    return max(loads)


def _even_stops(num_frames: int, longest: int) -> Iterator[int]:
    """Yield where segments end: as few as can be, equally long.

    10 frames, at most 4 in a segment: 3 segments with bounds 0, 3, 7, 10, not 4 + 4 + 2 frames.
    """
    count = -(-num_frames // longest)
    for number in range(1, count + 1):
        yield round(num_frames * number / count)


def _stops_at_cuts(num_frames: int, longest: int, cuts: Sequence[int]) -> Iterator[int]:
    """Yield where segments end, at cuts where that is possible.

    ::

        first          first + longest / 2        first + longest
          |---- no cut here ----|------ the last cut here ------|        none: the whole length
    """
    first = 0
    while num_frames - first > longest:
        stop = first + longest
        place = bisect_right(cuts, stop) - 1
        if place >= 0 and cuts[place] >= first + max(longest / 2, 1):
            stop = cuts[place]
        elif num_frames - stop < longest / 2:
            stop = first + (num_frames - first) // 2  # no short segment is left for the end
        yield stop
        first = stop
    yield num_frames


def _pixel_bytes(spec: VideoSpec) -> int:
    """Return what a pixel takes in memory: one byte for each colour, or two."""
    return 3 if spec.bit_depth == 8 else 6


def join_clips(jobs: Sequence[Job], specs: Sequence[VideoSpec]) -> list[Job]:
    """Put clips of one size and bit depth into one network, as many as fit into 2 GiB, in their order."""
    joined: list[Job] = []
    # Frame size and bit depth ─> place in ``joined`` of the last network for them, which may have room left.
    open_jobs: dict[tuple[int, int, int], int] = {}
    for job in jobs:
        spec = job.spec(specs)
        size = spec.height, spec.width, spec.bit_depth
        number = open_jobs.get(size)
        if number is not None:
            together = Job(joined[number].spans + job.spans, joined[number].share + job.share)
            if _pixel_bytes(spec) * together.spec(specs).num_pixels <= MAX_SEGMENT_BYTES:
                joined[number] = together
                continue
        open_jobs[size] = len(joined)
        joined.append(job)
    return joined


def count_joinable(jobs: Sequence[Job], specs: Sequence[VideoSpec]) -> int:
    """Return how many clips of one size and bit depth have networks that hold nothing else."""
    counts: Counter[tuple[int, int, int]] = Counter()
    alone = {spans.pop() for job in jobs if len(spans := {span.clip for span in job.spans}) == 1}
    for clip in alone:
        spec = specs[clip]
        counts[spec.height, spec.width, spec.bit_depth] += 1
    return max(counts.values(), default=0)
