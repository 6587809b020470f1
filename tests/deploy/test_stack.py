"""compose.yaml and deploy/: that each file is in form, and names what the program really has."""

from __future__ import annotations

import itertools
import json
import os
import re
import shlex
import shutil
import socket
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

import streamdiffvsr
from streamdiffvsr.deploy import healthcheck
from streamdiffvsr.runtime.live.addresses import parse_source
from streamdiffvsr.runtime.live.camera_file import read_configuration
from streamdiffvsr.runtime.live.engine_pool import BICUBIC
from streamdiffvsr.runtime.live.preview.metrics import Metrics, text_of_all
from streamdiffvsr.runtime.live.preview.site import metrics_of_service
from streamdiffvsr.tests.command_line import parsed
from streamdiffvsr.tests.deploy.dockerfile import stages
from streamdiffvsr.tests.live.preview.rig import get, output, preview

ROOT = Path(streamdiffvsr.__file__).resolve().parent
DEPLOY = ROOT / "deploy"
UNIT = DEPLOY / "systemd/streamdiffvsr-live.service"
SERVE_UNIT = DEPLOY / "systemd/streamdiffvsr-serve.service"
DASHBOARD = DEPLOY / "grafana/dashboards/live.json"
# What Prometheus makes itself, for every target.
OF_PROMETHEUS = {"up"}
FUNCTIONS = {"rate", "increase", "sum", "by", "histogram_quantile", "and", "offset"}


def loaded(path: Path) -> Any:
    return yaml.safe_load(path.read_text(encoding="utf-8"))


COMPOSE = loaded(ROOT / "compose.yaml")
LIVE = COMPOSE["services"]["live"]


ADAPTIVE = {
    **{"fresh": 0.5, "carried": 0.3, "bicubic": 0.2, "tiles_per_frame": 1.5, "tiles_per_s": 15.0},
    **{"tile_ms": 40.5, "tile_count": 12, "oldest_s": 3.5, "regions": []},
}


@dataclass
class Named:
    """A camera, as far as metrics look at it."""

    name: str
    state: str = "running"
    restarts: int = 1


def exported() -> dict[str, set[tuple[str, str]]]:
    """The metrics of a service with a session on a GPU, as /metrics has them, with their labels."""
    with preview() as (opened, told):
        status = {**told(), "gpu": {"name": "a GPU", "memory_mb": 100}}
        status |= {"sinks": [opened.status()], "running": "adaptive", "adaptive": ADAPTIVE}
        metrics = Metrics(lambda: status)
        metrics.observe(output(0))
        found: dict[str, set[tuple[str, str]]] = {}
        own = metrics_of_service([Named("yard")], faulty=False)  # type: ignore[list-item]
        text = text_of_all({"yard": metrics}, own).decode()
        alone = set(re.findall(r"^(\w+)", metrics.text().decode(), re.MULTILINE))
        assert alone <= set(re.findall(r"^(\w+)", text, re.MULTILINE)), "live has no other ones"
        for family in text_string_to_metric_families(text):
            for sample in family.samples:
                found.setdefault(sample.name, set()).update(sample.labels.items())
        return found


def expressions() -> dict[str, str]:
    """Each expression of the dashboard and of the alerts, by where it stands."""
    found = {}
    board = json.loads(DASHBOARD.read_text(encoding="utf-8"))
    for panel in board["panels"]:
        for target in panel["targets"]:
            found[f"{panel['title']} {target['refId']}"] = target["expr"]
    for variable in board["templating"]["list"]:
        query = variable["query"]["query"]
        found[variable["name"]] = re.fullmatch(r"label_values\((.+), \w+\)", query)[1]
    for rule in rules():
        found[rule["alert"]] = rule["expr"]
    return found


def rules() -> list[dict[str, Any]]:
    groups = loaded(DEPLOY / "prometheus/alerts.yml")["groups"]
    return [rule for group in groups for rule in group["rules"]]


def named(expression: str) -> set[str]:
    """The metrics that an expression of PromQL asks for."""
    bare = re.sub(r"\{[^}]*\}|\[[^]]*\]|\bby \([^)]*\)", " ", expression)
    return set(re.findall(r"(?<![\w.])[a-zA-Z_]\w*", bare)) - FUNCTIONS


