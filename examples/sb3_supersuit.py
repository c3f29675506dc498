"""Train PPO of Stable-Baselines3 on the slots view through SuperSuit, then count how its vehicles end.

    python examples/sb3_supersuit.py --scene intersection --total-timesteps 4000

For comparison, and as a pattern for libraries that take a PettingZoo environment with a fixed set of agents.
`examples/sb3_ppo.py` is the better way for Stable-Baselines3: in the slots view a slot does not end when its vehicle
does, so **returns and advantages run across vehicles**, the reward of the vehicle that comes next counts for the one
before it, and empty slots are trained on too. Needs the `sb3` extra.
"""

from __future__ import annotations

import argparse
from collections import Counter

import numpy as np
import supersuit
import torch
from stable_baselines3 import PPO
from supersuit.vector.sb3_vector_wrapper import SB3VecEnvWrapper

import copo_envs
from copo_envs import Outcome


def train(scene: str, total_timesteps: int, num_scenes: int, seed: int) -> PPO:
    """PPO after about `total_timesteps` rows (vehicles times steps); it stops after whole rollouts."""
    torch.set_num_threads(1)  # networks this small are slower on several threads
    env = copo_envs.slots_env(scene)
    rows = env.options.num_agents * num_scenes
    # SuperSuit copies the environment by pickling it, so it must not have been reset before.
    slots = supersuit.pettingzoo_env_to_vec_env_v1(env)
    scenes = supersuit.concat_vec_envs_v1(slots, num_scenes, num_cpus=0)
    venv = SB3VecEnvWrapper(scenes)
    # SuperSuit's environments have no seed(), so PPO(seed=...) fails. Seed the two sides apart: torch here, and the
    # scenes by a first reset; later resets without a seed go on from it.
    torch.manual_seed(seed)
    np.random.seed(seed)  # noqa: NPY002  (PPO shuffles its minibatches with it)
    scenes.reset(seed=seed)
    ppo = PPO(
        "MlpPolicy",
        venv,
        n_steps=8 * min(32, max(2, total_timesteps // (8 * rows))),
        batch_size=8 * rows,
        n_epochs=5,
        learning_rate=1e-3,
        gamma=0.97,
        verbose=1,
    )
    try:
        return ppo.learn(total_timesteps)
    finally:
        venv.close()


def count_endings(ppo: PPO, scene: str, seed: int, steps: int = 1000) -> Counter[Outcome]:
    """How the vehicles end in one episode of the policy, at most `steps` long."""
    env = copo_envs.slots_env(scene)
    endings: Counter[Outcome] = Counter()
    obs, _ = env.reset(seed=seed)
    for _ in range(steps):
        actions, _ = ppo.predict(np.stack(list(obs.values())))
        obs, _, _, _, infos = env.step(dict(zip(obs, actions, strict=True)))
        # The true endings are in the infos: the terminations of this view are those of the whole episode.
        endings.update(Outcome(info["outcome"]) for info in infos.values() if info["outcome"])
        if not env.agents:
            break
    env.close()
    return endings


def main(arguments: list[str] | None = None) -> Counter[Outcome]:
    """The command line."""
    parser = argparse.ArgumentParser(description="PPO of Stable-Baselines3 on the slots view of a scene.")
    parser.add_argument("--scene", default="intersection", choices=list(copo_envs.SCENES))
    parser.add_argument("--total-timesteps", type=int, default=4000, help="vehicle steps to train for")
    parser.add_argument("--num-scenes", type=int, default=1, help="copies of the scene that step together")
    parser.add_argument("--evaluation-steps", type=int, default=1000, help="length of the episode that is counted")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args(arguments)
    ppo = train(args.scene, args.total_timesteps, args.num_scenes, args.seed)
    endings = count_endings(ppo, args.scene, args.seed + 1, args.evaluation_steps)
    print(", ".join(f"{ending.name.lower()} {count}" for ending, count in sorted(endings.items())) or "nobody ended")
    return endings


if __name__ == "__main__":
    main()
