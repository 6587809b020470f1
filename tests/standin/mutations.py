"""Breaks the GPU path in one place at a time, and prints which case notices it.

    python -m streamdiffvsr.tests.standin.mutations [WORD]

Each mutation changes a copy of the package; with WORD only those whose description has it are made.
Ends with an error if one is noticed by nothing.
"""

from __future__ import annotations

import importlib.metadata
import os
import re
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from streamdiffvsr.tests.standin.library import compile_driver

ROOT = Path(__file__).parents[2]
CASES = ("cases_runtime.py", "cases_costs.py", "cases_device.py", "cases_failures.py")
INTERRUPTED = 2  # pytest's exit code
LEFT_OUT = shutil.ignore_patterns(".git", ".venv", ".links", "data", "__pycache__", "*.safetensors")


@dataclass(frozen=True)
class Mutation:
    """A line of a file, once there, and what it becomes.

    Attributes:
        what: What is taken away, for the table.
        within: A line above it, where the same one stands in several places.
    """

    what: str
    file: str
    old: str
    new: str = "pass"
    within: str = ""

    def apply(self, root: Path) -> None:
        """Change the copy.

        Raises:
            ValueError: The line is not there, or not once.
        """
        path = root / self.file
        text = path.read_text(encoding="utf-8")
        start = text.index(self.within)
        if not self.within and text.count(self.old) != 1:
            raise ValueError(f"{self.file} has {self.old!r} {text.count(self.old)} times")
        changed = text[start:].replace(self.old, self.new, 1)
        if changed == text[start:]:
            raise ValueError(f"{self.file} has no {self.old!r} behind {self.within!r}")
        path.write_text(text[:start] + changed, encoding="utf-8")


def wait(stream: str, event: str, within: str, where: str) -> Mutation:
    line, name = f"self._{stream}.wait({event})", event.rpartition(".")[2]
    what = f"{stream} waits for {name}, {where}"
    return Mutation(what, "runtime/overlap.py", line, within=within)


BEGIN, REFINE, WHOLE = "def begin(", "def _refine(", "def _whole("
DEVICE, RING, ORT = "engines/cuda_device.py", "runtime/ring.py", "engines/onnxruntime_backend.py"
PART, PLAN, DRIVER = "runtime/frame_slot.py", "engines/tensorrt_engine.py", "engines/cuda_driver.py"
MUTATIONS = (
    wait("denoise", "lane.at.flowed", BEGIN, "of overlapped frames"),
    wait("denoise", "self._lane(index - 1).at.decoded", BEGIN, "of the frame before"),
    wait("output", "lane.at.denoised", BEGIN, "of overlapped frames"),
    wait("output", "at.guided", REFINE, "in every frame"),
    wait("denoise", "at.flowed", WHOLE, "of a frame that is alone"),
    wait("output", "at.denoised", WHOLE, "of a frame that is alone"),
    wait("input", "at.decoded", WHOLE, "of a frame that is alone"),
    Mutation(
        "decoded is recorded outside of a frame that is alone",
        "runtime/overlap.py",
        "self._input.record(lane.at.decoded)",
        within=BEGIN,
    ),
    Mutation(
        "the host waits for downloaded",
        "runtime/overlap.py",
        "lane.at.downloaded.synchronize()",
    ),
    Mutation("the session waits for the caller's stream", ORT, "self.stream.wait(self._before)"),
    Mutation("the caller's stream waits for the session", ORT, "stream.wait(self._after)"),
    Mutation("the host waits for a session of tiles", ORT, "self.own.stream.synchronize()"),
    Mutation(
        "new memory is zero before anyone has it",
        DEVICE,
        "self._waited.synchronize()  # no stream",
        "pass  # no stream",
        "def empty(",
    ),
    Mutation("copies without a stream are waited for", DEVICE, "self._waited.synchronize()",
             within="def copy("),
    Mutation("a capture begins on all its streams", DEVICE, "_hand_over(first, other, self."
             "event())"),
    Mutation("a capture ends on all its streams", DEVICE, "_hand_over(other, first, self."
             "event())"),
    Mutation("captures keep other threads' binding away", DEVICE, "with capture_lock, no_c",
             "with no_c"),
    Mutation("no collection in a capture", DRIVER, "    gc.disable()", "    pass"),
    Mutation("a failed capture is ended", DEVICE, "                _end_failed_capture(first)",
             "                pass"),
    Mutation("a broken capture is tried again", PART, "TRIES = 3", "TRIES = 1"),
    Mutation("what must not be captured is not", PART, "if off else self._why_not()",
             "if off else ''"),
    Mutation("unsafe sessions are not captured", ORT, "return self.uncaptured", "return ''"),
    Mutation("the library is asked whether it lets itself be captured", PLAN,
             "capturable = asked(stream)", "capturable = True"),
    Mutation("new kernels are kept", PLAN, "self._kernels.keep()"),
    Mutation("another run's frames are made first", RING, "user.give_way()"),
    Mutation("frames of a dropped run are waited for", RING, "self._wait()",
             "self._finished += 1", "self._finished < self._begun"),
    Mutation("a run takes its own frame back", RING, "self._restore(tip)"),
    Mutation("outputs are read before their slot is taken", RING, "self._let_go(self._begun)"),
    Mutation("a failed ring is not used again", RING, "                self.close()\n",
             "                pass\n"),
    Mutation("a closed ring gives its buffers back", RING, "always.callback(slots.clear)"),
    Mutation("steps go on where they are", RING, "last() is tip.held", "False"),
    Mutation("the context is current in every thread", DRIVER,
             'driver_call("cuCtxPushCurrent", self._handle)'),
    Mutation("another library's context is put back", DRIVER, 'driver_call("cuCtxPopCurrent")'),
    Mutation("asking what is free may fail", DRIVER, "if int(failed):\n        return \"and",
             "if False:\n        return \"and"),
)  # fmt: skip


