"""Settings that were tried on the intersection: `python -m benchmarks.settings_page` puts them into the docs.

Reads the metrics.csv of trainings and shows how many arrived, as docs/algorithms says.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from benchmarks.markdown import read_page, replace_block, write_page
from benchmarks.results_folder import WINDOW, best_success, windowed_success
from copo_algos.config import PPOConfig

RESULTS = Path(__file__).parent / "results"
TRIED = RESULTS / "settings"
DOCS = Path(__file__).parent.parent / "docs" / "algorithms"
PAGES = {
    "neighbour-rule": DOCS / "README.md",
    "clipping": DOCS / "ppo.md",
    "iteration": DOCS / "ppo.md",
    "step-sizes": DOCS / "ppo.md",
    "soonest": DOCS / "ppo.md",
    "fast-long": DOCS / "ppo.md",
    "long-estimators": DOCS / "estimators.md",
    "bottleneck-runs": DOCS / "copo.md",
    "far-updates": DOCS / "ppo.md",
    "pairs": DOCS.parent / "performance.md",
}
"""Name of a table -> the page that shows it."""
LOOSE, TIGHT = "`clip_coef` 0.3, `value_clip` 10", "0.2, 100 (default)"
TABLES = {
    "neighbour-rule": {
        "`ours`, seed 0": TRIED / "loose_ours_seed0.csv",
        "`tf`, seed 0": TRIED / "loose_tf_seed0.csv",
        "`ours`, seed 100": TRIED / "loose_ours_seed100.csv",
        "`tf`, seed 100": TRIED / "loose_tf_seed100.csv",
    },
    "iteration": {
        "CoPO, 1,600 env steps, seed 100": TRIED / "tight_ours_seed100.csv",
        "CoPO, 800 (default), seed 100": TRIED / "every800_seed100.csv",
        "CoPO, 800, 3 epochs with `learning_rate` 5e-4, seed 100": TRIED / "every800_3epochs_seed100.csv",
        "CoPO, 400, seed 100": TRIED / "every400_seed100.csv",
        "CoPO, 1,600, seed 0": TRIED / "tight_ours_seed0.csv",
        "CoPO, 800 (default), seed 0": TRIED / "every800_seed0.csv",
        "IPPO, 1,600, seed 0": TRIED / "tight_ippo_seed0.csv",
        "IPPO, 800 (default), seed 0": TRIED / "every800_ippo_seed0.csv",
    },
    "step-sizes": {
        "default, seed 100": RESULTS / "estimators" / "per_sample" / "metrics.csv",
        "default on another processor, other first weights, seed 100": TRIED / "every800_seed100.csv",
        "`value_learning_rate` 1e-3, seed 100": TRIED / "value_rate_seed100.csv",
        "`kl_target` 0.03, seed 100": TRIED / "kl_target_seed100.csv",
        "`log_std_init` -0.7, seed 100": TRIED / "log_std_seed100.csv",
        "default, seed 101": TRIED / "every800_seed101.csv",
        "`value_learning_rate` 1e-3, seed 101": TRIED / "value_rate_seed101.csv",
        "default, seed 0, interrupted at 51,200": TRIED / "every800_seed0_xeon.csv",
        "default, seed 0, uninterrupted": RESULTS / "intersection" / "copo" / "seed0" / "metrics.csv",
        "default on another processor, seed 0": TRIED / "every800_seed0.csv",
        "IPPO, default, seed 0": RESULTS / "intersection" / "ippo" / "seed0" / "metrics.csv",
        "IPPO, default on another processor, seed 0": TRIED / "every800_ippo_seed0.csv",
    },
    "soonest": {
        "`fast`": TRIED / "fast_seed100.csv",
        "`fast` without `stagger_episodes`": TRIED / "fast_unstaggered_seed100.csv",
        "the same with 2 environments": TRIED / "fast_2envs_seed100.csv",
        "the same, an update every 200 env steps": TRIED / "fast_2envs_every200_seed100.csv",
        "the same, every 100": TRIED / "fast_2envs_every100_seed100.csv",
        "every 200, `log_std_init` -1": TRIED / "fast_2envs_every200_log_std_seed100.csv",
        "every 400, `log_std_init` -1, 4 epochs": TRIED / "fast_2envs_4epochs_log_std_seed100.csv",
        "`default`, on an Intel Xeon": RESULTS / "estimators" / "per_sample" / "metrics.csv",
        "`default`, other first weights": TRIED / "every800_seed100.csv",
        "`fast` with critics of 128 units a layer": TRIED / "fast_narrow_critics_seed100.csv",
        "`fast` with one critic of three outputs": TRIED / "fast_one_critic_seed100.csv",
        "`fast` with the gradient of clipped actions": TRIED / "fast_clipped_action_seed100.csv",
        "`fast` with one pass of the critics, `value_learning_rate` 1e-3": TRIED / "fast_one_pass_seed100.csv",
        "the same, seed 101": TRIED / "fast_one_pass_seed101.csv",
        "`fast`, seed 101": TRIED / "fast_seed101.csv",
    },
    "fast-long": {
        "CoPO, `fast`, seed 0": TRIED / "fast_seed0.csv",
        "CoPO, `default`, seed 0, interrupted at 51,200": TRIED / "every800_seed0_xeon.csv",
        "CoPO, `default`, seed 0, uninterrupted": RESULTS / "intersection" / "copo" / "seed0" / "metrics.csv",
        "IPPO, `fast`, seed 0": TRIED / "fast_ippo_seed0.csv",
        "IPPO, `default`, seed 0": RESULTS / "intersection" / "ippo" / "seed0" / "metrics.csv",
        "CoPO, `fast`, seed 100, from 62,000 on `learning_rate` 1e-4": TRIED / "fast_then_slow_seed100.csv",
        "CoPO, `fast`, seed 100, from 62,000 on an update every 1,600": TRIED / "fast_then_every1600_seed100.csv",
    },
    "bottleneck-runs": {
        "CoPO": RESULTS / "bottleneck" / "copo" / "seed0" / "metrics.csv",
        "CoPO, before there was `max_grad_norm`": TRIED / "bottleneck_no_grad_norm_seed0.csv",
        "CoPO, the same on another processor": TRIED / "bottleneck_copo_epyc_seed0.csv",
        "IPPO, before there was `max_grad_norm`": RESULTS / "bottleneck" / "ippo" / "seed0" / "metrics.csv",
        "IPPO, the same on another processor": TRIED / "bottleneck_ippo_epyc_seed0.csv",
    },
    "clipping": {
        f"CoPO, {LOOSE}, seed 100": TRIED / "loose_ours_seed100.csv",
        f"CoPO, {TIGHT}, seed 100": TRIED / "tight_ours_seed100.csv",
        f"CoPO, {LOOSE}, seed 0": TRIED / "loose_ours_seed0.csv",
        f"CoPO, {TIGHT}, seed 0": TRIED / "tight_ours_seed0.csv",
        f"IPPO, {LOOSE}, seed 0": TRIED / "loose_ippo_seed0.csv",
        f"IPPO, {TIGHT}, seed 0": TRIED / "tight_ippo_seed0.csv",
    },
}
"""Name of a table -> run -> its metrics."""
PAIRS = {
    "policy and critics": ("bfloat16", range(100, 104)),
    "critics": ("bfloat16_critics", range(104, 112)),
}
"""What learned in bfloat16 -> how its runs are named, and their seeds; those in float32 have the same ones."""
LONG = {
    "`per_sample` (default)": RESULTS / "intersection" / "copo" / "seed0" / "metrics.csv",
    "`per_sample`, an earlier run": TRIED / "every800_seed0_xeon.csv",
    "`split`": TRIED / "split_seed0.csv",
}
"""Long trainings of CoPO whose phi is of interest."""
FAR = 0.1
"""KL of an iteration from which on its update went too far; `kl_target` is a tenth of it."""
THROWN_AWAY = TRIED / "bottleneck_no_grad_norm_seed0.csv"
"""CoPO on the bottleneck, until after the update that threw its policy away."""
SPAN = 100_000
EARLY = (16_000, 20_000, 24_000, 28_000, 32_000, 40_000, 47_600, 61_600)
"""Env steps of the table of the first ones."""
LATE = (60_000, 100_000, 136_000, 160_000, 200_000, 240_000, 280_000, 300_000, 340_000)
"""Env steps of the table of what comes after them."""
HELD = 0.7
"""Success whose first time over WINDOW env steps the tables show."""
PAIR_MARKS = (16_000, 20_000, 24_000, 28_000)
"""Env steps of the table of pairs."""
MARKS_OF = {
    "soonest": EARLY,
    "fast-long": LATE,
    "bottleneck-runs": (100_000, 150_000, 200_000, 300_000, 400_000, 480_000, 600_000, 800_000, 1_000_000),
}
MARKS = (40_000, 60_000, 80_000, 100_000, 120_000, 137_600, 160_000, 180_000, 200_000)


def success_at(metrics: pd.DataFrame, env_steps: int) -> float | None:
    """Share of the lives that arrived, of those that ended in the WINDOW before; None where the run ended earlier."""
    if metrics["env_steps"].iloc[-1] < env_steps:
        return None
    last = int((metrics["env_steps"] <= env_steps).sum()) - 1
    return float(windowed_success(metrics)[last])


def table(runs: dict[str, Path], marks: Sequence[int] = MARKS) -> str:
    """Markdown: a row per run."""
    lines = [
        f"| success, %, last {WINDOW:,} env steps, after | {' | '.join(f'{mark:,}' for mark in marks)} "
        f"| best | {HELD:.0%} after | phi at the end |",
        f"| --- | {' | '.join('---:' for _ in marks)} | ---: | ---: | ---: |",
    ]
    for name, path in runs.items():
        metrics = pd.read_csv(path)
        values = (success_at(metrics, mark) for mark in marks)
        cells = ("" if value is None else f"{100 * value:.0f}" for value in values)
        phi = f"{metrics['lcf_mean_deg'].iloc[-1]:.0f}°" if "lcf_mean_deg" in metrics else "-"
        held = metrics[(metrics["env_steps"] >= WINDOW) & (windowed_success(metrics) >= HELD)]
        first = f"{held['env_steps'].min():,}" if len(held) else "-"
        lines.append(f"| {name} | {' | '.join(cells)} | {100 * best_success(metrics):.0f} | {first} | {phi} |")
    return "\n".join(lines)


def phi_table(runs: dict[str, Path]) -> str:
    """Markdown: for every SPAN env steps of each run success in its last WINDOW, phi, and where the meta-steps went."""
    tables = {name: pd.read_csv(path) for name, path in runs.items()}
    most = max(int(table["env_steps"].iloc[-1]) for table in tables.values())
    ends = range(SPAN, most + SPAN, SPAN)
    lines = [
        f"| success, %; phi mean; iterations that push phi up, % | {' | '.join(f'{end:,}' for end in ends)} |",
        f"| --- | {' | '.join('---:' for _ in ends)} |",
    ]
    for name, metrics in tables.items():
        cells = []
        for end in ends:
            part = metrics[(metrics["env_steps"] > end - SPAN) & (metrics["env_steps"] <= end)]
            if part.empty:
                cells.append("")
                continue
            last = int(part["env_steps"].iloc[-1])
            # The earlier end of a run that stopped in between says where.
            at = "" if last == end else f" (at {last:,})"
            success = success_at(metrics, last)
            up = (part["lcf_gradient"] < 0).mean()
            cells.append(f"{100 * (success or 0):.0f}; {part['lcf_mean_deg'].iloc[-1]:.0f}°; {100 * up:.0f}{at}")
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def far_updates_table() -> str:
    """Markdown: the iterations whose KL passed FAR, of all committed trainings, and how many there were."""
    lines = [
        f"| run | env steps | KL | clipped | standard deviation of the actions | success, %, of {WINDOW:,} env steps |",
        "| --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    count, norms = 0, []
    kinds = ("settings/*.csv", "*/*/*/metrics.csv", "estimators/*/metrics.csv")
    for path in sorted(path for kind in kinds for path in RESULTS.glob(kind)):
        metrics = pd.read_csv(path)
        count += len(metrics)
        if "grad_norm_max" in metrics:
            norms += metrics["grad_norm_max"].tolist()
        for row in metrics.index[metrics["kl"] > FAR]:
            at, after = metrics.loc[row], metrics.loc[min(row + 1, len(metrics) - 1)]
            steps = int(at["env_steps"])
            before, later = success_at(metrics, steps), success_at(metrics, steps + WINDOW)
            rates = ["-" if rate is None else f"{100 * rate:.0f}" for rate in (before, later)]
            name = path.stem if path.parent == TRIED else " ".join(path.parts[-4:-1])
            lines.append(
                f"| `{name}` | {steps:,} | {at['kl']:.2f} | {100 * at['clip_fraction']:.0f} % "
                f"| {at['action_std_mean']:.2f}, then {after['action_std_mean']:.2f} | {rates[0]}, then {rates[1]} |"
            )
    lines += ["", f"Of {count:,} iterations in all, with every setting that was tried."]
    if norms:
        passed = sum(norm > PPOConfig.max_grad_norm for norm in norms) if PPOConfig.max_grad_norm else 0
        lines[-1] += (
            f" In the {len(norms):,} of them with `max_grad_norm` {PPOConfig.max_grad_norm:g} the largest norm of any "
            f"minibatch was {statistics.median(norms):.1f} in the median iteration and {max(norms):.1f} at most, and "
            f"passed {PPOConfig.max_grad_norm:g} in {100 * passed / len(norms):.0f} % of the iterations."
        )
    return "\n".join(lines)


def pairs_table() -> str:
    """Markdown: success of trainings in bfloat16 and in float32 with the same seeds, and by how much they differ."""
    lines = [
        f"| in bfloat16 | seed | {' | '.join(f'{mark:,}' for mark in PAIR_MARKS)} |",
        f"| --- | ---: | {' | '.join('---:' for _ in PAIR_MARKS)} |",
    ]
    words = []
    for part, (kind, seeds) in PAIRS.items():
        apart = []
        for seed in seeds:
            runs = [pd.read_csv(TRIED / f"fast_{name}_seed{seed}.csv") for name in (kind, "float32")]
            rates = [[100 * (success_at(run, mark) or 0) for run in runs] for mark in PAIR_MARKS]
            apart.append(rates[-1][0] - rates[-1][1])
            lines.append(f"| {part} | {seed} | {' | '.join(f'{half:.0f}, {single:.0f}' for half, single in rates)} |")
        mean, error = statistics.mean(apart), statistics.stdev(apart) / math.sqrt(len(apart))
        words.append(f"{mean:+.1f} points with {part} in bfloat16 (standard error {error:.1f}, {len(apart)} pairs)")
    lines += [
        "",
        f"Success over the last {WINDOW:,} env steps, %, after so many: in bfloat16, in float32. Mean difference after "
        f"{PAIR_MARKS[-1]:,}: {'; '.join(words)}.",
    ]
    return "\n".join(lines)


def pages() -> dict[Path, str]:
    """Page -> its text with the tables in their places."""
    texts: dict[Path, str] = {}
    for name, path in PAGES.items():
        if name == "long-estimators":
            text = phi_table(LONG)
        elif name == "pairs":
            text = pairs_table()
        elif name == "far-updates":
            text = far_updates_table()
        else:
            text = table(TABLES[name], MARKS_OF.get(name, MARKS))
        texts[path] = replace_block(texts.get(path) or read_page(path), name, text, path)
    return texts


if __name__ == "__main__":
    for path, text in pages().items():
        write_page(path, text)