@pytest.mark.parametrize("path", [*DEPLOY.rglob("*.y*ml"), *DEPLOY.rglob("*.json")], ids=str)
def test_every_file_parses(path):
    assert json.loads(path.read_text("utf-8")) if path.suffix == ".json" else loaded(path)


def test_every_metric_that_is_drawn_or_watched_is_exported():
    known = exported()
    asked = {where: named(text) for where, text in expressions().items()}
    assert sum(map(len, asked.values())) > 30
    for where, names in asked.items():
        assert names and names <= set(known) | OF_PROMETHEUS, where
    used = set().union(*asked.values())
    families = {re.sub(r"_(bucket|count|sum|created)$", "", name) for name in known}
    drawn = {re.sub(r"_(bucket|count|sum|created)$", "", name) for name in used}
    # A metric more in the code is a line more in the dashboard, or here.
    assert families - drawn <= {"streamdiffvsr_latency_p50_milliseconds"}


def test_every_label_that_is_asked_for_is_exported():
    known = exported()
    jobs = {
        job["job_name"] for job in loaded(DEPLOY / "prometheus/prometheus.yml")["scrape_configs"]
    }
    for where, text in expressions().items():
        for metric, inside in re.findall(r"(\w+)\{([^}]*)\}", text):
            for label, value in re.findall(r'(\w+)="([^"]*)"', inside):
                if label == "job":
                    assert value in jobs, where
                else:
                    assert (label, value) in known[metric], where
        for labels in re.findall(r"\bby \(([^)]*)\)", text):
            seen = {label for metric in named(text) for label, _ in known[metric]}
            assert set(labels.split(", ")) <= seen | {"instance"}, where
    assert ("rung", BICUBIC) in known["streamdiffvsr_rung"]


