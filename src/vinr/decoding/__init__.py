"""From a file to frames: networks, decoding, playing, describing, checking."""
