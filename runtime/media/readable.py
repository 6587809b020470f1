"""Readable files: the allowed demuxers, the suffixes of videos and images, and image series."""

from __future__ import annotations

import re
from pathlib import Path

_RECORDED = (  # from cameras, recorders, editors and browsers
    "mov,mp4,m4a,3gp,3g2,mj2",
    *("matroska,webm", "mpegts", "mpeg", "mpegvideo", "avi", "flv", "live_flv", "kux", "asf"),
    *("asf_o", "ogg", "mxf", "gxf", "lxf", "nut", "nsv", "nuv", "rm", "ivr", "wtv", "ty", "pva"),
    *("dv", "swf", "smjpeg", "mjpeg", "mpjpeg", "mjpeg_2000", "ingenient", "yuv4mpegpipe"),
    *("vivo", "vividas", "mtv", "mv", "cine", "ser", "pmp", "lvf", "filmstrip", "r3d", "mlv"),
    *("dhav", "hxvs", "ifv", "iv8", "lmlm4", "luodat", "mxg", "msnwctcp", "nc", "simbiosis_imx"),
)
_RAW = (  # a codec's own bytes
    *("h264", "hevc", "vvc", "evc", "av1", "obu", "ivf", "m4v", "vc1", "vc1test", "h261", "h263"),
    *("cavsvideo", "avs2", "avs3", "dirac", "dnxhd", "apv", "ipu"),
)
_ANIMATED = ("gif", "apng", "jpegxl_anim", "flic", "anm", "iff", "cdxl")
_GAMES = (
    *("4xm", "argo_brp", "avs", "bethsoftvid", "bfi", "bink", "bmv", "c93", "cdg", "dcstr", "dfa"),
    *("dsicin", "dxa", "ea", "film_cpk", "gdv", "hnm", "idcin", "ipmovie", "iss", "jv", "mgsts"),
    *("mm", "mods", "moflex", "mvi", "paf", "pdv", "psxstr", "rl2", "roq", "rpl", "sdr2", "sga"),
    *("siff", "smk", "smush", "thp", "tiertexseq", "tmv", "txd", "usm", "vmd", "wc3movie"),
    *("wsvqa", "xmv", "yop"),
)
_SOUND = (  # opened to report that there is only sound
    *("mp3", "aac", "flac", "wav", "aiff", "caf", "ac3", "eac3", "dts", "dtshd", "truehd", "amr"),
    *("ape", "wv", "tta", "au", "w64", "mpc", "mpc8", "dsf", "voc", "tak", "oma", "xwma"),
)
# Demuxers that read one self-contained file. Left out on purpose: hls, dash, concat, sdp, image
# sequences, devices, and every other format that names further files.
DEMUXERS = ",".join((*_RECORDED, *_RAW, *_ANIMATED, *_GAMES, *_SOUND))

# Formats that libav recognises, that are not opened, and that users take for videos.
LISTS = frozenset(
    {"hls", "dash", "concat", "sdp", "webm_dash_manifest", "imf", "rtsp", "ffmetadata"}
)
SUBTITLES = frozenset(
    {
        *("srt", "ass", "webvtt", "microdvd", "mpl2", "mpsub", "sami", "stl", "subviewer", "sup"),
        *("subviewer1", "jacosub", "realtext", "pjs", "vplayer", "aqtitle", "vobsub", "scc", "lrc"),
        *("mcc", "tedcaptions", "rcwt", "dvbsub", "dvbtxt"),
    }
)

