"""Networks and real codecs on the same frames: what to fit, what to run, one page of the results."""

from __future__ import annotations

from vinr.comparison.pipeline import ComparisonReport, compare, describe_saved, page_path
from vinr.comparison.plan import DEFAULT_ANCHORS

__all__ = ["DEFAULT_ANCHORS", "ComparisonReport", "compare", "describe_saved", "page_path"]
