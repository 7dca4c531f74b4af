"""Networks and real codecs on the same frames: what to fit, what to run, one page of the results."""

from __future__ import annotations

from vinr.comparison.pipeline import ComparisonReport, compare, page_path, what_is_left
from vinr.comparison.plan import DEFAULT_ANCHORS

__all__ = ["DEFAULT_ANCHORS", "ComparisonReport", "compare", "page_path", "what_is_left"]
