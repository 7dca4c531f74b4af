"""What tests of the command line share."""

from __future__ import annotations

from collections.abc import Callable

from vinr.config import default_model

TINY = f"{default_model()}-tiny"
Run = Callable[..., tuple[int, str, str]]


def refused(result: tuple[int, str, str], *words: str) -> None:
    status, out, err = result
    assert status == 2, err
    assert out == ""
    assert err.startswith("vinr: ")
    assert len(err.strip().splitlines()) == 1, err
    for word in words:
        assert word in err, err
