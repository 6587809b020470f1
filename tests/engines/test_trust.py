"""Which engine sets are loaded: those signed with a key of the user, and those the user named."""

from __future__ import annotations

import json
import os
import shutil
import stat
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import pytest

import streamdiffvsr
from streamdiffvsr.building.graph_source import SHIPPED, GraphSource
from streamdiffvsr.engines import private, tensorrt_backend, trust
from streamdiffvsr.engines.cache import cache_path, cache_root, engines_root
from streamdiffvsr.engines.engine_set import open_engines
from streamdiffvsr.engines.manifest import MANIFEST, file_entry, verify_files
from streamdiffvsr.engines.private import why_exposed
from streamdiffvsr.engines.trust import KEY_FILE_VARIABLE, KEY_VARIABLE, OWN_KEY, SIGNED
from streamdiffvsr.errors import StreamDiffVSRError
from streamdiffvsr.export.model_source import BUILT_IN_FOLDER
from streamdiffvsr.graphs.library import GraphOptions
from streamdiffvsr.graphs.spec import GRAPH_VERSION, GRAPHS_JSON

SHARED = "0123456789abcdef" * 4
posix = pytest.mark.skipif(os.name != "posix", reason="needs owners and modes")


pytestmark = pytest.mark.usefixtures("own_cache")


@pytest.fixture
def engines(parity_engines: Path, tmp_path: Path) -> Path:
    """A set outside the cache, which a test may change."""
    return Path(shutil.copytree(parity_engines, tmp_path / "a set"))


@pytest.fixture
def cached(parity_engines: Path) -> Path:
    """The same in the cache."""
    return Path(shutil.copytree(parity_engines, engines_root() / "set"))


@pytest.fixture
def another_user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Makes the test a user, by name, who has a key of their own and trusts nothing yet."""

    def become(name: str) -> None:
        monkeypatch.setenv("STREAMDIFFVSR_STATE", str(tmp_path / "state of" / name))

    return become


def refusal(folder: Path) -> str:
    with pytest.raises(StreamDiffVSRError) as caught:
        open_engines(folder)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def accept(folder: Path) -> None:
    """Does what comes before engines are opened, which takes longer than all of it."""
    verify_files(folder, trust.trusted_manifest(folder))


def swap(folder: Path, name: str) -> None:
    """Replaces a file, as an attacker does who also writes the new digest into the manifest."""
    path = folder / name
    path.unlink()
    path.write_bytes(b"something else")
    manifest = json.loads((folder / MANIFEST).read_text())
    entry = file_entry(path)
    manifest["files"][name] = {"sha256": entry.sha256, "bytes": entry.bytes}
    (folder / MANIFEST).write_text(json.dumps(manifest))


def give_away(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes a path another user's; without the right to do that, makes us another user."""
    if os.geteuid() == 0:
        os.chown(path, 65534, -1)
    else:
        monkeypatch.setattr(os, "geteuid", lambda: 54321)


# ---- the user's own sets ----


def test_a_swapped_graph_with_a_rewritten_manifest_is_refused(engines):
    open_engines(engines)
    swap(engines, "decode.onnx")
    assert "manifest.json was changed after it was signed" in refusal(engines)


def test_a_swapped_graph_of_the_cache_is_built_again(parity_model, parity_engines, monkeypatch):
    from streamdiffvsr.building import builder

    def carry_out(order, progress):
        shutil.copytree(parity_engines, order.stage, dirs_exist_ok=True)

    monkeypatch.setattr(builder, "execute_in_child", carry_out)
    folder = streamdiffvsr.build(parity_model, size=(48, 64))
    assert folder.parent == engines_root()
    swap(folder, "decode.onnx")
    said: list[str] = []
    assert streamdiffvsr.build(parity_model, size=(48, 64), progress=said.append) == folder
    told = [line for line in said if "manifest.json was changed after it was signed" in line]
    assert told == [said[0]] and said[0].startswith(f"building {folder} (the engines of ")
    open_engines(folder)


