"""Measurements of vinr that are no part of the package; each writes a page to docs/results."""
