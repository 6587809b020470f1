"""Tables of the frames per second of live GPUs by input size, computed or measured.

Computed: the full-size model's work (`counts.json`) against a GPU's data sheet (`gpus.py`). The
limit is the roofline of fp16 engines; realistic is 27 to 45 % of it, which is what a comparable
network reaches: the UNet of SDXL, 4 steps, TensorRT fp16, takes 192 ms on an A100 and 103 ms on an
H100 by Stability AI's figures, at 6.76 TFLOP a step. Measured: results of `streamdiffvsr bench`
that people have given, in benchmarks/results/.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...benchmarks.report.files import read_result
from ...benchmarks.roofline.engine_work import FrameWork
from ...benchmarks.roofline.graph_work import GraphWork, Work
from ...benchmarks.roofline.limits import limit_ms
from ...graphs.spec import format_size
from .counts import SIZES, STEPS, read_counts
from .gpus import GPUS, GpuSheet

RESULTS = Path(__file__).parents[2] / "benchmarks" / "results"
REALISTIC = (0.27, 0.45)
IN_FP8 = ("denoise", "guide")  # the UNet, the ControlNet and its hint
FP8_BYTES = 0.75  # of fp16's: inputs and weights are halved, outputs are not
FULL_SIZE = 0.05  # a model whose frame has the full size's FLOPs to this is taken for it
LOOKUPS = ("480x270 all-pairs", "480x270")
COLUMNS = tuple(format_size(size) for size in SIZES)


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table.

    Attributes:
        label: `computed` or `measured`.
        cells: By input size, what is known: limit_fps and realistic_fps, or fps.
    """

    gpu: str
    label: str
    cells: Mapping[str, Mapping[str, Any]]


def frame_limit_ms(
    frame: FrameWork, tflops: float, gbps: float, fp8_tflops: float | None = None
) -> float:
    """Returns the least time of a guided frame in ms.

    Args:
        fp8_tflops: The rate of UNet and ControlNet, if they run in fp8; attention stays in fp16.
    """
    total = 0.0
    for name, work in frame.graphs.items():
        if fp8_tflops is not None and name in IN_FP8:
            work = _in_fp8(work, fp8_tflops / tflops)
        total += frame.runs[name] * limit_ms(work, 1e3 * tflops, gbps)[0]
    return total


def live_rows(results: Path = RESULTS) -> list[Row]:
    """Returns a computed row for every GPU, each followed by the results measured on it.

    Raises:
        StreamDiffVSRError: A file in the folder of results is none.
    """
    counts = {name: frame for name, frame in read_counts().items() if name in COLUMNS}
    measured = [read_result(path) for path in sorted(results.glob("*.json"))]
    rows = []
    for gpu in GPUS:
        rows.append(Row(gpu.name, "computed", {s: _computed(counts[s], gpu) for s in COLUMNS}))
        if cells := _measured(gpu, measured, counts):
            rows.append(Row(gpu.name, "measured", cells))
    return rows


def rows_json(rows: Iterable[Row]) -> dict[str, Any]:
    """Returns the table for programs."""
    return {
        "table": "live",
        "model": "full size",
        "precision": "fp16",
        "steps": STEPS,
        "realistic_share": list(REALISTIC),
        "rows": [{"gpu": r.gpu, "label": r.label, "sizes": dict(r.cells)} for r in rows],
    }


def live_markdown(rows: Iterable[Row]) -> str:
    """Returns the table for people: frames per second, realistic (limit)."""
    lines = [f"| GPU | | {' | '.join(COLUMNS)} |", f"|---|---|{'---|' * len(COLUMNS)}"]
    for row in rows:
        cells = (_cell(row.cells.get(size)) for size in COLUMNS)
        lines.append(f"| {row.gpu} | {row.label} | {' | '.join(cells)} |")
    return "\n".join(lines)


