"""Messages: one line each, whose options are in the words of whoever shows them."""

from __future__ import annotations

import pickle

import pytest

from streamdiffvsr.cli.console import CommandLine
from streamdiffvsr.comfyui.host import Nodes
from streamdiffvsr.errors import (
    OR_DOCTOR,
    Bare,
    StreamDiffVSRError,
    Unsaid,
    UsageError,
    Words,
    command,
    option,
    said,
    speaking,
    without,
)


@pytest.mark.parametrize(
    ("text", "python", "line", "node"),
    [
        (option("tile"), "tile=", "--tile", "tile"),
        (option("tile", (288, 512)), "tile=(288, 512)", "--tile 512x288", "tile (288, 512)"),
        (option("flow_scale", 2), "flow_scale=2", "--flow-scale 2", "flow_scale 1/2"),
        (option("precision", "fp16"), "precision='fp16'", "--precision fp16", "dtype float16"),
        (option("overwrite", True), "overwrite=True", "--overwrite", "overwrite"),
        (option("disk_check", False), "disk_check=False", "--no-disk-check", "disk_check False"),
        (option("end", Bare("3.000")), "end=3.000", "--end 3.000", "end_frame 3.000"),
        (
            option("backend", "torch", "tensorrt"),
            "backend='torch' or 'tensorrt'",
            "--backend torch or tensorrt",
            "backend torch or tensorrt",
        ),
        (
            option("compute_capabilities", (89, 120)),
            "compute_capabilities=(89, 120)",
            "--compute-capabilities 8.9,12.0",
            "compute_capabilities (89, 120)",
        ),
        (without("device"), "leave out device=", "leave out --device", "set device to auto or cpu"),
        (
            command("engines", size=(48, 64)),
            "streamdiffvsr.build(size=(48, 64))",
            "streamdiffvsr engines --size 64x48",
            "Load Stream-DiffVSR Model",
        ),
        (
            command("engines"),
            "streamdiffvsr.build",
            "streamdiffvsr engines",
            "Load Stream-DiffVSR Model",
        ),
        (
            command("live SOURCE", to=Bare("ADDRESS")),
            "streamdiffvsr live SOURCE",
            "streamdiffvsr live SOURCE --to ADDRESS",
            "streamdiffvsr live SOURCE",
        ),
        (f"x{OR_DOCTOR}", *["x, or see streamdiffvsr doctor"] * 2, "x"),
        ("{braces} of a {file:name}", *["{braces} of a {file:name}"] * 3),
    ],
)
def test_an_option_is_called_what_the_reader_calls_it(
    text: str, python: str, line: str, node: str
) -> None:
    assert said(text) == Words().said(text) == python
    assert CommandLine().said(text) == line
    assert Nodes().said(text) == node
    assert Unsaid().said(text) == text


def test_an_error_is_in_the_words_of_the_moment_it_is_shown() -> None:
    error = UsageError("it is off", f"{option('tile')} is", f"use {option('tile', (48, 64))}.")
    assert str(error) == "it is off: tile= is; use tile=(48, 64)."
    with speaking(CommandLine()):
        assert str(error) == "it is off: --tile is; use --tile 64x48."
        assert (error.what, error.why, error.remedy) == (
            "it is off",
            "--tile is",
            "use --tile 64x48.",
        )
    assert error.why == "tile= is"


def test_an_error_is_one_line_and_can_be_pickled() -> None:
    error = StreamDiffVSRError("what\nis", "why", option("out"))
    copy = pickle.loads(pickle.dumps(error))
    assert type(copy) is StreamDiffVSRError
    assert str(copy) == str(error) == "what is: why; out="
