"""The endurance benchmark finds what it is for: memory that grows, resets that slow down."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks.endurance import COLUMNS, endure, main, verdict


def rows_of(leak_kib: float = 0.0, slower: float = 1.0, count: int = 1000) -> list[dict[str, Any]]:
    """What a process of 500 MiB leaves that fills caches in its first 100 resets, then leaks so much per reset, and
    whose resets take `slower` times 80 ms from the middle on."""
    rows = []
    for number in range(count // 100, count + 1, count // 100):
        memory = 500 + min(number, 100) * 0.6 + number * leak_kib / 1024
        rows.append(
            dict(
                zip(
                    COLUMNS,
                    ("pg_map", "resets", number, memory, 80.0 * (slower if number > count / 2 else 1), 1.0),
                    strict=True,
                )
            )
        )
    return rows


@pytest.mark.parametrize(
    ("rows", "kept", "words"),
    [
        (
            rows_of(),
            True,
            "pg_map, 1000 resets: memory 560 -> 560 MiB (+0.0, bound 16), reset 80.0 ms of CPU, 1.00 times",
        ),
        (rows_of(leak_kib=15), True, "(+11.7, bound 16)"),
        (rows_of(leak_kib=25), False, "(+19.5, bound 16)"),
        (rows_of(slower=1.4), True, "1.40 times the early one (bound 1.5): kept"),
        (rows_of(slower=1.6), False, "1.60 times the early one (bound 1.5): EXCEEDED"),
        (rows_of(count=500), True, "pg_map, 500 of 1000 resets: "),
        (rows_of()[:9], False, "pg_map, 90 of 1000 resets: only 9 rows; too few to judge, give more --limit-s"),
    ],
)
def test_bounds(rows: list[dict[str, Any]], kept: bool, words: str) -> None:
    found, sentence = verdict(rows, asked=1000)
    assert found == kept and words in sentence


def test_a_peak_in_the_last_fifth_counts() -> None:
    rows = rows_of()
    rows[-5]["rss_mib"] += 20
    assert not verdict(rows, 1000)[0]


@pytest.mark.parametrize("part", ["resets", "episodes"])
def test_rows_are_hundredths_of_the_way(part: str) -> None:
    rows = endure("particles", part, 12, limit_s=60)
    assert [row["count"] for row in rows] == list(range(1, 13))
    assert all(row["rss_mib"] > 10 and row["reset_cpu_ms_median"] > 0 for row in rows)
    assert [row["count"] for row in endure("particles", part, 12, limit_s=0)] == [1]


def test_the_command_writes_the_table_and_its_verdict(tmp_path: Path) -> None:
    main(["--scenes", "particles", "--resets", "20", "--folder", str(tmp_path)])
    with (tmp_path / "particles_resets.csv").open(newline="") as file:
        assert [int(row["count"]) for row in csv.DictReader(file)] == list(range(1, 21))
    note = json.loads((tmp_path / "provenance.json").read_text())["particles_resets"]
    assert note["verdict"].startswith("particles, 20 resets: memory ") and {"command", "date", "versions"} <= set(note)
