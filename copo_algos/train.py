"""A training run: `train_iteration` is the table of contents."""

from __future__ import annotations

import copy
import math
import shlex
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from copo_algos.algorithms import GLOBAL, NEIGHBOURHOOD, OWN, get_algorithm
from copo_algos.best import Evaluations, evaluation_due
from copo_algos.checkpoint import LearnerParts, counts, load_learner, save_checkpoint
from copo_algos.clock import Clock
from copo_algos.config import LOG_STD_RANGE, TrainConfig, check, without_effect
from copo_algos.curriculum import vehicles_at
from copo_algos.errors import CheckpointError, UserError
from copo_algos.interrupts import Interrupted, Signals
from copo_algos.lcf import LCFDistribution, LCFStats, lcf_update
from copo_algos.logs import EVALUATIONS, METRICS, MetricsLog, Record, plot_learning_curve, read_table
from copo_algos.networks import GaussianActor, ValueCritic
from copo_algos.normalizer import Normalizer
from copo_algos.policy import (
    OBS_VERSIONS,
    Policy,
    PolicyInfo,
    load_into,
    load_policy,
    load_tensors,
    make_actor,
    shipped_policy,
)
from copo_algos.ppo import UpdateStats, adapt_kl_coef, explained_variance, make_samples, ppo_update
from copo_algos.progress import TrainingProgress
from copo_algos.rollout import Collector
from copo_algos.run_folder import alone_in, prepare, write_settings
from copo_algos.types import Rollout, Samples
from copo_algos.wandb_log import WandbLog, require_wandb
from copo_envs.outcomes import Outcome
from copo_envs.process import WorkerError
from copo_envs.scene_vector import SceneVector
from copo_envs.scenes import SCENES, get_scene

CURVE = "learning_curve.png"
LOSSES = ("policy_loss", "value_loss", "kl", "entropy")
LEARNING_THREADS = 1  # small minibatches lose more by handing work between threads than they win


