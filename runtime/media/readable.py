"""What is read: libav's demuxers that may open a file, and the endings of names that videos have.

Only data. An ending is never needed to read a file, whose content counts; it is how the videos of a
folder are told from what lies beside them.
"""

from __future__ import annotations

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