def test_a_swapped_plan_is_refused_and_built_again(build, machine):
    folder, _ = build()
    accept(folder)
    swap(folder, tensorrt_backend.plan_file("flow"))
    assert "manifest.json was changed after it was signed" in refusal(folder)
    _, said = build()
    assert "manifest.json was changed after it was signed" in said[0]
    accept(folder)
    assert "cannot run here: CUDA finds no NVIDIA GPU" in refusal(folder)


def test_an_engine_of_an_untrusted_set_is_not_taken_over(machine, parity_model):
    def build(steps: int) -> tuple[Path, set[str]]:
        said: list[str] = []
        options = {"size": (48, 64), "backend": "tensorrt-rtx", "device": "cuda", "steps": steps}
        folder = streamdiffvsr.build(parity_model, progress=said.append, **options)
        return folder, {line.split()[0] for line in said}

    first, _ = build(4)
    second, said = build(2)
    assert "take" in said
    for folder in (first, second):
        swap(folder, tensorrt_backend.plan_file("flow"))
    assert "take" not in build(3)[1]


def test_a_set_without_a_signature_is_named_as_such(cached):
    (cached / (MANIFEST + SIGNED)).unlink()
    assert "manifest.json is not signed: an earlier version made it" in refusal(cached)


@pytest.mark.parametrize("text", ["", "[", "[]", '{"a": 3}', "null", "[" * 200_000])
def test_a_damaged_signature_is_none(engines, text):
    (engines / (MANIFEST + SIGNED)).write_text(text)
    assert "not trusted" in refusal(engines)


@pytest.mark.parametrize("mac", ["ä", "\ud800", "", "0" * 64])
def test_a_forged_signature_is_none(engines, mac):
    (name,) = json.loads((engines / (MANIFEST + SIGNED)).read_text())
    (engines / (MANIFEST + SIGNED)).write_text(json.dumps({name: mac}))
    assert "not trusted" in refusal(engines)


def test_a_signature_of_another_file_is_not_taken(engines):
    (engines / "other.json").write_bytes((engines / MANIFEST).read_bytes())
    trust.sign(engines / "other.json")
    (engines / f"other.json{SIGNED}").replace(engines / (MANIFEST + SIGNED))
    (engines / "other.json").unlink()
    assert "not trusted" in refusal(engines)


@posix
@pytest.mark.parametrize("kind", ["link", "pipe"])
def test_a_link_or_pipe_in_a_set_is_refused(engines, kind):
    extra = engines / "prepare.kernels"
    os.mkfifo(extra) if kind == "pipe" else extra.symlink_to(engines / MANIFEST)
    what = "is no ordinary file" if kind == "pipe" else "is a link"
    assert f"prepare.kernels {what}" in refusal(engines)


# ---- the folder ----


@posix
def test_the_cache_is_made_private_and_an_open_one_is_closed(tmp_path):
    assert stat.S_IMODE(cache_root().stat().st_mode) == 0o700
    cache_path().chmod(0o755)
    assert stat.S_IMODE(cache_root().stat().st_mode) == 0o700


@posix
@pytest.mark.parametrize("command", ["list", "prune"])
def test_a_cache_that_others_can_write_to_is_refused(cli, cached, command):
    cache_path().chmod(0o777)
    for error in (refusal(cached), cli("engines", command).error):
        assert f"the engine cache {cache_path()} is not used: every user of this machine" in error
        assert "set STREAMDIFFVSR_CACHE to a folder of your own (mode 700)" in error
    doctor = [line for line in cli("doctor").out.splitlines() if "every user" in line]
    assert len(doctor) == 1 and "is not used" in doctor[0]


@posix
def test_a_cache_of_another_user_is_refused(cached, monkeypatch):
    accept(cached)
    give_away(cache_path(), monkeypatch)
    assert "is not used: it belongs to " in refusal(cached)


