"""Programs in processes that have loaded no module of vinr: forks of one that has loaded what takes long."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from multiprocessing import get_context
from pathlib import Path

# PyTorch takes seconds, the others a tenth each; neither what decodes media nor PyTorch's compiler.
PRELOADED = ["torch", "pydantic", "safetensors.torch", "typer", "rich.progress"]
COMMAND = "from vinr.cli.app import main; main()"


def run_fresh(code: str, *arguments: str) -> subprocess.CompletedProcess[bytes]:
    """Run ``code`` as ``python -c`` does; return exit status, stdout and stderr."""
    context = get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    with tempfile.TemporaryDirectory() as folder:
        process = context.Process(target=_execute, args=(code, arguments, folder))
        process.start()
        process.join()
        status = process.exitcode
        process.close()
        out, err = (Path(folder, name).read_bytes() for name in ("stdout", "stderr"))
    assert status is not None
    return subprocess.CompletedProcess([code, *arguments], status, out, err)


def _execute(code: str, arguments: tuple[str, ...], folder: str) -> None:
    for number, name in ((1, "stdout"), (2, "stderr")):
        opened = os.open(Path(folder, name), os.O_WRONLY | os.O_CREAT)
        os.dup2(opened, number)
        os.close(opened)
    sys.argv = ["-c", *arguments]
    exec(compile(code, "<string>", "exec"), {"__name__": "__main__"})
