"""Ways to change a file in its structure: the checksums still fit, so that damage gets as deep as it can."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any, Final

import _soak  # noqa: F401 - says where the tests' modules are
import crafting
from _files import Parts

from vinr.bitstream import SectionKind

__all__ = ["KINDS", "bytes_changed", "mutate", "tree_changed"]

NUMBERS: Final = (
    *(0, 1, -1, 2, 3, 7, 16, 255, 256, 4096, 4097, 16_384, 65_535, 65_536, 65_537, 2**20, 10**7, 10**7 + 1),
    *(2**31 - 1, 2**31, 2**32, 2**53, 2**53 + 1, 2**63 - 1, 2**64, -(2**31), 10**30),
    *(0.5, -0.5, 1e-300, 1e300, 1e999),
)
NATURAL: Final = tuple(value for value in NUMBERS if isinstance(value, int) and 0 <= value < 2**63)
ODDITIES: Final = (
    "",
    "x",
    "\x1b[2J",
    "\u202e",
    "a" * 70,
    "a" * 2000,
    None,
    True,
    False,
    [],
    {},
    [[]],
    {"a": 1},
)
# How often each kind is drawn. What is changed in header and index is mostly refused at once, so it is cheap.
KINDS: Final = {
    "raw damage": 5,
    "header value": 10,
    "header text": 38,
    "header and sections": 1,
    "index": 34,
    "times": 4,
    "weights": 3,
    "chunks": 2,
    "keyframes": 1,
    "sound": 0.5,
    "parts of other files": 1,
    "several": 0.5,
}
# Large frames are few: what decodes takes seconds.
SIDES: Final = (*(1, 2, 16, 31, 32, 33, 48, 64, 100, 128) * 4, 720, 2160, 8192)
MAX_PARTS: Final = 2000


def mutate(data: bytes, parts: Parts, others: Mapping[str, Parts], rng: random.Random) -> tuple[str, bytes]:
    """Return a kind of ``KINDS``, and the file ``data``, which is ``parts``, changed in that way."""
    kind = rng.choices(list(KINDS), list(KINDS.values()))[0]
    if kind == "raw damage":
        return kind, bytes_changed(data, rng)
    parts = parts.copy()
    if kind == "header text":
        return kind, _header_text(parts, rng)
    if kind == "index":
        return kind, _index(parts, rng)
    if kind == "several":
        for _ in range(rng.randint(2, 4)):
            # What comes second may not find what the first has broken; the file is good as it is then.
            with suppress(TypeError, KeyError, IndexError, ValueError, AttributeError):
                rng.choice(list(CHANGES.values()))(parts, others, rng)
    else:
        CHANGES[kind](parts, others, rng)
    return kind, parts.build()


# -- bytes ---------------------------------------------------------------------------------------------------


def bytes_changed(data: bytes, rng: random.Random) -> bytes:
    """Return ``data`` with one to four changes of bits, bytes, numbers or pieces."""
    changed = bytearray(data)
    for _ in range(rng.choice((1, 1, 1, 2, 4))):
        place = rng.randrange(len(changed) + 1)
        # Half of the changes near the start, where definitions are rather than what they code.
        if rng.random() < 0.5:
            place = min(place, rng.randrange(64))
        size = rng.choice((1, 1, 2, 4, rng.randint(1, 64)))
        match rng.randrange(8):
            case 0 if place < len(changed):
                changed[place] ^= 1 << rng.randrange(8)
            case 1 if place < len(changed):
                changed[place] = rng.choice((0, 1, 0x7F, 0x80, 0xFF, rng.randrange(256)))
            case 2:
                del changed[place : place + size]
            case 3:
                changed[place:place] = rng.randbytes(size)
            case 4:
                changed[place : place + size] = changed[place : place + size] * rng.randint(2, 9)
            case 5:
                del changed[place:]
            case 6:
                changed += bytes(rng.choice((1, 4, 1000, 20_000)))
            case 7:
                number = rng.choice(
                    [value for value in NUMBERS if isinstance(value, int) and 0 <= value < 2**63]
                )
                packed = (
                    crafting.varint(number) if rng.random() < 0.5 else number.to_bytes(8, "little")[:size]
                )
                changed[place : place + len(packed)] = packed
    return bytes(changed)


# -- header --------------------------------------------------------------------------------------------------


def tree_changed(tree: Any, rng: random.Random) -> None:
    """Change one value somewhere in a tree of dictionaries and lists, in place."""
    places = _places(tree)
    if not places:
        return
    holder, key = rng.choice(places)
    value = holder[key]
    match rng.randrange(8):
        case 0:
            holder[key] = rng.choice(NUMBERS)
        case 1:
            holder[key] = rng.choice(ODDITIES)
        case 2 if isinstance(value, (int, float)):
            holder[key] = value + rng.choice((-1, 1, 0.5))
        case 3 if isinstance(value, (int, float)):
            holder[key] = value * rng.choice((2, 4, 16, -1, 1000))
        case 4:
            if isinstance(holder, dict):
                del holder[key]
            else:
                holder.pop(key)
        case 5 if isinstance(holder, list):
            holder[key:key] = [value] * rng.choice((1, 2, 30))
        case 6 if isinstance(holder, dict):
            holder[rng.choice(("x", "height", "num_frames", "model", "\x1b[31m"))] = value
        case _:
            other, place = rng.choice(places)
            holder[key] = json.loads(json.dumps(other[place]))


def _places(tree: Any) -> list[tuple[Any, Any]]:
    found: list[tuple[Any, Any]] = []
    waiting = [tree]
    while waiting:
        holder = waiting.pop()
        keys = list(holder) if isinstance(holder, dict) else range(min(len(holder), 40))
        for key in keys:
            found.append((holder, key))
            if isinstance(holder[key], (dict, list)):
                waiting.append(holder[key])
    return found


def _header_value(parts: Parts, others: Mapping[str, Parts], rng: random.Random) -> None:
    # Half of them in an architecture or in spans: the schema knows little of those.
    deep = rng.random() < 0.5
    tree = rng.choice(parts.header["networks"]) if deep and parts.header.get("networks") else parts.header
    for _ in range(rng.choice((1, 1, 2))):
        tree_changed(tree, rng)
    if rng.random() < 0.5:
        _fit_sections(parts)


def _header_text(parts: Parts, rng: random.Random) -> bytes:
    text = json.dumps(parts.header, separators=(",", ":")).encode()
    if rng.random() < 0.2:
        return parts.build(stored=bytes_changed(crafting.deflate(text), rng))
    words = (
        b'"',
        b"{",
        b"}",
        b"[",
        b"]",
        b",",
        b":",
        b"NaN",
        b"1e999",
        b"-0",
        b"\\ud800",
        b"\xff",
        b"9" * 400,
    )
    changed = bytearray(text)
    for _ in range(rng.choice((1, 1, 2, 5))):
        place = rng.randrange(len(changed) + 1)
        if rng.random() < 0.5:
            changed[place : place + rng.randrange(3)] = rng.choice(words)
        else:
            first = rng.randrange(len(changed) + 1)
            changed[place:place] = changed[first : first + rng.randint(1, 60)]
    return parts.build(text=bytes(changed))


def _sizes_and_frames(parts: Parts, others: Mapping[str, Parts], rng: random.Random) -> None:
    """Change size, rate or length of all clips so that the header stays in agreement with itself."""
    clips, networks = parts.header["clips"], parts.header["networks"]
    match rng.randrange(4):
        case 0:
            height, width = (rng.choice(SIDES) for _ in range(2))
            for clip in clips:
                clip["height"], clip["width"] = height, width
        case 1:
            more = rng.choice((1, 2, 5, 100, 10**4, 10**6))
            last = max((span for network in networks for span in network["spans"]), key=lambda span: span[:2])
            clips[last[0]]["num_frames"] += more
            last[2] += more
        case 2:
            for network in networks:
                if network.get("frames_per_chunk"):
                    network["frames_per_chunk"] = rng.choice((1, 2, 3, 1000, 10**6, 10**7))
        case 3:
            network = rng.choice(networks)
            network["model"] = rng.choice([other.header["networks"][0]["model"] for other in others.values()])
            if rng.random() < 0.5:
                same = [o for o in others.values() if o.header["networks"][0]["model"] == network["model"]]
                network["architecture"] = json.loads(
                    json.dumps(same[0].header["networks"][0]["architecture"])
                )
    _fit_sections(parts)


def _fit_sections(parts: Parts) -> None:
    """Repeat or drop chunks and keyframes until there are as many as the header says, within reason."""
    networks = parts.header.get("networks")
    for place, (kind, owner, payloads) in enumerate(parts.sections):
        if kind not in (SectionKind.CHUNKS, SectionKind.KEYFRAMES) or not payloads:
            continue
        try:
            network = networks[owner]
            if kind == SectionKind.KEYFRAMES:
                count = network["num_keyframes"]
            else:
                count = -(-sum(span[2] for span in network["spans"]) // network["frames_per_chunk"])
            wanted = min(int(count), MAX_PARTS)
        except (TypeError, KeyError, IndexError, ValueError, ArithmeticError):
            continue
        parts.sections[place] = (kind, owner, (payloads * (wanted // len(payloads) + 1))[: max(wanted, 0)])


# -- index and sections --------------------------------------------------------------------------------------


def _index(parts: Parts, rng: random.Random) -> bytes:
    if rng.random() < 0.5:
        return parts.build(index=bytes_changed(parts.index(), rng))
    sections = parts.sections
    place = rng.randrange(len(sections))
    kind, owner, payloads = sections[place]
    match rng.randrange(7):
        case 0:
            sections[place] = (
                rng.choice((kind ^ 1 << rng.randrange(8), rng.randrange(256))),
                owner,
                payloads,
            )
        case 1:
            number = rng.choice((owner + 1, abs(owner - 1), 2**31, 2**62))
            sections[place] = (kind, number, payloads)
        case 2:
            del sections[place]
        case 3:
            sections.insert(rng.randrange(len(sections) + 1), sections[place])
        case 4:
            rng.shuffle(sections)
        case 5:
            sections[place] = (kind, owner, payloads[: rng.randrange(len(payloads) + 1)])
        case 6:
            sections[place] = (kind, owner, payloads * rng.choice((2, 3, 100)))
    # A plain section has one payload; what is left of several is one.
    for number, (kind, owner, payloads) in enumerate(sections):
        if not kind & 0x40:
            sections[number] = (kind, owner, [b"".join(payloads)])
    return parts.build()


def _section(wanted: SectionKind) -> Callable[[Parts, Mapping[str, Parts], random.Random], None]:
    """Return a change of the payloads of a kind of section; of another where there is none."""

    def change(parts: Parts, others: Mapping[str, Parts], rng: random.Random) -> None:
        mine = [section for section in parts.sections if section[0] == wanted and section[2]]
        sections = mine or [section for section in parts.sections if section[2]]
        if sections:
            _, _, payloads = rng.choice(sections)
            place = rng.randrange(len(payloads))
            payloads[place] = bytes_changed(payloads[place], rng)

    return change


def _times(parts: Parts, others: Mapping[str, Parts], rng: random.Random) -> None:
    """Change the numbers of a section TIMES before they are deflated, or its bytes; add one where none is."""
    clips = parts.header["clips"]
    number = rng.randrange(len(clips))
    clips[number]["has_times"] = True
    frames = clips[number]["num_frames"]
    steps = [
        rng.choice((2, 0, 0, 0, 1, 3, 4, 2**20, 2**41, 2**62)) for _ in range(min(int(frames), 1000) - 1)
    ]
    body = b"".join(map(crafting.varint, steps))
    if rng.random() < 0.5:
        body = bytes_changed(body, rng)
    deflated = rng.random() < 0.5
    base = [crafting.varint(rng.choice((1, 30, 1001, 0, 2**31 - 1, 2**31, 2**62))) for _ in range(2)]
    payload = b"".join(base) + bytes([deflated]) + (crafting.deflate(body) if deflated else body)
    if rng.random() < 0.3:
        payload = bytes_changed(payload, rng)
    parts.sections = [s for s in parts.sections if s[:2] != (SectionKind.TIMES, number)]
    parts.sections.append((SectionKind.TIMES, number, [payload]))


def _weights(parts: Parts, others: Mapping[str, Parts], rng: random.Random) -> None:
    """Change bytes of a section WEIGHTS, or make it mostly models of one symbol with zeros behind them."""
    if rng.random() < 0.8:
        _section(SectionKind.WEIGHTS)(parts, others, rng)
        return
    weights = [section for section in parts.sections if section[0] == SectionKind.WEIGHTS and section[2]]
    if weights:
        records = bytes([0, rng.randrange(4), 1]) + rng.randbytes(2)
        records += rng.randrange(200) * bytes([2, rng.randrange(256), rng.randrange(64)])
        rng.choice(weights)[2][0] = bytes_changed(records + bytes(rng.choice((0, 100, 10_000))), rng)


def _other_parts(parts: Parts, others: Mapping[str, Parts], rng: random.Random) -> None:
    """Put in the sections of another file, or its header."""
    other = rng.choice(list(others.values())).copy()
    if rng.random() < 0.3:
        parts.header = other.header
        return
    kind, owner, _ = rng.choice(parts.sections)
    same = [section for section in other.sections if section[0] == kind]
    if same:
        kept = [section for section in parts.sections if section[:2] != (kind, owner)]
        parts.sections = [*kept, (kind, owner, rng.choice(same)[2])]


CHANGES: Final[dict[str, Callable[[Parts, Mapping[str, Parts], random.Random], None]]] = {
    "header value": _header_value,
    "header and sections": _sizes_and_frames,
    "times": _times,
    "weights": _weights,
    "chunks": _section(SectionKind.CHUNKS),
    "keyframes": _section(SectionKind.KEYFRAMES),
    "sound": _section(SectionKind.AUDIO),
    "parts of other files": _other_parts,
}
