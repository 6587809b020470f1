"""An RTSP server with a machine-readable clock in every frame, run by Debian's own Python.

    /usr/bin/python3 tests/live/rtsp_server.py --port 0 --size 640x360 --codec h264

It prints one line, ``PORT n``, when it accepts clients, and serves until it is killed. All clients
share one encoder. It imports nothing of the package, which that Python does not have.
"""

from __future__ import annotations

import argparse
import array
import math
import sys
import threading
import time
from pathlib import Path

import gi

gi.require_version("Gst", "1.0")
gi.require_version("GstApp", "1.0")
gi.require_version("GstRtsp", "1.0")
gi.require_version("GstRtspServer", "1.0")
from gi.repository import GLib, Gst, GstApp, GstRtsp, GstRtspServer  # noqa: E402  # GstApp: push_buffer

# Not as a part of the package, which this Python does not have.
sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))
import clock_code  # noqa: E402

# The parser, not the payloader, repeats the parameter sets: between the slices of one picture they
# would cost decoders with several threads the first slice.
_ENCODERS = {
    "h264": (
        "x264enc tune=zerolatency speed-preset=ultrafast bitrate={bitrate} key-int-max={gop} "
        "! video/x-h264,profile=constrained-baseline ! h264parse config-interval=-1 "
        "! rtph264pay pt=96"
    ),
    "h265": (
        "x265enc tune=zerolatency speed-preset=ultrafast bitrate={bitrate} key-int-max={gop} "
        "! h265parse config-interval=-1 ! rtph265pay pt=96"
    ),
    "mjpeg": "jpegenc quality=85 ! rtpjpegpay pt=26",
    "j2k": "avenc_jpeg2000 ! jpeg2000parse ! rtpj2kpay pt=96",
}
_SOUND = "audiotestsrc is-live=true ! audioconvert ! avenc_aac ! rtpmp4apay name={name} pt=97"
_BEEP_RATE = 48000
_BEEP_S, _BEEP_HZ = 0.1, 1000
_BEEP = (
    "appsrc name=beeps is-live=true format=time "
    f"caps=audio/x-raw,format=S16LE,rate={_BEEP_RATE},channels=1,layout=interleaved "
    "! audioconvert ! audioresample ! "
)
_BEEPS = {
    "aac": "avenc_aac ! rtpmp4gpay name=pay1 pt=97",
    "opus": "opusenc ! rtpopuspay name=pay1 pt=97",
    "pcmu": "mulawenc ! rtppcmupay name=pay1 pt=0",
    "pcma": "alawenc ! rtppcmapay name=pay1 pt=8",
    "g726": "avenc_g726 bitrate=32000 ! rtpg726pay name=pay1 pt=97",
}
_ENCODER_DELAYS = {"aac": 1024}  # samples that it puts first, and gives no time of their own
_RECEIVER = "( rtph264depay name=depay0 ! appsink name=frames emit-signals=true sync=false )"


def main() -> None:
    """Serve until killed."""
    options = _options()
    Gst.init(None)
    server = GstRtspServer.RTSPServer()
    server.set_address(options.host)
    server.set_service(str(options.port))
    factory = GstRtspServer.RTSPMediaFactory()
    factory.set_launch(_RECEIVER if options.record else _pipeline(options))
    factory.set_shared(True)
    factory.set_latency(0)
    if options.record:
        factory.set_transport_mode(GstRtspServer.RTSPTransportMode.RECORD)
        factory.connect("media-configure", _count)
    else:
        factory.connect("media-configure", _configure, options)
    if options.protocols:
        factory.set_protocols(getattr(GstRtsp.RTSPLowerTrans, options.protocols.upper()))
    if options.user:
        _demand_password(server, factory, options.user, options.password)
    server.get_mount_points().add_factory(options.path, factory)
    if not server.attach(None):
        sys.exit(f"port {options.port} cannot be bound")
    sys.stdout.write(f"PORT {server.get_bound_port()}\n")
    sys.stdout.flush()
    GLib.MainLoop().run()


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=0, help="0: any free one")
    parser.add_argument("--path", default="/live")
    parser.add_argument("--codec", choices=sorted(_ENCODERS), default="h264")
    parser.add_argument("--size", default="640x360", help="WxH, both even")
    parser.add_argument("--fps", type=int, default=30)
    parser.add_argument("--gop", type=int, default=30, help="frames from key frame to key frame")
    parser.add_argument("--bitrate", type=int, default=2000, help="kbit/s")
    parser.add_argument("--loss", type=float, default=0.0, help="share of RTP packets not sent")
    parser.add_argument("--sound", action="store_true", help="add an AAC track")
    parser.add_argument(
        "--beep",
        choices=sorted(_BEEPS),
        help="add sound of that codec, which beeps at each second of the clock in the picture, "
        "then the time since the first frame",
    )
    parser.add_argument("--only-sound", action="store_true", help="no video track")
    parser.add_argument("--record", action="store_true", help="take what a sender pushes")
    parser.add_argument("--protocols", choices=["tcp", "udp"], help="the only one that is taken")
    parser.add_argument("--user", default="")
    parser.add_argument("--password", default="")
    return parser.parse_args()


