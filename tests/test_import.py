"""Importing the package costs nothing: a ComfyUI start and every `--help` pay for it."""

import subprocess
import sys

import pytest

TIMED = """
import sys, time
before = set(sys.modules)
started = time.perf_counter()
import streamdiffvsr
seconds = time.perf_counter() - started
heavy = {"torch", "numpy", "av", "onnxruntime", "typer", "rich", "safetensors"} & set(sys.modules)
print(seconds, *sorted(heavy - before))
"""


def test_import_is_quick_and_loads_nothing_heavy():
    seconds = []
    for _ in range(5):
        done = subprocess.run(
            [sys.executable, "-c", TIMED], capture_output=True, text=True, check=True
        )
        taken, *heavy = done.stdout.split()
        assert heavy == []
        seconds.append(float(taken))
    assert sorted(seconds)[2] < 0.1


@pytest.mark.parametrize(
    "module", ["runtime.upscaler", "engines.registry", "cli.app", "cli.doctor"]
)
def test_what_a_live_box_imports_does_without_torch(module):
    code = (
        f"import sys, streamdiffvsr.{module}; "
        "print([m for m in sys.modules if m == 'torch' or m.startswith('streamdiffvsr.export')])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_bench_imports_nothing_of_its_extra_where_it_makes_no_report():
    code = (
        "import sys, streamdiffvsr.cli.bench, streamdiffvsr.benchmarks.run\n"
        "from streamdiffvsr.benchmarks.report import compare, files, tables, trace\n"
        "print([m for m in ('jinja2', 'matplotlib', 'jsonschema') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_start_that_is_timed_imports_nothing_of_the_benchmark():
    code = (
        "import sys, streamdiffvsr.benchmarks.start_up_child\n"
        "print([m for m in sys.modules if m.startswith('streamdiffvsr.benchmarks.')])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "['streamdiffvsr.benchmarks.start_up_child']"


def test_unknown_names_are_attribute_errors():
    import streamdiffvsr

    assert {"build", "load", "StreamState", "Upscaler"} <= set(dir(streamdiffvsr))
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        _ = streamdiffvsr.nonsense
