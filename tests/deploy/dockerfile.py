"""Reads the Dockerfile, and runs the steps of a stage in a folder that stands in for the image."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import streamdiffvsr

ROOT = Path(streamdiffvsr.__file__).resolve().parent
DOCKERFILE = ROOT / "Dockerfile"
# What changes the machine and not a folder: Debian's packages, accounts and owners.
NOT_RUN = ("apt-get", "useradd", "chown")
OF_THE_IMAGE = re.compile(r"(?<![\w.$}/-])/(?=(?:opt|src|work|var/cache|usr/local/bin)\b)")


@dataclass
class Stage:
    """One `FROM` and what follows it: the name or image it begins from, and its instructions."""

    base: str
    steps: list[tuple[str, str]] = field(default_factory=list)

    def of(self, instruction: str) -> list[str]:
        return [text for name, text in self.steps if name == instruction]


def stages(path: Path = DOCKERFILE) -> dict[str, Stage]:
    """The stages by name, in their order."""
    text = re.sub(r"^\s*#.*\n", "", path.read_text(encoding="utf-8"), flags=re.MULTILINE)
    found: dict[str, Stage] = {}
    for line in re.sub(r"\\\n\s*", "", text).splitlines():
        instruction, _, rest = line.strip().partition(" ")
        if instruction == "FROM":
            base, _, name = rest.partition(" AS ")
            found[name] = Stage(base)
        elif instruction and found:  # an ARG before the first FROM is of no stage
            found[list(found)[-1]].steps.append((instruction, rest.strip()))
    return found


def chain(name: str) -> list[Stage]:
    """The stages whose instructions make the image of that name, from its base image on."""
    known = stages()
    found = [known[name]]
    while found[0].base in known:
        found.insert(0, known[found[0].base])
    return found


def context() -> Iterator[Path]:
    """The files that .dockerignore lets through, below the checkout."""
    lines = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    patterns = [line for line in lines if line and not line.startswith("#")]
    for folder, names, files in os.walk(ROOT):
        names[:] = [name for name in names if not name.startswith(".") and name != "build"]
        for file in files:
            inside = (Path(folder) / file).relative_to(ROOT)
            if not ignored(inside.as_posix(), patterns):
                yield inside


def ignored(path: str, patterns: list[str]) -> bool:
    """Whether Docker leaves a file out, as the last pattern says that matches it or its folder."""
    for pattern in reversed(patterns):
        escaped = re.escape(pattern.removeprefix("!"))
        regex = escaped.replace(r"\*\*/", "(?:.*/)?").replace(r"\*", "[^/]*")
        if re.fullmatch(f"{regex}(?:/.*)?", path):
            return not pattern.startswith("!")
    return False


class Folder:
    """A folder in which the steps of stages run; stages share it, as their paths do not overlap."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.skipped: list[str] = []
        self.env = {name: value for name, value in os.environ.items() if name.startswith("PIP_")}
        self.env |= {"HOME": str(root / "home"), "LANG": "C.UTF-8"}
        self.at = root
        (root / "home").mkdir()
        self._done: list[str] = []

    def make(self, name: str) -> None:
        """Runs the instructions of a stage, of what it begins from, and of what it copies from."""
        if name in self._done:
            return
        self._done.append(name)
        stage = stages()[name]
        for text in stage.of("COPY"):
            if source := re.search(r"--from=(\S+)", text):
                self.make(source[1])
        if stage.base in stages():
            self.make(stage.base)
        else:
            self._begin(name)
        for instruction, text in stage.steps:
            if act := getattr(self, f"_{instruction.lower()}", None):
                act(text)

    def run(self, *command: str) -> subprocess.CompletedProcess[str]:
        """Runs a command in the environment that the instructions so far have made."""
        return subprocess.run(command, cwd=self.at, env=self.env, capture_output=True, text=True)

    def inside(self, text: str) -> str:
        """A text with the absolute paths of the image turned into those of the folder."""
        return OF_THE_IMAGE.sub(f"{self.root}/", text)

    def _begin(self, name: str) -> None:
        """Makes the base image's Python: one with pip, found first."""
        python = self.root / f"python-of-{name}"
        subprocess.run([sys.executable, "-m", "venv", python], check=True)
        self.env["PATH"] = f"{python}/bin:/usr/bin:/bin"

    def _run(self, text: str) -> None:
        for command in text.split(" && "):
            if shlex.split(command)[0] in NOT_RUN:
                self.skipped.append(command)
                continue
            done = self.run("sh", "-ec", self.inside(command))
            assert done.returncode == 0, f"{command}: {done.stdout[-2000:]}{done.stderr[-2000:]}"

    def _workdir(self, text: str) -> None:
        self.at = Path(self.inside(text))
        self.at.mkdir(parents=True, exist_ok=True)

    def _env(self, text: str) -> None:
        for pair in shlex.split(text):
            name, _, value = pair.partition("=")
            self.env[name] = self.inside(value).replace("$PATH", self.env["PATH"])

    def _copy(self, text: str) -> None:
        *sources, target = [word for word in text.split() if not word.startswith("--")]
        if "--from=" in text:
            assert sources == [target] and Path(self.inside(target)).exists()
            return
        for source in sources:
            wanted = Path(source)
            files = [path for path in context() if path == wanted or wanted in path.parents]
            assert files, f"COPY {source}: .dockerignore leaves nothing of it"
            for path in files:
                to = self.at / self.inside(target)
                to = to if path == wanted else to / path.relative_to(wanted)
                to.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(ROOT / path, to)
