"""Which libav options a live source takes, by kind, and what each kind starts with.

libav ignores options that it does not know, removed ones too, so names are checked here. Options
that decide what may be opened are left out of the tables on purpose: they are set in one place, and
nobody sets them from outside. It knows nothing of URLs.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping

from ....errors import UsageError

# Not libav's: read by this package.
DECODER_THREADS, LOOP = "decoder_threads", "loop"

_DEMUXER = "fflags probesize analyzeduration max_delay fpsprobesize use_wallclock_as_timestamps"
_TLS = "tls_verify ca_file cert_file key_file verifyhost"
_HTTP = "user_agent referer headers cookies http_proxy auth_type seekable multiple_requests"
_GRAB = "framerate video_size draw_mouse"

_KNOWN = {
    "rtsp": f"{_DEMUXER} {_TLS} rtsp_transport rtsp_flags allowed_media_types min_port max_port "
    "reorder_queue_size buffer_size pkt_size user_agent",
    "http": f"{_DEMUXER} {_TLS} {_HTTP} strict_mime_boundary",
    "hls": f"{_DEMUXER} {_TLS} {_HTTP} live_start_index max_reload m3u8_hold_counters "
    "http_persistent http_multiple seg_max_retry",
    "rtmp": f"{_DEMUXER} {_TLS} rtmp_app rtmp_playpath rtmp_buffer rtmp_live rtmp_conn "
    "rtmp_flashver rtmp_pageurl rtmp_swfurl rtmp_swfverify rtmp_tcurl rtmp_subscribe tcp_nodelay",
    "udp": f"{_DEMUXER} buffer_size fifo_size overrun_nonfatal localaddr localport pkt_size reuse "
    "ttl sources block",
    "tcp": f"{_DEMUXER} recv_buffer_size tcp_nodelay local_addr local_port",
    "webcam": "framerate video_size pixel_format input_format standard channel rtbufsize",
    "screen": f"{_GRAB} grab_x grab_y offset_x offset_y follow_mouse show_region window_id "
    "capture_cursor capture_mouse_clicks",
    "test": "",
    "file": LOOP,
}

_WEB = "http,https,httpproxy,tcp,tls,crypto"
# Demuxers for what comes over a network: each holds its media itself, but hls, whose parts are
# bound to the same protocols and formats.
_FORMATS = (
    "mpegts,mpjpeg,mjpeg,jpeg_pipe,h264,hevc,vvc,av1,obu,ivf,flv,live_flv,mov,mp4,m4a,3gp,3g2,mj2,"
    "matroska,webm,nut,ogg,asf,mpeg,mpegvideo,m4v,aac,mp3,ac3,eac3,wav,webvtt,rtp,hls"
)
_STREAM = {"fflags": "nobuffer", "probesize": "1000000", "analyzeduration": "500000"}

_DEFAULTS: dict[str, dict[str, str]] = {
    # The session description has what probing would look for.
    "rtsp": {
        "fflags": "nobuffer",
        "probesize": "32768",
        "analyzeduration": "0",
        "rtsp_transport": "tcp",
        "allowed_media_types": "video",
    },
    "http": _STREAM,
    "hls": {"live_start_index": "-1"},  # the newest segment, not the third last
    "rtmp": {**_STREAM, "rtmp_live": "live", "rtmp_buffer": "100"},
    "udp": {**_STREAM, "overrun_nonfatal": "1"},
    "tcp": _STREAM,
}

_BOUNDS: dict[str, dict[str, str]] = {
    "rtsp": {"protocol_whitelist": f"rtp,srtp,udp,{_WEB}"},
    "http": {"protocol_whitelist": _WEB, "format_whitelist": _FORMATS},
    "hls": {"protocol_whitelist": _WEB, "format_whitelist": _FORMATS},
    "rtmp": {
        "protocol_whitelist": f"rtmp,rtmps,rtmpt,rtmpts,rtmpe,rtmpte,ffrtmphttp,ffrtmpcrypt,{_WEB}",
        "format_whitelist": _FORMATS,
    },
    "udp": {"protocol_whitelist": "udp,rtp", "format_whitelist": _FORMATS},
    "tcp": {"protocol_whitelist": "tcp", "format_whitelist": _FORMATS},
}


def complete(kind: str, chosen: Mapping[str, str]) -> dict[str, str]:
    """The options for libav: the defaults of the kind, the chosen ones over them, the bounds last.

    Raises:
        UsageError: A name is unknown for this kind, with the nearest known ones.
    """
    known = {*_KNOWN[kind].split(), DECODER_THREADS}
    for name in chosen:
        if name not in known:
            _refuse(name, kind, known)
    own = (DECODER_THREADS, LOOP)
    for_libav = {name: str(value) for name, value in chosen.items() if name not in own}
    return {**_DEFAULTS.get(kind, {}), **for_libav, **_BOUNDS.get(kind, {})}


def _refuse(name: str, kind: str, known: set[str]) -> None:
    near = difflib.get_close_matches(name, sorted(known), n=3, cutoff=0.5)
    hint = f"did you mean {' or '.join(near)}?" if near else f"known are {', '.join(sorted(known))}"
    article = "an" if kind in ("rtsp", "rtmp", "hls") else "a"
    why = f"{article} {kind} source does not have it"
    raise UsageError(f"unknown source option {name!r}", why, hint)
