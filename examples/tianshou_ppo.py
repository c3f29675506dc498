# pyright: reportMissingImports=false
"""Train PPO of Tianshou on a scene, then count how its vehicles end.

    pip install . "tianshou==2.0.1"
    python examples/tianshou_ppo.py --scene intersection --total-timesteps 4000

It wants Python 3.11 and pandas below 3, so constraints.txt does not go with it.

Tianshou's multi-agent environments end with the first agent that does, so this is the arrays view: every row is an
environment of its own (`Rows`), whose episodes are the lives in it. Tianshou has no mask for rows that wait for their
next vehicle; `LivesBuffer` does not take them in.
"""

from __future__ import annotations

import argparse
from collections import Counter
from typing import Any

import numpy as np
import torch
from tianshou.algorithm import PPO
from tianshou.algorithm.modelfree.reinforce import ProbabilisticActorPolicy
from tianshou.algorithm.optim import AdamOptimizerFactory
from tianshou.data import Collector, VectorReplayBuffer
from tianshou.env import BaseVectorEnv
from tianshou.trainer import OnPolicyTrainerParams
from tianshou.utils.net.common import Net
from tianshou.utils.net.continuous import ContinuousActorProbabilistic, ContinuousCritic
from torch.distributions import Independent, Normal

import copo_envs
from copo_envs import Outcome


class Rows(BaseVectorEnv):
    """The rows of `copo_envs.vector_env` as the environments of Tianshou, all of which step together.

    A collector resets a row whose life has ended; what it gets is what is there already, the next vehicle or nobody.
    So collect by `n_step`: `n_episode` would leave some rows standing.

    Args:
        seed: of the first reset of all; those that follow go on from it.
        options: as of `copo_envs.vector_env`.
    """

    def __init__(self, scene: str, num_scenes: int = 1, seed: int | None = None, **options: Any):
        # Not BaseVectorEnv's own, which makes a worker for every environment.
        self.scenes = copo_envs.vector_env(scene, num_scenes, **options)
        self.env_num = self.scenes.num_envs
        self.is_async, self.is_closed = False, False
        self._seed = seed
        self._now = np.empty(0), np.empty(0)

    def get_env_attr(self, key: str, id: Any = None) -> list[Any]:
        """What Tianshou asks for is `action_space` and `observation_space`, of every row."""
        return [getattr(self.scenes, f"single_{key}")] * self.env_num

    def reset(self, env_id: Any = None, **kwargs: Any) -> tuple[np.ndarray, np.ndarray]:
        """All rows: the scenes begin their next episodes. Some: what is in them already."""
        if env_id is None:
            obs, infos = self.scenes.reset(**{"seed": self._seed, **kwargs})
            self._now, self._seed = (obs, self._dicts(infos)), None
        obs, infos = self._now
        rows = np.arange(self.env_num) if env_id is None else env_id
        return obs[rows], infos[rows]

    def step(self, action: Any, id: Any = None) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """One step of all rows. Where a life ended, the observation is its last one."""
        if id is not None and len(id) != self.env_num:
            raise ValueError(f"{len(id)} of {self.env_num} rows; they step together: collect by n_step, not n_episode")
        obs, rewards, terminated, truncated, infos = self.scenes.step(np.asarray(action))
        self._now = obs, self._dicts(infos)
        after = obs.copy()
        for row in np.nonzero(terminated | truncated)[0]:
            after[row] = infos["final_obs"][row]
        return after, rewards, terminated, truncated, self._now[1]

    def close(self) -> None:
        """End the workers."""
        self.scenes.close()
        self.is_closed = True

    def _dicts(self, infos: dict[str, Any]) -> np.ndarray:
        columns = [infos[key].tolist() for key in ("acted", "outcome", "life_steps")]
        rows = zip(range(self.env_num), *columns, strict=True)
        return np.array([dict(zip(("env_id", "acted", "outcome", "life_steps"), row, strict=True)) for row in rows])


