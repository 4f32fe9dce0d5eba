from __future__ import annotations

import types

import pytest

from tests.data import media_files as mf


@pytest.fixture(scope="session")
def media(tmp_path_factory):
    """One of each kind of media file, good and bad. Every good one shows its frame numbers."""
    d = tmp_path_factory.mktemp("media")
    m = types.SimpleNamespace(folder=d)
    m.good = mf.write_video(d / "good.mp4", 24, fps=8, width=96, height=64, gop=5)
    m.vfr_ms = [0, 40, 80, 1000, 1040, 2500, 2540, 2580, 4000]
    m.vfr = mf.write_video(d / "vfr.mp4", 9, times_ms=m.vfr_ms, gop=3)
    m.mkv = mf.write_video(d / "clip.mkv", 12, fps=6, audio_s=6.0)
    m.ts = mf.write_video(d / "clip.ts", 20, fps=10, gop=5)
    m.mpg = mf.write_video(d / "clip.mpg", 90, fps=25, codec="mpeg1video", gop=12, bframes=0)
    m.avi = mf.write_video(d / "clip.avi", 12, fps=6, codec="mpeg4", bframes=0)
    m.rotated = mf.rotate_tag(mf.write_video(d / "rotated.mp4", 4, width=96, height=64))
    whole = mf.write_video(d / "faststart.mp4", 60, fps=10, options={"movflags": "faststart"})
    m.truncated = mf.cut(whole, d / "truncated.mp4", 0.6)
    m.headless = mf.cut(m.good, d / "headless.mp4", 0.5)
    m.mkv_truncated = mf.cut(mf.write_video(d / "whole.mkv", 60, fps=10), d / "truncated.mkv", 0.5)
    m.audio = mf.write_audio_only(d / "audio.mp4")
    m.empty = str(d / "empty.mp4")
    open(m.empty, "wb").close()
    m.text = str(d / "text.mp4")
    with open(m.text, "w") as file:
        file.write("<html><body>404 not found</body></html>\n" * 20)
    m.missing = str(d / "nowhere.mp4")
    return m
