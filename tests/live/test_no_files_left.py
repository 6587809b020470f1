"""A session goes on when its process can open no more files, and works again when it can.

The limit is lowered in a process of its own.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("resource", reason="there is no such limit")

SCRIPT = """
import json, os, resource, sys, time
from streamdiffvsr.errors import StreamDiffVSRError
from streamdiffvsr.runtime.live.addresses import parse_source
from streamdiffvsr.runtime.live.sink_targets import parse_target
from streamdiffvsr.runtime.live.sinks import EncodedSink
from streamdiffvsr.runtime.live.source import Backoff, LiveSource
from streamdiffvsr.runtime.live.status import memory_mb
from streamdiffvsr.runtime.media.formats import live_encoder
from streamdiffvsr.tests.live.preview.rig import output

def wait_for(condition):
    until = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < until, (source.status(), sink.status())
        sink.offer(frame())
        time.sleep(0.1)

started = time.monotonic()
def frame():
    return output(round(15 * (time.monotonic() - started)), (24, 32))

live_encoder((96, 128))
told = {"before": memory_mb()}
hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
resource.setrlimit(resource.RLIMIT_NOFILE, (80, hard))
held = []
try:
    while True:
        held.append(os.open(os.devnull, os.O_RDONLY))
except OSError:
    pass
told["during"] = memory_mb()
short = Backoff(0.2, 0.3)
source = LiveSource(parse_source("testsrc=64x48@10"), backoff=short)
sink = EncodedSink(parse_target(sys.argv[1]), backoff=Backoff(0.2, 0.3))
wait_for(lambda: source.status()["error"] and sink.status()["error"])
told["source"], told["sink"] = source.status()["state"], sink.status()["state"]
for handle in held:
    os.close(handle)
wait_for(lambda: source.status()["state"] == "playing" and sink.status()["written"] >= 5)
told["after"] = memory_mb()
source.close()
sink.close(10)
print(json.dumps(told))
"""


def test_source_and_sink_start_again_and_the_status_does_not_raise(tmp_path: Path) -> None:
    av = pytest.importorskip("av")
    out = tmp_path / "out.mkv"
    ran = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(out)], capture_output=True, text=True, timeout=150
    )
    assert ran.returncode == 0, ran.stderr
    told = json.loads(ran.stdout)
    assert told["before"] > 0 and told["after"] > 0
    assert told["during"] is None
    assert told["source"] in ("waiting", "connecting")
    assert told["sink"] == "retrying"
    with av.open(str(out)) as container:
        assert sum(1 for _ in container.decode(video=0)) >= 5
