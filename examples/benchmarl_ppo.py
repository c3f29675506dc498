# pyright: reportMissingImports=false
"""Train PPO of BenchMARL on a scene, then count how its vehicles end.

    pip install . "benchmarl==1.5.2"    # in an environment of its own
    python examples/benchmarl_ppo.py --scene intersection --algorithm ippo --total-steps 1000

It wants torchrl below 0.12, so neither the `dev` extra nor constraints.txt go with it; the others do.

BenchMARL wants a fixed set of agents, so this is the slots view, through TorchRL. What `SceneTask` adds are two of
TorchRL's transforms, for which BenchMARL asks a task: a slot is done when its vehicle is (`EndWithLives`), and slots
that wait for their next vehicle are left out of the learning (`LeaveOutEmpty`). They are for IPPO and MAPPO.
"""

from __future__ import annotations

import argparse
import itertools
import tempfile
from collections import Counter
from collections.abc import Callable
from typing import Any

import torch
from benchmarl.algorithms import IppoConfig, MappoConfig
from benchmarl.environments import TaskClass
from benchmarl.experiment import Callback, Experiment, ExperimentConfig
from benchmarl.models.mlp import MlpConfig
from tensordict import TensorDictBase
from torchrl.data import Composite
from torchrl.envs import EnvBase, ExplorationType, PettingZooWrapper, Transform, set_exploration_type

import copo_envs
from copo_envs import Outcome

GROUP = "slot"
"""PettingZooWrapper puts agents of one name, slot_0, slot_1, ..., into one group, whose tensors are (..., N, .)."""
ALGORITHMS = {"ippo": IppoConfig, "mappo": MappoConfig}


class EndWithLives(Transform):
    """A slot is done when its vehicle is, and its mask says whether a vehicle is in it that acts next.

    What follows in the slot is another vehicle's observation, so a life that is out of time counts as terminated, too:
    its value must not be bootstrapped from there. At the end of an episode the slots view gives its own last one, and
    the truncation that is there stays.
    """

    def _reset(self, tensordict: TensorDictBase, tensordict_reset: TensorDictBase) -> TensorDictBase:
        return self._mask(tensordict_reset)

    def _step(self, tensordict: TensorDictBase, next_tensordict: TensorDictBase) -> TensorDictBase:
        ended, out_of_time = (
            next_tensordict[GROUP, "info", name][..., None] > 0 for name in ("terminated", "truncated")
        )
        over = next_tensordict[GROUP, "truncated"]
        next_tensordict[GROUP, "terminated"] = ended = ended | (out_of_time & ~over)
        next_tensordict[GROUP, "done"] = ended | over
        return self._mask(next_tensordict)

    @staticmethod
    def _mask(data: TensorDictBase) -> TensorDictBase:
        data[GROUP, "mask"] = data[GROUP, "info", "active"] > 0
        return data


class LeaveOutEmpty(Transform):
    """Keep empty slots from the learning: PPO's losses in BenchMARL have no mask, so this changes what its buffer gets.

    Their advantage is 0, so the policy learns nothing from them. Their value target is the mean of those who are there:
    that pulls MAPPO's value, which all share, nowhere, and the value of an empty slot is never asked for.
    """

    def _inv_call(self, tensordict: TensorDictBase) -> TensorDictBase:
        there = tensordict[GROUP, "mask"][..., None]
        target = tensordict[GROUP, "value_target"]
        mean = (target * there).sum(-2, keepdim=True) / there.sum(-2, keepdim=True).clamp(min=1)
        tensordict[GROUP, "value_target"] = torch.where(there, target, mean)
        tensordict[GROUP, "advantage"] = tensordict[GROUP, "advantage"] * there
        return tensordict


class SceneTask(TaskClass):
    """A scene as a task of BenchMARL: `SceneTask(scene, options)`, with options as of `copo_envs.slots_env`."""

    def get_env_fun(
        self, num_envs: int, continuous_actions: bool, seed: int | None, device: Any
    ) -> Callable[[], EnvBase]:
        """BenchMARL makes all copies with one seed, which would be the same episodes; these count on from it."""
        seeds = itertools.count(seed or 0)

        def make() -> EnvBase:
            slots = copo_envs.slots_env(self.name, **self.config)
            # Without done_on_any=False TorchRL would reset it when one agent ends.
            return PettingZooWrapper(slots, done_on_any=False, use_mask=True, seed=next(seeds), device=device)

        return make

    def get_env_transforms(self, env: EnvBase) -> list[Transform]:
        return [EndWithLives()]

    def get_replay_buffer_transforms(self, env: EnvBase, group: str) -> list[Transform]:
        return [LeaveOutEmpty()]

    def max_steps(self, env: EnvBase) -> int:
        """Who appears just before the horizon may take as long again."""
        return 2 * self.config.get("horizon", 1000)

    def group_map(self, env: Any) -> dict[str, list[str]]:
        return env.group_map

    def observation_spec(self, env: EnvBase) -> Composite:
        return self._only("observation", env)

    def info_spec(self, env: EnvBase) -> Composite:
        return self._only("info", env)

    def action_spec(self, env: EnvBase) -> Composite:
        return env.full_action_spec

    def state_spec(self, env: EnvBase) -> None:
        """None: MAPPO's critic sees the observations of all slots."""

    def action_mask_spec(self, env: EnvBase) -> None:
        """None: actions are two numbers."""

    def supports_continuous_actions(self) -> bool:
        return True

    def supports_discrete_actions(self) -> bool:
        return False

    def has_render(self, env: EnvBase) -> bool:
        return False

    @staticmethod
    def env_name() -> str:
        return "copo_envs"

    @staticmethod
    def _only(key: str, env: EnvBase) -> Composite:
        slots = env.observation_spec[GROUP]
        return Composite({GROUP: Composite({key: slots[key].clone()}, shape=slots.shape)})


