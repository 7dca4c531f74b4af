"""Frames in and out: what a video is, reading, colour, writing.

``spec`` says what a video and its timeline are, and which pixels a model is asked for. ``source`` reads
files, image folders and raw YUV, ``edit`` crops and resizes, ``color`` has the only colour arithmetic,
``sink`` writes files and PNGs, ``audio`` copies the audio, ``samples`` finds the demo clips. Decoding a
``.vinr`` file imports only ``spec``, and so neither PyAV nor Pillow.
"""
