"""Tasks other than compression: inpainting, interpolation, denoising."""
