"""A file that names other files, or places in a network, is refused before any of them is looked at."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Event, Thread

import pytest
from PIL import Image

from video.video_clips import write_clip
from vinr.errors import InputError
from vinr.tasks.masks import open_mask
from vinr.video.source import open_video

HLS = """#EXTM3U
#EXT-X-VERSION:7
#EXT-X-TARGETDURATION:2
#EXT-X-MEDIA-SEQUENCE:0
{extra}#EXTINF:1.0,
{place}
#EXT-X-ENDLIST
"""
DASH = """<?xml version="1.0"?>
<MPD xmlns="urn:mpeg:dash:schema:mpd:2011" type="static" mediaPresentationDuration="PT1S"><Period>
<AdaptationSet mimeType="video/mp4"><Representation id="1" bandwidth="1" width="32" height="32">
<BaseURL>{place}</BaseURL></Representation></AdaptationSet></Period></MPD>
"""
SDP = """v=0
o=- 0 0 IN IP4 127.0.0.1
s=x
c=IN IP4 127.0.0.1
t=0 0
m=video {port} RTP/AVP 96
a=rtpmap:96 H264/90000
"""
# Name of the file that is given and what it holds; {other} is the other file's name, {folder} where both lie.
LOCAL = {
    "relative": ("a.m3u8", HLS.format(extra="", place="{other}")),
    "absolute": ("a.m3u8", HLS.format(extra="", place="{folder}/{other}")),
    "as a URL": ("a.m3u8", HLS.format(extra="", place="file://{folder}/{other}")),
    "two at once": ("a.m3u8", HLS.format(extra="", place="concat:{other}|{other}")),
    "named as a video": ("a.ts", HLS.format(extra="", place="{other}")),
    "its first part": (
        "a.m3u8",
        HLS.format(extra='#EXT-X-MAP:URI="{other}"\n', place="b.ts"),
    ),
    "its key": ("a.m3u8", HLS.format(extra='#EXT-X-KEY:METHOD=AES-128,URI="{other}"\n', place="b.ts")),
    "list of lists": ("a.m3u8", "#EXTM3U\n#EXT-X-STREAM-INF:BANDWIDTH=1\n{other}\n"),
    "ffconcat": ("a.ffconcat", "ffconcat version 1.0\nfile {other}\n"),
    "ffconcat, absolute": ("a.mkv", "ffconcat version 1.0\nfile '{folder}/{other}'\n"),
    "dash": ("a.mpd", DASH.format(place="{other}")),
    "asx": ("a.asx", '<asx version="3.0"><entry><ref href="{other}"/></entry></asx>'),
    "pls": ("a.pls", "[playlist]\nFile1={other}\nNumberOfEntries=1\n"),
}
REMOTE = {
    "a segment": ("a.m3u8", HLS.format(extra="", place="http://127.0.0.1:{port}/b.ts")),
    "a key": (
        "a.m3u8",
        HLS.format(extra='#EXT-X-KEY:METHOD=AES-128,URI="tcp://127.0.0.1:{port}"\n', place="b.ts"),
    ),
    "a list": ("a.m3u8", "#EXTM3U\n#EXT-X-STREAM-INF:BANDWIDTH=1\nhttp://127.0.0.1:{port}/b.m3u8\n"),
    "ffconcat": ("a.ffconcat", "ffconcat version 1.0\nfile tcp://127.0.0.1:{port}\n"),
    "dash": ("a.mpd", DASH.format(place="http://127.0.0.1:{port}/b.mp4")),
    "a stream": ("a.sdp", SDP),
    "rtsp": ("a.ram", "rtsp://127.0.0.1:{port}/b\n"),
    "asf": ("a.asf", "[Reference]\nRef1=http://127.0.0.1:{port}/b\n"),
}


def refuse(path: Path) -> None:
    """A file must be refused in one line."""
    with pytest.raises(InputError) as caught, open_video(path) as reader:
        reader.read()
    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value)


@contextmanager
def never_opened(path: Path) -> Iterator[None]:
    """Put a named pipe at ``path``, and fail if anybody opens it while the body runs."""
    if not hasattr(os, "mkfifo"):
        pytest.skip("the system has no named pipes")
    os.mkfifo(path)
    opened = Event()

    def write() -> None:
        os.close(os.open(path, os.O_WRONLY))  # waits until somebody reads
        opened.set()

    writer = Thread(target=write, daemon=True)
    writer.start()
    try:
        yield
        was_opened = opened.is_set()
    finally:
        reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
        writer.join()
        os.close(reader)
    assert not was_opened, f"{path.name} was opened"


@pytest.mark.parametrize("case", LOCAL)
def test_no_other_file_is_opened(tmp_path: Path, case: str) -> None:
    name, text = LOCAL[case]
    other = "other.m3u8" if case == "list of lists" else "other.ts"
    (tmp_path / name).write_text(text.format(other=other, folder=tmp_path), encoding="utf-8")
    with never_opened(tmp_path / other):
        refuse(tmp_path / name)


@pytest.mark.parametrize("case", LOCAL)
def test_no_video_is_found_in_another_file(tmp_path: Path, case: str) -> None:
    """What is named is a video that could be read."""
    name, text = LOCAL[case]
    other = write_clip(tmp_path / "other.ts", 3, codec="libx264", pixel_format="yuv420p")
    (tmp_path / name).write_text(text.format(other=other.name, folder=tmp_path), encoding="utf-8")
    refuse(tmp_path / name)


@pytest.mark.parametrize("case", REMOTE)
def test_no_network_is_used(tmp_path: Path, case: str) -> None:
    name, text = REMOTE[case]
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        (tmp_path / name).write_text(text.format(port=port), encoding="utf-8")
        refuse(tmp_path / name)
        server.setblocking(False)
        with pytest.raises(BlockingIOError):  # nobody is waiting
            server.accept()


def test_a_mask_is_no_playlist(tmp_path: Path) -> None:
    video = write_clip(tmp_path / "video.mkv", 3)
    mask = tmp_path / "mask.m3u8"
    mask.write_text(HLS.format(extra="", place="other.ts"), encoding="utf-8")
    with never_opened(tmp_path / "other.ts"), open_video(video) as reader, pytest.raises(InputError):
        open_mask(str(mask), reader)


def test_subtitles_beside_an_index_are_not_opened(tmp_path: Path) -> None:
    (tmp_path / "a.idx").write_text("# VobSub index file, v7 (do not modify this line!)\n", encoding="utf-8")
    with never_opened(tmp_path / "a.sub"):
        refuse(tmp_path / "a.idx")


def test_a_pattern_that_is_a_name_reads_no_other_images(tmp_path: Path) -> None:
    Image.new("RGB", (32, 32)).save(tmp_path / "f_%d.png")
    with never_opened(tmp_path / "f_0.png"), open_video(tmp_path / "f_%d.png") as reader:
        assert reader.read().rgb_NCHW.shape == (1, 3, 32, 32)


@pytest.mark.parametrize(
    "name", ["concat:a.ts|a.ts", "subfile,,start,0,end,0,,:a.ts", "file:a.ts", "pipe:0", "crypto:a.ts"]
)
def test_a_name_is_a_name_and_no_protocol(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.chdir(tmp_path)
    with never_opened(tmp_path / "a.ts"), pytest.raises(InputError, match="no such file"):
        open_video(name)
