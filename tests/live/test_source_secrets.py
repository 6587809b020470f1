"""Whatever libav says of a piece of a source's address, the password is in no message."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from streamdiffvsr.errors import UsageError
from streamdiffvsr.runtime.live import source as module
from streamdiffvsr.runtime.live.addresses import parse_source
from streamdiffvsr.runtime.live.sink_targets import parse_target
from streamdiffvsr.runtime.live.source import Backoff, Disconnected, LiveSource
from streamdiffvsr.tests.live.preview.rig import wait_until

CANARY = "Zx9canary"


@pytest.mark.parametrize("parse", [parse_source, parse_target])
def test_a_raw_password_is_refused_with_what_to_write(parse: Callable[[str], object]) -> None:
    with pytest.raises(UsageError, match=r"% / .* as %25 %2F") as error:
        parse(f"rtsp://admin:p@:s/%w?#{CANARY}@10.0.0.1/cam")
    assert CANARY not in str(error.value)


@pytest.mark.parametrize(
    ("address", "said"),
    [
        (f"rtsp://admin:a@b/{CANARY}@10.0.0.1/x", f"Failed to open /{CANARY}: refused"),
        (f"rtsp://admin:{CANARY}%21@10.0.0.1/x", f"401 for admin:{CANARY}!"),
        (f"http://10.0.0.1/x?pw={CANARY}", f"no such resource: {CANARY}"),
    ],
)
@pytest.mark.parametrize("failure", ["final", "repeated", "unexpected"])
def test_a_reason_shows_no_piece_of_a_secret(
    monkeypatch: pytest.MonkeyPatch, address: str, said: str, failure: str
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise ValueError(said) if failure == "unexpected" else Disconnected("lost", said)

    monkeypatch.setattr(module, "Connection", fail)
    told: list[str] = []
    reconnect = failure != "final"
    source = LiveSource(
        parse_source(address), tell=told.append, reconnect=reconnect, backoff=Backoff(5, 5)
    )
    try:
        error = wait_until(lambda: source.status()["error"])
        assert CANARY not in error and "***" in error
        assert not any(CANARY in line for line in told)
        assert CANARY not in str(source.status())
    finally:
        source.close()
