"""Every setting of a training run: one sentence per field, from which the command line's help and config.json come."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Annotated, Any, Literal, cast, get_args, get_origin, get_type_hints

import numpy as np
import tyro

from copo_algos.algorithms import GLOBAL, get_algorithm
from copo_algos.errors import UserError
from copo_algos.machine import Precision
from copo_algos.option_help import with_help
from copo_algos.rewards import NeighbourRule
from copo_envs.scenes import MOST, SceneOptions, is_whole, scene_options

PARTS = ("ppo", "lcf", "critic")
MOST_HIDDEN = 8192
"""Units of a hidden layer: more are no policy under a gigabyte."""
LOG_STD_RANGE = (-20.0, 2.0)
"""Log standard deviations are kept in it: those of an actor, and that of phi."""
FIRST_MAP, MAPS_APART = 5000, 1000
"""The map of pg_map is the first one + seed * what lies between two."""
MAX_SEED = (MOST["start_seed"] - FIRST_MAP) // MAPS_APART
Estimator = Literal["per_sample", "split", "released"]
PresetName = Literal["default", "fast", "paper", "paper_torch"]


@with_help
@dataclass(frozen=True)
class PPOConfig:
    """The policy update that all algorithms share. Names as in CleanRL."""

    learning_rate: float = 3e-4
    """Step size of Adam, for the policy."""
    value_learning_rate: float | None = None
    """Step size of Adam for the critics. Default: learning_rate."""
    gamma: float = 0.99
    """Discount of the own and the neighbourhood reward."""
    global_gamma: float = 1.0
    """Discount of the global reward (CoPO)."""
    gae_lambda: float = 0.95
    """Lambda of the generalised advantage estimate."""
    update_epochs: int = 5
    """Passes over the samples of an iteration."""
    minibatch_size: int = 512
    """Vehicle samples per gradient step."""
    clip_coef: float = 0.2
    """The probability ratio is clipped to 1 -+ this."""
    value_clip: float = 100.0
    """The new value is clipped to the old one -+ this."""
    value_coef: float = 1.0
    """Weight of each value loss."""
    entropy_coef: float = 0.0
    """Weight of the entropy bonus."""
    kl_coef: float = 0.2
    """Weight of KL(old || new) at the start; it adapts."""
    kl_target: float = 0.01
    """KL that the weight aims at: x1.5 above twice the target, x0.5 below half of it."""
    hidden_size: int = 256
    """Units of each of the two hidden layers, of the policy and of the critics."""
    log_std_init: float = 0.0
    """Log standard deviation of the actions at the start; it is learned, and depends on the observation."""
    normalize_observations: bool = False
    """Whether the networks see observations centred and scaled by their mean and standard deviation so far."""
    max_grad_norm: float | None = 10.0
    """The policy's gradient is scaled down to this norm, which it passes seldom; None: it is not."""
    anneal_lr: bool = False
    """Whether the step sizes fall to 0 over the training, in a straight line."""
    fragment_steps: int = 0
    """Advantages are bootstrapped at every so many steps of a rollout; 0: only at its end."""

    @property
    def critics_learning_rate(self) -> float:
        """`value_learning_rate`, or what stands for it."""
        return self.learning_rate if self.value_learning_rate is None else self.value_learning_rate


@with_help
@dataclass(frozen=True)
class LCFConfig:
    """The meta-step that learns the distribution of the local coordination factor (CoPO, paper section 3.3)."""

    lcf_estimator: Estimator = "per_sample"
    """per_sample: mean of products, as the chain rule asks for. split: the same, of gradients from different samples.
    released: product of means, as in the authors' code."""
    lcf_learning_rate: float = 4e-4
    """Step size of Adam for the mean and the standard deviation."""
    lcf_passes: int = 5
    """Passes over the samples of an iteration."""
    lcf_minibatch_size: int = 0
    """Samples per meta-step; 0: all of them."""
    lcf_initial_mean: float = 0.0
    """Mean at the start, in [-0.999, 0.999]; the angle is this times 90 degrees."""
    lcf_initial_std: float = 0.1
    """Standard deviation at the start."""
    fixed_lcf: float = 0.0
    """The factor of every vehicle (copo_fixed_lcf), in [-1, 1]: 0 selfish, 1 for the neighbours alone."""