class PrintEndings(Callback):
    """How the lives ended that ended in the steps of an iteration."""

    def on_batch_collected(self, batch: TensorDictBase) -> None:
        print(f"{int(batch[GROUP, 'mask'].sum())} samples, ended: {describe(endings_of(batch))}")


def make_experiment(scene: str, algorithm: str, total_steps: int, seed: int, folder: str, **options: Any) -> Experiment:
    """An experiment of about `total_steps` env steps, in whole iterations; its settings are written to `folder`."""
    steps = min(128, max(16, total_steps // 8))
    config = ExperimentConfig.get_from_yaml()
    config.gamma, config.lr = 0.97, 1e-3
    config.max_n_frames = max(1, total_steps // steps) * steps  # a frame is an env step, of all slots
    config.on_policy_collected_frames_per_batch = steps
    config.on_policy_n_envs_per_worker = 1
    config.on_policy_n_minibatch_iters = 5
    config.on_policy_minibatch_size = min(steps, 32)
    config.evaluation, config.render, config.loggers, config.create_json = False, False, [], False
    config.save_folder = folder
    algorithm_config = ALGORITHMS[algorithm].get_from_yaml()
    algorithm_config.lmbda = 0.95
    model_config = MlpConfig.get_from_yaml()
    model_config.num_cells = [64, 64]
    return Experiment(
        SceneTask(scene, options), algorithm_config, model_config, seed, config, callbacks=[PrintEndings()]
    )


def train(scene: str, algorithm: str, total_steps: int, seed: int) -> Any:
    """The policy after about `total_steps` env steps; it stops after whole iterations."""
    torch.set_num_threads(1)  # networks this small are slower on several threads
    with tempfile.TemporaryDirectory() as folder:
        experiment = make_experiment(scene, algorithm, total_steps, seed, folder)
        experiment.run()
        return experiment.policy


def endings_of(data: TensorDictBase) -> Counter[Outcome]:
    """How the lives ended that ended in these steps."""
    outcomes = data["next", GROUP, "info", "outcome"].flatten().int().tolist()
    return Counter(Outcome(outcome) for outcome in outcomes if outcome)


def describe(endings: Counter[Outcome]) -> str:
    """One line of it."""
    return ", ".join(f"{ending.name.lower()} {count}" for ending, count in sorted(endings.items())) or "nobody"


def count_endings(policy: Any, scene: str, seed: int, steps: int = 1000) -> Counter[Outcome]:
    """How the vehicles end in one episode of the policy, at most `steps` long."""
    env = SceneTask(scene, {}).get_env_fun(1, True, seed, "cpu")()
    try:
        with torch.no_grad(), set_exploration_type(ExplorationType.RANDOM):
            return endings_of(env.rollout(steps, policy))
    finally:
        env.close()


def main(arguments: list[str] | None = None) -> Counter[Outcome]:
    """The command line."""
    parser = argparse.ArgumentParser(
        description="PPO of BenchMARL on a scene, every life with its own return.",
        epilog="To see it learn in a minute or two: --scene particles --total-steps 2500",
    )
    parser.add_argument(
        "--scene", default="intersection", choices=list(copo_envs.SCENES), help="particles needs no simulator"
    )
    parser.add_argument(
        "--algorithm",
        default="ippo",
        choices=list(ALGORITHMS),
        help="ippo: a value of each vehicle's own observation; mappo: one for all, of all slots' observations",
    )
    parser.add_argument(
        "--total-steps", type=int, default=1000, help="env steps to train for; all vehicles act in each"
    )
    parser.add_argument("--evaluation-steps", type=int, default=1000, help="length of the episode that is counted")
    parser.add_argument("--seed", type=int, default=0, help="another one draws other weights, actions and episodes")
    args = parser.parse_args(arguments)
    policy = train(args.scene, args.algorithm, args.total_steps, args.seed)
    endings = count_endings(policy, args.scene, args.seed + 1, args.evaluation_steps)
    print(describe(endings))
    return endings


if __name__ == "__main__":
    main()