class Trainer:
    """Networks, optimisers and counters of a run, and what one iteration does with them.

    Args:
        config: checked.
    """

    def __init__(self, config: TrainConfig):
        self.config = config
        self.algorithm = get_algorithm(config.algorithm)
        self.options = config.scene_options()
        self.scenes = SceneVector(self.options, config.num_envs, restart=True)
        self.device = device_of(config.device)

        self.generator = torch.Generator().manual_seed(config.seed)
        self.rng = np.random.default_rng([config.seed, 0])
        obs_size = self.scenes.obs_size
        self.info = PolicyInfo(
            scene=config.scene,
            algorithm=config.algorithm,
            obs_size=obs_size,
            num_agents=self.options.num_agents,
            rule_based=self.options.rule_based,
            uses_lcf=self.algorithm.uses_lcf,
            lcf_uniform=self.algorithm.lcf == "uniform",
            geometry=self.options.geometry,
            start_seed=self.options.start_seed,
            hidden_size=config.ppo.hidden_size,
        )
        self.actor = make_actor(self.info, self.generator, config.ppo.log_std_init).to(self.device)
        normalize = config.ppo.normalize_observations
        self.normalizer = Normalizer(obs_size + self.algorithm.uses_lcf) if normalize else None
        self.collector = Collector(
            self.scenes, self.algorithm, config, self.rng, self.generator, normalizer=self.normalizer
        )
        seen, heads = self.collector.critic_obs_size, self.algorithm.value_heads
        self.critic = ValueCritic(seen, heads, self.generator, config.ppo.hidden_size).to(self.device)
        self.lcf = LCFDistribution(config.lcf.lcf_initial_mean, config.lcf.lcf_initial_std)
        self.lcf.to(self.device)
        self.actor_optimizer = torch.optim.Adam(self.actor.parameters(), fused=True)
        self.critic_optimizers = [torch.optim.Adam(head.parameters(), fused=True) for head in self.critic.heads]
        self.lcf_optimizer = torch.optim.Adam(self.lcf.parameters(), lr=config.lcf.lcf_learning_rate)
        self.kl_coef = config.ppo.kl_coef
        self.record = Record()
        self.clock = Clock()
        """Of the iteration in progress, or the last one."""
        self.samples: Samples | None = None
        """Of the last iteration."""
        self.old_actor: GaussianActor | None = None
        """The policy that acted in it."""
        self.num_agents = self.options.num_agents
        self.iteration = 0
        self.env_steps = 0
        self.vehicle_steps = 0
        self.seconds = 0.0
        self.checkpoint: Path | None = None
        """The last one that was written or gone on from."""
        self._set_learning_rates()
        self._remember_draws()

    def start_from(self, policy: Policy) -> None:
        """Take the weights of what `initial_policy` has let pass, and its distribution of phi if it has one."""
        self.actor.load_state_dict(policy.actor.state_dict())
        if self.algorithm.learns_lcf and policy.lcf_std > 0:
            mean = float(np.clip(policy.lcf_mean, -0.999, 0.999))
            std = float(np.clip(policy.lcf_std, *np.exp(LOG_STD_RANGE)))  # beyond it nothing could be learned
            self.lcf.load_state_dict(LCFDistribution(mean, std).state_dict())

    def begin(self) -> None:
        """Begin fresh episodes; which ones is determined by the seed and the iteration."""
        seeds = np.random.SeedSequence([self.config.seed, self.iteration, 1]).generate_state(self.scenes.num_envs)
        self.num_agents = self._vehicles()
        rows = self.scenes.num_envs
        cuts = [env * self.config.horizon // rows for env in range(rows)] if self.config.stagger_episodes else None
        self.collector.begin([int(seed) for seed in seeds], *self._lcf_values(), self.num_agents, cuts)

    def train_iteration(self, after_step: Callable[[], None] = lambda: None) -> dict[str, Any]:
        """Collect, estimate advantages, update the policy, take the meta-step, and report.

        Raises:
            UserError: learning has diverged.
        """
        self.clock = clock = Clock()
        self._grow()
        self._set_learning_rates()
        rollout = self._collect(after_step)
        samples = make_samples(rollout, self.critic, self.algorithm, self.config.ppo, self.device)
        self.samples, self.old_actor = samples, copy.deepcopy(self.actor)
        update = ppo_update(
            self.actor,
            self.critic,
            self.actor_optimizer,
            self.critic_optimizers,
            samples,
            self.config.ppo,
            self.kl_coef,
            self.rng,
            self.config.precision,
        )
        self.kl_coef = adapt_kl_coef(self.kl_coef, update.kl, self.config.ppo.kl_target)
        clock.lap("learn")
        meta = None
        if self.algorithm.learns_lcf:
            meta = lcf_update(
                self.lcf,
                self.lcf_optimizer,
                self.actor,
                self.old_actor,
                samples,
                self.config.lcf,
                self.config.ppo.clip_coef,
                self.rng,
            )
            clock.lap("meta")
        if self.normalizer is not None:
            self.normalizer.update(rollout.obs[rollout.acted])
        self._count(rollout, clock.total)
        self._remember_draws()
        row = self._row(rollout, samples, update, meta, clock)
        self._refuse_divergence(row)
        return row

    def save(self, folder: Path) -> Path:
        """Write a checkpoint of the last finished iteration.

        A rollout that was interrupted has drawn from the generators. What it drew is taken back, so that a resumed run
        does not depend on the moment of the interruption.
        """
        self.rng.bit_generator.state, generator_state = self._draws
        self.generator.set_state(generator_state)
        state = {
            "iteration": self.iteration,
            "env_steps": self.env_steps,
            "vehicle_steps": self.vehicle_steps,
            "seconds": self.seconds,
            "kl_coef": self.kl_coef,
            "rng": self.rng.bit_generator.state,
            "record": self.record.state(),
        }
        if self.normalizer is not None:
            state["normalizer"] = self.normalizer.state()
        keep = self.config.keep_checkpoints
        self.checkpoint = save_checkpoint(folder, self.env_steps, self.policy(), self._parts(), state, keep)
        return self.checkpoint

    def restore(self, checkpoint: Path) -> None:
        """Go on from a checkpoint: the learner bit for bit, episodes begun afresh."""
        path = checkpoint / "policy.safetensors"
        try:
            load_into(self.actor, load_tensors(path), path)
            state = load_learner(checkpoint, self._parts())
            try:
                self._restore_state(state)
            except (KeyError, TypeError, ValueError, OverflowError) as error:  # it can hold anything
                raise CheckpointError(f"learner.json is damaged ({error!r})") from error
        except CheckpointError as error:
            raise CheckpointError(
                f"cannot go on from {checkpoint}: {error}. Delete that folder to go on from the checkpoint before it"
            ) from error
        self.checkpoint = checkpoint

    def _restore_state(self, state: dict[str, Any]) -> None:
        self.iteration, self.env_steps, self.vehicle_steps = counts(state, "iteration", "env_steps", "vehicle_steps")
        self.seconds, self.kl_coef = float(state["seconds"]), float(state["kl_coef"])
        if not (0 <= self.seconds < math.inf and 0 <= self.kl_coef < math.inf):
            raise ValueError(f"seconds={self.seconds} and kl_coef={self.kl_coef} are not both finite and 0 or more")
        self.rng.bit_generator.state = state["rng"]
        self.record.restore(state["record"])
        if self.normalizer is not None:
            self.normalizer.restore(state["normalizer"])
        self._remember_draws()

    def policy(self) -> Policy:
        """The policy as it is now, for plain observations."""
        mean, std = self._lcf_values() if self.algorithm.uses_lcf else (0.0, 0.0)
        actor = self.actor if self.normalizer is None else self.normalizer.fold(self.actor)
        return Policy(actor, replace(self.info, lcf_mean=mean, lcf_std=std, env_steps=self.env_steps))

    def close(self) -> None:
        """End the workers."""
        self.scenes.close()

    def _remember_draws(self) -> None:
        self._draws = (self.rng.bit_generator.state, self.generator.get_state())

    def _vehicles(self) -> int:
        """How many the next episodes begin with."""
        full = self.options.num_agents
        if not self.algorithm.curriculum:
            return full
        return vehicles_at(self.env_steps, self.config.total_steps, full)

    def _grow(self) -> None:
        if self._vehicles() != self.num_agents:
            self.num_agents = self._vehicles()
            self.scenes.set_num_agents(self.num_agents)

    def _set_learning_rates(self) -> None:
        ppo = self.config.ppo
        left = 1 - self.env_steps / self.config.total_steps if ppo.anneal_lr else 1.0
        rates = [ppo.learning_rate] + [ppo.critics_learning_rate] * len(self.critic_optimizers)
        for optimizer, rate in zip([self.actor_optimizer, *self.critic_optimizers], rates, strict=True):
            for group in optimizer.param_groups:
                group["lr"] = left * rate

    def _collect(self, after_step: Callable[[], None]) -> Rollout:
        num_steps = self.config.iteration_steps // self.scenes.num_envs
        actor = self.actor if self.device.type == "cpu" else copy.deepcopy(self.actor).cpu()
        return self.collector.collect(actor, num_steps, *self._lcf_values(), after_step, self.clock)

    def _lcf_values(self) -> tuple[float, float]:
        """Mean and standard deviation of phi at birth."""
        if self.algorithm.lcf == "fixed":
            given = self.algorithm.fixed_lcf
            return self.config.lcf.fixed_lcf if given is None else given, 0.0
        if self.algorithm.lcf == "uniform":
            return 0.0, 1 / math.sqrt(3)
        with torch.no_grad():
            return float(self.lcf.mean()), float(self.lcf.std())

    def _parts(self) -> LearnerParts:
        modules: dict[str, torch.nn.Module] = {"critic": self.critic, "lcf": self.lcf}
        if self.normalizer is not None:  # the policy that is saved beside them has it folded in
            modules["actor"] = self.actor
        return LearnerParts(
            modules=modules,
            optimizers={
                "actor_optimizer": self.actor_optimizer,
                **{f"critic_optimizer_{head}": adam for head, adam in enumerate(self.critic_optimizers)},
                "lcf_optimizer": self.lcf_optimizer,
            },
            generator=self.generator,
        )

    def _count(self, rollout: Rollout, seconds: float) -> None:
        self.iteration += 1
        self.env_steps += rollout.acted.shape[0] * rollout.acted.shape[1]
        self.vehicle_steps += int(rollout.acted.sum())
        self.seconds += seconds
        self.record.add(rollout.lives)

    def _refuse_divergence(self, row: dict[str, Any]) -> None:
        """Before anything is written. The losses are those before each gradient step, so that of the last one can be
        seen in the parameters alone."""
        found = [f"{name} is {row[name]}" for name in LOSSES if not math.isfinite(row[name])]
        for name, module in (("actor", self.actor), ("critic", self.critic), ("lcf", self.lcf)):
            if not all(bool(parameter.isfinite().all()) for parameter in module.parameters()):
                found.append(f"a parameter of {name} is not finite")
        if found:
            kept = "no checkpoint was written" if self.checkpoint is None else f"{self.checkpoint} is from before"
            raise UserError(
                f"{found[0]} after {self.env_steps} env steps: learning has diverged; {kept}; "
                "try a smaller --learning-rate"
            )

    def _row(
        self, rollout: Rollout, samples: Samples, update: UpdateStats, meta: LCFStats | None, clock: Clock
    ) -> dict[str, Any]:
        lives, acted = rollout.lives, rollout.acted
        mean, std = self._lcf_values()
        row: dict[str, Any] = {
            "iteration": self.iteration,
            "env_steps": self.env_steps,
            "vehicle_steps": self.vehicle_steps,
            "wall_s": self.seconds,
            "success_rate": self.record.rate(Outcome.SUCCESS),
            "crash_rate": self.record.rate(Outcome.CRASH),
            "out_rate": self.record.rate(Outcome.OUT_OF_ROAD),
            "max_step_rate": self.record.rate(Outcome.MAX_STEP),
            "success_rate_100ep": self.record.episode_success_rate(),
            "lives": self.record.total_lives,
            "episodes": self.record.total_episodes,
            "ended": len(lives.outcome),
            "successes": int((lives.outcome == Outcome.SUCCESS).sum()),
            "life_steps_mean": _mean(lives.steps),
            "life_reward_mean": _mean(lives.reward),
            "route_completion_mean": _mean(lives.route_completion),
            "reward_mean": _mean(rollout.reward[acted][:, OWN]),
            "neighbourhood_reward_mean": _mean(rollout.reward[acted][:, NEIGHBOURHOOD]),
            "global_reward_mean": _mean(rollout.reward[acted][:, GLOBAL]),
            "vehicles_mean": float(acted.sum(axis=2).mean()),
            "policy_loss": update.policy_loss,
            "value_loss": update.value_loss,
            "explained_variance": explained_variance(samples.value[:, OWN], samples.returns[:, OWN]),
            "kl": update.kl,
            "kl_coef": self.kl_coef,
            "entropy": update.entropy,
            "clip_fraction": update.clip_fraction,
            "grad_norm_max": update.grad_norm_max,
            "action_std_mean": float(torch.exp(samples.log_std).mean()),
        }
        if meta is not None:
            row |= {
                "lcf_mean_deg": mean * 90,
                "lcf_std_deg": std * 90,
                "lcf_objective": meta.objective,
                "lcf_gradient": meta.gradient_mean,
            }
        seconds = {f"{name}_s": value for name, value in clock.wall.items()}
        return {**row, **seconds, "steps_per_s": self.config.iteration_steps / clock.total}


@contextmanager
def learning_threads() -> Iterator[None]:
    """`LEARNING_THREADS` threads of torch, and the caller's number of them afterwards."""
    before = torch.get_num_threads()
    torch.set_num_threads(LEARNING_THREADS)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def train(config: TrainConfig, measure: Callable[[Trainer], dict[str, Any]] = lambda trainer: {}) -> Path:
    """Run a training to its end and return the run folder.

    Args:
        config: every setting.
        measure: called after every iteration; what it returns are further columns of metrics.csv.

    Raises:
        UserError: settings, folder or checkpoint that cannot be used.
        Interrupted: SIGINT or SIGTERM; a checkpoint has been written.
    """
    check(config)
    folder = config.folder()
    device_of(config.device)
    if config.wandb is not None:
        require_wandb()
    initial = initial_policy(config)
    prepare(config, folder)
    for setting in without_effect(config):
        print(f"{setting} changes nothing: {config.algorithm} does not use it")
    with alone_in(folder), learning_threads():
        checkpoint = prepare(config, folder)  # again: who held the folder may have let go of it since, and left a run
        trainer = _train(config, folder, checkpoint or initial, measure)
    _draw_curve(trainer, folder)
    print(f"done: {folder} holds metrics.csv, checkpoints and {CURVE}")
    quoted = shlex.quote(str(folder))
    print(f"next: copo evaluate {quoted}  |  copo watch {quoted}  |  tensorboard --logdir {quoted}")
    return folder


def initial_policy(config: TrainConfig) -> Policy | None:
    """What `init_from` names; None where it names nothing, or where the run has begun.

    Raises:
        CheckpointError: there is no policy, or it is damaged.
        UserError: it sees other observations than this training's, or its networks have another size.
    """
    if config.init_from is None or config.resume:
        return None
    scene, _, name = config.init_from.partition("/")
    if scene in SCENES and "/" not in name and not Path(config.init_from).exists():
        policy = shipped_policy(scene, name)
    else:
        policy = load_policy(config.init_from)
    info, algorithm, spec = policy.info, get_algorithm(config.algorithm), get_scene(config.scene)
    says = f"cannot begin with {config.init_from}: it is {info.algorithm} for {info.scene}"
    if info.obs_version != OBS_VERSIONS[0]:
        raise UserError(f"{says} with the observations of MetaDrive {info.obs_version}; choose one trained here")
    if info.obs_size != spec.obs_size:
        same = [scene.name for scene in SCENES.values() if scene.obs_size == info.obs_size]
        raise UserError(
            f"{says}, which sees {info.obs_size} numbers, and {spec.name} shows {spec.obs_size}; it fits "
            f"{', '.join(same)}"
        )
    if info.uses_lcf != algorithm.uses_lcf:
        has, needs = ("a", "none") if info.uses_lcf else ("no", "one")
        raise UserError(f"{says} and has {has} coordination factor, and {algorithm.name} takes {needs}; choose another")
    if info.hidden_size != config.ppo.hidden_size:
        raise UserError(
            f"{says} with hidden layers of {info.hidden_size} units, not {config.ppo.hidden_size}; add "
            f"--hidden-size {info.hidden_size}"
        )
    return policy


def _train(
    config: TrainConfig, folder: Path, start: Path | Policy | None, measure: Callable[[Trainer], dict[str, Any]]
) -> Trainer:
    trainer = Trainer(config)
    checkpoint = start if isinstance(start, Path) else None
    try:
        if isinstance(start, Policy):
            trainer.start_from(start)
        elif start is not None:
            trainer.restore(start)
        if _nothing_to_do(config, folder, trainer.env_steps):
            steps = trainer.env_steps
            print(f"nothing to do: {folder} has {steps} env steps already; give more --total-steps to go on")
        else:
            write_settings(config, folder, trainer.env_steps)
            wandb = None if config.wandb is None else WandbLog(config, folder, resumed=checkpoint is not None)
            log = MetricsLog(folder, trainer.env_steps if checkpoint else None, wandb, config.as_dict())
            try:
                with Signals() as signals, TrainingProgress(config, trainer.env_steps) as progress:
                    _loop(trainer, folder, log, signals, progress, measure)
            finally:
                log.close()
    finally:
        trainer.close()
    return trainer


def _draw_curve(trainer: Trainer, folder: Path) -> None:
    config = trainer.config
    title = f"{trainer.algorithm.title} on {config.scene}, seed {config.seed}"
    try:
        plot_learning_curve(folder / METRICS, folder / CURVE, title)
    except (OSError, ValueError) as error:
        print(f"no picture of the learning curve: {error}")


def _nothing_to_do(config: TrainConfig, folder: Path, env_steps: int) -> bool:
    """Whether a run with so many env steps is finished, its last evaluation included."""
    if env_steps < config.total_steps:
        return False
    _, evaluated = read_table(folder / EVALUATIONS)
    return not evaluation_due(config, env_steps) or env_steps in {int(row["env_steps"]) for row in evaluated}


def _loop(
    trainer: Trainer,
    folder: Path,
    log: MetricsLog,
    signals: Signals,
    progress: TrainingProgress,
    measure: Callable[[Trainer], dict[str, Any]],
) -> None:
    config = trainer.config
    evaluations = Evaluations(config, folder, log, progress)
    progress.starting()
    saved_at = trainer.env_steps

    def stop_if_asked() -> None:
        if signals.raised:
            raise Interrupted

    def after_step() -> None:
        progress.step(trainer.scenes.num_envs)
        stop_if_asked()

    try:
        if evaluations.due(trainer.env_steps):  # resumed, and a signal had stopped it
            evaluations.run(trainer.save(folder), stop_if_asked)
        if trainer.env_steps < config.total_steps:
            trainer.begin()
        while trainer.env_steps < config.total_steps:
            row = trainer.train_iteration(after_step)
            row |= measure(trainer)
            log.write(row)
            progress.iteration(row)
            due = evaluations.due(trainer.env_steps)
            last = trainer.env_steps >= config.total_steps
            if due or last or trainer.env_steps - saved_at >= config.checkpoint_every:
                kept = trainer.save(folder)
                saved_at = trainer.env_steps
                if due and not signals.raised:
                    evaluations.run(kept, stop_if_asked)
            stop_if_asked()
    except WorkerError:
        if trainer.env_steps > 0:
            trainer.save(folder)
        raise
    except Interrupted:
        if trainer.env_steps == 0:
            raise Interrupted("stopped in the first iteration, with nothing learned yet: begin again") from None
        kept = trainer.save(folder)
        raise Interrupted(f"stopped; {kept} is kept, and the same command with --resume goes on from it") from None


def device_of(name: str) -> torch.device:
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise UserError(f"unknown device {name!r}; use cpu, cuda or cuda:<k>") from error
    if device.type not in ("cpu", "cuda"):
        raise UserError(f"device {name!r} is not supported; use cpu, cuda or cuda:<k>")
    if device.type == "cuda" and not torch.cuda.is_available():
        raise UserError(f"device {name!r} asks for a GPU and torch sees none here; use --device cpu")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise UserError(f"device {name!r} does not exist; torch sees {torch.cuda.device_count()} GPUs, counted from 0")
    return device


def _mean(values: np.ndarray) -> float:
    return float(values.mean()) if len(values) else math.nan