@posix
def test_a_set_of_another_user_in_the_cache_is_not_loaded(cached, monkeypatch):
    cached.chmod(0o777)
    assert "not trusted: every user of this machine can write to it" in refusal(cached)
    cached.chmod(0o700)
    give_away(cached / "decode.onnx", monkeypatch)
    if os.geteuid() == 0:
        assert "not trusted: decode.onnx: it belongs to " in refusal(cached)
    else:
        assert "it belongs to " in refusal(cached)


@posix
def test_a_group_may_write_only_if_it_is_the_users_own(tmp_path, monkeypatch):
    tmp_path.chmod(0o770)
    names = {"user": "ann", "group": "ann", "members": ["ann"]}
    monkeypatch.setattr(private, "_user", lambda uid: names["user"])
    entry = lambda gid: SimpleNamespace(gr_name=names["group"], gr_mem=names["members"])  # noqa: E731
    monkeypatch.setattr(private, "grp", SimpleNamespace(getgrgid=entry))
    assert why_exposed(tmp_path) == ""
    names["members"] = ["ann", "bob"]
    assert why_exposed(tmp_path) == "its group, ann, can write to it"
    names |= {"members": [], "group": "users"}
    assert why_exposed(tmp_path) == "its group, users, can write to it"
    tmp_path.chmod(0o700)


def test_windows_has_no_modes_and_signatures_count_all_the_same(engines, monkeypatch):
    monkeypatch.setattr(private, "sys", SimpleNamespace(platform="win32"))
    engines.chmod(0o777)
    assert why_exposed(engines) == ""
    swap(engines, "decode.onnx")
    assert "was changed after it was signed" in refusal(engines)


# ---- keys ----


@posix
def test_the_key_is_for_its_user_alone(another_user, engines):
    another_user("ann")
    trust.sign(engines / MANIFEST)
    key = trust.state_folder() / OWN_KEY
    assert stat.S_IMODE(key.stat().st_mode) == 0o600
    assert stat.S_IMODE(key.parent.stat().st_mode) == 0o700
    assert len(bytes.fromhex(key.read_text())) == 32
    key.chmod(0o644)
    assert "others can read it" in refusal(engines)


def test_a_key_that_a_power_cut_left_empty_is_made_again(another_user, engines):
    another_user("ann")
    trust.sign(engines / MANIFEST)
    (trust.state_folder() / OWN_KEY).write_text("")
    assert "signed with a key that is not yours" in refusal(engines)
    trust.sign(engines / MANIFEST)
    accept(engines)


def test_many_at_once_make_one_key(another_user):
    another_user("ann")
    code = "from streamdiffvsr.engines.trust import require_keys; print(require_keys())"
    with ThreadPoolExecutor(8) as pool:
        keys = {str(keys) for keys in pool.map(lambda _: trust.require_keys(), range(16))}
    assert len(keys) == 1
    (trust.state_folder() / OWN_KEY).unlink()
    command = [sys.executable, "-c", code]
    both = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    made = {process.communicate()[0] for process in both}
    assert len(made) == 1 and next(iter(made)) and not made & keys


@posix
@pytest.mark.skipif(os.name == "posix" and os.geteuid() == 0, reason="root writes everywhere")
def test_without_a_home_the_key_is_in_the_cache(tmp_path, monkeypatch):
    (tmp_path / "home").mkdir(mode=0o500)
    monkeypatch.setenv("STREAMDIFFVSR_STATE", str(tmp_path / "home" / "state"))
    assert trust.state_folder() == cache_path() / "state"


