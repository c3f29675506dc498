# pyright: reportMissingImports=false
"""Train PPO of RLlib on a scene, then count how its vehicles end.

    pip install . "ray[rllib]==2.60.0" gymnasium==1.2.2 torch    # in an environment of its own
    python examples/rllib_ppo.py --scene intersection --total-timesteps 4000

RLlib takes agents that come and go, so this is the lives view: every vehicle has its own return. RLlib's wrapper for
PettingZoo is not used: it knows the spaces of those alone who are there at the first reset, and never ends an episode
in whose last step one vehicle is terminated and another one out of time. `Lives` says both right.
"""

from __future__ import annotations

import argparse
import logging
import os
from collections import Counter
from typing import Any

import numpy as np
import ray
import torch
from ray.rllib.algorithms.algorithm import Algorithm
from ray.rllib.algorithms.ppo import PPOConfig
from ray.rllib.core.columns import Columns
from ray.rllib.core.rl_module.default_model_config import DefaultModelConfig
from ray.rllib.env.multi_agent_env import MultiAgentEnv

import copo_envs
from copo_envs import Outcome


class Lives(MultiAgentEnv):
    """The lives view for RLlib.

    Args:
        config: scene, and the options of `copo_envs.parallel_env`.
    """

    def __init__(self, config: dict[str, Any]):
        super().__init__()
        self.env = copo_envs.parallel_env(**config)
        self.possible_agents = list(self.env.possible_agents)
        self.observation_spaces = {agent: self.env.observation_space(agent) for agent in self.possible_agents}
        self.action_spaces = {agent: self.env.action_space(agent) for agent in self.possible_agents}
        self.agents = []

    def reset(self, *, seed: int | None = None, options: dict | None = None) -> tuple[dict, dict]:
        """As of the PettingZoo environment."""
        observations, infos = self.env.reset(seed=seed, options=options)
        self.agents = list(self.env.agents)
        return observations, infos

    def step(self, action_dict: dict[str, np.ndarray]) -> tuple[dict, dict, dict, dict, dict]:
        """The same, and under `__all__` whether the episode is over: when nobody is there any more."""
        observations, rewards, terminated, truncated, infos = self.env.step(action_dict)
        self.agents = list(self.env.agents)
        return (
            observations,
            rewards,
            {**terminated, "__all__": False},
            {**truncated, "__all__": not self.agents},
            infos,
        )

    def close(self) -> None:
        """Close the scene."""
        self.env.close()


def train(scene: str, total_timesteps: int, seed: int) -> Algorithm:
    """PPO after about `total_timesteps` vehicle steps; it stops after whole iterations."""
    vehicles = copo_envs.SCENES[scene].num_agents
    steps = min(128, max(16, total_timesteps // (8 * vehicles)))
    config = (
        PPOConfig()
        .environment(Lives, env_config={"scene": scene})
        .env_runners(num_env_runners=0, rollout_fragment_length=steps)
        .multi_agent(policies={"shared"}, policy_mapping_fn=lambda *_, **__: "shared")
        .rl_module(model_config=DefaultModelConfig(fcnet_hiddens=[64, 64], fcnet_activation="tanh"))
        .training(lr=1e-3, gamma=0.97, train_batch_size_per_learner=steps, minibatch_size=steps, num_epochs=5)
        .debugging(seed=seed, log_level="ERROR")
    )
    algorithm = config.build_algo()
    for _ in range(max(1, total_timesteps // (steps * vehicles))):
        runners = algorithm.train()["env_runners"]
        print(f"{runners['num_env_steps_sampled_lifetime']:.0f} env steps")
    return algorithm


def count_endings(algorithm: Algorithm, scene: str, seed: int, steps: int = 1000) -> Counter[Outcome]:
    """How the vehicles end in one episode of the policy, at most `steps` long."""
    module = algorithm.get_module("shared")
    assert module is not None
    distribution = module.get_exploration_action_dist_cls()
    endings: Counter[Outcome] = Counter()
    env = copo_envs.parallel_env(scene)
    observations, _ = env.reset(seed=seed)
    torch.manual_seed(seed)
    for _ in range(steps):
        obs = torch.from_numpy(np.stack([observations[agent] for agent in env.agents]))
        with torch.no_grad():
            logits = module.forward_exploration({Columns.OBS: obs})[Columns.ACTION_DIST_INPUTS]
        actions = distribution.from_logits(logits).sample().numpy()
        observations, _, _, _, infos = env.step(dict(zip(env.agents, actions, strict=True)))
        endings.update(Outcome(info["outcome"]) for info in infos.values() if info["outcome"])
        if not env.agents:
            break
    env.close()
    return endings


def main(arguments: list[str] | None = None) -> Counter[Outcome]:
    """The command line."""
    parser = argparse.ArgumentParser(description="PPO of RLlib on a scene, every life with its own return.")
    parser.add_argument("--scene", default="intersection", choices=list(copo_envs.SCENES))
    parser.add_argument("--total-timesteps", type=int, default=4000, help="vehicle steps to train for")
    parser.add_argument("--evaluation-steps", type=int, default=1000, help="length of the episode that is counted")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args(arguments)
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # it would report to the network
    ray.init(include_dashboard=False, num_cpus=1, logging_level=logging.ERROR, ignore_reinit_error=True)
    algorithm = train(args.scene, args.total_timesteps, args.seed)
    try:
        endings = count_endings(algorithm, args.scene, args.seed + 1, args.evaluation_steps)
    finally:
        algorithm.stop()
        ray.shutdown()
    print(", ".join(f"{ending.name.lower()} {count}" for ending, count in sorted(endings.items())) or "nobody ended")
    return endings


if __name__ == "__main__":
    main()
