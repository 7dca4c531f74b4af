"""Speed of this machine: steps of a fit, time to quality, decoding, peak memory (docs/speed.md).

``python -m benchmarks.speed`` in the folder of the source measures and writes a page.
"""
