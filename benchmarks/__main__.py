"""`python -m benchmarks run|report|released`. Errors that are the user's to mend are one sentence and exit code 2."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Annotated

import tyro

from benchmarks.released import ReleasedConfig, released
from benchmarks.report import ReportConfig, report
from benchmarks.run import RunConfig, run
from copo_algos.command import exit_code

Command = (
    Annotated[RunConfig, tyro.conf.subcommand("run", prefix_name=False)]
    | Annotated[ReportConfig, tyro.conf.subcommand("report", prefix_name=False)]
    | Annotated[ReleasedConfig, tyro.conf.subcommand("released", prefix_name=False)]
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code."""
    config = tyro.cli(
        Command,  # pyright: ignore[reportArgumentType]
        args=arguments,
        prog="python -m benchmarks",
        description="Train, evaluate and report algorithms x scenes x seeds.",
    )
    name, work = {
        RunConfig: ("run", run),
        ReportConfig: ("report", report),
        ReleasedConfig: ("released", released),
    }[type(config)]
    return exit_code(f"benchmarks {name}", lambda: work(config), "stopped; the same command goes on")


if __name__ == "__main__":
    sys.exit(main())
