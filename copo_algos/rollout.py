"""Drive the scenes with the current policy and write down what happened."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch

from copo_algos.algorithms import Algorithm
from copo_algos.clock import Clock
from copo_algos.config import TrainConfig
from copo_algos.critic_inputs import CriticInput
from copo_algos.factors import draw_lcf, with_lcf
from copo_algos.mlp import TanhMLP
from copo_algos.networks import GaussianActor, gaussian_log_prob, layers_of, parameters_of, split_head
from copo_algos.normalizer import Normalizer
from copo_algos.rewards import NeighbourRule, shared_rewards
from copo_algos.types import Lives, Rollout
from copo_envs.outcomes import Outcome
from copo_envs.scene_vector import SceneVector
from copo_envs.step_batch import StepBatch


class Collector:
    """Steps a `SceneVector` with a policy, carrying lives over from one rollout to the next.

    Args:
        scenes: E environments of N slots.
        algorithm: what the vehicles are driven by: whether they draw a coordination factor at birth, which is appended
            to their observation; what their critics see; whom the neighbourhood reward counts.
        config: distances, the rule of who is a neighbour and the settings of the critics.
        rng: draws the coordination factors.
        generator: draws the action noise.
        normalizer: of what the networks see.
    """

    def __init__(
        self,
        scenes: SceneVector,
        algorithm: Algorithm,
        config: TrainConfig,
        rng: np.random.Generator,
        generator: torch.Generator,
        normalizer: Normalizer | None = None,
    ):
        self._scenes = scenes
        self._algorithm = algorithm
        self._distance = algorithm.neighbours_distance or config.neighbours_distance
        self._rule: NeighbourRule = config.neighbour_rule
        self._critic_input = CriticInput(algorithm.critic_input, config.critic, config.neighbours_distance)
        self._normalizer = normalizer
        self._rng = rng
        self._generator = generator
        self.obs_size = scenes.obs_size + algorithm.uses_lcf
        """D, as the policy sees it."""
        self.critic_obs_size = self._critic_input.size(self.obs_size)
        """C, as the critics see it."""
        rows = (scenes.num_envs, scenes.num_slots)
        self._lcf = np.zeros(rows, np.float32)
        self._life_reward = np.zeros(rows)
        self._episode = np.zeros((scenes.num_envs, 2), np.int64)  # lives that ended in the running episode, successes

    def begin(
        self,
        seeds: list[int],
        lcf_mean: float,
        lcf_std: float,
        num_agents: int | None = None,
        first_steps: list[int] | None = None,
    ) -> None:
        """Begin fresh episodes, with so many vehicles or one in every slot; see `SceneVector.reset`. seeds (E,)."""
        batch = self._scenes.reset(seeds, num_agents, first_steps=first_steps)
        self._life_reward[:] = 0
        self._episode[:] = 0
        self._admit(batch, lcf_mean, lcf_std)

    def collect(
        self,
        actor: GaussianActor,
        num_steps: int,
        lcf_mean: float,
        lcf_std: float,
        after_step: Callable[[], None] = lambda: None,
        clock: Clock | None = None,
    ) -> Rollout:
        """T = num_steps steps of every environment.

        Args:
            actor: the policy, on the CPU.
            num_steps: T.
            lcf_mean, lcf_std: distribution from which vehicles born in this rollout draw.
            after_step: called after every step, for progress bars and interruptions.
            clock: gets the laps "simulate", waiting for the scenes, and "infer", all the rest.
        """
        clock = clock or Clock()
        scenes = self._scenes
        shape = (num_steps, scenes.num_envs, scenes.num_slots)
        obs = np.zeros((*shape, self.obs_size), np.float32)
        action, mean, log_std = (np.zeros((*shape, 2), np.float32) for _ in range(3))
        log_prob, lcf = np.zeros(shape, np.float32), np.zeros(shape, np.float32)
        acted, terminated, truncated = (np.zeros(shape, np.bool_) for _ in range(3))
        reward = np.zeros((*shape, 3), np.float32)
        position = np.zeros((*shape, 2))
        truncated_obs: list[np.ndarray] = []
        lives: list[tuple[np.ndarray, ...]] = []
        episode_rates: list[float] = []
        mlp = TanhMLP(layers_of(parameters_of(actor)), scenes.num_envs * scenes.num_slots)

        for t in range(num_steps):
            obs[t] = self._policy_obs(scenes.batch.obs)
            lcf[t] = self._lcf
            position[t] = scenes.batch.position
            there = scenes.batch.active
            action[t][there], log_prob[t][there], mean[t][there], log_std[t][there] = self._act(mlp, obs[t], there)
            clock.lap("infer")
            batch = scenes.step(np.clip(action[t], -1.0, 1.0))
            clock.lap("simulate")

            acted[t], terminated[t], truncated[t] = batch.acted, batch.terminated, batch.truncated
            reward[t] = shared_rewards(batch, self._distance, self._rule, self._algorithm.counts_itself)
            if batch.truncated.any():
                truncated_obs.append(self._truncated_obs(batch))
            self._count_lives(batch, lives, episode_rates)
            self._admit(batch, lcf_mean, lcf_std)
            after_step()

        now = scenes.batch
        critic_obs = self._critic_input(obs, action, position, acted)
        next_obs = self._policy_obs(now.obs)
        next_obs = self._critic_input(next_obs, np.zeros_like(action[-1]), now.position, now.active)
        no_obs = np.zeros((0, self.critic_obs_size), np.float32)
        clock.lap("infer")
        return Rollout(
            obs=obs,
            critic_obs=critic_obs,
            next_obs=next_obs,
            action=action,
            log_prob=log_prob,
            mean=mean,
            log_std=log_std,
            acted=acted,
            terminated=terminated,
            truncated=truncated,
            reward=reward,
            lcf=lcf,
            truncated_obs=np.concatenate(truncated_obs) if truncated_obs else no_obs,
            lives=_join(lives, episode_rates),
        )

    def _policy_obs(self, obs: np.ndarray) -> np.ndarray:
        """(E, N, D) as the policy sees it: with (phi + 1) / 2 appended where there is a coordination factor, and
        normalised where it is to be."""
        obs = with_lcf(obs, self._lcf) if self._algorithm.uses_lcf else obs.copy()
        return obs if self._normalizer is None else self._normalizer(obs)

    def _truncated_obs(self, batch: StepBatch) -> np.ndarray:
        """What the critics see of the last observations of the truncated, (number of them, C).

        Beside them is who acted with them and was not terminated. What these do next is not known: zeros.
        """
        obs = self._policy_obs(np.where(batch.truncated[..., None], batch.final_obs, batch.obs))
        there = batch.acted & ~batch.terminated
        nothing = np.zeros((*there.shape, 2), np.float32)
        return self._critic_input(obs, nothing, batch.acted_position, there)[batch.truncated]

    @torch.no_grad()
    def _act(self, mlp: TanhMLP, obs: np.ndarray, there: np.ndarray) -> tuple[np.ndarray, ...]:
        """obs (E, N, D) -> action (n, 2), its log probability (n,), mean and log std (n, 2) of the n `there` (E, N).

        Every slot has a draw, so that nobody's depends on who else is on the road.
        """
        mean, log_std = split_head(mlp.forward(torch.from_numpy(obs[there])))
        noise = torch.randn(*there.shape, 2, generator=self._generator)[torch.from_numpy(there)]
        action = mean + torch.exp(log_std) * noise
        log_prob = gaussian_log_prob(mean, log_std, action)
        return action.numpy(), log_prob.numpy(), mean.numpy(), log_std.numpy()

    def _count_lives(self, batch: StepBatch, lives: list[tuple[np.ndarray, ...]], episode_rates: list[float]) -> None:
        self._life_reward += batch.reward
        # A truncation without an outcome is that of a worker that died or of an episode that was cut: how these lives
        # would have ended is not known.
        lost = batch.truncated & (batch.outcome == Outcome.RUNNING)
        self._life_reward[lost] = 0.0
        ended = (batch.terminated | batch.truncated) & ~lost
        if ended.any():
            success = (batch.outcome == Outcome.SUCCESS).sum(axis=1)
            self._episode += np.stack([ended.sum(axis=1), success], axis=1)
            columns = (batch.outcome, batch.life_steps, self._life_reward, batch.route_completion)
            lives.append(tuple(column[ended] for column in columns))
            self._life_reward[ended] = 0.0
        for env in np.nonzero(batch.episode_over)[0]:
            total, successes = self._episode[env]
            if not lost[env].any():
                episode_rates.append(successes / max(1, total))
            self._episode[env] = 0

    def _admit(self, batch: StepBatch, lcf_mean: float, lcf_std: float) -> None:
        """Every newborn draws its coordination factor, which it keeps for life."""
        if self._algorithm.uses_lcf:
            born, uniform = int(batch.spawned.sum()), self._algorithm.lcf == "uniform"
            self._lcf[batch.spawned] = draw_lcf(born, lcf_mean, lcf_std, self._rng, uniform)


def _join(pieces: list[tuple[np.ndarray, ...]], episode_success_rates: list[float]) -> Lives:
    """Pieces of (outcome, steps, reward, route_completion) as one table."""
    outcome, steps, reward, completion = (
        np.concatenate([piece[column] for piece in pieces]) if pieces else np.zeros(0) for column in range(4)
    )
    return Lives(outcome, steps, reward, completion, episode_success_rates)
