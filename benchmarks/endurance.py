"""Hundreds of episodes and resets in one process: does memory grow, do resets slow down?

    python -m benchmarks.endurance --scenes particles intersection parking_lot pg_map

Every scene runs in a process of its own: 1,000 resets with a few steps after each, then (with --episodes) whole
episodes with horizon=60; `pg_map` on another map each time. One row per hundredth of the way goes to a CSV. The bounds:
from the end of the first fifth, which fills caches, to the highest of the last fifth, resident memory grows by less
than 16 MiB, and the median reset of the last fifth takes less than 1.5 times that of the second. So of 1,000 resets
each may leave 20 KiB; one map or one set of vehicles is more. Resets are measured in CPU time, which other work on the
machine changes less.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from copo_envs.lives_env import parallel_env
from copo_envs.scenes import SCENES
from copo_envs.testing import drive_forwards

FOLDER = Path("benchmarks/results/endurance")
COLUMNS = ("scene", "part", "count", "rss_mib", "reset_cpu_ms_median", "wall_s")
MAX_GROWTH_MIB, MAX_SLOWDOWN = 16.0, 1.5
STEPS_PER_RESET = 3


def rss_mib() -> float:
    """Resident memory of this process."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def endure(scene: str, part: str, count: int, limit_s: float) -> list[dict[str, Any]]:
    """Rows of COLUMNS, one per hundredth of `count` resets or episodes; fewer where `limit_s` seconds are too short."""
    horizon = 60 if part == "episodes" else 1000
    maps: dict[str, Any] = {"num_scenarios": 1000} if scene == "pg_map" else {}
    env = parallel_env(scene, in_process=True, horizon=horizon, **maps)
    rng, rows, times, start = np.random.default_rng(0), [], [], time.perf_counter()
    for number in range(1, count + 1):
        begin = time.process_time()
        env.reset(seed=number)
        times.append(1000 * (time.process_time() - begin))
        steps = 0
        while env.agents and (part == "episodes" or steps < STEPS_PER_RESET):
            env.step(drive_forwards(env, rng))
            steps += 1
        late = time.perf_counter() - start > limit_s
        if number % max(1, count // 100) == 0 or late:
            rows.append(
                dict(zip(
                    COLUMNS,
                    (scene, part, number, round(rss_mib(), 1), round(float(np.median(times)), 2),
                     round(time.perf_counter() - start, 1)),
                    strict=True,
                ))
            )  # fmt: skip
            times = []
        if late:
            break
    env.close()
    return rows


def verdict(rows: Sequence[dict[str, Any]], asked: int) -> tuple[bool, str]:
    """Whether the rows of one scene and part keep the bounds, and the sentence that says so.

    Args:
        rows: from `endure`.
        asked: how many resets or episodes it was to do; where there was time for fewer, the sentence says so.
    """
    done = rows[-1]["count"]
    what = f"{rows[0]['scene']}, {done if done == asked else f'{done} of {asked}'} {rows[0]['part']}"
    if len(rows) < 10:
        return False, f"{what}: only {len(rows)} rows; too few to judge, give more --limit-s"
    fifth = len(rows) // 5
    second, tail = rows[fifth : 2 * fifth], rows[-fifth:]
    early, late = rows[fifth - 1]["rss_mib"], max(row["rss_mib"] for row in tail)
    growth = late - early
    slowdown = _median_ms(tail) / _median_ms(second)
    kept = growth < MAX_GROWTH_MIB and slowdown < MAX_SLOWDOWN
    return kept, (
        f"{what}: memory {early:.0f} -> {late:.0f} MiB ({growth:+.1f}, bound {MAX_GROWTH_MIB:.0f}), "
        f"reset {_median_ms(tail):.1f} ms of CPU, {slowdown:.2f} times the early one (bound {MAX_SLOWDOWN}): "
        f"{'kept' if kept else 'EXCEEDED'}"
    )


def _median_ms(rows: Sequence[dict[str, Any]]) -> float:
    return float(np.median([row["reset_cpu_ms_median"] for row in rows]))


def main(arguments: Sequence[str] | None = None) -> int:
    """Run, write, judge; exit code 1 where a bound is exceeded."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.endurance", description="Memory and time over resets.")
    parser.add_argument("--scenes", nargs="+", default=["particles", "intersection"], choices=list(SCENES))
    parser.add_argument("--resets", type=int, default=1000, help="resets per scene")
    parser.add_argument("--episodes", type=int, default=0, help="whole episodes with horizon=60 per scene")
    parser.add_argument("--limit-s", type=float, default=1800, help="stop a part after so many seconds")
    parser.add_argument("--folder", type=Path, default=FOLDER, help="where the CSV and provenance.json go")
    parser.add_argument("--worker", nargs=3, metavar=("SCENE", "PART", "COUNT"), help=argparse.SUPPRESS)
    args = parser.parse_args(arguments)
    if args.worker:
        scene, part, count = args.worker
        print(json.dumps(endure(scene, part, int(count), args.limit_s)))
        return 0
    failed = 0
    args.folder.mkdir(parents=True, exist_ok=True)
    for scene in args.scenes:
        for part, count in (("resets", args.resets), ("episodes", args.episodes)):
            if not count:
                continue
            command = [sys.executable, "-m", "benchmarks.endurance", "--limit-s", str(args.limit_s)]
            done = subprocess.run(
                [*command, "--worker", scene, part, str(count)], stdout=subprocess.PIPE, text=True, check=True
            )
            rows = json.loads(done.stdout.splitlines()[-1])
            kept, sentence = verdict(rows, count)
            print(sentence, flush=True)
            failed += not kept
            with (args.folder / f"{scene}_{part}.csv").open("w", newline="") as file:
                writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
                writer.writeheader()
                writer.writerows(rows)
            _note(args.folder / "provenance.json", f"{scene}_{part}", sentence)
    return int(failed > 0)


def _note(path: Path, key: str, sentence: str) -> None:
    from benchmarks.origin import origin  # brings torch, which the workers must not carry

    known = json.loads(path.read_text()) if path.exists() else {}
    known[key] = {"verdict": sentence, **origin(["python", "-m", "benchmarks.endurance", *sys.argv[1:]])}
    path.write_text(json.dumps(known, indent=2, sort_keys=True) + "\n")


if __name__ == "__main__":
    sys.exit(main())
