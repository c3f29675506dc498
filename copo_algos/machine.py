"""What this process runs on."""

from __future__ import annotations

import os
import platform
from pathlib import Path
from typing import Literal

Precision = Literal["float32", "bfloat16"]


def cores() -> int:
    """How many processor cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def hardware() -> str:
    """Processor, cores that this process may use, and memory, in words."""
    model = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        names = [line.partition(":")[2].strip() for line in cpuinfo.read_text().splitlines() if "model name" in line]
        model = names[0] if names else model
    count = cores()
    words = f"{model}, {count} core{'s' if count > 1 else ''}"
    if hasattr(os, "sysconf") and "SC_PHYS_PAGES" in os.sysconf_names:
        words += f", {os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 2**30:.0f} GiB memory"
    return words


def bfloat16_instructions() -> list[str]:
    """Which of the instructions for bfloat16 the processor has, by /proc (Linux)."""
    cpuinfo = Path("/proc/cpuinfo")
    words = set(cpuinfo.read_text().split()) if cpuinfo.exists() else set()
    return sorted(words & {"amx_bf16", "avx512_bf16"})
