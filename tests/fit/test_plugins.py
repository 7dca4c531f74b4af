"""Losses, optimisers and models of packages of their own: really installed, in a process that has them."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from vinr.config import load_preset
from vinr.errors import UsageError
from vinr.fit.losses import build_loss

LOSSES = """
NUMBER = 3


def charbonnier(prediction_NCHW, target_NCHW):
    return ((prediction_NCHW - target_NCHW).square() + 1e-6).sqrt().mean((1, 2, 3))
"""
OPTIMIZERS = '''
import torch


def build_lion(named, settings):
    return Lion([parameter for _, parameter in named], {"lr": settings.learning_rate, "beta": 0.9})


class Lion(torch.optim.Optimizer):
    """Sign descent (Chen et al., 2023)."""

    @torch.no_grad()
    def step(self, closure=None):
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                state = self.state[parameter]
                mean = state.setdefault("mean", torch.zeros_like(parameter))
                mean.lerp_(parameter.grad, 1 - group["beta"])
                parameter.sub_(group["lr"] * mean.sign())


def broken(named, settings):
    return "no optimiser"
'''
MODEL = '''
"""A model of another package."""

import torch
from torch import nn

from vinr.models import IndexModel, ModelConfig


class Config(ModelConfig):
    width: int = 4


class Plain(IndexModel):
    """One colour per frame (Nobody, 2026)."""

    Config = Config

    def __init__(self, config, video, *, with_encoder=True):
        super().__init__(config, video)
        self.colour = nn.Linear(1, 3)

    def coded_size(self):
        return self.video.height, self.video.width

    @classmethod
    def configure(cls, video, *, width, settings):
        return Config(width=max(int(width), 1))

    def decode(self, query):
        time_N1 = (query.time_N / self.video.num_frames).float()[:, None]
        rgb_NC = torch.sigmoid(self.colour(time_N1.to(self.colour.weight)))
        return rgb_NC[:, :, None, None].expand(-1, -1, *self.coded_size())
'''
PRESET = """
model = "plain"
source = "nowhere"
[fit.vinr]
epochs = 2
[sizes.tiny]
width = 4
"""
PAPER = """
[sizes.tiny.paper]
height = 32
width = 64
num_frames = 4
parameters = 6
"""
ENTRY_POINTS = """
[vinr.losses]
charbonnier = myvinr.losses:charbonnier
missing = myvinr.losses:nothing
raising = myvinr.raising:loss
number = myvinr.losses:NUMBER
l1 = myvinr.losses:charbonnier
twice = myvinr.losses:charbonnier

[vinr.optimizers]
lion = myvinr.optimizers:build_lion
broken = myvinr.optimizers:broken
adam = myvinr.optimizers:build_lion

[vinr.models]
aaa_exits = myvinr.exits
class = myvinr.models.plain:Plain
gone = myvinr.models.gone
hnerv = myvinr.models.plain
liar = myvinr.models.liar
lonely = myvinr.models.lonely
paperless = myvinr.models.paperless
plain = myvinr.models.plain
stuck = myvinr.models.stuck
"""


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of packages, as pip leaves it, with one that offers a loss, an optimiser and a model."""
    folder = tmp_path_factory.mktemp("site")
    files = {
        "myvinr/__init__.py": "",
        "myvinr/losses.py": LOSSES,
        "myvinr/raising.py": "raise RuntimeError('no licence\\nfound')\n",
        "myvinr/exits.py": "raise SystemExit(3)\n",
        "myvinr/optimizers.py": OPTIMIZERS,
        "myvinr/models/__init__.py": "",
        "myvinr/models/plain.py": MODEL,
        "myvinr/models/lonely.py": MODEL,  # without a file of presets
        "myvinr/models/paperless.py": MODEL,
        "myvinr/models/stuck.py": MODEL.replace(
            "self.colour = nn.Linear(1, 3)", "raise ValueError('no\\nway')"
        ),
        "myvinr/presets/plain.toml": PRESET + PAPER,
        "myvinr/presets/paperless.toml": PRESET.replace('"plain"', '"paperless"'),
        "myvinr/presets/stuck.toml": PRESET.replace('"plain"', '"stuck"') + PAPER,
        "myvinr/presets/liar.toml": PRESET,
        "myvinr/models/liar.py": MODEL,
        "myvinr-1.0.dist-info/METADATA": "Metadata-Version: 2.1\nName: myvinr\nVersion: 1.0\n",
        "myvinr-1.0.dist-info/entry_points.txt": ENTRY_POINTS,
        "other-1.0.dist-info/METADATA": "Metadata-Version: 2.1\nName: other\nVersion: 1.0\n",
        "other-1.0.dist-info/entry_points.txt": "[vinr.losses]\ntwice = other:loss\n",
    }
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text, encoding="utf-8")
    return folder


