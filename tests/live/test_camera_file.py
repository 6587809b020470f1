"""The file of `serve`: what it may say, and one clear line for each fault."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from streamdiffvsr.errors import StreamDiffVSRError, UsageError
from streamdiffvsr.runtime.live.camera import CameraPlan
from streamdiffvsr.runtime.live.camera_file import (
    Configuration,
    Faults,
    read_camera,
    read_configuration,
)
from streamdiffvsr.runtime.live.guests import ALLOWED, check_guest
from streamdiffvsr.runtime.live.service import MAX_CAMERAS
from streamdiffvsr.runtime.live.sink_targets import parse_target
from streamdiffvsr.runtime.media import redact as redaction
from streamdiffvsr.runtime.media.redact import hide


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path / "cameras.toml"


def read(file: Path, text: str) -> Configuration:
    file.write_text(text, encoding="utf-8")
    return read_configuration(file)


def faults(file: Path, text: str) -> list[str]:
    with pytest.raises(Faults) as caught:
        read(file, text)
    return caught.value.lines


def test_a_whole_file(file: Path) -> None:
    found = read(
        file,
        """
        [server]
        listen = "0.0.0.0:9000"
        token_file = "token"
        names = ["cams.example.org"]
        allow = ["files", "local"]
        [engines]
        model = "tiny"
        device = "cpu"
        steps = 2
        [defaults]
        mode = "adaptive"
        latency_ms = 500
        [camera.yard]
        source = "rtsp://camera.lan/stream"
        to = ["yard.mkv", "rtsp://server.lan/yard"]
        roi = [[40, 20, 64, 48]]
        open_timeout = 60
        option = { user_agent = "me" }
        [camera.door]
        source = "testsrc"
        mode = "exact"
        latency_ms = 80
        paused = true
        """,
    )
    assert (found.listen, found.token_file, found.names) == (
        "0.0.0.0:9000",
        Path("token"),
        ("cams.example.org",),
    )
    assert found.allow == {"files", "local"}
    assert found.engines == {"model": "tiny", "device": "cpu", "steps": 2}
    yard, door = found.cameras["yard"], found.cameras["door"]
    assert yard.plan == CameraPlan(
        "rtsp://camera.lan/stream",
        ("yard.mkv", "rtsp://server.lan/yard"),
        mode="adaptive",
        regions=((40, 20, 64, 48),),
        latency_ms=500,
        options=(("user_agent", "me"),),
        open_timeout_s=60,
    )
    assert (door.plan.mode, door.plan.latency_ms, door.paused) == ("exact", 80, True)


def test_cameras_may_be_a_list_with_names(file: Path) -> None:
    found = read(
        file,
        '[[camera]]\nname = "b"\nsource = "testsrc"\n[[camera]]\nname = "a"\nsource = "testsrc"',
    )
    assert list(found.cameras) == ["b", "a"]


CAMERA = '[camera.yard]\nsource = "testsrc"\n'


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("[camera.yard]\n", 'camera "yard", key source: it is missing'),
        (CAMERA + "mod = 1", 'camera "yard", key "mod": it is unknown; did you mean mode?'),
        (
            CAMERA + 'mode = "fast"',
            'camera "yard", key mode: "fast" is not auto, exact or adaptive',
        ),
        (CAMERA + "latency_ms = 0", "key latency_ms: 0 is not a number from 1 on"),
        (CAMERA + "latency_ms = true", "key latency_ms: true is not a number from 1 on"),
        (CAMERA + "latency_ms = nan", "key latency_ms: NaN is not a number from 1 on"),
        (CAMERA + "roi = [[1, 2, 3]]", "key roi: it has to be a list of regions"),
        (CAMERA + "roi = [[1, 2, 0, 4]]", "key roi: it has to be a list of regions"),
        (CAMERA + 'overwrite = "yes"', 'key overwrite: "yes" is not true or false'),
        (CAMERA + 'rtsp_transport = "x"', 'key rtsp_transport: "x" is not auto, tcp or udp'),
        (CAMERA + "to = 5", "key to: it has to be a text, or a list of texts"),
        (CAMERA + 'to = "out.xyz"', "camera \"yard\", key to: 'out.xyz' is no output"),
        (CAMERA + 'to = ["null", "a.mkv", "a.mkv"]', "key to: an output is given twice"),
        (CAMERA + "option = { x = 1 }", "key source: unknown source option 'x'"),
        ('[camera.yard]\nsource = "gone.mp4"', "key source: could not read 'gone.mp4'"),
        ('[camera.yard]\nsource = "gopher://a"', "key source: cannot read from"),
        ('[camera."a/b"]\nsource = "testsrc"', 'camera "a/b": a name has'),
        ("[camera]\nyard = 1", "camera: write [camera.NAME]"),
        ('[[camera]]\nsource = "testsrc"', "camera 1, key name: it is missing"),
        ("[[camera]]\nname='a'\nsource='testsrc'\n[[camera]]\nname='a'\nsource='testsrc'", "twice"),
        ("[serve]\nlisten = 1", "[serve]: it is unknown; did you mean server?"),
        ('[server]\nlisten = "8080"', '[server], key listen: "8080" is not HOST:PORT'),
        ('[server]\nlisten = "a:99999"', "is not HOST:PORT"),
        ('[server]\nallow = ["all"]', "[server], key allow: it has to be a list of some of files"),
        ("server = 3", "[server]: it is no table"),
        ("[defaults]\nsource = 'testsrc'", '[defaults], key "source": it is unknown'),
        ("[engines]\nsteps = 99", "[engines], key steps: 99 is not a whole number from 1 to 50"),
        ("[camera.a]\nsource = ", "Invalid value"),
        (
            "".join(f"[camera.c{n}]\nsource = 'testsrc'\n" for n in range(MAX_CAMERAS + 1)),
            f"there are {MAX_CAMERAS + 1} cameras",
        ),
        (
            "[camera.a]\nsource='testsrc'\nto='x.mkv'\n[camera.b]\nsource='testsrc'\nto='x.mkv'",
            'camera "b", key to: camera "a" writes there already',
        ),
    ],
)
def test_each_fault_is_one_line_that_names_the_camera_and_the_key(
    file: Path, text: str, wanted: str
) -> None:
    (line,) = faults(file, text)
    assert line.startswith("cameras.toml: ") and wanted in line and "\n" not in line


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("a = " + "[" * 5000, "its lists or tables are nested too deep"),
        (".".join("a" * 3000) + " = 1", "a line has more than 2000 points"),
        ("a = " + "9" * 5000, "a number in it has too many digits"),
        (CAMERA + "latency_ms = 0x" + "f" * 5000, "key latency_ms: a value of the type int is not"),
        (CAMERA + f"option = {{ a = 0x{'f' * 5000} }}", "key option: it has to be a table"),
        (CAMERA + 'to = "a\\u0000.mkv"', "key to: it has a character that no name"),
        (CAMERA + f'to = "{"a" * 3000}.mkv"', "key to: File name too long"),
        (f'[camera.yard]\nsource = "{"a" * 3000}.mkv"', "there is no such file"),
        ('[server]\nlisten = ":\u0668\u0660"', "is not HOST:PORT"),
        (CAMERA + 'to = ["a.mkv", "./a.mkv"]', "key to: an output is given twice"),
        (CAMERA + 'to = ["b", "b/%06d.png"]', "key to: an output is given twice"),
        (CAMERA + "to = 'link.mkv'\n[camera.a]\nsource='testsrc'\nto='c.mkv'", "writes there"),
    ],
)
def test_odd_values_are_faults_too(file: Path, text: str, wanted: str) -> None:
    (file.parent / "b").mkdir()
    (file.parent / "link.mkv").symlink_to("c.mkv")
    (line,) = faults(file, text)
    assert wanted in line and len(line) < 3500


def test_a_mark_of_utf8_is_no_fault(file: Path) -> None:
    file.write_text("\ufeff" + CAMERA, encoding="utf-8")
    assert list(read_configuration(file).cameras) == ["yard"]


@pytest.mark.parametrize(
    "text",
    [
        '[camera.a]\nsource = "${SECRET}"',
        '[camera.a]\nsource = "testsrc=${SECRET}"',
        '[camera.a]\nsource = "rtsp://host:${SECRET}/x"',
        '[camera.a]\nsource = "testsrc"\nmode = "${SECRET}"',
        '[camera.a]\nsource = "testsrc"\nto = "whip://host:x/${SECRET}"',
        '[server]\nlisten = "${SECRET}"',
    ],
)
def test_a_fault_never_shows_what_a_variable_holds(
    file: Path, monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    monkeypatch.setenv("SECRET", "canary'7/é")
    (line,) = faults(file, text)
    assert "canary" not in line and "***" in line


def test_all_faults_are_found_at_once(file: Path) -> None:
    text = "[server]\nlisten = 1\n[camera.a]\nmode = 3\nroi = 1\n[camera.b]\nsource='testsrc'\nx=1"
    lines = faults(file, text)
    assert len(lines) == 5
    with pytest.raises(UsageError, match=r"and 4 more"):
        read(file, text)


def test_a_file_that_is_none_is_an_error(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "none.toml", Path("/dev/zero")):
        with pytest.raises(StreamDiffVSRError, match="could not read"):
            read_configuration(path)
    binary = tmp_path / "binary.toml"
    binary.write_bytes(b"\xff\xfe")
    with pytest.raises(Faults, match="no UTF-8"):
        read_configuration(binary)


def test_secrets_come_from_variables_and_files_and_are_not_shown(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("YARD_PASSWORD", "p@ss/w:rd")
    monkeypatch.setenv("DOOR", "rtsp://u:plain@door.lan/live")
    (file.parent / "secret").write_text("s&cret\n", encoding="utf-8")
    found = read(
        file,
        '[camera.yard]\nsource = "rtsp://admin:${YARD_PASSWORD}@yard.lan/live"\n'
        '[camera.door]\nsource = "${DOOR}"\nto = "rtsp://u:${file:secret}@server.lan/x"',
    )
    yard, door = found.cameras["yard"].plan, found.cameras["door"].plan
    assert yard.source == "rtsp://admin:p%40ss%2Fw%3Ard@yard.lan/live"
    assert door.source == "rtsp://u:plain@door.lan/live"
    assert door.to == ("rtsp://u:s%26cret@server.lan/x",)
    for plan in (yard, door):
        assert "plain" not in repr(plan) and "p%40" not in repr(plan) and "cret" not in repr(plan)


@pytest.mark.parametrize(
    ("value", "wanted"),
    [
        ("rtsp://u:${NOT_SET_1}@c/x", "key source: the variable 'NOT_SET_1' is not set"),
        ("rtsp://u:${file:none}@c/x", "key source: there is no file 'none' of one line"),
    ],
)
def test_a_secret_that_is_not_there_is_a_fault(file: Path, value: str, wanted: str) -> None:
    (line,) = faults(file, f'[camera.yard]\nsource = "{value}"')
    assert wanted in line


def test_a_fault_in_an_address_shows_no_secret(file: Path) -> None:
    for text in (
        '[camera.a]\nsource = "gopher://u:canary@x/y"',
        '[camera.a]\nsource = "rtsp://u:canary@x:99999/y"',
        CAMERA + 'to = "gopher://u:canary@x/y"',
    ):
        (line,) = faults(file, text)
        assert "canary" not in line


# ---- what the API may add ----


def guest(allowed: set[str] | None = None, **table: object) -> CameraPlan:
    def check(plan: CameraPlan) -> None:
        check_guest(plan, allowed or set())

    return read_camera("guest", table, check).plan


@pytest.mark.parametrize("source", ["testsrc", "rtsp://192.0.2.7/live", "https://192.0.2.7/a.m3u8"])
def test_the_api_may_add_cameras_of_the_network(source: str) -> None:
    assert guest(source=source, to=["rtsp://192.0.2.8/x", "null"]).source == source


@pytest.mark.parametrize(
    ("need", "table"),
    [
        ("files", {"source": "/etc/passwd"}),
        ("files", {"source": "no-such-file.mp4"}),
        ("files", {"source": "testsrc", "to": "out.mkv"}),
        ("files", {"source": "testsrc", "to": "/no/such/folder/out.mkv"}),
        ("files", {"source": "testsrc", "to": "live.m3u8"}),
        ("files", {"source": "testsrc", "to": "frames/"}),
        ("devices", {"source": "/dev/video0"}),
        ("devices", {"source": "webcam:0"}),
        ("devices", {"source": "testsrc", "to": "v4l2:/dev/video9"}),
        ("devices", {"source": "testsrc", "to": "v4l2:///dev/video9"}),
        ("files", {"source": "testsrc", "to": "/tmp/frames://"}),
        ("files", {"source": "testsrc", "to": "1://out.mkv"}),
        ("local", {"source": "rtsp://127.0.0.1/live"}),
        ("local", {"source": "rtsp://localhost:8554/live"}),
        ("local", {"source": "rtsp://[::1]/live"}),
        ("local", {"source": "http://[::ffff:127.0.0.1]/live"}),
        ("local", {"source": "http://169.254.169.254/latest"}),
        ("local", {"source": "http://169.254.7.7/x"}),
        ("local", {"source": "rtsp://[fe80::7]/x"}),
        ("local", {"source": "http://100.100.100.200/"}),
        ("local", {"source": "http://0.0.0.0:80/"}),
        ("local", {"source": "tcp://:9000"}),
        ("local", {"source": "testsrc", "to": "tcp://:9000"}),
        ("local", {"source": "testsrc", "to": "rtsp://127.0.0.1:8554/x"}),
        ("listen", {"source": "udp://0.0.0.0:9000"}),
        ("listen", {"source": "tcp://192.0.2.7:9000?listen=1"}),
        ("listen", {"source": "tcp://192.0.2.7:9000?listen"}),
        ("listen", {"source": "tcp://192.0.2.7:9000?listen=1&listen=0"}),
        ("listen", {"source": "tcp://192.0.2.7:9000#?listen=1"}),
        ("listen", {"source": "testsrc", "to": "tcp://192.0.2.7:9000?listen=1"}),
        ("listen", {"source": "testsrc", "to": "tcp://192.0.2.7:9000?listen"}),
        ("options", {"source": "rtsp://192.0.2.7/x", "option": {"user_agent": "x"}}),
    ],
)
def test_the_api_may_not_add_what_is_of_this_machine(need: str, table: dict[str, object]) -> None:
    with pytest.raises(UsageError, match=f'allow = \\["{need}"\\]') as caught:
        guest(**table)
    assert "no such" not in str(caught.value), "which files there are is not said"
    others = set(ALLOWED) - {need}
    with pytest.raises(UsageError, match=f'allow = \\["{need}"\\]'):
        guest(others, **table)


def test_an_address_of_a_network_that_this_machine_has_is_its_own() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.7", 9))  # sends nothing
        except OSError:
            pytest.skip("this machine is on no network")
        own = probe.getsockname()[0]
    with pytest.raises(UsageError, match='allow = \\["local"\\]'):
        guest(source=f"rtsp://{own}/live")


def test_what_the_file_allows_the_api_may_add(tmp_path: Path) -> None:
    out = tmp_path / "out.mkv"
    assert guest({"files"}, source="testsrc", to=str(out)).to == (str(out),)
    assert guest({"local"}, source="rtsp://127.0.0.1:1/x").source


def test_no_variable_is_replaced_for_the_api(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME_SECRET", "canary")
    assert "canary" not in guest(source="rtsp://192.0.2.7/${HOME_SECRET}").source


def test_a_source_with_an_odd_name_is_not_there() -> None:
    for name in ("a" * 3000 + ".mkv", "a\0.mkv"):
        with pytest.raises(StreamDiffVSRError):
            CameraPlan(name).address()
    with pytest.raises(StreamDiffVSRError, match="no such file"):
        guest({"files"}, source="a" * 3000 + ".mkv")


def test_a_variable_is_hidden_in_every_part_of_an_address(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(redaction, "_known", set())
    monkeypatch.setenv("KEY", "yellow bird")
    found = read(
        file,
        '[camera.a]\nsource = "rtsp://yard.lan/${KEY}"\nto = "rtmp://server.lan/app/${KEY}"',
    )
    plan = found.cameras["a"].plan
    address, target = plan.address(), parse_target(plan.to[0])
    assert address.shown == "rtsp://yard.lan/***"
    assert target.shown == "rtmp://server.lan/app/***"
    for text in ("no rtsp://yard.lan/yellow%20bird", "no yellow bird here"):
        assert "yellow" not in hide(text, address.secrets)
        assert "yellow" not in target.clean(text)
