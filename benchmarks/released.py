"""Drive the policies that CoPO's authors released, and compare with what they reach elsewhere: do the scenes here and
the observations of `copo_envs.legacy_obs` give back the world that those were made for?"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pandas as pd

from copo_algos.errors import UserError
from copo_algos.evaluate import LIVES, SUMMARY, EvaluateConfig, evaluate

FOLDER, RATES, PAGE = "released_policies", "rates.csv", "README.md"


@dataclass(frozen=True)
class Witness:
    """A released policy and the success rates that it was seen to reach, in 1 to 3 episodes."""

    name: str
    scene: str
    rate_025: float
    """In MetaDrive 0.2.5.1."""
    rate_043: float
    """In MetaDrive 0.4.3 with its own roads, the three conventions of the observation undone."""


WITNESSES = (
    Witness("copo_inter", "intersection", 0.62, 0.58),
    Witness("ippo_inter", "intersection", 0.32, 0.31),
    Witness("cl_inter", "intersection", 0.39, 0.42),
    Witness("ccppo_inter", "intersection", 0.34, 0.30),
    Witness("copo_round", "roundabout", 0.48, 0.39),
    Witness("ippo_round", "roundabout", 0.16, 0.13),
)


@dataclass(frozen=True)
class ReleasedConfig:
    """Drive the policies that CoPO's authors released (npz files, not part of this package) and write their rates."""

    policies: Path
    """The folder with copo_inter.npz, ippo_inter.npz, cl_inter.npz, ccppo_inter.npz, copo_round.npz, ippo_round.npz."""
    episodes: int = 3
    """Episodes to drive each in."""
    first_seed: int = 0
    """Seed of the first episode."""
    geometry: Literal["published", "metadrive"] = "published"
    """Roads to drive on."""
    workers: int = 2
    """Simulator processes."""
    results_dir: Path = Path("benchmarks/results")
    """Where the folder with the tables goes."""


def released(config: ReleasedConfig) -> pd.DataFrame:
    """Evaluate each, write a table of rates and a page that shows it after each of them, and return the table.

    A policy that was driven as asked before is not driven again, so an interrupted command goes on.

    Raises:
        UserError: no such folder or policy.
    """
    if not config.policies.is_dir():
        raise UserError(f"no folder {config.policies}; give the one that holds {WITNESSES[0].name}.npz and the others")
    output = config.results_dir / FOLDER / config.geometry
    table = pd.DataFrame()
    for witness in WITNESSES:
        folder = output / witness.name
        if not _is_done(folder, config):
            evaluate(
                EvaluateConfig(
                    path=config.policies / f"{witness.name}.npz",
                    scene=witness.scene,
                    episodes=config.episodes,
                    first_seed=config.first_seed,
                    geometry=config.geometry,
                    workers=config.workers,
                    output=folder,
                )
            )
        summary = json.loads((folder / SUMMARY).read_text())
        row = {"policy": witness.name, "scene": witness.scene, **rates(pd.read_csv(folder / LIVES), witness)}
        table = pd.concat([table, pd.DataFrame([row])], ignore_index=True)
        table.to_csv(output / RATES, index=False, float_format="%.4g")
        (output / PAGE).write_text(page(table, summary))
    return table


def _is_done(folder: Path, config: ReleasedConfig) -> bool:
    if not (folder / SUMMARY).exists():
        return False
    summary = json.loads((folder / SUMMARY).read_text())
    return (summary["episodes"], summary["first_seed"]) == (config.episodes, config.first_seed)


def rates(lives: pd.DataFrame, witness: Witness) -> dict[str, float]:
    """Success of the lives, its standard error, and what was seen elsewhere."""
    success = (lives["outcome"] == "success").mean()
    by_episode = [(group["outcome"] == "success").mean() for _, group in lives.groupby("episode")]
    return {
        "episodes": len(by_episode),
        "lives": len(lives),
        "success": success,
        "standard_error": math.sqrt(success * (1 - success) / len(lives)),
        "lowest_episode": min(by_episode),
        "highest_episode": max(by_episode),
        "success_025": witness.rate_025,
        "success_043": witness.rate_043,
    }


def page(table: pd.DataFrame, summary: dict[str, Any]) -> str:
    """The table in Markdown, with what it was made by."""
    command = (
        f"python -m benchmarks released --policies FOLDER --episodes {summary['episodes']} "
        f"--first-seed {summary['first_seed']} --geometry {summary['geometry']}"
    )
    lines = [
        "# The policies that CoPO's authors released",
        "",
        "| policy | scene | lives | success here, % | by episode | 0.2.5.1, % | 0.4.3's own roads, % |",
        "| --- | --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    for row in table.to_dict("records"):
        low, high = f"{100 * row['lowest_episode']:.0f}", f"{100 * row['highest_episode']:.0f}"
        lines.append(
            f"| {row['policy']} | {row['scene']} | {row['lives']} "
            f"| {100 * row['success']:.1f} ± {100 * row['standard_error']:.1f} | {low} to {high} "
            f"| {100 * row['success_025']:.0f} | {100 * row['success_043']:.0f} |"
        )
    seeds = f"{summary['first_seed']} to {summary['first_seed'] + summary['episodes'] - 1}"
    versions = ", ".join(f"{name} {version}" for name, version in summary["versions"].items())
    lines += [
        "",
        f"Made by `{command}`, {summary['date']}.",
        f"Seeds {seeds}; horizon {summary['horizon']} and then until nobody is alive; geometry "
        f'"{summary["geometry"]}"; actions drawn, the coordination factor at its mean. {summary["hardware"]}, '
        f"shared with other work. {versions}.",
        "",
        "± is one standard error of a binomial, which is too small where lives of one episode hang together: the next "
        "column has the lowest and the highest episode. The last two columns were measured apart from this package, "
        "in 1 to 3 episodes, and are entered in `benchmarks/released.py`; the last is MetaDrive 0.4.3 with its own "
        "sidewalks and lanes, the observation's three conventions undone.",
        "",
    ]
    return "\n".join(lines)
