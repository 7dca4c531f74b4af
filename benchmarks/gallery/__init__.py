"""The gallery: frames that networks give back, beside the originals, on one page with pictures.

``python -m benchmarks.gallery`` in the folder of the source makes it (docs/bench.md).
"""