def sheets_markdown() -> str:
    """Returns the table of the figures that rows are computed from, and of fp8's largest gain."""
    frame = read_counts()["320x180"]
    lines = [
        "| GPU | fp16 TFLOP/s | fp8 TFLOP/s | GB/s | limit at 320x180, fp16 | with fp8 | from |",
        "|---|---|---|---|---|---|---|",
    ]
    for gpu in GPUS:
        fp16 = frame_limit_ms(frame, gpu.fp16_tflops, gpu.gbps)
        fp8 = "-"
        if gpu.fp8_tflops is not None:
            fp8 = f"{frame_limit_ms(frame, gpu.fp16_tflops, gpu.gbps, gpu.fp8_tflops):.0f} ms"
        rates = f"{gpu.fp16_tflops:g} | {gpu.fp8_tflops or '-'} | {gpu.gbps:g}"
        lines.append(f"| {gpu.name} | {rates} | {fp16:.0f} ms | {fp8} | {gpu.source} |")
    return "\n".join(lines)


def lookups_markdown() -> str:
    """Returns the table of the flow alone at 480x270, by both forms of its lookup."""
    frames = read_counts()
    lines = [
        "| GPU | flow, all-pairs | flow, on demand | the rest of the frame |",
        "|---|---|---|---|",
    ]
    for gpu in GPUS:
        rates = 1e3 * gpu.fp16_tflops, gpu.gbps
        flows = [limit_ms(frames[case].graphs["flow"], *rates)[0] for case in LOOKUPS]
        rest = frame_limit_ms(frames[LOOKUPS[1]], gpu.fp16_tflops, gpu.gbps) - flows[1]
        cells = " | ".join(f"{ms:.0f} ms" for ms in (*flows, rest))
        lines.append(f"| {gpu.name} | {cells} |")
    return "\n".join(lines)


def _in_fp8(work: GraphWork, faster: float) -> GraphWork:
    """Returns the same work for a device that multiplies `faster` times as fast in eight bits."""
    return GraphWork(
        {
            Work(w.kind, round(w.flops / faster), round(FP8_BYTES * w.nbytes))
            if w.kind in ("conv", "product")
            else w: count
            for w, count in work.operators.items()
        }
    )


def _computed(frame: FrameWork, gpu: GpuSheet) -> dict[str, Any]:
    limit = 1e3 / frame_limit_ms(frame, gpu.fp16_tflops, gpu.gbps)
    return {
        "limit_fps": round(limit, 2),
        "realistic_fps": [round(share * limit, 2) for share in REALISTIC],
    }


def _measured(
    gpu: GpuSheet, results: Iterable[Mapping[str, Any]], counts: Mapping[str, FrameWork]
) -> dict[str, Any]:
    """Returns the best throughput at each size of the full-size model on this GPU."""
    cells: dict[str, Any] = {}
    for result in results:
        found = result["machine"]["gpu"]
        if not result["complete"] or found is None or not gpu.is_called(found["name"]):
            continue
        for subject in result["subjects"]:
            size = subject["input"]
            mode = subject["modes"].get("throughput")
            if mode is None or size not in counts or not _is_full_size(subject, counts[size]):
                continue
            if mode["fps"] > cells.get(size, {"fps": 0.0})["fps"]:
                kept = {key: subject[key] for key in ("backend", "precision")}
                cells[size] = {"fps": mode["fps"], **kept, "created": result["created"]}
    return cells


def _is_full_size(subject: Mapping[str, Any], frame: FrameWork) -> bool:
    """Returns whether a subject ran this work on its GPU, judged by work, not by model name."""
    line = subject.get("roofline")
    if subject["device"] != "cuda" or line is None or line.get("frame") is None:
        return False
    return bool(abs(1e9 * line["frame"]["gflop"] / frame.flops - 1) < FULL_SIZE)


def _cell(cell: Mapping[str, Any] | None) -> str:
    if cell is None:
        return ""
    if "fps" in cell:
        return f"**{_fps(cell['fps'])}** {cell['backend']} {cell['precision']}"
    low, high = (_fps(value) for value in cell["realistic_fps"])
    return f"{low} to {high} ({_fps(cell['limit_fps'])})"


def _fps(value: float) -> str:
    return f"{value:.{0 if value >= 9.95 else 1 if value >= 0.95 else 2}f}"
