"""Sets up a GPU machine without a network from a bundle, and runs the steps there.

Started by `run_on_gpu.sh` whenever a part has arrived. Needs Python with pip; torch and CUDA are
the machine's own. Installed packages stay as they are: wheels of missing ones go into a folder of
their own. A backend whose parts are complete is run once.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from gpu_parts import join, read_manifest  # type: ignore[import-not-found]  # next to this file

HERE = Path(__file__).resolve().parent
WAITS = 3  # exit code: a part that is needed has not arrived
FIRST = "torch"  # the group that the others build on


def main() -> None:
    """Joins what has arrived, installs what is missing, runs what can now be run."""
    options, steps = _parse()
    packed = read_manifest(HERE)
    work = options.work.resolve()
    missing = {piece.part for piece in join(packed, HERE.parent, work)}
    waiting = {f.group for f in packed for piece in f.pieces if piece.part in missing}
    groups = list(dict.fromkeys(file.group for file in packed))
    done = _read_done(work)
    here = [str(options.out.resolve()), *steps]  # run again for other results or other steps
    ready = [g for g in groups if g not in waiting and (options.again or [g, *here] not in done)]
    if missing:
        print(f"waiting for {', '.join(sorted(missing))}", flush=True)
    if FIRST in waiting or not ready:
        sys.exit(WAITS if missing else "everything was run; --again runs it once more")
    _install([work / f.path for f in packed if f.path.startswith("wheels/")], work / "site")
    archives = [work / f.path for f in packed if f.group in ready and f.path.endswith(".tar.gz")]
    for archive in filter(Path.is_file, archives):
        _extract(archive, work)
    root = _source(work)
    env = os.environ | {
        "PYTHONPATH": os.pathsep.join([str(root.parent), str(work / "site")]),
        "STREAMDIFFVSR_CACHE": str(work / "cache"),
        "STREAMDIFFVSR_STATE": str(work / "state"),
    }
    for archive in (path for path in archives if path.parent.name == "ahead" and path.is_file()):
        _trust(archive.with_name(archive.name.removesuffix(".tar.gz")), env)
    command = [sys.executable, str(root / "tools/gpu_steps.py"), "--out", str(options.out)]
    command += ["--folder", str(work / "built"), "--engines", str(work / "ahead"), *steps]
    for group in ready:
        command += ["--backend", group]
    code = subprocess.run(command, env=env).returncode
    (work / "done.json").write_text(json.dumps([*done, *([group, *here] for group in ready)]))
    sys.exit(code)


def _read_done(work: Path) -> list[list[str]]:
    """Returns what was run: each a group, the folder of its results, and the steps' arguments."""
    path = work / "done.json"
    groups: list[list[str]] = json.loads(path.read_text()) if path.is_file() else []
    return groups


def _install(wheels: list[Path], site: Path) -> None:
    """Installs the wheels that are complete and of which the machine has no version."""
    site.mkdir(parents=True, exist_ok=True)
    wanted = [wheel for wheel in wheels if wheel.is_file() and not _is_there(wheel, site)]
    if not wanted:
        return
    print("installing", *(wheel.name for wheel in wanted), flush=True)
    command = [sys.executable, "-m", "pip", "install", "-q", "--no-index", "--no-deps"]
    command += ["--no-compile", "--no-cache-dir", "--disable-pip-version-check", "--upgrade"]
    subprocess.run([*command, "--target", str(site), *map(str, wanted)], check=True)


def _is_there(wheel: Path, site: Path) -> bool:
    name, release = (
        re.sub(r"[-_.]+", "-", wheel.name.split("-")[0]).lower(),
        wheel.name.split("-")[1],
    )
    if any(site.glob(f"{wheel.name.split('-')[0]}-{release}.dist-info")):
        return True
    try:
        found = version(name)
    except PackageNotFoundError:
        return False
    print(f"{name} {found} is there", flush=True)
    return True


def _extract(archive: Path, work: Path) -> None:
    """Unpacks an archive where it belongs."""
    into = work if archive.name == "source.tar.gz" else archive.parent
    with tarfile.open(archive) as tar:
        tar.extractall(into, filter="data")


def _trust(engines: Path, env: dict[str, str]) -> None:
    """Trusts engines of the bundle, whose digests were compared as it was joined."""
    command = [sys.executable, "-m", "streamdiffvsr.cli", "engines", "trust", str(engines)]
    if subprocess.run(command, env=env).returncode:
        print(f"{engines.name} is built here instead", flush=True)


def _source(work: Path) -> Path:
    """Returns the package in a folder of its name: from the bundle, or the current checkout."""
    carried = work / "streamdiffvsr"
    if carried.is_dir() and not carried.is_symlink():
        return carried
    here = Path.cwd()
    if not (here / "engines/registry.py").is_file():
        sys.exit("the bundle has no source, and this folder is no checkout of streamdiffvsr")
    link = work / "links" / "streamdiffvsr"
    shutil.rmtree(link.parent, ignore_errors=True)
    link.parent.mkdir(parents=True)
    link.symlink_to(here)
    return link


def _parse() -> tuple[argparse.Namespace, list[str]]:
    parser = argparse.ArgumentParser(description="Arguments besides these are gpu_steps.py's.")
    add = parser.add_argument
    add("--out", type=Path, required=True, help="folder of the results")
    work = Path(tempfile.gettempdir()) / "streamdiffvsr-gpu"
    add("--work", type=Path, default=work, help=f"for all else; kept for later parts; {work}")
    add("--again", action="store_true", help="run what was run before, too")
    return parser.parse_known_args()


if __name__ == "__main__":
    main()
