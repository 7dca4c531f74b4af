"""Real codecs by PyAV: what they are asked for, what they write, and that decoded again."""

from __future__ import annotations