def _pipeline(options: argparse.Namespace) -> str:
    if options.only_sound:
        return f"( {_SOUND.format(name='pay0')} )"
    width, height = map(int, options.size.split("x"))
    caps = f"video/x-raw,format=I420,width={width},height={height},framerate={options.fps}/1"
    encoder = _ENCODERS[options.codec].format(bitrate=options.bitrate, gop=options.gop)
    lossy = f" ! identity drop-probability={options.loss}" if options.loss else ""
    sound = f" {_SOUND.format(name='pay1')}" if options.sound else ""
    if options.beep:
        sound = f" {_BEEP}{_BEEPS[options.beep]}"
    source = (
        f"appsrc name=frames is-live=true do-timestamp={not options.beep} format=time caps={caps} "
        "max-buffers=2 leaky-type=downstream"
    )
    return f"( {source} ! {encoder}{lossy} name=pay0{sound} )"


def _configure(
    _factory: GstRtspServer.RTSPMediaFactory,
    media: GstRtspServer.RTSPMedia,
    options: argparse.Namespace,
) -> None:
    frames = media.get_element().get_by_name("frames")
    if frames is None:  # only sound
        return
    if options.beep:
        arguments = (media.get_element(), options)
        threading.Thread(target=_feed_both, args=arguments, daemon=True).start()
        return
    threading.Thread(target=_feed, args=(frames, options), daemon=True).start()


def _count(_factory: GstRtspServer.RTSPMediaFactory, media: GstRtspServer.RTSPMedia) -> None:
    """Print a line for each frame that a sender pushes here."""

    def received(sink: GstApp.AppSink) -> Gst.FlowReturn:
        sink.emit("pull-sample")
        sys.stdout.write("FRAME\n")
        sys.stdout.flush()
        return Gst.FlowReturn.OK

    media.get_element().get_by_name("frames").connect("new-sample", received)


def _feed(frames: GstApp.AppSrc, options: argparse.Namespace) -> None:
    """Push stamped frames at their pace until the media is taken down."""
    width, height = map(int, options.size.split("x"))
    background = _background(width, height)
    due, index = time.monotonic(), 0
    while True:
        time.sleep(max(0.0, due - time.monotonic()))
        due = max(due + 1 / options.fps, time.monotonic())  # after a stop: no burst
        picture = bytearray(background)
        _draw_square(picture, width, height, index)
        clock_code.stamp(picture, width, time.time_ns() // 1000)
        if frames.push_buffer(Gst.Buffer.new_wrapped(bytes(picture))) != Gst.FlowReturn.OK:
            return
        index += 1


def _feed_both(pipeline: Gst.Element, options: argparse.Namespace) -> None:
    """Push stamped frames and beeps, with times of one clock, until the media is taken down."""
    frames, beeps = pipeline.get_by_name("frames"), pipeline.get_by_name("beeps")
    width, height = map(int, options.size.split("x"))
    background = _background(width, height)
    while (clock := pipeline.get_clock()) is None or not pipeline.get_base_time():
        time.sleep(0.005)
    begin = clock.get_time() - pipeline.get_base_time() + Gst.SECOND // 20
    started, chunk = time.monotonic(), _BEEP_RATE // 100
    shown = heard = 0
    while True:
        now = time.monotonic() - started
        if shown / options.fps <= now:
            picture = bytearray(background)
            _draw_square(picture, width, height, shown)
            clock_code.stamp(picture, width, shown * 1_000_000 // options.fps)
            at = begin + shown * Gst.SECOND // options.fps
            if not _push(frames, bytes(picture), at, Gst.SECOND // options.fps):
                return
            shown += 1
        elif heard / _BEEP_RATE <= now:
            samples = array.array("h", map(_beep, range(heard, heard + chunk)))
            sample = heard - _ENCODER_DELAYS.get(options.beep, 0)
            at = begin + sample * Gst.SECOND // _BEEP_RATE
            if not _push(beeps, samples.tobytes(), at, Gst.SECOND // 100):
                return
            heard += chunk
        else:
            time.sleep(0.002)


def _beep(sample: int) -> int:
    at = sample % _BEEP_RATE / _BEEP_RATE
    return round(16000 * math.sin(2 * math.pi * _BEEP_HZ * at)) if at < _BEEP_S else 0


def _push(source: GstApp.AppSrc, data: bytes, at: int, duration: int) -> bool:
    buffer = Gst.Buffer.new_wrapped(data)
    buffer.pts, buffer.duration = at, duration
    return bool(source.push_buffer(buffer) == Gst.FlowReturn.OK)


def _background(width: int, height: int) -> bytes:
    """I420: a ramp with a checkerboard on it, so that damage shows, under quiet colours."""
    luma = bytearray()
    for y in range(height):
        luma += bytes(40 + (x * 120 // width) + 30 * (x // 16 + y // 16 & 1) for x in range(width))
    chroma = (width // 2) * (height // 2)
    return bytes(luma) + bytes([110]) * chroma + bytes([150]) * chroma


def _draw_square(picture: bytearray, width: int, height: int, index: int) -> None:
    side = max(8, height // 8)
    left = index * 5 % (width - side)
    top = clock_code.LINES + index * 3 % (height - side - clock_code.LINES)
    for y in range(top, top + side):
        picture[y * width + left : y * width + left + side] = bytes([220]) * side


def _demand_password(
    server: GstRtspServer.RTSPServer,
    factory: GstRtspServer.RTSPMediaFactory,
    user: str,
    password: str,
) -> None:
    token = GstRtspServer.RTSPToken()
    token.set_string("media.factory.role", "viewer")
    auth = GstRtspServer.RTSPAuth()
    auth.add_basic(GstRtspServer.RTSPAuth.make_basic(user, password), token)
    server.set_auth(auth)
    permissions = GstRtspServer.RTSPPermissions()
    for right in ("media.factory.access", "media.factory.construct"):
        permissions.add_permission_for_role("viewer", right, True)
    factory.set_permissions(permissions)


if __name__ == "__main__":
    main()
