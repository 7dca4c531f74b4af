"""Frames in and out: what a video is, reading, colour, patches, writing."""
