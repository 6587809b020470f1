"""`streamdiffvsr doctor`: every fault it knows is named with the command that mends it."""

import subprocess

import pytest

from streamdiffvsr.cli import doctor
from streamdiffvsr.cli.doctor import Check, examine
from streamdiffvsr.engines import host, registry, tensorrt_backend
from streamdiffvsr.engines import host as gpu
from streamdiffvsr.errors import StreamDiffVSRError


def check(name: str) -> Check:
    return next(check for check in examine().checks if check.name == name)


def test_a_whole_installation_is_ok(cli):
    ran = cli("doctor", "--json")
    assert ran.code == 0 and ran.json["ok"] and ran.json["exit_code"] == 0
    assert {c["name"] for c in ran.json["checks"]} >= {
        "python",
        "platform",
        "cpus",
        "memory",
        "cache",
        "engine sets",
        "video",
        "backend onnxruntime",
        "backend tensorrt",
        "backend tensorrt-rtx",
        "gpu",
        "export",
        "live",
        "model",
    }
    plain = cli("doctor")
    assert (plain.code, plain.err) == (0, "")
    assert "upscale files with ONNX Runtime" in plain.out.partition("Can run here:")[2]


def test_engine_sets_are_counted(monkeypatch, tmp_path):
    one = tmp_path / "engines" / "one"
    one.mkdir(parents=True)
    (one / "manifest.json").write_text("{}")
    (one / "decode.onnx").write_bytes(bytes(3 * 2**20))
    (tmp_path / "engines" / ".one.building-x").mkdir()
    monkeypatch.setenv("STREAMDIFFVSR_CACHE", str(tmp_path))
    assert check("engine sets").value == "1 in the cache, 3.0 MiB"


def test_without_onnxruntime(cli, monkeypatch):
    real = registry.find_spec
    monkeypatch.setattr(registry, "find_spec", lambda n: None if n == "onnxruntime" else real(n))
    found = check("backend onnxruntime")
    assert found.status == "problem"
    assert found.remedy == "pip install 'streamdiffvsr[cpu]'"
    ran = cli("doctor")
    assert ran.code == 1
    assert "pip install 'streamdiffvsr[cpu]'" in ran.out
    assert "upscale files" in ran.out.partition("Cannot yet:")[2]
    assert cli("doctor", "--json").json["ok"] is False


def test_both_onnxruntimes(monkeypatch):
    real = host.package_version
    monkeypatch.setattr(
        host, "package_version", lambda n: "1.0" if n.startswith("onnxruntime") else real(n)
    )
    found = check("conflict")
    assert found.status == "problem"
    assert found.remedy == (
        "pip uninstall -y onnxruntime onnxruntime-gpu && pip install 'streamdiffvsr[cpu]'"
    )
    assert not examine().ok


def test_without_the_export_extra(monkeypatch):
    monkeypatch.setattr(host, "missing_export", lambda: ["torch"])
    report = examine()
    assert report.ok
    assert "build engines of other models than the built-in one" in report.cannot
    assert "pip install 'streamdiffvsr[export]'" in check("export").remedy


def test_without_the_live_extra(monkeypatch, cli):
    monkeypatch.setattr(host, "missing_live", lambda: ["tenacity"])
    report = examine()
    assert report.ok
    assert "upscale cameras and streams as they come" in report.cannot
    assert "pip install 'streamdiffvsr[live]'" in check("live").remedy
    ran = cli("live", "testsrc", "--to", "null")
    assert ran.code == 1 and "pip install 'streamdiffvsr[live]'" in ran.error


@pytest.mark.parametrize(
    ("bindings", "visible", "remedy"),
    [
        (None, None, "pip install 'streamdiffvsr[cuda]'"),
        ("13.4.4", "", "unset CUDA_VISIBLE_DEVICES, or name a GPU in it"),
        ("13.4.4", None, "install a newer driver, and restart the machine"),
    ],
)
def test_a_gpu_that_cuda_cannot_use(monkeypatch, bindings, visible, remedy):
    real = host.package_version
    monkeypatch.setattr(host, "nvidia_gpus", lambda: [host.Gpu("RTX", "580", "16 GiB", "8.9")])
    monkeypatch.setattr(doctor, "why_no_gpu", lambda ordinal=0: "it does not answer")
    monkeypatch.setattr(
        host, "package_version", lambda name: bindings if name == "cuda-bindings" else real(name)
    )
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert check("gpu").value == "RTX, 16 GiB, compute capability 8.9, driver 580"
    found = check("cuda")
    assert (found.status, found.value, found.remedy) == ("-", "it does not answer", remedy)
    assert "upscale with TensorRT" in examine().cannot[-1]


