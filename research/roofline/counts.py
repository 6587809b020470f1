"""The work of the full-size model by input size, counted once and kept in `counts.json`.

    python -m streamdiffvsr.research.roofline --count

counts it again: every graph is traced from the preset `full` without weights, written as ONNX and
counted operator by operator, in fp16 as GPUs run it. About two minutes a size on two cores.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...benchmarks.roofline.engine_work import FrameWork, frame_runs
from ...benchmarks.roofline.graph_work import GraphWork
from ...engines.host import require_export
from ...errors import StreamDiffVSRError
from ...graphs.plan import Plan, make_plan
from ...graphs.spec import DEFAULT_STEPS, GRAPHS, TILED, Precision, Size, format_size

if TYPE_CHECKING:
    from ...export.configs import ModelConfigs

Part = tuple[object, ...]
Count = Callable[[Plan, Iterable[str]], Iterable[tuple[str, GraphWork]]]
COUNTS = Path(__file__).with_name("counts.json")
RECOUNT = "python -m streamdiffvsr.research.roofline --count"
PRESET = "full"
PRECISION: Precision = "fp16"
STEPS = DEFAULT_STEPS
SIZES: tuple[Size, ...] = (
    *((128, 128), (90, 160), (180, 320), (270, 480), (360, 640), (540, 960), (720, 1280)),
)


@dataclass(frozen=True, slots=True)
class Case:
    """A size, run as `plan.make_plan` chooses but for `options`."""

    name: str
    size: Size
    options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def plan(self) -> Plan:
        """The plan that the case is run by."""
        return make_plan(self.size, **self.options)


CASES = (
    *(Case(format_size(size), size) for size in SIZES),
    # As the original runs them, for the comparison with it.
    Case("480x270 all-pairs", (270, 480), {"correlation": "all-pairs"}),
    Case("960x540 untiled", (540, 960), {"tile": None}),
)


def read_counts() -> dict[str, FrameWork]:
    """Returns the work of a guided frame, by the name of its case.

    Raises:
        StreamDiffVSRError: The file is missing or damaged, or sizes are run in another way now.
    """
    try:
        data = json.loads(COUNTS.read_text(encoding="utf-8"))["cases"]
        return {case.name: _frame(case, data[case.name]) for case in CASES}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise StreamDiffVSRError(
            f"cannot read {COUNTS}", f"{type(error).__name__}: {error}", RECOUNT
        ) from error


def _frame(case: Case, entry: Mapping[str, Any]) -> FrameWork:
    plan = case.plan
    if entry["plan"] != plan.describe():
        raise ValueError(f"it has {case.name} as {entry['plan']}")
    graphs = {name: GraphWork.from_json(entry["graphs"][name]) for name in GRAPHS}
    return FrameWork(graphs, frame_runs(plan.geometry, STEPS), PRECISION)


def write_counts(progress: Callable[[str], None], count: Count | None = None) -> None:
    """Counts every case again and replaces the file.

    Args:
        count: Counts these graphs of a plan; by default they are traced.

    Raises:
        StreamDiffVSRError: The export extra is not installed.
    """
    count = count or _traced()
    known: dict[Part, GraphWork] = {}
    lines = []
    for case in CASES:
        plan = case.plan
        parts = {name: _part(name, plan) for name in GRAPHS}
        missing = [name for name in GRAPHS if parts[name] not in known]
        for name, work in count(plan, missing):
            known[parts[name]] = work
            progress(f"{case.name} {name}: {1e-9 * work.flops:.1f} GFLOP")
        works = {name: known[part] for name, part in parts.items()}
        lines.append(f"{json.dumps(case.name)}: {_case_text(plan, works)}")
    head = json.dumps({"preset": PRESET, "precision": PRECISION, "steps": STEPS})
    text = f'{head[:-1]}, "cases": {{\n' + ",\n".join(lines) + "\n}}\n"
    COUNTS.write_text(text, encoding="utf-8")


def _traced() -> Count:
    from ...benchmarks.roofline.engine_work import Traced, trace_work

    configs = preset_configs(PRESET)
    return lambda plan, names: trace_work(Traced(configs, plan, PRECISION, STEPS), names)


def preset_configs(preset: str) -> ModelConfigs:
    """Returns the configs of one of `export/presets.py`."""
    require_export()
    from ...export.config_files import read_configs
    from ...export.presets import PRESETS
    from ...export.random_model import write_configs

    with tempfile.TemporaryDirectory() as folder:
        write_configs(Path(folder), PRESETS[preset])
        return read_configs(Path(folder))


def _part(name: str, plan: Plan) -> Part:
    """Returns all that a graph depends on: cases share the graphs that are the same in both."""
    geometry = plan.geometry
    if name in TILED:
        return name, geometry.tile or geometry.size
    if name == "flow":
        return name, geometry.size, geometry.flow_scale, plan.correlation
    return name, geometry.size, geometry.flow_scale


def _case_text(plan: Plan, works: Mapping[str, GraphWork]) -> str:
    """Returns one case as text, a line for each graph, so that a diff shows what changed."""
    head = json.dumps({"plan": plan.describe()})
    graphs = (
        f"{json.dumps(name)}: {json.dumps(work.to_json(), separators=(',', ':'))}"
        for name, work in works.items()
    )
    return f'{head[:-1]}, "graphs": {{\n' + ",\n".join(graphs) + "\n}}"
