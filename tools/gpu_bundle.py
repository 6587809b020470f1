"""Packs a bundle for a GPU machine that has Python, torch and CUDA, and no network.

The parts are in the order of their use. `torch`, which the machine has, needs the source and a few
small wheels; then comes onnxruntime-gpu, then TensorRT-RTX. The weights of the full-size model are
not packed: they are made on the machine, from a seed. On the machine, with a part or with all:

    sh part-01/run_on_gpu.sh --out FOLDER
"""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterator, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from streamdiffvsr.tools.gpu_parts import Packed, split

ROOT = Path(__file__).resolve().parents[1]
MIB = 2**20
# In addition to torch and its own dependencies.
PACKAGES: dict[str, tuple[str, ...]] = {
    "torch": (
        "av", "cuda-bindings", "cuda-core", "filelock", "huggingface-hub", "jsonschema", "msgspec",
        "numpy", "nvtx", "pillow", "platformdirs", "psutil", "pytest", "pytest-timeout", "rich",
        "safetensors", "transformers", "typer",
    ),
    "onnxruntime": (
        "onnxruntime-gpu", "onnx", "onnxscript", "onnx-graphsurgeon", "polygraphy",
    ),
    "tensorrt-rtx": ("tensorrt-rtx-cu13-libs", "tensorrt-rtx-cu13-bindings"),
}  # fmt: skip
# Published as source only, and pure Python: a wheel that is made here works there.
MADE_HERE = {"tensorrt-rtx": ("tensorrt-rtx-cu13",)}
ON_THE_MACHINE = ("gpu_parts.py", "gpu_unpack.py", "run_on_gpu.sh")
SMALLEST_PART = 1


def main() -> None:
    """Makes the bundle and prints the content of each part."""
    options = _parse()
    out: Path = options.out
    if out.exists() and any(out.iterdir()):
        sys.exit(f"error: {out} is not empty; choose another folder")
    if options.part_mib < SMALLEST_PART:
        sys.exit("error: a part has at least 1 MiB")
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out, prefix=".making-") as made:
        files = list(_files(options, Path(made)))
        # The lists and the scripts of the first part need less than that.
        packed = split(files, out, int(options.part_mib * MIB) - MIB // 4)
    for name in ON_THE_MACHINE:
        shutil.copy(ROOT / "tools" / name, out / "part-01")
    _report(out, packed)


def _files(options: argparse.Namespace, made: Path) -> Iterator[tuple[str, str, Path]]:
    """Yields (group, path in the bundle, file) of everything, in the order of its use."""
    there = _names(options.there)
    ahead = _built_ahead(options, made / "ahead")
    seen: set[str] = set()
    for group in options.backend:
        if group == options.backend[0]:
            if not options.no_source:
                yield group, "source.tar.gz", _source(made)
            if ahead:
                yield group, "ahead/reference.safetensors", ahead / "reference.safetensors"
        for archive in sorted(ahead.glob(f"*_{group}_{options.device}.tar.gz")) if ahead else ():
            yield group, f"ahead/{archive.name}", archive
        for wheel in _wheels(options, group, made / "wheels" / group):
            if _package(wheel) not in there | seen:
                seen.add(_package(wheel))
                yield group, f"wheels/{wheel.name}", wheel


def _source(made: Path) -> Path:
    """Packs the tracked files as they are now, in a folder of the package's name."""
    archive = made / "source.tar.gz"
    with tarfile.open(archive, "w:gz") as tar:
        for name in filter(None, _git("ls-files", "-z").decode().split("\0")):
            if (ROOT / name).exists():
                tar.add(ROOT / name, f"streamdiffvsr/{name}")
    return archive


def _git(*arguments: str) -> bytes:
    done = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True)
    if done.returncode:
        sys.exit(f"error: git {' '.join(arguments)}: {done.stderr.decode().strip()}")
    return done.stdout


def _built_ahead(options: argparse.Namespace, folder: Path) -> Path | None:
    """Makes the CPU's frames, and for each backend an archive of engines that can be built here."""
    if options.no_ahead:
        return None
    wanted = list(options.backend)
    if "torch" in wanted and _release("torch") != options.torch:
        wanted.remove("torch")
        print(f"torch's programs are built there: its version may not be {_release('torch')}")
    command = [sys.executable, "-m", "streamdiffvsr.research.gpu.ahead", str(folder)]
    command += ["--device", options.device]
    for backend in wanted:
        command += ["--backend", backend]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    for engines in sorted(folder.glob(f"*_{options.device}")):
        with tarfile.open(folder / f"{engines.name}.tar.gz", "w:gz") as tar:
            tar.add(engines, arcname=engines.name)
    return folder