@pytest.fixture
def two_gpus(monkeypatch):
    """Two GPUs that CUDA shows, the second refused; returns why backends do not run on them."""
    gpus, whys = ["RTX 4090", "RTX A6000"], {name: "not installed" for name in doctor.BACKENDS}

    def context(ordinal):
        if ordinal:
            raise StreamDiffVSRError("CUDA failed", "all of it is taken (CUDA_ERROR_X)")

    monkeypatch.setattr(doctor, "why_no_gpu", lambda ordinal=0: "")
    monkeypatch.setattr(doctor, "gpu_count", lambda: 2)
    monkeypatch.setattr(doctor, "cuda_gpu", lambda n: host.Gpu(gpus[n], "580", "16 GiB", "8.9"))
    monkeypatch.setattr(doctor, "primary_context", context)
    monkeypatch.setattr(doctor, "free_device_bytes", lambda ordinal: 2**30)
    monkeypatch.setattr(doctor, "driver_call", lambda name: 13010)
    monkeypatch.setattr(doctor, "why_not", lambda name, device: whys[name])
    return whys


def test_every_gpu_is_named_and_tried(two_gpus):
    two_gpus["onnxruntime"] = ""
    report = examine()
    first, second = [check for check in report.checks if check.name == "gpu"]
    assert (first.status, second.status) == ("ok", "-")
    assert first.value.startswith("cuda:0 RTX 4090, 16 GiB") and "1024 MiB free" in first.value
    assert second.value.startswith("cuda:1 RTX A6000")
    assert "it cannot be used: all of it is taken" in second.value and "--device" in second.remedy
    assert "a driver for CUDA 13.1" in check("cuda").value
    assert check("gpu onnxruntime").status == "ok"
    assert any("on the GPU with CUDA" in line for line in report.can)
    assert not any("needs an NVIDIA GPU" in line for line in report.cannot)


def test_a_provider_that_does_not_load_is_told_with_its_remedy(two_gpus, monkeypatch):
    two_gpus["onnxruntime"] = "libcudnn.so.9 is missing: run pip install 'streamdiffvsr[cuda]'"
    monkeypatch.setattr(host, "onnxruntime_providers", lambda: ["CUDAExecutionProvider"])
    found = check("gpu onnxruntime")
    assert (found.status, found.value, found.remedy) == ("-", two_gpus["onnxruntime"], "")
    monkeypatch.setattr(host, "onnxruntime_providers", lambda: ["CPUExecutionProvider"])
    assert check("gpu onnxruntime").remedy.startswith("pip uninstall -y onnxruntime ")
    monkeypatch.setattr(registry, "is_installed", lambda backend: backend.name == "onnxruntime")
    assert check("gpu tensorrt").remedy == "pip install 'streamdiffvsr[tensorrt]'"
    assert not any("on the GPU with CUDA" in line for line in examine().can)


def test_a_tensorrt_that_cannot_be_loaded(monkeypatch):
    def fails(name):
        raise StreamDiffVSRError("TensorRT cannot be loaded", "no libnvinfer.so", "install it")

    monkeypatch.setattr(registry, "is_installed", lambda backend: True)
    monkeypatch.setattr(tensorrt_backend, "load_library", fails)
    found = check("backend tensorrt")
    assert (found.status, found.remedy) == ("-", "install it")
    assert "no libnvinfer.so" in found.value
    assert any("TensorRT-RTX engines" in line for line in examine().cannot)


def test_a_library_that_cannot_be_loaded(monkeypatch):
    monkeypatch.setattr(host, "onnxruntime_providers", lambda: [])
    assert "cannot be loaded" in check("backend onnxruntime").value


def test_a_cache_that_cannot_be_written(monkeypatch, tmp_path):
    (tmp_path / "file").touch()
    monkeypatch.setenv("STREAMDIFFVSR_CACHE", str(tmp_path / "file" / "cache"))
    assert check("cache").status == "problem"
    assert "STREAMDIFFVSR_CACHE" in check("cache").remedy


@pytest.mark.parametrize(
    "fault",
    [
        subprocess.TimeoutExpired("nvidia-smi", 10),
        subprocess.CalledProcessError(9, "nvidia-smi"),
        OSError("no such thing"),
    ],
)
def test_a_driver_that_does_not_answer_is_no_gpu(monkeypatch, fault):
    def fails(*_args, **_keywords):
        raise fault

    monkeypatch.setattr(gpu.shutil, "which", lambda name: f"/usr/bin/{name}")
    monkeypatch.setattr(gpu.subprocess, "run", fails)
    assert host.nvidia_gpus() == []


def test_the_answer_of_a_driver(monkeypatch):
    answer = "NVIDIA X, 580.1, 16380 MiB, 8.9\nNVIDIA Y, 580.1, 8192 MiB, 7.5\nbroken line\n"
    monkeypatch.setattr(gpu.shutil, "which", lambda name: f"/usr/bin/{name}")
    monkeypatch.setattr(
        gpu.subprocess,
        "run",
        lambda *_args, **_keywords: subprocess.CompletedProcess([], 0, answer, ""),
    )
    assert [gpu.name for gpu in host.nvidia_gpus()] == ["NVIDIA X", "NVIDIA Y"]