def run(installed: Path, code: str) -> str:
    """Return what a program prints that has the package of ``installed``."""
    start = f"import sys; sys.path.insert(0, {str(installed)!r})\n"
    result = subprocess.run([sys.executable, "-c", start + code], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    return result.stdout


FIT = """
import torch, vinr
from vinr.config import load_preset
from vinr.errors import UsageError
from vinr.video.source import FrameTensor
from vinr.video.spec import VideoSpec

rgb_NCHW = torch.randint(255, (4, 3, 32, 64), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
frames = FrameTensor(rgb_NCHW, VideoSpec(4, 32, 64))
def trainer(model, *overrides):
    preset = load_preset(f"{model}-tiny", ["fit.epochs=4", "fit.phases=[]", *overrides])
    return vinr.Trainer(frames, preset)
"""


def test_a_loss_by_name_from_outside(installed: Path) -> None:
    code = FIT + (
        "one = trainer('hnerv', 'fit.loss={charbonnier = 2.0}')\n"
        "print([type(event).__name__ for event in one.rounds()])\n"
        "print(one.loss.terms[0][1].per_frame.__module__)\n"
        "try: trainer('hnerv', 'fit.loss={charbonier = 1.0}')\n"
        "except UsageError as error: print(error)\n"
        "try: trainer('hnerv', 'fit.loss={missing = 1.0}')\n"
        "except UsageError as error: print(error)\n"
    )
    rounds, module, unknown, missing = run(installed, code).splitlines()
    assert rounds == str(["RoundDone"] * 4)
    assert module == "myvinr.losses"
    assert unknown.startswith("unknown loss 'charbonier'; there are charbonnier, frequency, l1,")
    assert missing.startswith("entry point 'missing' of vinr.losses: myvinr.losses:nothing cannot be loaded")


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("raising", r"'raising' .* cannot be loaded (RuntimeError: no licence\nfound)"),
        (
            "number",
            "'number' of vinr.losses: myvinr.losses:NUMBER is of type int; it has to be a function",
        ),
        (
            "twice",
            "'twice' of vinr.losses is offered by two packages (myvinr.losses:charbonnier, o",
        ),
    ],
)
def test_what_a_package_offers_and_cannot_be_used_is_refused(
    installed: Path, name: str, problem: str
) -> None:
    code = (
        "from vinr.errors import UsageError\nfrom vinr.fit.losses import build_loss\n"
        f"try: build_loss({{{name!r}: 1.0}})\nexcept UsageError as error: print(error)\n"
    )
    (line,) = run(installed, code).splitlines()
    for part in problem.split(" .* "):
        assert part in line


def test_no_package_replaces_what_is_built_in(installed: Path) -> None:
    code = FIT + (
        "from vinr.fit.losses import build_loss, list_losses\n"
        "print(build_loss({'l1': 1.0}).terms[0][1].per_frame.__module__, list_losses().count('l1'))\n"
        "print(type(trainer('hnerv', 'fit.optimizer=adam').learner.optimizer).__module__)\n"
        "try: trainer('hnerv', 'fit.optimizer=tiger')\n"
        "except UsageError as error: print(str(error).count(' adam,'))\n"
        "from vinr.models import get_model\n"
        "print(get_model('hnerv').__module__)\n"
        "try: get_model('gone')\n"
        "except UsageError as error: print(error)\n"
    )
    loss, optimizer, count, model, gone = run(installed, code).splitlines()
    assert (loss, optimizer, count) == ("vinr.fit.losses 1", "torch.optim.adam", "1")
    assert model == "vinr.models.hnerv"
    assert gone.startswith("entry point 'gone' of vinr.models: myvinr.models.gone cannot be loaded (")