# Without those that other files have as often: .dat, .cin, .ogg, ...
VIDEO_ENDINGS = frozenset(
    {
        *(".mp4", ".m4v", ".mov", ".qt", ".mkv", ".mk3d", ".webm", ".3gp", ".3g2", ".f4v", ".flv"),
        *(".ts", ".mts", ".m2ts", ".m2t", ".tp", ".trp", ".tod", ".mod", ".mpg", ".mpeg", ".mpe"),
        *(".m1v", ".m2v", ".mpv", ".m2p", ".vob", ".vro", ".evo", ".avi", ".divx", ".dv", ".dif"),
        *(".wmv", ".asf", ".dvr-ms", ".wtv", ".rm", ".rmvb", ".ivr", ".ogv", ".ogm", ".mxf"),
        *(".gxf", ".fli", ".flc", ".cdxl"),
        *(".lxf", ".nut", ".nsv", ".nuv", ".pva", ".ty", ".swf", ".mjpeg", ".mjpg", ".y4m", ".ivf"),
        *(".obu", ".av1", ".264", ".h264", ".h26l", ".avc", ".265", ".h265", ".hevc", ".266"),
        *(".h266", ".vvc", ".h261", ".h263", ".vc1", ".rcv", ".vc2", ".dnxhd", ".apv", ".avs2"),
        *(".avs3", ".mj2", ".ismv", ".gif", ".apng", ".viv", ".mtv", ".avifs"),
        *(".cine", ".ser", ".mlv", ".r3d", ".dav", ".mxg", ".roq", ".smk", ".bik", ".bk2", ".vqa"),
        *(".vmd", ".cpk", ".4xm", ".mve", ".thp", ".usm", ".moflex", ".xmv", ".hnm", ".gdv"),
        *(".dxa", ".yop", ".rl2", ".bmv", ".mvi", ".pdv"),
    }
)


SUFFIXES = (
    *(".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".jls", ".webp", ".avif", ".tif", ".tiff"),
    *(".bmp", ".dib", ".tga", ".icb", ".vda", ".vst", ".ppm", ".pgm", ".pbm", ".pnm", ".pam"),
    *(".jp2", ".j2k", ".j2c", ".jpc", ".jpf", ".jpx", ".dpx", ".qoi", ".pcx", ".sgi", ".psd"),
    *(".dds", ".ras"),
)
DEFAULT_FPS = 24  # of images, where no rate is given
_NUMBER = re.compile(r"(\d+)")
_PLACE = re.compile(r"%(?:0(\d{1,2}))?d")


def images_in(folder: Path) -> list[Path]:
    """Returns the images of a folder in natural order: ``2.png`` comes before ``10.png``.

    Hidden files and subfolders are left out.

    Raises:
        OSError: The folder cannot be read.
    """
    found = [
        path
        for path in folder.iterdir()
        if path.suffix.lower() in SUFFIXES and not path.name.startswith(".") and path.is_file()
    ]
    return sorted(found, key=lambda path: natural_key(path.name))


def is_numbered(path: Path) -> bool:
    """Returns whether a path is a pattern of numbered images, such as ``frame_%05d.png``.

    An existing file or folder of exactly that name is no pattern.
    """
    one_place = len(_PLACE.findall(path.name.replace("%%", ""))) == 1
    return one_place and path.suffix.lower() in SUFFIXES and not path.exists()


def numbered_images(pattern: Path) -> list[Path]:
    """Returns the files that C's ``printf`` would name by the pattern, in order of their numbers.

    Numbers may be missing.

    Raises:
        OSError: The folder cannot be read.
    """
    before, digits, after = _PLACE.split(pattern.name.replace("%%", "\0"))
    width = int(digits or 1)
    number = rf"(\d{{{width}}}|[1-9]\d{{{width},}})" if width > 1 else r"(0|[1-9]\d*)"
    name = re.compile("".join((_escaped(before), number, _escaped(after))))
    found = ((name.fullmatch(path.name), path) for path in pattern.parent.iterdir())
    images = [(int(match[1]), path) for match, path in found if match and path.is_file()]
    return [path for _, path in sorted(images)]


def _escaped(text: str) -> str:
    return re.escape(text.replace("\0", "%"))


def natural_key(name: str) -> tuple[list[tuple[int, str]], str]:
    """Returns the sort key of a name: numbers by value, case only where all else is equal."""
    parts = _NUMBER.split(name.lower())  # text, number, text, ...
    key = [(int(part), "") if index % 2 else (-1, part) for index, part in enumerate(parts)]
    return key, name
