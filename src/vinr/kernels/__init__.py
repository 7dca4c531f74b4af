"""Layers that compute faster on CPUs than PyTorch's own: for decoding, and with gradients for training."""