def _release(package: str) -> str:
    try:
        return version(package).partition("+")[0]
    except PackageNotFoundError:
        return "none"


def _wheels(options: argparse.Namespace, group: str, into: Path) -> list[Path]:
    """Returns the wheels of a group and of its dependencies, for the other machine's Python."""
    there = _names(options.there)
    names = [name for name in PACKAGES[group] if name not in there]
    if options.device == "cpu":
        names = [name.removesuffix("-gpu") for name in names]
    made = [name for name in MADE_HERE.get(group, ()) if name not in there]
    if options.wheels is not None:
        found = options.wheels.glob("*.whl")
        return sorted((w for w in found if _package(w) in (*names, *made)), key=_size)
    if options.no_wheels:
        return []
    into.mkdir(parents=True)
    pip = [sys.executable, "-m", "pip"]
    download = [*pip, "download", "-q", "--only-binary=:all:", "--implementation", "cp"]
    download += ["--python-version", options.python, "-d", str(into)]
    download += ["-c", str(ROOT / "constraints.txt")]  # the versions that the tests use
    for platform in _platforms(options.glibc):
        download += ["--platform", platform]
    if there:  # with a list of what is there, nothing else is missing
        download.append("--no-deps")
    commands = [[*download, *names]] if names else []
    commands += [[*pip, "wheel", "-q", "--no-deps", "-w", str(into), *made]] if made else []
    if any(subprocess.run(command).returncode for command in commands):
        sys.exit(f"error: the wheels of {group} cannot be had; leave it out, or give --wheels")
    return sorted(into.glob("*.whl"), key=_size)  # small files stay whole, in the first part


def _platforms(glibc: str) -> list[str]:
    """Returns the platform tags that a system with this C library runs; pip needs each of them."""
    newest = int(glibc.split(".")[1])
    named = [f"manylinux_2_{minor}_x86_64" for minor in range(newest, 4, -1)]
    return [*named, "manylinux2014_x86_64", "manylinux2010_x86_64", "manylinux1_x86_64"]


def _names(text: str) -> set[str]:
    return {_plain(name) for name in re.split(r"[,\s]+", text) if name}


def _package(wheel: Path) -> str:
    return _plain(wheel.name.split("-")[0])


def _plain(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def _size(path: Path) -> int:
    return path.stat().st_size


def _report(out: Path, packed: Sequence[Packed]) -> None:
    for part in sorted(out.glob("part-*")):
        size = sum(path.stat().st_size for path in part.rglob("*") if path.is_file())
        inside = [f for f in packed if any(piece.part == part.name for piece in f.pieces)]
        groups = ", ".join(dict.fromkeys(file.group for file in inside))
        print(f"{part.name}: {size / MIB:.1f} MiB, {groups}: {', '.join(f.path for f in inside)}")
    print(f"there: sh {out}/part-01/run_on_gpu.sh --out FOLDER   (once a part has arrived)")


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    add = parser.add_argument
    add("out", type=Path, help="an empty or new folder for the parts")
    add("--part-mib", type=float, default=60.0, help="the most of a part")
    add("--python", default="3.12", help="version of the machine's Python")
    add("--glibc", default="2.28", help="version of its C library; newer wheels are not taken")
    add("--torch", default="", help="version of its torch: programs of it are built ahead")
    add("--there", default="", help="packages that it has: theirs and all dependencies stay here")
    add("--backend", action="append", choices=tuple(PACKAGES), help="repeatable; all by default")
    add("--device", default="cuda", choices=("cuda", "cpu"), help="of engines built ahead")
    add("--wheels", type=Path, help="a folder of wheels, in place of downloads")
    add("--no-wheels", action="store_true")
    add("--no-source", action="store_true", help="the checkout travels by other means")
    add("--no-ahead", action="store_true", help="build everything there")
    options = parser.parse_args()
    options.backend = options.backend or list(PACKAGES)
    return options


if __name__ == "__main__":
    main()
