"""What libav's muxers are told for live output, by the kind of target.

Files: what is encoded is in the file within half a second, and every file is playable as it is
while it grows. Network: nothing is held back. HLS: segments appear under their name when they are
whole, and old ones are deleted. It opens nothing.
"""

from __future__ import annotations

import contextlib
import re
from pathlib import Path
from typing import Any

_FRAGMENT_US = 500_000
_CLUSTER_MS = 500
SEGMENT_S = 2
_SEGMENTS_LISTED = 6
_AT_ONCE = {"flush_packets": "1"}
_FRAGMENTED = {
    "movflags": "+empty_moov+default_base_moof",
    "frag_duration": str(_FRAGMENT_US),
    "video_track_timescale": "90000",
}
_BY_FORMAT = {
    "mp4": _AT_ONCE | _FRAGMENTED,
    "mov": _AT_ONCE | _FRAGMENTED,
    "matroska": _AT_ONCE | {"cluster_time_limit": str(_CLUSTER_MS)},
    "mpegts": _AT_ONCE,
    "flv": _AT_ONCE | {"flvflags": "+no_duration_filesize"},
    "rtsp": {"rtsp_transport": "tcp"},
}


def muxer_options(arguments: dict[str, Any]) -> dict[str, str]:
    """The options of one opening, from the arguments of its child."""
    if arguments["kind"] == "hls":
        return _hls(Path(arguments["path"]), resumed=arguments["resumed"])
    options = _BY_FORMAT[arguments["format"]]
    if arguments["format"] == "mpegts" and arguments["kind"] == "network":
        # A receiver of datagrams does not see that the sender was opened again.
        options = options | {"mpegts_flags": "+initial_discontinuity"}
    return options


def remove_old_playlist(playlist: Path) -> None:
    """Remove a playlist that is to be replaced, and the segments of ours that it lists."""
    with contextlib.suppress(OSError):
        ours = re.compile(re.escape(playlist.stem) + r"-\d{5,}\.ts")
        for line in playlist.read_text(encoding="utf-8", errors="replace").splitlines():
            if ours.fullmatch(line):
                playlist.with_name(line).unlink(missing_ok=True)
        playlist.unlink()


def _hls(playlist: Path, *, resumed: bool) -> dict[str, str]:
    flags = "delete_segments+temp_file+independent_segments"
    return {
        "hls_time": str(SEGMENT_S),
        "hls_list_size": str(_SEGMENTS_LISTED),
        # Each of these describes itself, so the picture may change its size between two.
        "hls_segment_type": "mpegts",
        "hls_segment_filename": str(playlist.with_name(f"{playlist.stem}-%05d.ts")),
        "hls_flags": f"{flags}+append_list" if resumed else flags,
    }
