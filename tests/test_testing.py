"""The kit for models of other packages: the template passes, and each kind of fault is found in one line."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from fresh import run_fresh
from vinr.testing import CHECKS

ROOT = Path(__file__).parent.parent
TEMPLATE = ROOT / "examples" / "model-template"
# What is wrong with a model, and the check that finds it.
FAULTS = {
    "frames": "Siren.decode = lambda self, query: 2 * decode(self, query)",
    "single-frames": "Siren.decode = lambda self, query: decode(self, query) * (1 - 0.5 / len(query.time_N))",
    "many-frames": "Siren.decode = lambda self, query: 0 * decode(self, query)",
    "double-precision": "Siren.decode = lambda self, query: decode(self, query).float()",
    "restoring": """
def begin(self, *arguments, **options):
    init(self, *arguments, **options)
    self.shift = torch.rand(())
Siren.__init__ = begin
Siren.decode = lambda self, query: decode(self, query) * self.shift
""",
    "gradients": """
def begin(self, *arguments, **options):
    init(self, *arguments, **options)
    self.unused = torch.nn.Parameter(torch.zeros(3))
Siren.__init__ = begin
""",
    "counting": """
def begin(self, *arguments, **options):
    init(self, *arguments, **options)
    self.head.bias = torch.nn.Parameter(torch.zeros(3, device="cpu"))
Siren.__init__ = begin
""",
    "no-encoder": """
def begin(self, *arguments, **options):
    init(self, *arguments, **options)
    self.encoder = torch.nn.Linear(1, 1)
Siren.__init__ = begin
""",
    "latents": "Siren.per_frame_shapes = lambda self: 1 / 0",
    "paper": "Siren.__doc__ = 'A network of sines.'",
    "configuration": "del SirenConfig.model_fields['omega'].description",
}
START = """
import json, sys
import torch
from vinr.testing.__main__ import main
from vinr.testing import CHECKS, run_checks
from vinr_siren.models.siren import Siren, SirenConfig

torch.set_num_threads(1)
decode, init = Siren.decode, Siren.__init__
checks = {check.name: check for check in CHECKS}
"""
CODE = """
print(main(["siren"]))
print(main(["siren", "--only", "paper", "--only", "copies"]))
print(main(["sirene"]))
problems = {}
for name, code in json.loads(sys.argv[1]).items():
    line, fields = Siren.__doc__, SirenConfig.model_fields["omega"].description
    exec(code)
    problems[name] = [outcome.problem for outcome in run_checks("siren", [checks[name]])]
    Siren.decode, Siren.__init__, Siren.__doc__ = decode, init, line
    SirenConfig.model_fields["omega"].description = fields
Siren.decode = lambda self, query: 2 * decode(self, query)
print(main(["siren", "--only", "frames"]))
print(json.dumps(problems))
"""


@pytest.fixture(scope="module")
def printed(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """What the kit prints of the template, of a name that is none, and of models with a fault each."""
    folder = tmp_path_factory.mktemp("site")
    about = folder / "vinr_siren-0.1.0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text(
        "Metadata-Version: 2.1\nName: vinr-siren\nVersion: 0.1.0\n", encoding="utf-8"
    )
    project = (TEMPLATE / "pyproject.toml").read_text(encoding="utf-8")
    (module,) = re.findall(r'^siren = "([\w.]+)"$', project, re.MULTILINE)
    (about / "entry_points.txt").write_text(f"[vinr.models]\nsiren = {module}\n", encoding="utf-8")
    paths = f"import sys; sys.path[:0] = [{str(folder)!r}, {str(TEMPLATE / 'src')!r}]\n"
    result = run_fresh(paths + START + CODE, json.dumps(FAULTS))
    assert result.returncode == 0, result.stderr.decode()[-3000:]
    assert "unknown model 'sirene'" in result.stderr.decode()
    return result.stdout.decode().splitlines()


def test_the_template_passes_all_checks(printed: list[str]) -> None:
    lines = printed[: len(CHECKS) + 2]
    assert [line.partition(":")[0] for line in lines[:-2]] == [f"ok    {check.name}" for check in CHECKS]
    assert lines[-2:] == [f"siren: {len(CHECKS)} of {len(CHECKS)} checks passed", "0"]


def test_single_checks_and_unknown_models(printed: list[str]) -> None:
    lines = printed[len(CHECKS) + 2 :]
    assert lines[2:5] == ["siren: 2 of 2 checks passed", "0", "2"]


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_is_found_in_one_line(printed: list[str], name: str) -> None:
    (problem,) = json.loads(printed[-1])[name]
    assert problem
    assert "\n" not in problem


def test_a_model_that_fails_ends_with_status_1(printed: list[str]) -> None:
    failed, count, status = printed[-4:-1]
    assert re.fullmatch(
        r"FAIL  frames: colours reach from .* to .*; they must lie in \[0, 1\] \(clip of .*\)", failed
    )
    assert (count, status) == ("siren: 0 of 1 checks passed", "1")
