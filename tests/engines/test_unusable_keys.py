"""A key that is there and cannot be used is an error; it costs no engine set."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from streamdiffvsr.cli.doctor import examine
from streamdiffvsr.engines import trust
from streamdiffvsr.engines.cache import engines_root
from streamdiffvsr.engines.manifest import MANIFEST
from streamdiffvsr.engines.trust import KEY_FILE_VARIABLE, KEY_VARIABLE, OWN_KEY

Spoil = Callable[[], None]


@pytest.fixture
def cached(parity_engines: Path, new_user: None) -> Path:
    """A good set in the cache of a user with a key of their own."""
    folder = Path(shutil.copytree(parity_engines, engines_root() / "set"))
    trust.sign(folder / MANIFEST)
    return folder


KINDS = {
    "mode": "others can read it, and may have signed engines with it",
    "variable": f"the key of {KEY_VARIABLE} is too short: it has 5 characters",
    "file": f"cannot use the key of {KEY_FILE_VARIABLE}, /nonexistent: No such file",
}


@pytest.fixture(params=KINDS)
def spoil(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Spoil:
    """Makes the key one that cannot be used."""

    def do() -> None:
        if request.param == "mode":
            if os.name != "posix":
                pytest.skip("needs modes")
            (tmp_path / "state" / OWN_KEY).chmod(0o644)
        elif request.param == "variable":
            monkeypatch.setenv(KEY_VARIABLE, "short")
        else:
            monkeypatch.setenv(KEY_FILE_VARIABLE, "/nonexistent")

    return do


@pytest.fixture
def why(request: pytest.FixtureRequest) -> str:
    """What is said about the key."""
    return KINDS[request.node.callspec.params["spoil"]]


@pytest.mark.parametrize("options", [(), ("--all",), ("--dry-run",)])
def test_prune_removes_nothing(cli, cached, spoil, why, options):
    spoil()
    ran = cli("engines", "prune", *options)
    assert ran.code == 1 and why in ran.error and ran.out == ""
    assert (cached / MANIFEST).is_file()


def test_the_list_is_whole_and_says_it_once(cli, cached, spoil, why):
    spoil()
    ran = cli("engines", "list")
    assert ran.code == 0
    assert "parity_model 64x48 fp32 4 steps all-pairs-1, onnxruntime on cpu" in ran.out
    assert "gate passed, not trusted: the key cannot be used" in ran.out
    assert ran.err.count(why) == 1 and why not in ran.out
    found = cli("engines", "list", "--json").json
    assert why in found["key_problem"]
    assert found["engines"][0]["stale"] == "" and found["engines"][0]["untrusted"]


def test_doctor_has_a_row_for_it(cached, spoil, why):
    assert "key" not in {check.name for check in examine().checks}
    spoil()
    (row,) = (check for check in examine().checks if check.name == "key")
    assert row.status == "problem" and why in row.value and row.remedy


@pytest.mark.parametrize("mode", ["auto", "exact", "adaptive"])
def test_live_does_not_begin(cli, cached, spoil, why, tmp_path, mode):
    pytest.importorskip("tenacity", reason="needs the extra live")
    spoil()
    output = tmp_path / "out.mp4"
    ran = cli("live", "testsrc", "--to", output, "--mode", mode)
    assert ran.code == 1 and why in ran.error and not output.exists()
