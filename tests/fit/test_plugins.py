"""Losses, optimisers and models of packages of their own: really installed, in one process that has them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from fresh import run_fresh
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


START = """
import contextlib, io, json, sys
import torch, vinr
from vinr.config import load_preset
from vinr.errors import UsageError
from vinr.fit.losses import build_loss, list_losses
from vinr.models import describe_model, get_model
from vinr.video.source import FrameTensor
from vinr.video.spec import VideoSpec

torch.set_num_threads(1)
rgb_NCHW = torch.randint(255, (4, 3, 32, 64), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
frames = FrameTensor(rgb_NCHW, VideoSpec(4, 32, 64))
def trainer(model, *overrides):
    preset = load_preset(f"{model}-tiny", ["fit.epochs=4", "fit.phases=[]", *overrides])
    return vinr.Trainer(frames, preset)
def refused(work):
    try: work()
    except UsageError as error: print(error)
"""
PARTS = {
    "loss": """
one = trainer('hnerv', 'fit.loss={charbonnier = 2.0}')
print([type(event).__name__ for event in one.rounds()])
print(one.loss.terms[0][1].per_frame.__module__)
refused(lambda: trainer('hnerv', 'fit.loss={charbonier = 1.0}'))
refused(lambda: trainer('hnerv', 'fit.loss={missing = 1.0}'))
""",
    "raising": "refused(lambda: build_loss({'raising': 1.0}))",
    "number": "refused(lambda: build_loss({'number': 1.0}))",
    "twice": "refused(lambda: build_loss({'twice': 1.0}))",
    "built in": """
print(build_loss({'l1': 1.0}).terms[0][1].per_frame.__module__, list_losses().count('l1'))
print(type(trainer('hnerv', 'fit.optimizer=adam').learner.optimizer).__module__)
try: trainer('hnerv', 'fit.optimizer=tiger')
except UsageError as error: print(str(error).count(' adam,'))
print(get_model('hnerv').__module__)
refused(lambda: get_model('gone'))
""",
    "optimizer": """
one = trainer('hnerv', 'fit.optimizer=lion')
print(type(one.learner.optimizer).__module__)
for number in range(5): one.step()
state = one.state()
other = trainer('hnerv', 'fit.optimizer=lion')
other.load(state)
for fit in (other, one):
    for event in fit.rounds(): pass
pairs = zip(one.model.parameters(), other.model.parameters(), strict=True)
print(all(torch.equal(a, b) for a, b in pairs), one.steps_done == other.steps_done)
refused(lambda: trainer('hnerv', 'fit.optimizer=tiger'))
refused(lambda: trainer('hnerv', 'fit.optimizer=broken'))
""",
    "model": """
one = trainer('plain')
for event in one.rounds(): pass
print(type(one.finish().model).__name__)
print(describe_model('plain'))
refused(lambda: get_model('plane'))
""",
}
# Each part as a function, whose lines are printed apart from those of the others.
END = """
said = {}
for name, part in json.loads(sys.argv[1]).items():
    with contextlib.redirect_stdout(io.StringIO()) as lines:
        exec(part, dict(globals()))
    said[name] = lines.getvalue().splitlines()
print(json.dumps(said))
"""


def run(installed: Path, code: str) -> str:
    """Return what a program prints that has the package of ``installed``."""
    result = run_fresh(f"import sys; sys.path.insert(0, {str(installed)!r})\n{code}")
    assert result.returncode == 0, result.stderr.decode()
    return result.stdout.decode()


@pytest.fixture(scope="module")
def said(installed: Path) -> dict[str, list[str]]:
    """The lines that each of ``PARTS`` prints, in a process that has the package of ``installed``."""
    code = f"import sys; sys.path.insert(0, {str(installed)!r})\n{START}{END}"
    result = run_fresh(code, json.dumps(PARTS))
    assert result.returncode == 0, result.stderr.decode()
    found: dict[str, list[str]] = json.loads(result.stdout)
    return found


def test_a_loss_by_name_from_outside(said: dict[str, list[str]]) -> None:
    rounds, module, unknown, missing = said["loss"]
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
    said: dict[str, list[str]], name: str, problem: str
) -> None:
    (line,) = said[name]
    for part in problem.split(" .* "):
        assert part in line


def test_no_package_replaces_what_is_built_in(said: dict[str, list[str]]) -> None:
    loss, optimizer, count, model, gone = said["built in"]
    assert (loss, optimizer, count) == ("vinr.fit.losses 1", "torch.optim.adam", "1")
    assert model == "vinr.models.hnerv"
    assert gone.startswith("entry point 'gone' of vinr.models: myvinr.models.gone cannot be loaded (")


def test_an_optimizer_by_name_from_outside_goes_on_bit_for_bit(said: dict[str, list[str]]) -> None:
    module, equal, unknown, broken = said["optimizer"]
    assert module == "myvinr.optimizers"
    assert equal == "True True"
    assert "fit.optimizer" in unknown
    assert "there are adam, adamw, adan, broken, lion, muon" in unknown
    assert broken == "optimizer 'broken' returns a str, not a torch.optim.Optimizer"


def test_a_model_by_name_from_outside(said: dict[str, list[str]]) -> None:
    name, line, unknown = said["model"]
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
    code = START + (
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