class LivesBuffer(VectorReplayBuffer):
    """A buffer that takes in the transitions of vehicles alone.

    A row ends before it is empty, so what follows each other in its part of the buffer is one life after the other.
    """

    def add(self, batch: Any, buffer_ids: Any = None) -> tuple[np.ndarray, ...]:
        """As of `VectorReplayBuffer`; zeros for rows that are left out, whose places nobody asks for."""
        rows = np.arange(self.buffer_num) if buffer_ids is None else np.asarray(buffer_ids)
        acted = batch.info.acted.astype(bool)
        places = []
        for kept in super().add(batch[acted], rows[acted]):
            places.append(np.zeros((len(rows), *kept.shape[1:]), kept.dtype))
            places[-1][acted] = kept
        return tuple(places)


def make_ppo(rows: Rows) -> PPO:
    """A Gaussian policy and a critic of a vehicle's own observation."""
    observations, actions = rows.scenes.single_observation_space, rows.scenes.single_action_space

    def network() -> Net:
        return Net(state_shape=observations.shape, hidden_sizes=[64, 64], activation=torch.nn.Tanh)

    policy = ProbabilisticActorPolicy(
        actor=ContinuousActorProbabilistic(preprocess_net=network(), action_shape=actions.shape, unbounded=True),
        dist_fn=lambda loc_scale: Independent(Normal(*loc_scale), 1),
        action_space=actions,
        action_scaling=False,
        action_bound_method=None,  # the scene clips actions beyond its box
    )
    critic = ContinuousCritic(preprocess_net=network())
    return PPO(policy=policy, critic=critic, optim=AdamOptimizerFactory(lr=1e-3), gamma=0.97, ent_coef=0.0)


def train(scene: str, total_timesteps: int, num_scenes: int, seed: int) -> PPO:
    """PPO after about `total_timesteps` rows (vehicles times steps); it stops after whole iterations."""
    torch.set_num_threads(1)  # networks this small are slower on several threads
    torch.manual_seed(seed)
    np.random.seed(seed)  # noqa: NPY002  (Tianshou draws its minibatches from it)
    rows = Rows(scene, num_scenes, seed)
    ppo = make_ppo(rows)
    steps = min(128, max(16, total_timesteps // (8 * rows.env_num))) * rows.env_num
    iterations = max(1, total_timesteps // steps)
    try:
        ppo.run_training(
            OnPolicyTrainerParams(
                training_collector=Collector(ppo, rows, LivesBuffer(steps, rows.env_num)),
                max_epochs=1,
                epoch_num_steps=iterations * steps,
                collection_step_num_env_steps=steps,
                batch_size=128,
                update_step_num_repetitions=5,
            )
        )
    finally:
        rows.close()
    return ppo


def count_endings(ppo: PPO, scene: str, seed: int, steps: int = 1000) -> Counter[Outcome]:
    """How the vehicles end in `steps` env steps of the policy."""
    rows = Rows(scene, seed=seed)
    buffer = LivesBuffer(steps * rows.env_num, rows.env_num)
    try:
        Collector(ppo, rows, buffer).collect(n_step=steps * rows.env_num, reset_before_collect=True)
    finally:
        rows.close()
    outcomes = buffer[buffer.sample_indices(0)].info.outcome.tolist()
    return Counter(Outcome(outcome) for outcome in outcomes if outcome)


def main(arguments: list[str] | None = None) -> Counter[Outcome]:
    """The command line."""
    parser = argparse.ArgumentParser(
        description="PPO of Tianshou on a scene, every vehicle an episode.",
        epilog="To see it learn in seconds: --scene particles --total-timesteps 20000",
    )
    parser.add_argument(
        "--scene", default="intersection", choices=list(copo_envs.SCENES), help="particles needs no simulator"
    )
    parser.add_argument("--total-timesteps", type=int, default=4000, help="vehicle steps to train for")
    parser.add_argument("--num-scenes", type=int, default=1, help="copies of the scene that step together")
    parser.add_argument("--evaluation-steps", type=int, default=1000, help="env steps in which endings are counted")
    parser.add_argument("--seed", type=int, default=0, help="another one draws other weights, actions and episodes")
    args = parser.parse_args(arguments)
    ppo = train(args.scene, args.total_timesteps, args.num_scenes, args.seed)
    endings = count_endings(ppo, args.scene, args.seed + 1, args.evaluation_steps)
    print(", ".join(f"{ending.name.lower()} {count}" for ending, count in sorted(endings.items())) or "nobody ended")
    return endings


if __name__ == "__main__":
    main()
