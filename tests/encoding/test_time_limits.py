"""`--time` is a limit on a busy machine, too: in minutes of real time, with wide margins."""

from __future__ import annotations

import pytest
from benchmarks.time_limits import PAIRS, limit_of, run_pairs


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_odd_clips_and_times_end_in_time_or_are_refused() -> None:
    rows = run_pairs(num_hogs=2)
    assert len(rows) == len(PAIRS) == 12
    late = [row for row in rows if row["seconds"] > limit_of(row["asked s"], share=0.5, least=15.0)]
    assert late == []
    assert all(row["refused"] == "" or "or more" in row["refused"] for row in rows)
    assert sum(row["refused"] == "" for row in rows) >= 6