def noticed_by(mutation: Mutation | None, library: Path) -> str:
    """The first case that fails with it, or without any, or an empty string."""
    with tempfile.TemporaryDirectory() as name:
        copy = Path(name) / "streamdiffvsr"
        shutil.copytree(ROOT, copy, ignore=LEFT_OUT, symlinks=True)
        if mutation is not None:
            mutation.apply(copy)
        environment = os.environ | {
            "LD_LIBRARY_PATH": str(library.parent),
            "PYTHONPATH": name,
            "STANDIN_BINDINGS": importlib.metadata.version("cuda-bindings"),
        }
        for cases in CASES:
            command = [sys.executable, "-m", "pytest", copy / "tests" / "standin" / cases, "-xq"]
            options = ["-p", "no:cacheprovider", "-p", "no:xdist", "--tb=no", "-o", "timeout=120"]
            ran = subprocess.run(
                [*command, *options, "-o", "python_files=cases_*.py"],
                capture_output=True,
                text=True,
                env=environment,
                cwd=copy,
                check=False,
            )
            if found := re.search(r"^(?:FAILED|ERROR) \S*?::(\S+)", ran.stdout, re.MULTILINE):
                return f"{cases.removesuffix('.py')}::{found[1]}"
            if ran.returncode == INTERRUPTED:
                raise ValueError(f"{mutation}: the cases cannot be collected")
            if ran.returncode:
                return f"{cases.removesuffix('.py')}: the process ended with {ran.returncode}"
    return ""


def main() -> None:
    """Make every mutation, and print the table."""
    word = sys.argv[1] if len(sys.argv) > 1 else ""
    unnoticed = []
    with tempfile.TemporaryDirectory() as folder:
        library = compile_driver(Path(folder))
        if library is None:
            sys.exit("no C compiler: apt-get install gcc")
        if case := noticed_by(None, library):
            sys.exit(f"{case} fails with nothing taken away")
        print("| taken away | noticed by |\n|---|---|", flush=True)
        for mutation in MUTATIONS:
            if word in mutation.what:
                case = noticed_by(mutation, library)
                print(f"| {mutation.what} | {case or '**nothing**'} |", flush=True)
                unnoticed += [] if case else [mutation.what]
    if not any(word in mutation.what for mutation in MUTATIONS):
        sys.exit(f"no mutation is described with {word!r}")
    if unnoticed:
        sys.exit(f"noticed by nothing: {'; '.join(unnoticed)}")


if __name__ == "__main__":
    main()
