"""What can be read: allowed demuxers, name endings of videos, and names of image files."""

from __future__ import annotations

import re
from pathlib import Path

_RECORDED = (  # by cameras, recorders, editors, browsers
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
_SOUND = (  # opened to say that it is nothing else
    *("mp3", "aac", "flac", "wav", "aiff", "caf", "ac3", "eac3", "dts", "dtshd", "truehd", "amr"),
    *("ape", "wv", "tta", "au", "w64", "mpc", "mpc8", "dsf", "voc", "tak", "oma", "xwma"),
)
# Those that read one self-contained file. Left out on purpose: hls, dash, concat, sdp, image
# sequences, devices, and every other format that names further files.
DEMUXERS = ",".join((*_RECORDED, *_RAW, *_ANIMATED, *_GAMES, *_SOUND))

# Of what libav recognises and is not opened, what users take for videos.
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

# Not those that other files have as often: .dat, .cin, .ogg, ...
VIDEO_ENDINGS = frozenset(
    {
        *(".mp4", ".m4v", ".mov", ".qt", ".mkv", ".mk3d", ".webm", ".3gp", ".3g2", ".f4v", ".flv"),
        *(".ts", ".mts", ".m2ts", ".m2t", ".tp", ".trp", ".tod", ".mod", ".mpg", ".mpeg", ".mpe"),
        *(".m1v", ".m2v", ".mpv", ".m2p", ".vob", ".vro", ".evo", ".avi", ".divx", ".dv", ".dif"),
        *(
            ".wmv",
            ".asf",
            ".dvr-ms",
            ".wtv",
            ".rm",
            ".rmvb",
            ".ivr",
            ".ogv",
            ".ogm",
            ".mxf",
            ".gxf",
        ),
        *(".lxf", ".nut", ".nsv", ".nuv", ".pva", ".ty", ".swf", ".mjpeg", ".mjpg", ".y4m", ".ivf"),
        *(".obu", ".av1", ".264", ".h264", ".h26l", ".avc", ".265", ".h265", ".hevc", ".266"),
        *(".h266", ".vvc", ".h261", ".h263", ".vc1", ".rcv", ".vc2", ".dnxhd", ".apv", ".avs2"),
        *(
            ".avs3",
            ".mj2",
            ".ismv",
            ".gif",
            ".apng",
            ".fli",
            ".flc",
            ".cdxl",
            ".viv",
            ".mtv",
            ".avifs",
        ),
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
DEFAULT_FPS = 24  # of images that nobody named a rate for
_NUMBER = re.compile(r"(\d+)")
_PLACE = re.compile(r"%(?:0(\d{1,2}))?d")


def images_in(folder: Path) -> list[Path]:
    """Its images in the natural order of their names: ``2.png`` comes before ``10.png``.

    Hidden files are left out, and folders inside it are not looked into.

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
    """Whether it names a series of images by a pattern such as ``frame_%05d.png``.

    It does not where there is a file or a folder of just that name.
    """
    one_place = len(_PLACE.findall(path.name.replace("%%", ""))) == 1
    return one_place and path.suffix.lower() in SUFFIXES and not path.exists()


def numbered_images(pattern: Path) -> list[Path]:
    """The files that C's ``printf`` would name like that, by their numbers; some may be missing.

    Raises:
        OSError: The folder cannot be read.
    """
    before, digits, behind = _PLACE.split(pattern.name.replace("%%", "\0"))
    width = int(digits or 1)
    number = rf"(\d{{{width}}}|[1-9]\d{{{width},}})" if width > 1 else r"(0|[1-9]\d*)"
    name = re.compile("".join((_escaped(before), number, _escaped(behind))))
    found = ((name.fullmatch(path.name), path) for path in pattern.parent.iterdir())
    images = [(int(match[1]), path) for match, path in found if match and path.is_file()]
    return [path for _, path in sorted(images)]


def _escaped(text: str) -> str:
    return re.escape(text.replace("\0", "%"))


def natural_key(name: str) -> tuple[list[tuple[int, str]], str]:
    """What names are sorted by: numbers in them by value, case only where all else is equal."""
    parts = _NUMBER.split(name.lower())  # text, number, text, ...
    key = [(int(part), "") if index % 2 else (-1, part) for index, part in enumerate(parts)]
    return key, name
