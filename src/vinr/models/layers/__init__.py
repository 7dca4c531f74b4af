"""Layers that models share, one module per kind."""
