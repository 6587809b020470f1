"""What `engines trust` says of sets: signed ones, those of other folders, folders that are none."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from streamdiffvsr.engines import trust
from streamdiffvsr.engines.manifest import MANIFEST


@pytest.fixture
def elsewhere(parity_engines: Path, tmp_path: Path, new_user: None) -> Path:
    """A set outside the cache, of another user."""
    return Path(shutil.copytree(parity_engines, tmp_path / "sets" / "64x48"))


def test_a_set_that_a_key_has_signed_stays_loaded(cli, elsewhere):
    trust.sign(elsewhere / MANIFEST)
    cli("engines", "trust", elsewhere)
    said = cli("engines", "trust", elsewhere, "--revoke").out
    assert said == f"still loaded, as you built it (a key of yours has signed it): {elsewhere}\n"
    found = cli("engines", "trust", elsewhere, "--revoke", "--json").json
    assert (found["trusted"], found["was_trusted"]) == (True, False)


def test_a_folder_that_is_no_set_leads_to_one_that_is(cli, elsewhere):
    error = cli("engines", "trust", elsewhere.parent).error
    assert error.endswith(
        f"{elsewhere.parent} is not an engine set: it has no {MANIFEST}; "
        f"name the folder that has {MANIFEST}, such as {elsewhere}"
    )
    error = cli("engines", "trust", elsewhere / "none").error
    assert error.endswith(f"there is no such folder; name the folder that has {MANIFEST}")


def test_the_list_has_trusted_sets_outside_the_cache(cli, elsewhere):
    digest = cli("engines", "trust", elsewhere, "--json").json["manifest"]
    line = f"trusted outside the cache: {elsewhere}, manifest {digest[:16]}\n"
    assert cli("engines", "list").out.endswith(line)
    listed = cli("engines", "list", "--json").json["trusted_elsewhere"]
    assert listed == [{"path": str(elsewhere), "manifest": digest}]
    cli("engines", "trust", elsewhere, "--revoke")
    assert "outside" not in cli("engines", "list").out


def test_prune_says_that_it_keeps_what_is_not_trusted(cli):
    assert "Sets that are not trusted are kept" in " ".join(
        cli("engines", "prune", "--help").out.split()
    )
