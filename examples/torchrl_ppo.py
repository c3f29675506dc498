"""Train PPO of TorchRL on a scene, then count how its vehicles end.

    pip install . "torchrl>=0.14"
    python examples/torchrl_ppo.py --scene intersection --total-timesteps 4000

TorchRL wants a fixed set of agents, so this is the slots view, and one network drives all slots. That view ends with
the episode alone, but its infos say who acted and whose life ended, and TorchRL carries them along. A few lines make of
that what PPO needs (`by_lives`): a slot is done when its vehicle is, and slots that wait for their next vehicle are
left out of the loss.
"""

from __future__ import annotations

import argparse
from collections import Counter
from typing import Any

import torch
from tensordict import TensorDict, TensorDictBase
from tensordict.nn import TensorDictModule, set_composite_lp_aggregate
from tensordict.nn.distributions import NormalParamExtractor
from torch import nn
from torchrl.collectors import Collector
from torchrl.envs import ExplorationType, PettingZooWrapper, set_exploration_type
from torchrl.modules import IndependentNormal, ProbabilisticActor, ValueOperator
from torchrl.objectives import ClipPPOLoss
from torchrl.objectives.value import GAE

import copo_envs
from copo_envs import Outcome

GROUP = "slot"
"""PettingZooWrapper puts agents of one name, slot_0, slot_1, ..., into one group, whose tensors are (T, N, ...)."""


def make_env(scene: str, seed: int, **options: Any) -> PettingZooWrapper:
    """The slots of a scene, with options as of `copo_envs.slots_env`.

    Without `done_on_any=False` TorchRL would reset it when one agent ends.
    """
    return PettingZooWrapper(copo_envs.slots_env(scene, **options), done_on_any=False, use_mask=True, seed=seed)


def make_actor(env: PettingZooWrapper) -> ProbabilisticActor:
    """A Gaussian policy; actions beyond the box are clipped by the scene."""
    obs_size = env.observation_spec[GROUP, "observation"].shape[-1]
    network = nn.Sequential(
        nn.Linear(obs_size, 64), nn.Tanh(), nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, 4), NormalParamExtractor()
    )
    return ProbabilisticActor(
        TensorDictModule(network, [(GROUP, "observation")], [(GROUP, "loc"), (GROUP, "scale")]),
        in_keys=[(GROUP, "loc"), (GROUP, "scale")],
        out_keys=[(GROUP, "action")],
        distribution_class=IndependentNormal,
        return_log_prob=True,
        log_prob_key=(GROUP, "action_log_prob"),
    )


def make_critic(env: PettingZooWrapper) -> ValueOperator:
    """Of a vehicle's own observation."""
    obs_size = env.observation_spec[GROUP, "observation"].shape[-1]
    network = nn.Sequential(nn.Linear(obs_size, 64), nn.Tanh(), nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, 1))
    return ValueOperator(network, in_keys=[(GROUP, "observation")], out_keys=[(GROUP, "state_value")])


def by_lives(data: TensorDictBase) -> torch.Tensor:
    """Make a slot done where its vehicle ended in the step; returns who acted, (T, N).

    What follows in the slot is another vehicle's observation, so a life that is out of time counts as terminated, too:
    its value must not be bootstrapped from there. At the end of an episode the slots view gives its own last one, and
    the truncation that is there stays.
    """
    terminated, truncated = (data["next", GROUP, "info", name][..., None] > 0 for name in ("terminated", "truncated"))
    over = data["next", GROUP, "truncated"]
    data["next", GROUP, "terminated"] = ended = terminated | (truncated & ~over)
    data["next", GROUP, "done"] = ended | over
    return data[GROUP, "info", "active"] > 0


def make_losses(actor: ProbabilisticActor, critic: ValueOperator) -> tuple[GAE, ClipPPOLoss]:
    """Advantages and the loss, told under which names the tensors of the slots are."""
    gae = GAE(gamma=0.97, lmbda=0.95, value_network=critic)
    loss_of = ClipPPOLoss(actor, critic, clip_epsilon=0.2, entropy_coeff=0.0, normalize_advantage=True)
    for module in (gae, loss_of):
        module.set_keys(
            **{name: (GROUP, name) for name in ("reward", "done", "terminated", "advantage", "value_target")},
            value=(GROUP, "state_value"),
        )
    loss_of.set_keys(action=(GROUP, "action"), sample_log_prob=(GROUP, "action_log_prob"))
    return gae, loss_of


def train(scene: str, total_timesteps: int, seed: int) -> ProbabilisticActor:
    """The policy after about `total_timesteps` vehicle steps; it stops after whole iterations."""
    torch.set_num_threads(1)  # networks this small are slower on several threads
    torch.manual_seed(seed)
    set_composite_lp_aggregate(False).set()
    env = make_env(scene, seed)
    actor, critic = make_actor(env), make_critic(env)
    gae, loss_of = make_losses(actor, critic)
    optimizer = torch.optim.Adam(loss_of.parameters(), lr=1e-3)

    slots = copo_envs.SCENES[scene].num_agents
    steps = min(128, max(16, total_timesteps // (8 * slots)))
    iterations = max(1, total_timesteps // (steps * slots))
    collector = Collector(env, actor, frames_per_batch=steps, total_frames=steps * iterations)
    try:
        for data in collector:
            acted = by_lives(data)
            with torch.no_grad():
                gae(data)
            samples = TensorDict({GROUP: data[GROUP][acted]}, [int(acted.sum())])
            for _ in range(5):
                for rows in torch.randperm(len(samples)).split(512):
                    losses = loss_of(samples[rows])
                    loss = losses["loss_objective"] + losses["loss_critic"]
                    optimizer.zero_grad()
                    loss.backward()
                    optimizer.step()
            endings = endings_of(data)
            print(f"{len(samples)} samples, ended: {describe(endings)}")
    finally:
        collector.shutdown()
    return actor


def endings_of(data: TensorDictBase) -> Counter[Outcome]:
    """How the lives ended that ended in these steps."""
    outcomes = data["next", GROUP, "info", "outcome"].flatten().int().tolist()
    return Counter(Outcome(outcome) for outcome in outcomes if outcome)


def describe(endings: Counter[Outcome]) -> str:
    """One line of it."""
    return ", ".join(f"{ending.name.lower()} {count}" for ending, count in sorted(endings.items())) or "nobody"


def count_endings(actor: ProbabilisticActor, scene: str, seed: int, steps: int = 1000) -> Counter[Outcome]:
    """How the vehicles end in one episode of the policy, at most `steps` long."""
    env = make_env(scene, seed)
    try:
        with torch.no_grad(), set_exploration_type(ExplorationType.RANDOM):
            return endings_of(env.rollout(steps, actor))
    finally:
        env.close()


def main(arguments: list[str] | None = None) -> Counter[Outcome]:
    """The command line."""
    parser = argparse.ArgumentParser(description="PPO of TorchRL on a scene, every life with its own return.")
    parser.add_argument("--scene", default="intersection", choices=list(copo_envs.SCENES))
    parser.add_argument("--total-timesteps", type=int, default=4000, help="vehicle steps to train for")
    parser.add_argument("--evaluation-steps", type=int, default=1000, help="length of the episode that is counted")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args(arguments)
    actor = train(args.scene, args.total_timesteps, args.seed)
    endings = count_endings(actor, args.scene, args.seed + 1, args.evaluation_steps)
    print(describe(endings))
    return endings


if __name__ == "__main__":
    main()
