"""The page on the estimators of the meta-gradient: `python -m benchmarks.estimators_page` draws and fills it in.

Reads what `python -m benchmarks.estimators` has written, as many setups as there are.
"""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure

from benchmarks.estimators import ESTIMATORS, SETUPS
from benchmarks.markdown import read_page, replace_block, write_page
from benchmarks.results_folder import WINDOW, best_success, windowed_success
from copo_algos.command import exit_code
from copo_algos.errors import UserError

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "benchmarks" / "results" / "estimators"
PAGE = ROOT / "docs" / "algorithms" / "estimators.md"
PICTURE = ROOT / "docs" / "images" / "estimators.png"
NAMES = {
    "released": "released, published step",
    "per_sample_published_step": "per sample, published step",
    "per_sample": "per sample, default step",
    "per_sample_half_step": "per sample, half the default step",
    "split": "per sample, g_new from other samples",
}
SAYS = {
    "released": "product of means",
    "per_sample": "mean of products",
    "per_sample_split": "mean of products, g_new from other samples",
}


def windowed(metrics: pd.DataFrame) -> pd.DataFrame:
    """For the picture, by window of env steps: success of the lives that ended in it, means of what is said."""
    how = {"env_steps": "max", "successes": "sum", "ended": "sum"}
    how |= {f"{name}_{what}": "mean" for name in ESTIMATORS for what in ("positive", "t")}
    table = metrics.groupby((metrics["env_steps"] - 1) // WINDOW).agg(how)
    table["success"] = table["successes"] / table["ended"]
    return table


def tables(runs: dict[str, pd.DataFrame]) -> str:
    """Markdown: what the trainings did, and what the estimators said in them."""
    lines = [
        "| training | stopped after | phi mean then | phi std then | success, best window, % | last window, % |",
        "| --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    for setup, metrics in runs.items():
        last = metrics.iloc[-1]
        lines.append(
            f"| {NAMES[setup]} | {last['env_steps']:,.0f} | {last['lcf_mean_deg']:.0f}° | {last['lcf_std_deg']:.0f}° "
            f"| {_percent(best_success(metrics))} | {_percent(windowed_success(metrics)[-1])} |"
        )
    lines += [
        "",
        "| estimator | in the training | pushes phi down, % of minibatches, first third | last third "
        "| t, first third | last third |",
        "| --- | --- | ---: | ---: | ---: | ---: |",
    ]
    for name in ESTIMATORS:
        for setup, metrics in runs.items():
            third = max(1, len(metrics) // 3)
            ends = metrics.head(third), metrics.tail(third)
            share = " | ".join(f"{100 * part[f'{name}_positive'].mean():.0f}" for part in ends)
            t = " | ".join(f"{part[f'{name}_t'].mean():.1f}" for part in ends)
            lines.append(f"| {SAYS[name]} | {NAMES[setup]} | {share} | {t} |")
    return "\n".join(lines)


def _percent(rate: float) -> str:
    return f"{100 * rate:.0f}" if math.isfinite(rate) else "-"


def about(runs: dict[str, pd.DataFrame]) -> str:
    """Where the figures come from."""
    found = [json.loads((RESULTS / setup / "provenance.json").read_text()) for setup in runs]
    settings = json.loads((RESULTS / next(iter(runs)) / "config.json").read_text())
    versions = ", ".join(f"{name} {version}" for name, version in found[0]["versions"].items())
    dates = ", ".join(sorted({one["date"] for one in found}))
    processors = ", ".join(
        f"{NAMES[setup]}: on {one['hardware'].partition(',')[0]}" for setup, one in zip(runs, found, strict=True)
    )
    return (
        f"CoPO on {settings['scene']}, seed {settings['seed']}, one training per setup ({processors}); windows of "
        f"{WINDOW:,} env steps; trainings that were stopped at different times do not compare by their success. "
        f"{versions}; {dates}.{_missing(runs)}"
    )


def _missing(runs: dict[str, pd.DataFrame]) -> str:
    names = [NAMES[setup] for setup in SETUPS if setup not in runs]
    return f" Not made yet: {', '.join(names)}." if names else ""


def draw(runs: dict[str, pd.DataFrame], path: Path) -> None:
    """Success and phi over training, and how sure the estimators are of their sign."""
    figure = Figure(figsize=(13, 3.6), layout="constrained")
    success, phi, sign = figure.subplots(1, 3)
    for setup, metrics in runs.items():
        table = windowed(metrics)
        steps = table["env_steps"] / 1000
        (line,) = success.plot(steps, 100 * table["success"], label=NAMES[setup])
        phi.plot(metrics["env_steps"] / 1000, metrics["lcf_mean_deg"], color=line.get_color())
        low, high = (metrics["lcf_mean_deg"] + side * metrics["lcf_std_deg"] for side in (-1, 1))
        phi.fill_between(metrics["env_steps"] / 1000, low, high, color=line.get_color(), alpha=0.15, linewidth=0)
    setup = "per_sample" if "per_sample" in runs else next(iter(runs))
    metrics = runs[setup]
    table = windowed(metrics)
    for name in ESTIMATORS:
        sign.plot(table["env_steps"] / 1000, 100 * table[f"{name}_positive"], label=SAYS[name])
    sign.axhline(50, color="grey", linewidth=0.8, linestyle=":")
    for axes, title in ((success, "success, %"), (phi, "phi, degrees: mean, band of one std"), (sign, "")):
        axes.set(title=title, xlabel="env steps, thousands")
    success.set(ylim=(0, 100))
    sign.set(title=f"minibatches that push phi down, %\n({NAMES[setup]})", ylim=(0, 100))
    success.legend(fontsize=8)
    sign.legend(fontsize=8)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)


def fill(page: str, runs: dict[str, pd.DataFrame]) -> str:
    """The page with the figures in their place."""
    return replace_block(page, "estimators", f"{tables(runs)}\n\n{about(runs)}", PAGE)


def main() -> None:
    """Draw and fill in what there is.

    Raises:
        UserError: nothing is there.
    """
    there = [setup for setup in SETUPS if (RESULTS / setup / "metrics.csv").exists()]
    if not there:
        raise UserError(f"no trainings in {RESULTS}; make some with: python -m benchmarks.estimators")
    runs = {setup: pd.read_csv(RESULTS / setup / "metrics.csv") for setup in there}
    draw(runs, PICTURE)
    write_page(PAGE, fill(read_page(PAGE), runs))


if __name__ == "__main__":
    sys.exit(exit_code("estimators_page", main))
