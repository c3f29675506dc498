"""A trained policy drives in the PettingZoo environment, and its vehicles' endings are counted.

    python examples/drive_policy.py
    python examples/drive_policy.py --policy runs/intersection/copo/seed0 --seed 1

Needs the `train` extra. Without `--policy` it is the CoPO policy that comes with the package.
"""

from __future__ import annotations

import argparse
from collections import Counter

import numpy as np

import copo_envs
from copo_algos.policy import Policy, load_policy, shipped_policy


def drive(policy: Policy, scene: str, horizon: int, seed: int) -> Counter[str]:
    """One episode of `horizon` env steps with respawning, and on until nobody is left; name of the outcome -> lives."""
    rng = np.random.default_rng(seed)
    # At home the vehicles, the traffic and the map of pg_map are those of the training; elsewhere the scene's own.
    names = ("num_agents", "rule_based", "start_seed") if scene == policy.scene else ()
    as_trained = {name: getattr(policy, name) for name in names}
    env = copo_envs.parallel_env(scene, geometry=policy.geometry, horizon=horizon, **as_trained)
    observations, _ = env.reset(seed=seed)
    lcf: dict[str, float] = {}  # every vehicle draws its coordination factor at birth and keeps it
    outcomes: Counter[str] = Counter()
    while env.agents:
        for agent in env.agents:
            if agent not in lcf:
                lcf[agent] = float(policy.draw_lcf(1, rng)[0])
        obs = np.stack([observations[agent] for agent in env.agents])
        actions = policy.act(obs, np.array([lcf[agent] for agent in env.agents]), rng)
        observations, _, terminations, truncations, infos = env.step(dict(zip(env.agents, actions, strict=True)))
        for agent, info in infos.items():
            if terminations[agent] or truncations[agent]:
                outcomes[copo_envs.Outcome(info["outcome"]).name] += 1
    env.close()
    return outcomes


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--policy", help="a run folder or a checkpoint; default: the package's CoPO policy")
    parser.add_argument("--scene", help="where to drive; default: where it was trained")
    parser.add_argument("--horizon", type=int, default=1000, help="env steps with respawning")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    policy = load_policy(arguments.policy) if arguments.policy else shipped_policy("intersection", "copo")
    outcomes = drive(policy, arguments.scene or policy.scene, arguments.horizon, arguments.seed)
    lives = sum(outcomes.values())
    print(
        ", ".join(f"{name.lower()} {count / lives:.0%}" for name, count in outcomes.most_common()), f"of {lives} lives"
    )


if __name__ == "__main__":
    main()
