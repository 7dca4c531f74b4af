"""What a plan refuses before anything is fitted."""

from __future__ import annotations

import pytest

from vinr.encoding.plan import plan_encode
from vinr.errors import UsageError
from vinr.video.spec import VideoSpec

CLIP = VideoSpec(16, 32, 64)
LEARNED = 'fit.phases=[{share=0.3, quantization="entropy"}]'
TRAINED = 'fit.phases=[{share=0.3, quantization="qat"}]'


@pytest.mark.parametrize("setting", ["compress.weight_bits=6", "compress.latent_bits=6"])
def test_steps_of_another_kind_are_refused_where_steps_are_learned(setting: str) -> None:
    with pytest.raises(UsageError, match=r"compress\.\w+ changes nothing where steps are learned"):
        plan_encode([CLIP], preset="nerv-tiny", overrides=[LEARNED, setting])
    assert plan_encode([CLIP], preset="nerv-tiny", overrides=["fit.phases=[]", setting]).presets


def test_bits_count_where_the_network_is_trained_for_the_range() -> None:
    bits = plan_encode([CLIP], preset="nerv-tiny", overrides=[TRAINED, "compress.weight_bits=6"])
    assert bits.presets[0].compress.weight_bits == 6
