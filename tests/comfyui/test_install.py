"""install.py chooses one onnxruntime, and changes no package that is installed."""

import importlib.util
import json
import os
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import pytest

import streamdiffvsr

SCRIPT = Path(streamdiffvsr.__file__).resolve().parent / "install.py"


@pytest.fixture
def install(monkeypatch):
    """Returns the script as a module, in a Python with torch and nothing else."""
    spec = importlib.util.spec_from_file_location("install_script", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr(
        module, "installed_versions", lambda: {"torch": "2.13.0", "odd": "1.0-mine"}
    )
    monkeypatch.setattr(module, "find_spec", lambda name: name)
    monkeypatch.setattr(module, "cuda_of_torch", lambda: "")
    return module


@pytest.mark.parametrize(
    ("cuda", "wanted"),
    [
        ("", "onnxruntime>=1.22"),
        ("12.8", "onnxruntime-gpu[cuda,cudnn]>=1.22,<1.27"),
        ("13.0", "onnxruntime-gpu[cuda,cudnn]>=1.27"),
    ],
)
def test_the_package_is_that_of_what_torch_computes_with(
    install, monkeypatch, capsys, cuda, wanted
):
    monkeypatch.setattr(install, "cuda_of_torch", lambda: cuda)
    assert install.main(["--dry-run"]) == 0
    said = capsys.readouterr().out.splitlines()
    assert said[0] == f"streamdiffvsr: installing {wanted}"
    assert said[1].endswith(wanted) and " -m pip install -c " in said[1]


@pytest.mark.parametrize("name", ["onnxruntime", "onnxruntime-gpu", "onnxruntime-directml"])
def test_one_that_is_there_stays(install, monkeypatch, capsys, name):
    monkeypatch.setattr(install, "installed_versions", lambda: {name: "1.20.0"})
    assert install.main([]) == 0
    line = f"streamdiffvsr: {name} 1.20.0 is installed; it stays as it is\n"
    assert capsys.readouterr().out == line


def test_what_is_installed_is_pinned_where_pip_can_read_its_version(install):
    versions = {"torch": "2.13.0+cu128", "odd": "1.0-mine", "numpy": "2.4.6", "rc": "2.0rc1"}
    assert install.pins(versions) == "numpy==2.4.6\nrc==2.0rc1\ntorch==2.13.0+cu128\n"


def test_another_python_than_comfyuis_is_refused(install, monkeypatch, capsys):
    monkeypatch.setattr(install, "find_spec", lambda name: None)
    assert install.main([]) == 1
    assert "run this with the Python of ComfyUI" in capsys.readouterr().out


def test_a_torch_that_does_not_start_decides_nothing(install, monkeypatch, capsys):
    monkeypatch.setattr(install, "cuda_of_torch", lambda: None)
    assert install.main([]) == 0
    assert "torch does not start here" in capsys.readouterr().out


def test_uv_is_used_where_there_is_no_pip(install, monkeypatch):
    monkeypatch.setattr(install, "find_spec", lambda name: None if name == "pip" else name)
    monkeypatch.setattr(install.shutil, "which", lambda name: f"/bin/{name}")
    assert install.installer() == ["/bin/uv", "pip", "install", "--python", sys.executable]
    monkeypatch.setattr(install.shutil, "which", lambda name: None)
    assert install.installer() == [sys.executable, "-m", "pip", "install"]


@pytest.mark.parametrize("code", [0, 1])
def test_a_failure_is_a_line_and_no_error_of_the_pack(install, monkeypatch, capsys, code):
    """ComfyUI-Manager would call the whole pack broken, which runs without it."""
    ran = []

    def run(command, **keywords):
        ran.append((command, Path(command[-2]).read_text(), keywords["cwd"]))
        return subprocess.CompletedProcess(command, code)

    monkeypatch.setattr(install.subprocess, "run", run)
    assert install.main([]) == 0
    ((command, pins, folder),) = ran
    assert command[:4] == [sys.executable, "-m", "pip", "install"]
    assert (command[-1], pins) == ("onnxruntime>=1.22", "torch==2.13.0\n")
    assert not Path(folder).exists() and Path(folder) != SCRIPT.parent
    last = capsys.readouterr().out.splitlines()[-1]
    assert ("the nodes run on torch, more slowly" if code else "done; restart ComfyUI") in last


TORCH = """
class cuda:
    is_available = staticmethod(lambda: bool({cuda!r}))
class version:
    cuda = {cuda!r} or None
"""


def wheel(folder: Path, name: str, version: str, *needs: str, code: str = "") -> None:
    """Writes a wheel with one module."""
    module = name.replace("-", "_")
    info = f"{module}-{version}.dist-info"
    extras = {need.split('"')[1] for need in needs if "extra" in need}
    metadata = [
        "Metadata-Version: 2.1",
        f"Name: {name}",
        f"Version: {version}",
        *(f"Provides-Extra: {extra}" for extra in sorted(extras)),
        *(f"Requires-Dist: {need}" for need in needs),
    ]
    files = {
        f"{module}.py": code,
        f"{info}/METADATA": "\n".join(metadata) + "\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    files[f"{info}/RECORD"] = "".join(f"{file},,\n" for file in [*files, f"{info}/RECORD"])
    with zipfile.ZipFile(folder / f"{module}-{version}-py3-none-any.whl", "w") as archive:
        for file, text in files.items():
            archive.writestr(file, text)


class Environment:
    """A virtual environment whose pip knows only small wheels made here."""

    def __init__(self, folder: Path) -> None:
        venv.EnvBuilder(with_pip=True).create(folder / "env")
        bin_folder = "Scripts" if os.name == "nt" else "bin"
        self.python = str(folder / "env" / bin_folder / "python")
        wheels = folder / "wheels"
        wheels.mkdir()
        self._env = {
            **{k: v for k, v in os.environ.items() if k[:4] != "PIP_" and k != "PYTHONPATH"},
            "PIP_NO_INDEX": "1",
            "PIP_FIND_LINKS": str(wheels),
            "PIP_CONFIG_FILE": os.devnull,
            "PIP_DISABLE_PIP_VERSION_CHECK": "1",
        }
        for cuda, local in (("", "cpu"), ("12.8", "cu128"), ("13.0", "cu130")):
            wheel(wheels, "torch", f"2.13.0+{local}", code=TORCH.format(cuda=cuda))
        for version in ("1.26.4", "2.4.6"):
            wheel(wheels, "numpy", version)
        for version in ("9.10.0", "9.20.0"):
            wheel(wheels, "nvidia-cudnn-cu12", version)
            wheel(wheels, "nvidia-cudnn-cu13", version)
        wheel(wheels, "onnxruntime-directml", "1.24.0")
        wheel(wheels, "onnxruntime", "1.32.0", "numpy>=2")
        for version, major in (("1.26.0", 12), ("1.31.1", 13)):
            libraries = f'nvidia-cudnn-cu{major}~=9.0; extra == "cudnn"'
            wheel(wheels, "onnxruntime-gpu", version, libraries, 'numpy>=1; extra == "cuda"')

    def run(self, *arguments: str) -> str:
        done = subprocess.run(
            [self.python, *arguments],
            capture_output=True,
            text=True,
            env=self._env,
            cwd=SCRIPT.parent,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def packages(self) -> dict[str, str]:
        listed = json.loads(self.run("-m", "pip", "list", "--format=json"))
        own = {"pip", "setuptools"}
        return {entry["name"]: entry["version"] for entry in listed if entry["name"] not in own}


@pytest.fixture(scope="module")
def environment(tmp_path_factory) -> Environment:
    return Environment(tmp_path_factory.mktemp("comfyui"))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("before", "added"),
    [
        ({"torch": "2.13.0+cpu", "numpy": "2.4.6"}, {"onnxruntime": "1.32.0"}),
        (
            {"torch": "2.13.0+cu128", "numpy": "1.26.4", "nvidia-cudnn-cu12": "9.10.0"},
            {"onnxruntime-gpu": "1.26.0"},
        ),
        (
            {"torch": "2.13.0+cu130", "numpy": "2.4.6", "nvidia-cudnn-cu13": "9.10.0"},
            {"onnxruntime-gpu": "1.31.1"},
        ),
        ({"torch": "2.13.0+cpu", "numpy": "1.26.4"}, {}),  # onnxruntime needs a newer numpy
        ({"torch": "2.13.0+cu130", "onnxruntime": "1.32.0", "numpy": "2.4.6"}, {}),
        ({"torch": "2.13.0+cpu", "onnxruntime-directml": "1.24.0"}, {}),
    ],
)
def test_real_pip_adds_it_and_changes_nothing_else(environment, before, added):
    wanted = [f"{name}=={version}" for name, version in before.items()]
    environment.run("-m", "pip", "install", "-q", *wanted)
    try:
        assert environment.packages() == before
        printed = environment.run(str(SCRIPT))
        assert environment.packages() == {**before, **added}
        assert ("done; restart ComfyUI" in printed) == bool(added)
        again = environment.run(str(SCRIPT))
        assert ("stays as it is" in again) == any("onnx" in name for name in {**before, **added})
        assert environment.packages() == {**before, **added}
    finally:
        environment.run("-m", "pip", "uninstall", "-q", "-y", *environment.packages())
