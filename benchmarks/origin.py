"""Where a measurement comes from: what stands beside every committed figure."""

from __future__ import annotations

import csv
import json
import os
import shlex
import subprocess
import sys
from collections.abc import Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from copo_algos.errors import UserError
from copo_algos.machine import hardware
from copo_algos.run_folder import versions

ROOT = Path(__file__).resolve().parent.parent


def origin(command: Sequence[str]) -> dict[str, Any]:
    """The command, the day, the commit, the machine and the versions of a measurement made now."""
    return {
        "command": shlex.join(command),
        "date": datetime.now(timezone.utc).strftime("%Y-%m-%d"),
        "commit": commit_of_checkout(),
        "hardware": hardware(),
        "versions": versions(),
    }


def write_origin(path: Path, command: Sequence[str]) -> None:
    """A file that says where a measurement made now comes from, whole or not at all."""
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(origin(command), indent=2) + "\n")
    partial.replace(path)


def write_measurement(folder: Path, name: str, rows: list[dict[str, Any]], **settings: Any) -> None:
    """`<name>.csv`, the rows that `python -m benchmarks.<name>` has measured, and `<name>.json`, their origin."""
    make_folder(folder)
    write_rows(folder / f"{name}.csv", rows)
    command = ["python", "-m", f"benchmarks.{name}", *sys.argv[1:]]
    about = {**origin(command), "load_average": os.getloadavg(), **settings}
    (folder / f"{name}.json").write_text(json.dumps(about, indent=2) + "\n")


def make_folder(folder: Path) -> None:
    """A folder to write to, before there is something to lose.

    Raises:
        UserError: it cannot be made.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot write to {folder}: {error}; choose another --output") from error


def write_rows(path: Path, rows: list[dict[str, Any]]) -> None:
    """A CSV file with a header, from rows with the same names."""
    with path.open("w", newline="") as file:
        table = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
        table.writeheader()
        table.writerows(rows)


def commit_of_checkout() -> str | None:
    """Commit of this checkout, with "+changes" where tracked files differ from it; None outside of git."""
    try:
        commit = _git("rev-parse", "HEAD")
        return f"{commit}+changes" if _git("status", "--porcelain", "--untracked-files=no") else commit
    except (OSError, subprocess.CalledProcessError):
        return None


def _git(*arguments: str) -> str:
    return subprocess.run(["git", *arguments], cwd=ROOT, check=True, capture_output=True, text=True).stdout.strip()
