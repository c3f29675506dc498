"""Train PPO of Stable-Baselines3 on a scene, then count how its vehicles end.

    python examples/sb3_ppo.py --scene intersection --total-timesteps 4000

Needs the `sb3` extra. Every slot of the scenes is one row of a vectorised environment, and all rows share one policy.
A row is done when its vehicle ends, so every vehicle has its own return; `MaskedRolloutBuffer` keeps the rows of slots
that wait for their next vehicle out of the minibatches.
"""

from __future__ import annotations

import argparse
from collections import Counter

import torch
from stable_baselines3 import PPO

import copo_envs
from copo_envs import Outcome
from copo_envs.sb3 import MaskedRolloutBuffer, SceneVecEnv


def train(scene: str, total_timesteps: int, num_scenes: int, seed: int) -> PPO:
    """PPO after about `total_timesteps` rows (vehicles times steps); it stops after whole rollouts."""
    torch.set_num_threads(1)  # networks this small are slower on several threads
    venv = SceneVecEnv(scene, num_scenes)  # one worker process per scene
    rows = venv.num_envs
    ppo = PPO(
        "MlpPolicy",
        venv,
        rollout_buffer_class=MaskedRolloutBuffer,
        n_steps=8 * min(16, max(2, total_timesteps // (8 * rows))),
        batch_size=4 * rows,
        n_epochs=5,
        learning_rate=1e-3,
        gamma=0.97,
        seed=seed,
        verbose=1,
        device="cpu",
    )
    try:
        return ppo.learn(total_timesteps)
    finally:
        venv.close()


def count_endings(ppo: PPO, scene: str, seed: int, steps: int = 1000) -> Counter[Outcome]:
    """How the vehicles end in one episode of the policy, at most `steps` long."""
    venv = SceneVecEnv(scene, in_process=True)
    endings: Counter[Outcome] = Counter()
    venv.seed(seed)
    obs = venv.reset()
    for _ in range(steps):
        actions, _ = ppo.predict(obs)  # pyright: ignore[reportArgumentType]  (SB3's own observation type)
        obs, _, dones, infos = venv.step(actions)
        endings.update(Outcome(info["outcome"]) for info, done in zip(infos, dones, strict=True) if done)
        if infos[0]["episode_over"]:
            break
    venv.close()
    return endings


def main(arguments: list[str] | None = None) -> Counter[Outcome]:
    """The command line."""
    parser = argparse.ArgumentParser(description="PPO of Stable-Baselines3 on a scene, every vehicle an episode.")
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
