"""The request for engines: one record for Python, the command line and ComfyUI."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from ..graphs.spec import DEFAULT_STEPS, Size, SizeRange

if TYPE_CHECKING:
    from ..engines.registry import Choice

BUILT_IN, AUTO = "tiny", "auto"
SHIPPED_PRECISION = "fp32"  # of the graphs that the built-in model has


@dataclass(frozen=True, slots=True, kw_only=True)
class BuildRequest:
    """A request for engines, for frames of any size.

    Attributes:
        model: `tiny` (built in), a model folder, a Hugging Face repo id, or `auto`: the released
            weights if they can be had, else `tiny`. None is `tiny`.
        backend: `onnxruntime`, `tensorrt`, `tensorrt-rtx`, `torch`, or `auto`: the best that works
            here.
        precision: "fp32", "fp16", or for TensorRT's backends "fp8": fp16 in which the denoiser's
            layers multiply in eight bits. None is fp16 on a GPU, else fp32.
        device: The device of the engines: "cpu", "cuda", or the GPU "cuda:1", which makes and
            checks them too; "auto" is the best that is present.
        steps: Number of denoising steps, 1 to 50.
        flow_scale: The flow is computed at HR divided by 1, 2 or 4; None: chosen by size.
        correlation: The flow's lookup, "all-pairs" or "on-demand"; None: chosen by size.
        tile: LR size (h, w) of the tiles, None for whole frames, or "auto".
        revision: Branch, tag or commit of the Hugging Face repo.
        color_match: "on": the output takes over the input's broad colours by back-projection
            in `decode`; "off": it has the model's colours; "auto": as the model's config says.
        compute_capabilities: The GPUs of `tensorrt-rtx` engines, 89 for 8.9.
        workspace_mib: The most scratch memory of a compiled layer, in MiB; None is the library's
            choice.
        optimization_level: How long TensorRT looks for faster engines, 0 to 5; None is its own
            choice, 3.
        profile: The range of sizes of TensorRT engines that take more than one; None is one size.
        batch: How many tiles the engines take at once, 1, 2 or 4. More than one are for a GPU and
            for the tiles of adaptive frames, of one square size.
    """

    model: str | None = None
    backend: str = AUTO
    precision: str | None = None
    device: str = AUTO
    steps: int = DEFAULT_STEPS
    flow_scale: int | None = None
    correlation: str | None = None
    tile: Size | str | None = AUTO
    revision: str | None = None
    color_match: str = AUTO
    compute_capabilities: tuple[int, ...] | None = None
    workspace_mib: int | None = None
    optimization_level: int | None = None
    profile: SizeRange | None = None
    batch: int = 1

    @property
    def run_on(self) -> str | None:
        """The device for `streamdiffvsr.load`; None, which means the set's own, if left open."""
        return None if self.device == AUTO else self.device

    @property
    def is_open(self) -> bool:
        """Returns whether the backend, precision or device still has to be chosen."""
        return self.precision is None or AUTO in (self.backend, self.device)

    def choice(self) -> Choice:
        """Returns backend, precision and device for this machine; keeps those that are named.

        Where graphs cannot be exported, the built-in model's precision is that of its own graphs.

        Raises:
            StreamDiffVSRError: The backend is unknown or not installed, or none works here.
        """
        from ..engines.host import missing_export
        from ..engines.registry import choose

        chosen = choose(self.backend, self.precision, self.device)
        if self.precision is None and self.model in (None, BUILT_IN) and missing_export():
            return replace(chosen, precision=SHIPPED_PRECISION)
        return chosen

    def settled(self, choice: Choice | None = None) -> BuildRequest:
        """Returns the request with backend, precision and device named; see `choice` for errors."""
        if not self.is_open:
            return self
        chosen = choice or self.choice()
        return replace(
            self, backend=chosen.backend, precision=chosen.precision, device=chosen.device
        )
