"""Would bfloat16 make learning faster? The matrix products of a minibatch in both formats, on one thread.

    python -m benchmarks.precision

What a gradient step spends its time in: a layer's forward product, that for its weights' gradient, and that for its
inputs' gradient. Casts, which bfloat16 needs besides, are left out.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
import tyro

from benchmarks.origin import write_measurement
from copo_algos.command import exit_code
from copo_algos.config import PPOConfig
from copo_algos.errors import UserError
from copo_algos.networks import HIDDEN

INPUTS = 92  # observation and coordination factor of the intersection


@dataclass(frozen=True)
class PrecisionConfig:
    """Time the matrix products of a minibatch in float32 and bfloat16."""

    rows: int = PPOConfig.minibatch_size
    """Samples of a minibatch."""
    blocks: int = 15
    """Blocks of products per format; the formats take turns, and the median block counts."""
    products: int = 50
    """Products per block."""
    output: Path = Path("benchmarks/results/precision")
    """Where precision.csv and precision.json go."""


def products(rows: int, dtype: torch.dtype) -> dict[tuple[str, str], Callable[[], object]]:
    """(product, shape) -> what computes it in `dtype`, for both hidden layers."""
    generator = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator).to(dtype)

    found: dict[tuple[str, str], Callable[[], object]] = {}
    for inputs in (INPUTS, HIDDEN):
        x, w, d = normal(rows, inputs), normal(inputs, HIDDEN), normal(rows, HIDDEN)
        shapes = f"{rows} x {inputs} x {HIDDEN}"
        for name, left, right in (("x W", x, w), ("x^T d", x.t(), d), ("d W^T", d, w.t())):
            out = torch.empty(left.shape[0], right.shape[1], dtype=dtype)
            found[name, shapes] = lambda left=left, right=right, out=out: torch.mm(left, right, out=out)
    return found


def microseconds(work: Callable[[], object], count: int) -> float:
    """Per call, over `count` calls."""
    start = time.perf_counter()
    for _ in range(count):
        work()
    return (time.perf_counter() - start) / count * 1e6


def instructions() -> list[str]:
    """The processor's bfloat16 instructions, by /proc (Linux)."""
    cpuinfo = Path("/proc/cpuinfo")
    words = set(cpuinfo.read_text().split()) if cpuinfo.exists() else set()
    return sorted(words & {"avx512_bf16", "amx_bf16", "bf16"})


def main(config: PrecisionConfig) -> None:
    """Measure and write; the rows go to the terminal as well."""
    if min(config.rows, config.blocks, config.products) < 1:
        raise UserError(
            f"rows={config.rows}, blocks={config.blocks}, products={config.products}; use 1 or more of each"
        )
    torch.set_num_threads(1)
    single, half = (products(config.rows, dtype) for dtype in (torch.float32, torch.bfloat16))
    rows = []
    for name, shape in single:
        blocks = [
            [microseconds(kind[name, shape], config.products) for kind in (single, half)]
            for _ in range(config.blocks + 1)
        ][1:]  # the first warms up
        fast, slow = (statistics.median(times) for times in zip(*blocks, strict=True))
        rows.append({"product": name, "shape": shape, "float32_us": f"{fast:.1f}", "bfloat16_us": f"{slow:.1f}"})
        print(f"{name:6} {shape:16} float32 {fast:8.1f} us   bfloat16 {slow:8.1f} us", flush=True)
    write_measurement(config.output, "precision", rows, instructions=instructions())


if __name__ == "__main__":
    sys.exit(exit_code("precision", lambda: main(tyro.cli(PrecisionConfig, prog="python -m benchmarks.precision"))))
