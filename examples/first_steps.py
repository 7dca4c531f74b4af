# ---
# jupyter:
#   kernelspec: {display_name: Python 3, language: python, name: python3}
# ---

# %% [markdown]
# # From a video to frames
#
# This notebook turns a short clip into a `.vinr` file, reads frames of it in any order, and measures it. It
# takes half a minute on one core.

# %%
import tempfile
from pathlib import Path

import matplotlib.pyplot as plt
import torch
from make_clip import write

import vinr
from vinr.video.source import open_video

folder = Path(tempfile.mkdtemp())
clip, file = folder / "clip.mp4", folder / "clip.vinr"
write(clip)  # one second, 96×160, drawn by examples/make_clip.py; take a video of yours instead

# %% [markdown]
# ## Encode
#
# Without `params` and `epochs`, vinr chooses both and takes minutes.

# %%
report = vinr.encode(clip, file, params="30k", epochs=20, device="cpu")
print(f"{report.num_bytes:,} bytes, {report.bpp:.3f} bits per pixel with audio, {report.psnr_db:.2f} dB")

# %% [markdown]
# ## Any frame, in any order
#
# An opened file is a sequence of frames: uint8, (3, height, width). Frame 20 is read without those before
# it.

# %%
video = vinr.open(file)
with open_video(clip) as reader:
    original_NCHW = reader.read().frames(torch.arange(len(video)))

figure, rows = plt.subplots(2, 3, figsize=(9, 4), layout="constrained")
for column, index in enumerate((20, 3, 11)):
    for row, (name, frame_CHW) in enumerate((("original", original_NCHW[index]), ("decoded", video[index]))):
        rows[row, column].imshow(frame_CHW.permute(1, 2, 0).numpy())
        rows[row, column].set_title(f"frame {index}, {name}", fontsize=9)
        rows[row, column].axis("off")
plt.show()

# %% [markdown]
# Slices and times in seconds work too.

# %%
print(video[4:12:2].shape, video.frames_played_at([0.1, 0.9]).rgb_NCHW.shape)

# %% [markdown]
# ## How good is it?
#
# `vinr.evaluate` compares the file with the original, frame by frame.

# %%
quality = vinr.evaluate(file, clip)
figure, axes = plt.subplots(figsize=(7, 2.6), layout="constrained")
axes.plot(quality.per_frame_psnr_db)
axes.set_xlabel("frame")
axes.set_ylabel("PSNR (dB)")
plt.show()

# %% [markdown]
# ## Training data
#
# `FrameDataset` is a `Dataset` of PyTorch with random access, without a video decoder.

# %%
loader = torch.utils.data.DataLoader(vinr.FrameDataset(file), batch_size=8, shuffle=True)
print([tuple(batch.shape) for batch in loader])
video.close()
