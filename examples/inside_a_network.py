# ---
# jupyter:
#   kernelspec: {display_name: Python 3, language: python, name: python3}
# ---

# %% [markdown]
# # Inside a network
#
# This notebook trains a network step by step with a loss of its own, looks at what it stores, and mixes the
# latents of two frames. It takes half a minute on one core.

# %%
import tempfile
from pathlib import Path

import matplotlib.pyplot as plt
import torch
from make_clip import write

import vinr
from vinr.config import load_preset
from vinr.fit import RoundDone
from vinr.models import Latents
from vinr.video.source import open_video
from vinr.video.spec import Query

clip = Path(tempfile.mkdtemp()) / "clip.mp4"
write(clip)
with open_video(clip) as reader:
    frames = reader.read()

# %% [markdown]
# ## Train
#
# `vinr.Trainer` is the loop of `vinr encode`, stepped by you. A loss takes prediction and target, (N, 3, H,
# W) in [0, 1], and returns one value per frame.


# %%
def charbonnier(prediction_NCHW, target_NCHW):
    return ((prediction_NCHW - target_NCHW).square() + 1e-6).sqrt().mean((1, 2, 3))


preset = load_preset("hnerv-tiny", ["fit.epochs=20", "fit.phases=[]", "fit.precision=fp32"])
trainer = vinr.Trainer(frames, preset, loss=charbonnier, device="cpu")
curve = [event.psnr_db for event in trainer.rounds() if isinstance(event, RoundDone)]
model = trainer.finish().model

figure, axes = plt.subplots(figsize=(7, 2.6), layout="constrained")
axes.plot(range(1, len(curve) + 1), curve)
axes.set_xlabel("epoch")
axes.set_ylabel("PSNR (dB)")
plt.show()

# %% [markdown]
# ## What is stored
#
# A finished model stores tensors, each in a role. The latents have a slice per frame; everything else is
# shared by all frames.

# %%
stored = model.stored()
for name, item in stored.items():
    print(f"{name:28}{item.role:8}{tuple(item.value.shape)}")

# %% [markdown]
# The latents of HNeRV are small maps. Here is one row per frame: what changes from row to row is the
# motion.

# %%
embedding_NF = stored["latents.embedding"].value.detach().flatten(1)
figure, axes = plt.subplots(figsize=(7, 2.6), layout="constrained")
axes.imshow(embedding_NF.numpy(), aspect="auto", cmap="coolwarm", interpolation="nearest")
axes.set_xlabel("number within the latents")
axes.set_ylabel("frame")
plt.show()

# %% [markdown]
# ## Between two frames
#
# The decoder takes any latents, also ones that belong to no frame: the mean of those of frames 4 and 16.
# Networks do not move things by that; they fade.

# %%
mixed = embedding_NF[[4, 16]].mean(0).view(stored["latents.embedding"].value[:1].shape)
query = Query.of_frames(torch.tensor([10]))
with torch.no_grad():
    shown = {
        "frame 4": model(Query.of_frames(torch.tensor([4]))),
        "mean of both": model.decode(query, Latents({"embedding": mixed})),
        "frame 16": model(Query.of_frames(torch.tensor([16]))),
    }
figure, columns = plt.subplots(1, 3, figsize=(9, 2), layout="constrained")
for axes, (name, rgb_NCHW) in zip(columns, shown.items(), strict=True):
    axes.imshow(rgb_NCHW[0].permute(1, 2, 0).clamp(0, 1).numpy())
    axes.set_title(name, fontsize=9)
    axes.axis("off")
plt.show()
