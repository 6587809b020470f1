"""GPUs' dense tensor rates and memory bandwidth by their makers' data sheets.

Half precision with accumulation in float32, without sparsity, which the sheets often include.
GeForce sheets do not give that figure: it is multiprocessors x boost clock x 512 operations, which
gives those that NVIDIA's white papers do print (RTX 3090: 71, RTX 4090: 165.2, RTX 5090: 209.5
TFLOP/s). Limits of power and heat are not in it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

GEFORCE_FLOP_PER_CLOCK = 512  # a multiprocessor, fp16 with fp32 accumulation, dense


@dataclass(frozen=True, slots=True)
class GpuSheet:
    """One GPU.

    Attributes:
        fp16_tflops: Dense, accumulated in float32.
        fp8_tflops: The same in fp8, None where it has none.
        gbps: Memory bandwidth in GB/s.
        source: What the figures are from.
        names: Regular expression for the whole of what its driver calls it.
    """

    name: str
    fp16_tflops: float
    fp8_tflops: float | None
    gbps: float
    source: str
    names: str

    def is_called(self, driver_name: str) -> bool:
        """Returns whether the driver's name for a GPU means this one."""
        return re.fullmatch(self.names, driver_name.strip(), re.IGNORECASE) is not None


def _geforce(
    name: str, multiprocessors: int, boost_ghz: float, gbps: float, papers: str
) -> GpuSheet:
    fp16 = round(multiprocessors * boost_ghz * GEFORCE_FLOP_PER_CLOCK / 1000, 1)
    return GpuSheet(
        name,
        fp16,
        None if papers == AMPERE else 2 * fp16,
        gbps,
        f"{papers}: {multiprocessors} SM at {boost_ghz} GHz",
        rf"(NVIDIA )?(GeForce )?{name}( \d+GB)?",
    )


AMPERE, ADA, BLACKWELL = "GeForce 30 (GA10x)", "GeForce 40 (AD10x)", "GeForce 50 (GB20x)"
GPUS = (
    _geforce("RTX 3060", 28, 1.777, 360, AMPERE),
    _geforce("RTX 3090", 82, 1.695, 936, AMPERE),
    _geforce("RTX 4060 Ti", 34, 2.535, 288, ADA),
    _geforce("RTX 4070", 46, 2.475, 504, ADA),
    _geforce("RTX 4080", 76, 2.505, 717, ADA),
    _geforce("RTX 4090", 128, 2.52, 1008, ADA),
    _geforce("RTX 5070 Ti", 70, 2.452, 896, BLACKWELL),
    _geforce("RTX 5080", 84, 2.617, 960, BLACKWELL),
    _geforce("RTX 5090", 170, 2.407, 1792, BLACKWELL),
    GpuSheet("L4", 121, 242, 300, "L4 data sheet, halved (sparse there)", "(NVIDIA )?L4"),
    GpuSheet("L40S", 362, 733, 864, "L40S data sheet", "(NVIDIA )?L40S"),
    GpuSheet("A10", 125, None, 600, "A10 data sheet", "(NVIDIA )?A10"),
    GpuSheet(
        "A100 80GB", 312, None, 2039, "A100 data sheet, SXM", r"(NVIDIA )?A100-SXM4?-80GB"
    ),
    GpuSheet(
        "H100 SXM", 989, 1979, 3350, "H100 data sheet, halved (sparse there)",
        "(NVIDIA )?H100( 80GB HBM3| SXM5?)?",
    ),
    GpuSheet(
        "H200", 989, 1979, 4800, "H200 data sheet, halved (sparse there)", "(NVIDIA )?H200( NVL)?"
    ),
    GpuSheet(
        "Jetson AGX Orin", 42.5, None, 204.8, "AGX Orin 64 GB brief: a quarter of 170 sparse INT8",
        r"(NVIDIA )?(Jetson AGX )?Orin( \(nvgpu\))?",
    ),
)  # fmt: skip
