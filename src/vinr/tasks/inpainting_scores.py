"""Inpainting as an experiment: what a network makes of masked pixels that are known, beside ways without one.

Axes: T frames of the video, H rows, W columns.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from statistics import fmean

import torch
from torch import Tensor

from vinr.config import Preset
from vinr.errors import InputError
from vinr.fit import Event, FitResult, fit, ignore
from vinr.tasks.frames import FilledFrames, FittedFrames, plain_fit, psnr_of_frames_db
from vinr.tasks.inpainting import Inpaint
from vinr.tasks.trivial import NearestVisibleFrames, SurroundingsFrames, say_behind
from vinr.video.spec import FrameSource


@dataclass(frozen=True)
class InpaintingScore:
    """How close filled frames are to the clean ones, of a clip whose masked pixels are known.

    ``masked_psnr_db``: the network's, of masked pixels alone, in frames that have such. ``filled_psnr_db``:
    of whole frames, masked pixels filled by the network, the others those of the video (HNeRV's table).
    ``network_psnr_db``: of the network's whole frames (HNeRV's code, Boosting-NeRV). ``visible_psnr_db``: of
    its pixels that are not masked. ``input_…``: the first two of the masked frames, black where masked.
    ``surroundings_…``, ``nearest_…``: the same two, filled by the trivial ways (:mod:`vinr.tasks.trivial`).
    All are means over frames of rounded colours.
    """

    masked_share: float
    masked_psnr_db: float
    filled_psnr_db: float
    network_psnr_db: float
    visible_psnr_db: float
    input_masked_psnr_db: float
    input_psnr_db: float
    surroundings_masked_psnr_db: float
    surroundings_psnr_db: float
    nearest_masked_psnr_db: float
    nearest_psnr_db: float
    num_epochs: float
    seconds: float

    @property
    def behind(self) -> str | None:
        """A line, if the network fills worse than a way that needs none."""
        ways = {
            "blurred surroundings": self.surroundings_masked_psnr_db,
            "nearest frame": self.nearest_masked_psnr_db,
        }
        return say_behind(self.masked_psnr_db, ways)


@dataclass(frozen=True, eq=False)
class InpaintedFit:
    """A network fitted to the pixels of ``source`` where ``mask_T1HW``, bool, is False.

    ``seen``, ``network``, ``filled``, ``surroundings`` and ``nearest`` are sources of as many frames as
    ``source`` has.
    """

    source: FrameSource
    mask_T1HW: Tensor
    result: FitResult

    @property
    def seen(self) -> FrameSource:
        """What the fit was given: masked pixels black, and of no weight."""
        return Inpaint(self.mask_T1HW).visible(self.source)

    @property
    def network(self) -> FrameSource:
        """The network's whole frames."""
        return FittedFrames(self.result.model, self.source.spec)

    @property
    def filled(self) -> FrameSource:
        """The source's frames, masked pixels from the network."""
        return FilledFrames(self.source, self.network, self.mask_T1HW)

    @property
    def surroundings(self) -> FrameSource:
        """The source's frames, masked pixels blurred from those around them."""
        return SurroundingsFrames(self.source, self.mask_T1HW)

    @property
    def nearest(self) -> FrameSource:
        """The source's frames, masked pixels from the nearest frame that shows them."""
        return NearestVisibleFrames(self.source, self.mask_T1HW)

    def score(self) -> InpaintingScore:
        """Compare with the source, whose masked pixels have to be the truth."""
        #                    masked pixels    whole frames    the other pixels
        # network            masked           network         visible
        # network + video    as above         filled          no error
        # black + video      input_masked     input           no error
        # trivial + video    …_masked         …               no error
        masked_T1HW = self.mask_T1HW
        return InpaintingScore(
            masked_share=float(masked_T1HW.double().mean()),
            masked_psnr_db=self._psnr_db(self.network, masked_T1HW),
            filled_psnr_db=self._psnr_db(self.filled),
            network_psnr_db=self._psnr_db(self.network),
            visible_psnr_db=self._psnr_db(self.network, ~masked_T1HW),
            input_masked_psnr_db=self._psnr_db(self.seen, masked_T1HW),
            input_psnr_db=self._psnr_db(self.seen),
            surroundings_masked_psnr_db=self._psnr_db(self.surroundings, masked_T1HW),
            surroundings_psnr_db=self._psnr_db(self.surroundings),
            nearest_masked_psnr_db=self._psnr_db(self.nearest, masked_T1HW),
            nearest_psnr_db=self._psnr_db(self.nearest),
            num_epochs=self.result.num_epochs,
            seconds=self.result.seconds,
        )

    def _psnr_db(self, frames: FrameSource, where_T1HW: Tensor | None = None) -> float:
        every_T = torch.arange(self.source.spec.num_frames)
        return fmean(psnr_of_frames_db(frames, self.source, every_T, where_T1HW))


def fit_inpainting(
    source: FrameSource,
    mask_T1HW: Tensor,
    preset: Preset,
    *,
    device: str = "cpu",
    on_event: Callable[[Event], None] = ignore,
) -> InpaintedFit:
    """Fit ``source`` without its masked pixels.

    Parameters
    ----------
    mask_T1HW
        Bool, True where masked (:mod:`vinr.tasks.masks`).
    preset
        A preset with a complete architecture (:func:`vinr.encoding.plan.choose_preset`).

    Raises
    ------
    InputError
        If the mask is of another size, or masks nothing or everything.
    """
    task = Inpaint(mask_T1HW)
    if not bool(mask_T1HW.any()):
        raise InputError("the mask masks no pixel: there is nothing to fill")
    result = fit(source, plain_fit(preset), task, device=device, on_event=on_event)
    return InpaintedFit(source, mask_T1HW, result)


def measure_inpainting(
    source: FrameSource,
    mask_T1HW: Tensor,
    preset: Preset,
    *,
    device: str = "cpu",
    on_event: Callable[[Event], None] = ignore,
) -> InpaintingScore:
    """Fit ``source`` without its masked pixels, and measure those; see :func:`fit_inpainting`."""
    return fit_inpainting(source, mask_T1HW, preset, device=device, on_event=on_event).score()