def test_without_a_home_the_key_is_in_the_cache_too(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("STREAMDIFFVSR_STATE", str(tmp_path / "file" / "state"))
    assert trust.state_folder() == cache_path() / "state"
    assert len(trust.require_keys()) == 1


@posix
def test_another_users_folder_of_keys_is_left_alone(another_user, monkeypatch):
    another_user("ann")
    theirs = trust.state_folder()
    give_away(theirs, monkeypatch)
    if os.geteuid() == 0:
        assert trust.state_folder() == cache_path() / "state"
        assert list(theirs.iterdir()) == []


@posix
def test_a_folder_of_keys_that_others_can_write_to_is_refused(another_user, engines):
    another_user("ann")
    trust.state_folder().chmod(0o777)
    assert "the folder of keys " in (error := refusal(engines))
    assert "set STREAMDIFFVSR_STATE to a folder of your own (mode 700)" in error


def test_a_set_is_built_only_if_it_can_be_signed(parity_model, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("STREAMDIFFVSR_STATE", str(tmp_path / "file" / "state"))
    monkeypatch.setenv("STREAMDIFFVSR_CACHE", str(tmp_path / "file" / "cache"))
    with pytest.raises(StreamDiffVSRError, match="no key to sign engines with"):
        streamdiffvsr.build(parity_model, size=(48, 64), out=tmp_path / "out")


# ---- sets that were built elsewhere ----


def test_a_set_of_someone_else_is_loaded_once_it_is_trusted(cli, engines, another_user):
    another_user("ann")
    error = refusal(engines)
    assert "manifest.json is signed with a key that is not yours" in error
    assert error.endswith(f"streamdiffvsr engines trust '{engines}'")
    ran = cli("engines", "trust", engines)
    assert ran.out.startswith("trusted: parity_model 64x48 fp32, onnxruntime on cpu, ")
    accept(engines)
    moved = engines.rename(engines.with_name("moved"))
    accept(moved)


@pytest.mark.parametrize("mode", ["auto", "exact"])
def test_live_does_not_begin_without_trusted_engines(cli, engines, another_user, tmp_path, mode):
    pytest.importorskip("tenacity", reason="needs the extra live")
    another_user("ann")
    output = tmp_path / "out.mp4"
    ran = cli("live", "testsrc", "--to", output, "--engines", engines, "--mode", mode)
    assert ran.code == 1 and ran.error.endswith(f"streamdiffvsr engines trust '{engines}'")
    assert not output.exists()


def test_a_trusted_set_that_changes_is_refused(cli, engines, another_user):
    another_user("ann")
    assert cli("engines", "trust", engines, "--json").json["trusted"] is True
    swap(engines, "decode.onnx")
    assert "manifest.json is not the one that was trusted" in refusal(engines)


def test_trust_can_be_taken_back(cli, engines, another_user):
    another_user("ann")
    assert cli("engines", "trust", engines, "--revoke").out.startswith("was not trusted")
    cli("engines", "trust", engines)
    assert cli("engines", "trust", engines, "--revoke").out.startswith("no longer trusted")
    assert "not trusted" in refusal(engines)


def test_a_damaged_set_cannot_be_trusted(cli, engines, another_user):
    another_user("ann")
    (engines / "decode.onnx").unlink()
    (engines / "decode.onnx").write_bytes(b"something else")
    assert "decode.onnx is damaged" in cli("engines", "trust", engines).error
    assert "not an engine set" in cli("engines", "trust", engines.parent).error
    assert "not trusted" in refusal(engines)


def test_the_list_shows_what_is_trusted(cli, cached, another_user):
    assert "gate passed, trusted\n" in cli("engines", "list").out
    another_user("ann")
    assert "gate passed, not trusted: manifest.json is signed with a key" in (
        cli("engines", "list").out
    )
    (one,) = cli("engines", "list", "--json").json["engines"]
    assert one["stale"] == "" and "not yours" in one["untrusted"]
    assert cli("engines", "prune", "--json").json["removed"] == []


def test_a_shared_key_is_enough(engines, another_user, monkeypatch, tmp_path):
    monkeypatch.setenv(KEY_VARIABLE, SHARED)
    trust.sign(engines / MANIFEST)
    another_user("ann")
    accept(engines)
    monkeypatch.delenv(KEY_VARIABLE)
    assert "signed with a key that is not yours" in refusal(engines)
    (tmp_path / "key").write_text(SHARED + "\n")
    (tmp_path / "key").chmod(0o600)
    monkeypatch.setenv(KEY_FILE_VARIABLE, str(tmp_path / "key"))
    accept(engines)
    swap(engines, "decode.onnx")
    assert "changed after it was signed" in refusal(engines)
    monkeypatch.setenv(KEY_VARIABLE, SHARED.upper())
    assert "signed with a key that is not yours" in refusal(engines)


def test_with_a_shared_key_the_users_own_still_counts(engines, monkeypatch):
    monkeypatch.setenv(KEY_VARIABLE, SHARED)
    accept(engines)
    trust.sign(engines / MANIFEST)
    monkeypatch.delenv(KEY_VARIABLE)
    accept(engines)


@posix
def test_a_shared_key_that_is_none_is_refused(engines, monkeypatch, tmp_path):
    monkeypatch.setenv(KEY_VARIABLE, "short")
    assert f"the key of {KEY_VARIABLE} is too short: it has 5" in refusal(engines)
    monkeypatch.delenv(KEY_VARIABLE)
    file = tmp_path / "key"
    monkeypatch.setenv(KEY_FILE_VARIABLE, str(file))
    assert "No such file" in refusal(engines)
    file.write_text(SHARED)
    file.chmod(0o666)
    assert "every user of this machine can write to it; make it yours alone" in refusal(engines)
    file.unlink()
    os.mkfifo(file)
    assert "it is no ordinary file" in refusal(engines)


def test_processes_that_open_engines_get_the_shared_key(monkeypatch):
    from streamdiffvsr.runtime.processes.child import _environment

    monkeypatch.setenv(KEY_VARIABLE, SHARED)
    assert KEY_VARIABLE not in _environment()
    assert _environment(trust.KEY_VARIABLES)[KEY_VARIABLE] == SHARED


# ---- what sets are made of, and what lies next to them ----


def test_swapped_graphs_of_the_cache_are_not_built_from(monkeypatch):
    """The list of graphs has their digests, and is signed like a manifest."""
    digest, options = "0" * 64, GraphOptions("fp32", 4, 1, "all-pairs")
    folder = cache_root() / "graphs" / f"{digest[:16]}-v{GRAPH_VERSION}"
    shutil.copytree(SHIPPED, folder)
    listed = folder / GRAPHS_JSON
    data = json.loads(listed.read_text()) | {"model_digest": digest}
    listed.write_text(json.dumps(data))
    source = GraphSource(BUILT_IN_FOLDER, digest)
    assert source.find(options) is None
    trust.sign(listed)
    assert source.find(options) is not None
    (folder / "decode.fp32.onnx").write_bytes(b"something else")
    data["files"]["decode.fp32.onnx"]["sha256"] = file_entry(folder / "decode.fp32.onnx").sha256
    listed.write_text(json.dumps(data))
    assert source.find(options) is None
    monkeypatch.setattr("streamdiffvsr.building.graph_source.missing_export", lambda: ["torch"])
    with pytest.raises(StreamDiffVSRError, match=r"graphs\.json was changed after it was signed"):
        source.require(options)


def test_kernels_are_those_of_this_user_and_this_plan(another_user):
    sealed = trust.seal("flow.kernels", b"kernels")
    assert trust.unseal("flow.kernels", sealed) == b"kernels"
    assert trust.unseal("decode.kernels", sealed) == b""
    for harm in (sealed[:-1], sealed + b"x", b"", sealed[:31], b"\0" * 32 + b"kernels"):
        assert trust.unseal("flow.kernels", harm) == b""
    another_user("ann")
    assert trust.unseal("flow.kernels", sealed) == b""


def test_who_can_read_the_key_can_sign(engines, another_user):
    """The limit of it all, as docs/security.md says: it is no guard against the user's rights."""
    swap(engines, "prepare.onnx")
    trust.sign(engines / MANIFEST)
    assert trust.trusted_manifest(engines).files["prepare.onnx"].bytes == len(b"something else")
