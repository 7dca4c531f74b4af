"""What a fit starts from: the frames on the device, a new model, and its outputs by its values."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.func import functional_call

from vinr.config import FitSettings, Preset
from vinr.errors import InputError
from vinr.fit.draws import Draws
from vinr.fit.precision import Precision
from vinr.fit.ranks import Ranks
from vinr.kernels.training import replace_trained_convolutions
from vinr.models import StoredTensor, VideoModel, get_model, validate_architecture
from vinr.models.layers.flow import FrameBuffer
from vinr.video.spec import TYPES, FrameSource, Query, VideoSpec, computable


class DeviceFrames:
    """All frames of a source as levels on the device; a :class:`FrameSource`.

    Raises
    ------
    InputError
        If the frames are not of the type, or not as many or as large as the source's spec says.
    """

    def __init__(self, source: FrameSource, device: torch.device) -> None:
        video = source.spec
        self.spec: VideoSpec = video
        rgb_NCHW = source.frames(torch.arange(video.num_frames))
        expected = (video.num_frames, 3, video.height, video.width)
        dtype = TYPES[video.bit_depth]
        if not isinstance(rgb_NCHW, Tensor) or rgb_NCHW.dtype != dtype or rgb_NCHW.shape != expected:
            came = type(rgb_NCHW).__name__
            if isinstance(rgb_NCHW, Tensor):
                came = f"{rgb_NCHW.dtype} {tuple(rgb_NCHW.shape)}"
            raise InputError(f"the source returns frames as {came}; its spec promises {dtype} {expected}")
        self.rgb_NCHW = rgb_NCHW.to(device)

    def frames(self, index_N: Tensor) -> Tensor:
        """Return levels rgb_NCHW."""
        return computable(self.rgb_NCHW)[index_N].view(self.rgb_NCHW.dtype)


def build_model(
    preset: Preset, video: VideoSpec, device: torch.device, precision: Precision, draws: Draws | None = None
) -> VideoModel:
    """Return a new model, to fit in ``precision``.

    Its initial weights come from ``draws``; from new ones with the preset's seed if None.
    """
    cls = get_model(preset.model)
    with (draws or Draws(preset.fit.seed)).as_global():
        model = cls(validate_architecture(cls, preset.architecture), video)
    model.to(device)
    _set_layout(model, preset.fit, device, precision)
    return model


def share_frames(model: VideoModel, ranks: Ranks) -> None:
    """Let all ``ranks`` put the frames that any of them computes into their buffers of frames."""
    for module in model.modules() if ranks.are_several else ():
        if isinstance(module, FrameBuffer):
            module.gather = ranks.gather_rows


def take_weights(model: VideoModel, initial: Mapping[str, Tensor]) -> None:
    """Let ``model`` begin with ``initial``, by stored name, where its own tensors have the same shape.

    Others keep what was drawn for them, and so do those of frames: they are of other frames.
    """
    with torch.no_grad():
        for name, item in model.stored().items():
            value = initial.get(name)
            if value is not None and not item.per_frame and value.shape == item.value.shape:
                item.value.copy_(value)


def _set_layout(model: VideoModel, settings: FitSettings, device: torch.device, precision: Precision) -> None:
    """Let the layers of a new model compute, and lay its maps out, as ``settings`` say."""
    in_fp32 = device.type == "cpu" and precision.dtype is None
    if settings.convolution == "auto" and in_fp32 and replace_trained_convolutions(model):
        return  # transforms read maps channel by channel, whatever channels_last says
    if settings.channels_last:
        model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]


class Outputs(nn.Module):
    """The training outputs of a model, also with other values in the place of its own."""

    def __init__(self, model: VideoModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, query: Query, source: FrameSource | None) -> tuple[tuple[float, Tensor], ...]:
        """See :meth:`VideoModel.training_outputs`."""
        return self.model.training_outputs(query, source)

    def of(
        self, values: Mapping[str, Tensor], stored: Mapping[str, StoredTensor], query: Query
    ) -> tuple[tuple[float, Tensor], ...]:
        """Return the outputs of the frozen model with ``values`` (by stored name) instead of ``stored``."""
        # Stored names are not those of parameters: a parameter is found by what it is.
        places = {id(parameter): name for name, parameter in self.named_parameters()}
        replaced = {places[id(stored[name].value)]: value for name, value in values.items()}
        outputs: tuple[tuple[float, Tensor], ...] = functional_call(self, replaced, (query, None))
        return outputs