@with_help
@dataclass(frozen=True)
class CriticConfig:
    """What the critics see of the neighbours (ccppo_mean_field, ccppo_concat, copo_mean_field)."""

    mean_field_distance: float = 10.0
    """Vehicles closer than this many metres are in the mean that a mean-field critic sees."""
    num_neighbours: int = 4
    """How many of the nearest vehicles a concat critic sees."""
    counterfactual: bool = True
    """Whether those critics see the neighbours' actions too; --no-counterfactual: their observations alone."""


@with_help
@dataclass(frozen=True)
class TrainConfig:
    """Train a population of vehicles on a scene.

    Writes a run folder: config.json, metrics.csv, TensorBoard events, checkpoints, and learning_curve.png at the end.
    --evaluate-every adds evaluations.csv and checkpoints/best.
    Ctrl-C leaves a checkpoint; the same command with --resume goes on from there.
    """

    algorithm: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="ALGORITHM")]
    """ippo, ccppo_mean_field, ccppo_concat, curriculum, copo; ablations: copo_fixed_lcf, copo_uniform_lcf, cooperative,
    local_mean, copo_coordinated_reward, copo_mean_field."""
    scene: str = "intersection"
    """roundabout, intersection, tollgate, bottleneck, parking_lot, pg_map, or particles (no simulator)."""
    seed: int = 0
    """Of everything random in the run. The map of pg_map is 5000 + 1000 * seed."""
    total_steps: int = 1_000_000
    """Env steps to train for; one moves all vehicles of one environment by 0.1 s. Whole iterations; where it is less
    than one, one short iteration."""
    preset: PresetName = "default"
    """default: this package's choice, of the longest trainings. fast: soonest at a given success rate. paper: the
    values behind the published table. paper_torch: their port's."""
    init_from: str | None = None
    """Begin with a trained policy, its weights and its distribution of phi, instead of an untrained one; the critics
    begin anew. A run folder, a checkpoint, or <scene>/<algorithm> of a policy that comes with the package."""
    run_dir: Path | None = None
    """Where to write. Default: runs/<scene>/<algorithm>/seed<seed>."""
    resume: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Go on from the last checkpoint in the run folder."""
    num_envs: int = 2
    """Worker processes, one environment each; 0: one environment in this process, for a debugger."""
    steps_per_iteration: int = 800
    """Env steps between updates, over all environments."""
    stagger_episodes: bool = False
    """Whether episodes begin at different times in the environments: after a start or --resume the first one of
    environment k = 1, ..., E - 1 is cut after k / E of the horizon, that of environment 0 is not."""
    num_agents: int | None = None
    """Vehicles in the scene. Default: the scene's own number."""
    rule_based: int = 0
    """Vehicles besides them that a rule drives: the rest of the traffic."""
    horizon: int = 1000
    """Steps after which a life is truncated and respawning stops."""
    geometry: Literal["published", "metadrive"] = "published"
    """Roads as in MetaDrive 0.2.5, on which the published numbers were made, or as in 0.4.3."""
    step_backend: Literal["fast", "stock"] = "fast"
    """MetaDrive's step for all vehicles at once, or MetaDrive's own: the same numbers in less or more time."""
    neighbours_distance: float = 40.0
    """Vehicles closer than this many metres count for the neighbourhood reward."""
    neighbour_rule: NeighbourRule = "ours"
    """Who counts there. ours: all who acted. torch: newborns too. tf: newborns, and nobody who ended in the step."""
    checkpoint_every: int = 20_000
    """Env steps between checkpoints."""
    keep_checkpoints: int = 3
    """How many of the last ones are kept, besides the best of --evaluate-every; 0: all."""
    evaluate_every: int = 0
    """Env steps between evaluations, by which the best checkpoint is kept as well; 0: none."""
    evaluate_episodes: int = 5
    """Episodes of such an evaluation, by the protocol of copo evaluate."""
    wandb: str | None = None
    """Project of Weights & Biases to log to as well; needs the extra wandb."""
    device: str = "cpu"
    """Where the networks learn: cpu, cuda or cuda:<k>, which are refused where torch sees no such GPU. Acting is always
    on the CPU. Learning on a GPU is tried by no test."""
    precision: Precision = "float32"
    """Of the matrix products of the critics' hidden layers in gradient steps; all else is float32. bfloat16: faster on
    a CPU with Intel's AMX or AMD's avx512_bf16."""
    ppo: Annotated[PPOConfig, tyro.conf.arg(name="")] = field(default_factory=PPOConfig)
    lcf: Annotated[LCFConfig, tyro.conf.arg(name="")] = field(default_factory=LCFConfig)
    critic: Annotated[CriticConfig, tyro.conf.arg(name="")] = field(default_factory=CriticConfig)

    def __post_init__(self) -> None:
        if isinstance(self.run_dir, str):
            object.__setattr__(self, "run_dir", Path(self.run_dir))

    @property
    def start_seed(self) -> int:
        """The map of pg_map: each run seed has its own, as in the published protocol."""
        return FIRST_MAP + MAPS_APART * self.seed

    def scene_options(self) -> SceneOptions:
        """The scene to train on.

        Raises:
            SceneError: an unknown scene, or a value that it cannot take.
        """
        return scene_options(
            self.scene,
            num_agents=self.num_agents,
            rule_based=self.rule_based,
            horizon=self.horizon,
            start_seed=self.start_seed,
            geometry=self.geometry,
            step_backend=self.step_backend,
        )

    @property
    def iteration_steps(self) -> int:
        """Env steps between updates: `steps_per_iteration`, or as few as the whole training has."""
        rows = max(1, self.num_envs)
        return min(self.steps_per_iteration, -(-self.total_steps // rows) * rows)

    def folder(self) -> Path:
        """The run folder."""
        return self.run_dir or Path("runs") / self.scene / self.algorithm / f"seed{self.seed}"

    def as_dict(self) -> dict[str, Any]:
        """Flat name -> value, for config.json."""
        nested = asdict(self)
        flat = {name: value for name, value in nested.items() if name not in (*PARTS, "run_dir", "resume")}
        return {**flat, **nested["ppo"], **nested["lcf"], **nested["critic"]}


PRESETS: dict[str, dict[str, Any]] = {
    # The values behind the published table (TensorFlow code); its departures that we do not follow are in the docs.
    "paper": {
        "num_envs": 4,
        "steps_per_iteration": 1600,
        "neighbour_rule": "tf",
        "clip_coef": 0.3,
        "value_clip": 10.0,
        "max_grad_norm": None,
        "fragment_steps": 200,
        "lcf_estimator": "released",
        "lcf_learning_rate": 1e-4,
        "lcf_minibatch_size": 512,
    },
    # The authors' later torch code.
    "paper_torch": {
        "num_envs": 4,
        "steps_per_iteration": 2000,
        "neighbour_rule": "torch",
        "max_grad_norm": None,
        "lcf_estimator": "released",
        "lcf_learning_rate": 1e-4,
        "lcf_minibatch_size": 512,
    },
    # This package's choice: the clipping of the torch code, an update every 800 env steps, no cuts inside a rollout,
    # and the per-sample meta-gradient with a few full-batch steps. What speaks for each is in docs/algorithms.
    "default": {},
    # The soonest at a given success rate, found on seeds 100 and above: docs/algorithms/ppo.md, "Soonest".
    "fast": {
        "num_envs": 8,
        "stagger_episodes": True,
        "steps_per_iteration": 400,
        "update_epochs": 3,
        "normalize_observations": True,
        "lcf_learning_rate": 2e-4,
    },
}


def preset(name: str, algorithm: str = "copo") -> TrainConfig:
    """A configuration with the values of the named preset.

    Raises:
        UserError: no such preset.
    """
    if name not in PRESETS:
        raise UserError(f"unknown preset {name!r}; choose one of {', '.join(PRESETS)}")
    return with_values(TrainConfig(algorithm=algorithm, preset=cast(PresetName, name)), PRESETS[name])


def with_values(config: TrainConfig, values: dict[str, Any]) -> TrainConfig:
    """`config` with some fields replaced, by their flat names.

    Raises:
        UserError: a name that no field has.
    """
    for part in PARTS:
        section = getattr(config, part)
        names = {item.name for item in fields(section)}
        config = replace(config, **{part: replace(section, **{k: v for k, v in values.items() if k in names})})
        values = {name: value for name, value in values.items() if name not in names}
    known = {item.name for item in fields(config)}
    for name in values:
        if name not in known:
            raise UserError(f"unknown setting {name!r}; known are {', '.join(sorted(known - {*PARTS}))}")
    return replace(config, **values)


MAY_BE_INFINITE = ("neighbours_distance", "mean_field_distance", "clip_coef", "value_clip")
"""Settings where infinity means everybody, or no clipping."""


def check(config: TrainConfig) -> None:
    """Refuse settings that are unknown, impossible or contradict each other.

    Raises:
        UserError: with the numbers in the sentence.
        SceneError: an unknown scene, or more vehicles than it holds.
    """
    algorithm = get_algorithm(config.algorithm)
    ppo, lcf, critic = config.ppo, config.lcf, config.critic
    _check_choices(config)
    rows = max(1, config.num_envs)
    if config.num_envs < 0:
        raise UserError(f"num_envs={config.num_envs}; use 1 or more worker processes, or 0 for none")
    if config.steps_per_iteration % rows or config.steps_per_iteration < rows:
        raise UserError(
            f"steps_per_iteration={config.steps_per_iteration} does not split over {rows} environments; "
            f"use a multiple of {rows}"
        )
    if config.precision == "bfloat16" and config.device != "cpu":
        raise UserError(f"precision=bfloat16 is for the CPU, and device={config.device}; use float32")
    if config.wandb is not None and not config.wandb.strip():
        raise UserError(f"wandb={config.wandb!r} is no name of a project; give one, or leave out --wandb")
    if not 1 <= ppo.hidden_size <= MOST_HIDDEN:
        raise UserError(f"hidden_size={ppo.hidden_size} is not in [1, {MOST_HIDDEN}]")
    if config.init_from is not None and ppo.normalize_observations:
        raise UserError(
            f"init_from={config.init_from} with normalize_observations: a policy that was trained takes observations "
            "as they are; use --no-normalize-observations"
        )
    if config.total_steps < 1:
        raise UserError(f"total_steps={config.total_steps}; use 1 or more")
    for name, value, low, high in (
        ("gamma", ppo.gamma, 0, 1),
        ("global_gamma", ppo.global_gamma, 0, 1),
        ("gae_lambda", ppo.gae_lambda, 0, 1),
        ("lcf_initial_mean", lcf.lcf_initial_mean, -0.999, 0.999),
        ("fixed_lcf", lcf.fixed_lcf, -1, 1),
        ("lcf_learning_rate", lcf.lcf_learning_rate, 0, 1000),  # a step of Adam is about as long
        ("log_std_init", ppo.log_std_init, *LOG_STD_RANGE),
    ):
        if not low <= value <= high:
            raise UserError(f"{name}={value} is not in [{low}, {high}]")
    low, high = LOG_STD_RANGE
    if not math.exp(low) <= lcf.lcf_initial_std <= math.exp(high):
        raise UserError(
            f"lcf_initial_std={lcf.lcf_initial_std} is not between exp({low:g}) and exp({high:g}), about 7.389, within "
            "which it is kept"
        )
    for name, number in (
        ("seed", config.seed),
        ("rule_based", config.rule_based),
        ("evaluate_every", config.evaluate_every),
        ("keep_checkpoints", config.keep_checkpoints),
        ("fragment_steps", ppo.fragment_steps),
        ("lcf_minibatch_size", lcf.lcf_minibatch_size),
        ("lcf_passes", lcf.lcf_passes),
        ("entropy_coef", ppo.entropy_coef),
        ("kl_coef", ppo.kl_coef),
        ("value_coef", ppo.value_coef),
    ):
        if not number >= 0:  # NaN is refused too
            raise UserError(f"{name}={number} is negative; use 0 or more")
    for name, number in (
        ("learning_rate", ppo.learning_rate),
        ("value_learning_rate", ppo.critics_learning_rate),
        ("max_grad_norm", 1 if ppo.max_grad_norm is None else ppo.max_grad_norm),
        ("clip_coef", ppo.clip_coef),
        ("value_clip", ppo.value_clip),
        ("kl_target", ppo.kl_target),
        ("update_epochs", ppo.update_epochs),
        ("minibatch_size", ppo.minibatch_size),
        ("lcf_learning_rate", lcf.lcf_learning_rate),
        ("neighbours_distance", config.neighbours_distance),
        ("checkpoint_every", config.checkpoint_every),
        ("evaluate_episodes", config.evaluate_episodes),
        ("mean_field_distance", critic.mean_field_distance),
        ("num_neighbours", critic.num_neighbours),
    ):
        if not number > 0:
            raise UserError(f"{name}={number}; use a number above 0")
    for section in (config, ppo, lcf, critic):
        for name, number in vars(section).items():
            if isinstance(number, float) and math.isinf(number) and name not in MAY_BE_INFINITE:
                raise UserError(f"{name}={number}; use a finite number")
    _check_seed(config)
    vehicles = config.scene_options().num_agents
    if algorithm.critic_input != "ego" and vehicles == 1:
        raise UserError(f"the critic of {algorithm.name} looks at neighbours, and num_agents=1 has none; use 2 or more")
    if algorithm.critic_input == "concat" and critic.num_neighbours >= vehicles:
        raise UserError(
            f"num_neighbours={critic.num_neighbours}, but each of the {vehicles} vehicles has {vehicles - 1} others "
            f"that its critic can see; use {vehicles - 1} or less"
        )
    most = config.steps_per_iteration * vehicles
    for name, size in (
        ("minibatch_size", ppo.minibatch_size),
        ("lcf_minibatch_size", lcf.lcf_minibatch_size if algorithm.learns_lcf else 0),
    ):
        if size > most:
            raise UserError(
                f"{name}={size} is more than an iteration holds: {config.steps_per_iteration} env steps with "
                f"{vehicles} vehicles are {most} samples at most; use {most} or less, or more steps_per_iteration"
            )


def without_effect(config: TrainConfig) -> list[str]:
    """Settings that were changed from the preset's values and that the algorithm does not use, as name=value."""
    algorithm = get_algorithm(config.algorithm)
    used = {
        **dict.fromkeys((item.name for item in fields(LCFConfig)), algorithm.learns_lcf),
        "neighbours_distance": algorithm.neighbours_distance is None,
        "fixed_lcf": algorithm.lcf == "fixed" and algorithm.fixed_lcf is None,
        "global_gamma": algorithm.value_heads > GLOBAL,
        "mean_field_distance": algorithm.critic_input == "mean_field",
        "num_neighbours": algorithm.critic_input == "concat",
        "counterfactual": algorithm.critic_input != "ego",
    }
    usual, chosen = preset(config.preset, config.algorithm).as_dict(), config.as_dict()
    return [f"{name}={chosen[name]}" for name, is_used in used.items() if not is_used and chosen[name] != usual[name]]


def _check_choices(config: TrainConfig) -> None:
    """Refuse what is none of a setting's choices or of another type, and a preset in name only; the command line allows
    none of them."""
    for section in (config, config.ppo, config.lcf, config.critic):
        for name, kind in get_type_hints(type(section)).items():
            value = getattr(section, name)
            if get_origin(kind) is Literal and value not in get_args(kind):
                raise UserError(f"{name}={value!r}; use one of {', '.join(get_args(kind))}")
            if value is None and type(None) in get_args(kind):
                continue
            if bool in (kind, *get_args(kind)):
                fits, wanted = isinstance(value, bool), "True or False"
            elif int in (kind, *get_args(kind)):
                fits, wanted = is_whole(value), "a whole number"
            elif float in (kind, *get_args(kind)):
                fits, wanted = isinstance(value, (float, np.floating)) or is_whole(value), "a number"
            else:
                continue
            if not fits:
                raise UserError(f"{name}={value!r} is not {wanted}; use {wanted}")
    values, chosen = PRESETS[config.preset], config.as_dict()
    if values and all(chosen[name] != value for name, value in values.items()):
        raise UserError(
            f"preset={config.preset!r}, but none of its values is set; "
            f"begin with copo_algos.config.preset({config.preset!r}, {config.algorithm!r})"
        )


def _check_seed(config: TrainConfig) -> None:
    """Refuse a seed whose map does not exist or is one of those to test on."""
    if config.seed > MAX_SEED:
        raise UserError(
            f"seed={config.seed} is too large: the map of pg_map, {FIRST_MAP} + {MAPS_APART} * seed, can be "
            f"{MOST['start_seed']} at most; use {MAX_SEED} or less"
        )
    first, count = SceneOptions.heldout_start_seed, SceneOptions.num_heldout
    if config.scene == "pg_map" and first <= config.start_seed < first + count:
        raise UserError(
            f"seed={config.seed} is map {config.start_seed} of pg_map, and {first} to {first + count - 1} are kept "
            "apart to test on; use another seed"
        )
