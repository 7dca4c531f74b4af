"""Small files that ask for much: what hostile files of less than 10 kB look like. For tests."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import torch

from bitstream.crafting import assemble, deflate, entry, varint
from vinr.models import get_model
from vinr.networks import _network_spec
from vinr.bitstream.header import Header

# A model of one symbol (0), which takes nothing in a stream: varint m = 0, low, size - 1, and a step code.
FIRST_RECORD = b"\0" + b"\0" + b"\1" + b"\0\0"
NEXT_RECORD = b"\2" + b"\0\0"