def test_an_optimizer_by_name_from_outside_goes_on_bit_for_bit(installed: Path) -> None:
    code = FIT + (
        "one = trainer('hnerv', 'fit.optimizer=lion')\n"
        "print(type(one.learner.optimizer).__module__)\n"
        "for number in range(5): one.step()\n"
        "state = one.state()\n"
        "other = trainer('hnerv', 'fit.optimizer=lion')\n"
        "other.load(state)\n"
        "for fit in (other, one):\n"
        "    for event in fit.rounds(): pass\n"
        "pairs = zip(one.model.parameters(), other.model.parameters(), strict=True)\n"
        "print(all(torch.equal(a, b) for a, b in pairs), one.steps_done == other.steps_done)\n"
        "try: trainer('hnerv', 'fit.optimizer=tiger')\n"
        "except UsageError as error: print(error)\n"
        "try: trainer('hnerv', 'fit.optimizer=broken')\n"
        "except UsageError as error: print(error)\n"
    )
    module, equal, unknown, broken = run(installed, code).splitlines()
    assert module == "myvinr.optimizers"
    assert equal == "True True"
    assert "fit.optimizer" in unknown
    assert "there are adam, adamw, adan, broken, lion, muon" in unknown
    assert broken == "optimizer 'broken' returns a str, not a torch.optim.Optimizer"


def test_a_model_by_name_from_outside(installed: Path) -> None:
    code = FIT + (
        "one = trainer('plain')\n"
        "for event in one.rounds(): pass\n"
        "print(type(one.finish().model).__name__)\n"
        "from vinr.models import get_model, describe_model\n"
        "print(describe_model('plain'))\n"
        "try: get_model('plane')\n"
        "except UsageError as error: print(error)\n"
    )
    name, line, unknown = run(installed, code).splitlines()
    assert name == "Plain"
    assert line == "One colour per frame (Nobody, 2026)."
    assert unknown.startswith("unknown model 'plane'; there are")
    assert "plain" in unknown


@pytest.mark.parametrize(
    ("command", "left_out"),
    [
        (
            "models",
            {"aaa_exits": "SystemExit", "class": "a class", "gone": "cannot be", "liar": "another model"},
        ),
        (
            "presets",
            {"gone": "cannot be loaded", "stuck": "no\\nway", "paperless": "does not state the video"},
        ),
    ],
)
def test_a_broken_package_is_noted_and_the_rest_is_listed(
    installed: Path, command: str, left_out: dict[str, str]
) -> None:
    code = (
        "from vinr.cli.app import main\nfrom contextlib import redirect_stderr\n"
        "with redirect_stderr(sys.stdout):\n"
        f"    sys.argv = ['vinr', {command!r}, '--json']\n"
        "    try: main()\n"
        "    except SystemExit as error: print('status', error.code)\n"
    )
    out = run(installed, code)
    for name, problem in left_out.items():
        (line,) = [line for line in out.splitlines() if line.startswith(f"model '{name}' is left out: ")]
        assert problem in line
    entries = json.loads(out[out.index("[\n") : out.rindex("]") + 1])
    names = [entry["name"] for entry in entries]
    expected = ["nerv", "plain"] if command == "models" else ["nerv-tiny", "plain-tiny"]
    assert set(expected) <= set(names)
    assert not [name for name in names if name.partition("-")[0] in left_out]


def test_a_broken_package_is_no_hindrance_to_others_and_says_what_it_lacks(installed: Path) -> None:
    code = FIT + (
        "from vinr.config import default_model, list_presets\n"
        "print(default_model(), 'plain-tiny' in list_presets())\n"
        "for name in ('aaa_exits', 'class', 'gone', 'lonely', 'lonely-tiny'):\n"
        "    try: load_preset(name)\n"
        "    except UsageError as error: print(error)\n"
    )
    usual, exits, of_class, gone, *lonely = run(installed, code).splitlines()
    assert usual == "hnerv True"
    assert "myvinr.exits cannot be loaded (SystemExit: 3); mend the package that offers it" in exits
    assert of_class == (
        "model 'class': the entry point of its package names a class; "
        "it has to name the module that defines the model"
    )
    assert "cannot be loaded (ModuleNotFoundError: No module named 'myvinr.models.gone')" in gone
    assert all("presets/lonely.toml of the package 'myvinr': " in line for line in lonely)
    assert len(lonely) == 2


def test_bad_names_are_refused_where_nothing_is_installed() -> None:
    with pytest.raises(
        UsageError, match=r"fit\.optimizer: .*there are adam, adamw, adan, muon \(got 'lion'\)"
    ):
        load_preset("hnerv-tiny", ["fit.optimizer=lion"])
    with pytest.raises(UsageError, match="unknown loss 'charbonnier'; there are frequency, l1"):
        build_loss({"charbonnier": 1.0})