def test_panels_do_not_overlap_and_ask_the_provisioned_source():
    board = json.loads(DASHBOARD.read_text(encoding="utf-8"))
    panels = board["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    (source,) = loaded(DEPLOY / "grafana/provisioning/datasources/prometheus.yaml")["datasources"]
    for panel in panels:
        assert panel["datasource"]["uid"] == source["uid"]
        assert panel["gridPos"]["x"] + panel["gridPos"]["w"] <= 24
    for one, other in itertools.combinations([panel["gridPos"] for panel in panels], 2):
        apart = any(
            a[axis] + a[length] <= b[axis]
            for axis, length in (("x", "w"), ("y", "h"))
            for a, b in ((one, other), (other, one))
        )
        assert apart, (one, other)
    assert source["url"] == "http://prometheus:9090" and "prometheus" in COMPOSE["services"]


@pytest.mark.parametrize(
    "name", ["compose.yaml", "deploy/compose.cuda.yaml", "deploy/compose.serve.yaml"]
)
def test_compose_files_follow_their_schema(name):
    check_schema("compose-spec", ROOT / name)


def check_schema(schema: str, *paths: Path) -> None:
    pytest.importorskip("check_jsonschema", reason="of the dev extra")
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", f"vendor.{schema}"]
    done = subprocess.run([*command, *paths], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_compose_builds_targets_that_exist_and_mounts_files_that_exist():
    cuda = loaded(DEPLOY / "compose.cuda.yaml")["services"]["live"]
    assert {LIVE["build"]["target"], cuda["build"]["target"]} == set(stages()) & {"cpu", "cuda"}
    for name, service in COMPOSE["services"].items():
        for volume in service.get("volumes", []):
            source = volume.split(":")[0]
            assert (ROOT / source).exists() if source[0] == "." else source in COMPOSE["volumes"]
        assert set(service.get("secrets", [])) <= set(COMPOSE["secrets"])
        assert set(service.get("depends_on", [])) <= set(COMPOSE["services"])
        if name != "live":
            assert re.search(r":v?\d", service["image"]), "a version, not the newest"
        for port in service.get("ports", []):
            assert port.startswith("127.0.0.1:"), "nothing is open to other machines unasked"
    (runtime,) = [text for stage in stages().values() for text in stage.of("VOLUME")]
    assert f"cache:{runtime}" in LIVE["volumes"]
    grafana = [volume.split(":")[1] for volume in COMPOSE["services"]["grafana"]["volumes"]]
    provider = loaded(DEPLOY / "grafana/provisioning/dashboards/streamdiffvsr.yaml")["providers"][0]
    assert provider["options"]["path"] in grafana


def test_compose_asks_for_its_secrets_and_has_none():
    text = (ROOT / "compose.yaml").read_text(encoding="utf-8")
    asked = set(re.findall(r"\$\{(\w+)", text))
    asked |= {secret["environment"] for secret in COMPOSE["secrets"].values()}
    example = (DEPLOY / "env.example").read_text(encoding="utf-8")
    offered = dict(re.findall(r"^#?(\w+)=(.*)$", example, re.MULTILINE))
    assert asked == set(offered) and not any(offered.values())
    assert ".env" in (ROOT / ".gitignore").read_text(encoding="utf-8").split()


def test_compose_starts_live_with_options_that_exist():
    options = parsed(LIVE["command"])
    assert options is not None and options["command"] == "live"
    source = parse_source(options["source"], {})
    paths = loaded(DEPLOY / "mediamtx/mediamtx.yml")["paths"]
    for address in (options["source"], *options["to"]):
        host, _, path = address.removeprefix("rtsp://").partition("/")
        assert host == "mediamtx:8554" and path in paths
    assert source is not None
    port = options["preview"].rpartition(":")[2]
    assert f"127.0.0.1:{port}:{port}" in LIVE["ports"]
    assert f"http://127.0.0.1:{port}/healthz" == healthcheck.URL


def test_prometheus_may_scrape_the_page_by_its_name_in_compose(monkeypatch):
    job, other = loaded(DEPLOY / "prometheus/prometheus.yml")["scrape_configs"]
    (target,) = job["static_configs"][0]["targets"]
    host, _, port = target.partition(":")
    assert COMPOSE["services"][host]["hostname"] == host
    assert port == parsed(LIVE["command"])["preview"].rpartition(":")[2]
    assert other["static_configs"][0]["targets"] == ["mediamtx:9998"]
    secret = Path(job["authorization"]["credentials_file"])
    assert secret.parent == Path("/run/secrets")
    assert COMPOSE["secrets"][secret.name]["environment"] == "STREAMDIFFVSR_TOKEN"
    assert secret.name in COMPOSE["services"]["prometheus"]["secrets"]

    monkeypatch.setattr(socket, "gethostname", lambda: host)
    with preview(host="0.0.0.0", token="secret") as (opened, _):
        headers = {"Host": target, "Authorization": "Bearer secret"}
        path = job.get("metrics_path", "/metrics")
        assert get(opened.port, path, headers)[0] == 200
        assert get(opened.port, path, {**headers, "Host": "elsewhere:8080"})[0] == 403


@pytest.fixture
def container(tmp_path, monkeypatch):
    """Sets the command line of the container's first process, and the health check's variables."""

    def begin(port: int, *arguments: str, token: str = "") -> None:
        line = tmp_path / "cmdline"
        line.write_bytes(b"\0".join(argument.encode() for argument in arguments))
        monkeypatch.setattr(healthcheck, "FIRST_PROCESS", line)
        monkeypatch.setenv("STREAMDIFFVSR_HEALTH_URL", f"http://127.0.0.1:{port}/healthz")
        monkeypatch.setenv("STREAMDIFFVSR_TOKEN", token)

    return begin


def test_the_health_check_says_whether_live_plays(container, capsys):
    with preview(token="secret") as (opened, told):
        container(opened.port, "python", "streamdiffvsr", "live", "testsrc", token="secret")
        assert healthcheck.main() == 0
        told.state, told.error = "waiting", "connection refused"
        assert healthcheck.main() == 1
        container(opened.port, "streamdiffvsr", "live", "testsrc", token="other")
        assert healthcheck.main() == 1
    assert healthcheck.main() == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[:2] == ["playing", "503 waiting: connection refused"]
    assert lines[2].startswith("401 ") and lines[3].startswith("no answer: ")


def test_a_container_that_does_not_play_is_not_asked(container):
    container(1, "streamdiffvsr", "upscale", "in.mp4", "out.mp4")
    assert healthcheck.main() == 0


def unit(path: Path = UNIT) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for line in path.read_text(encoding="utf-8").splitlines():
        name, equals, value = line.partition("=")
        if equals and not line.startswith("#"):
            found.setdefault(name, []).append(value)
    return found


def test_the_unit_starts_live_with_options_that_exist():
    text = (DEPLOY / "systemd/live.env").read_text(encoding="utf-8")
    given = dict(re.findall(r"^(\w+)=(.*)$", text, re.MULTILINE))
    assert given["STREAMDIFFVSR_TOKEN"] == ""
    (start,) = unit()["ExecStart"]
    words = []
    for word in start.split():
        if word.startswith("$") and not word.startswith("${"):  # systemd splits this one
            words += shlex.split(given[word[1:]])
        else:
            words.append(re.sub(r"\$\{(\w+)\}", lambda match: given[match[1]], word))
    assert words[0].endswith("/streamdiffvsr")
    options = parsed(words[1:])
    assert options is not None and options["command"] == "live"
    assert options["source"] == given["SOURCE"] and options["latency_ms"] == 1000


def test_the_unit_of_serve_names_a_file_that_is_right(monkeypatch):
    options = parsed(unit(SERVE_UNIT)["ExecStart"][0].split()[1:])
    assert options is not None and options["command"] == "serve"
    file = DEPLOY / options["file"].name
    text = (DEPLOY / "systemd/serve.env").read_text(encoding="utf-8")
    given = dict(re.findall(r"^(\w+)=(.*)$", text, re.MULTILINE))
    assert not any(given.values()) and "STREAMDIFFVSR_TOKEN" in given
    named = set(re.findall(r"\$\{(\w+)\}", file.read_text(encoding="utf-8")))
    assert named == set(given) - {"STREAMDIFFVSR_TOKEN"}
    for name in named:
        monkeypatch.setenv(name, "secret")
    assert list(read_configuration(file).cameras) == ["yard", "pattern"]


def test_compose_serves_a_file_that_is_right():
    changed = loaded(DEPLOY / "compose.serve.yaml")["services"]["live"]
    options = parsed(changed["command"])
    assert options is not None and options["command"] == "serve"
    source, mounted, how = changed["volumes"][1].split(":")
    assert (Path(mounted), how) == (options["file"].parent, "ro")
    assert set(LIVE["volumes"]) <= set(changed["volumes"]), "the cache stays"
    found = read_configuration(ROOT / source / options["file"].name)
    assert found.listen == parsed(LIVE["command"])["preview"]
    (camera, _) = found.cameras.values()
    assert camera.plan.source == parsed(LIVE["command"])["source"]
    assert list(camera.plan.to) == parsed(LIVE["command"])["to"]


@pytest.mark.parametrize("path", [UNIT, SERVE_UNIT], ids=lambda path: path.stem)
def test_the_unit_is_confined_and_comes_back(path):
    lines = unit(path)
    environment = " ".join(lines["Environment"]).split()
    assert "STREAMDIFFVSR_CACHE=%C/streamdiffvsr" in environment
    assert "STREAMDIFFVSR_STATE=%S/streamdiffvsr/state" in environment
    assert lines["StateDirectory"] == ["streamdiffvsr"]
    assert lines["CacheDirectory"] == ["streamdiffvsr"]
    assert (lines["DynamicUser"], lines["Restart"]) == (["yes"], ["always"])
    env = path.stem.removeprefix("streamdiffvsr-") + ".env"
    assert lines["EnvironmentFile"] == [f"/etc/streamdiffvsr/{env}"]
    assert (path.parent / env).exists()


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="needs systemd-analyze")
@pytest.mark.parametrize("path", [UNIT, SERVE_UNIT], ids=lambda path: path.stem)
def test_systemd_takes_the_unit(tmp_path, path):
    here = tmp_path / path.name
    text = path.read_text(encoding="utf-8")
    here.write_text(text.replace("/opt/streamdiffvsr/bin/streamdiffvsr", sys.executable))
    env = {**os.environ, "SYSTEMD_LOG_LEVEL": "warning"}
    for command in (["verify"], ["security", "--offline=yes", "--threshold=20"]):
        done = subprocess.run(
            ["systemd-analyze", *command, here], capture_output=True, text=True, env=env
        )
        assert done.returncode == 0, done.stdout + done.stderr
        assert path.name not in done.stderr, done.stderr  # a warning about a line of it


@pytest.mark.skipif(shutil.which("promtool") is None, reason="needs promtool")
def test_prometheus_takes_the_rules():
    command = ["promtool", "check", "rules", DEPLOY / "prometheus/alerts.yml"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
