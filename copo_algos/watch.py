"""`copo watch`: drive a trained policy without a window and make a video of it, seen from above."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import torch
import tyro
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from copo_algos.baselines import BASELINES, baseline
from copo_algos.errors import UserError
from copo_algos.policy import Policy, load_policy, shipped_policy
from copo_algos.released import is_released, load_released
from copo_envs.outcomes import Outcome
from copo_envs.process import make_simulator
from copo_envs.render import RenderError, TopDownRenderer, check_video, write_video
from copo_envs.scenes import SceneOptions, get_scene, scene_options
from copo_envs.step_batch import Simulator, StepBatch

STEP_S = 0.1  # one env step, in every scene


@dataclass(frozen=True)
class WatchConfig:
    """Drive a trained policy and make a video of it, seen from above."""

    run: Annotated[Path | None, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")] = None
    """A run folder, a checkpoint, a policy folder, or an .npz file of CoPO's authors (and --scene). Default: a policy
    that comes with the package."""
    scene: str | None = None
    """Where to drive. Default: where the policy was trained; without a run, intersection."""
    algorithm: str | None = None
    """Which of the package's policies, ippo or copo, or rule_based or random, which nobody trained. Default: copo. A
    run knows its own."""
    steps: int = 200
    """Env steps to film; one is 0.1 s. When an episode ends another begins."""
    warmup: int = 0
    """Env steps to drive before the film begins."""
    stride: int = 1
    """Draw every so many steps. With fps = 10 / stride the film runs in real time."""
    seed: int = 0
    """Of the episode, the coordination factors and the actions: the same seed makes the same film."""
    output: Path | None = None
    """The file, .gif or .mp4. Default: videos/<scene>-<algorithm>.gif."""
    size: int = 480
    """Pixels of the longest side."""
    fps: int = 10
    """Frames a second."""
    colour_by: Literal["vehicle", "outcome", "speed", "lcf"] = "vehicle"
    """What a vehicle's colour says: which one it is, how its life will end, its speed, or its coordination factor."""
    lcf: float | None = None
    """Coordination factor for everybody, in [-1, 1]. Default: drawn for each life from what was learned."""
    num_agents: int | None = None
    """Vehicles in the scene. Default: as many as the policy was trained with."""
    rule_based: int = 0
    """Vehicles besides them that a rule drives."""
    start_seed: int | None = None
    """Which random map pg_map drives on. Default: the one that the policy was trained on."""
    deterministic: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Drive by the mean of the action distribution instead of drawing from it."""


@dataclass(frozen=True)
class _Shot:
    """A step on film: drawn later, when it is known how every life ended."""

    episode: int
    batch: StepBatch
    wrecks: np.ndarray
    lcf: np.ndarray
    caption: str


Endings = dict[tuple[int, int], int]
"""(episode, life) -> how it ended."""


def watch(config: WatchConfig) -> Path:
    """Write the video and return its path.

    Raises:
        UserError: settings that do not fit each other, the policy or the file system.
        SceneError: an unknown scene, or more vehicles than it holds.
        CheckpointError: no such policy.
    """
    _check_numbers(config)
    policy = _policy(config)
    _check_lcf(config, policy)
    options = _scene(config, policy)
    name = f"{options.scene} · {policy.info.algorithm}"
    output = config.output or Path("videos") / f"{options.scene}-{policy.info.algorithm}.gif"
    torch.set_num_threads(1)  # a population is a small batch: handing it between threads costs more than it wins
    console = Console()
    simulator = make_simulator(options)
    endings: Endings = {}
    try:
        check_video(output, config.fps)
        simulator.reset(config.seed)
        renderer = TopDownRenderer(simulator.scenery(), config.size, config.colour_by)
        with _bar(console) as bar:
            driving = bar.add_task(name, total=config.warmup + config.steps, success="")
            shots = []
            for shot in _drive(simulator, policy, config, endings, name):
                bar.update(driving, advance=1, success=_success(endings))
                shots.append(shot)
            drawing = bar.add_task("drawing", total=len(range(0, config.steps, config.stride)), success="")
            frames = _draw(shots[config.warmup :], renderer, endings, config)
            write_video(output, bar.track(frames, task_id=drawing), config.fps)
    except RenderError as error:
        raise UserError(str(error)) from error
    finally:
        simulator.close()
    console.print(f"{output}: {name}, {_summary(endings)}", highlight=False, soft_wrap=True)
    return output


def _check_numbers(config: WatchConfig) -> None:
    for name, least in (("steps", 1), ("warmup", 0), ("stride", 1), ("seed", 0)):
        if getattr(config, name) < least:
            raise UserError(f"{name}={getattr(config, name)} is too small; use {least} or more")
    if config.lcf is not None and not -1 <= config.lcf <= 1:
        raise UserError(f"lcf={config.lcf} is not in [-1, 1]; 0 is selfish, 1 lives for the neighbours")


def _policy(config: WatchConfig) -> Policy:
    if config.run is None:
        scene, algorithm = get_scene(config.scene or "intersection").name, config.algorithm or "copo"
        return baseline(scene, algorithm) if algorithm in BASELINES else shipped_policy(scene, algorithm)
    if config.algorithm is not None:
        raise UserError(
            f"algorithm={config.algorithm} chooses a policy of the package, but {config.run} was given; leave one out"
        )
    return load_released(config.run, config.scene) if is_released(config.run) else load_policy(config.run)


def _check_lcf(config: WatchConfig, policy: Policy) -> None:
    if not policy.info.uses_lcf and (config.lcf is not None or config.colour_by == "lcf"):
        raise UserError(
            f"this {policy.info.algorithm} policy has no coordination factor; leave out lcf, colour by something else"
        )


def _scene(config: WatchConfig, policy: Policy) -> SceneOptions:
    info = policy.info
    spec = get_scene(config.scene or info.scene)
    if spec.obs_size != info.obs_size:
        raise UserError(
            f"a policy for {info.scene} sees {info.obs_size} numbers and {spec.name} shows {spec.obs_size}; "
            "choose a scene with as many"
        )
    as_trained = info.num_agents if spec.name == info.scene else None
    return scene_options(
        spec.name,
        num_agents=as_trained if config.num_agents is None else config.num_agents,
        rule_based=config.rule_based,
        geometry=info.geometry,
        start_seed=info.start_seed if config.start_seed is None else config.start_seed,
        num_heldout=0,  # whoever watches may look at any map
    )


def _drive(simulator: Simulator, policy: Policy, config: WatchConfig, endings: Endings, name: str) -> Iterator[_Shot]:
    """Step through as many episodes as it takes, from a simulator that has been reset. Fills `endings`."""
    rng = np.random.default_rng([config.seed, 1])  # another stream than the simulator's, which the seed alone begins
    batch, episode = simulator.batch, 0
    lcf = np.zeros(simulator.num_slots, np.float32)
    observe = policy.observer(simulator.num_slots)
    _begin_lives(batch, lcf, policy, config, rng)
    for _ in range(config.warmup + config.steps):
        if batch.episode_over:
            episode += 1
            batch = simulator.reset(config.seed + episode)
            _begin_lives(batch, lcf, policy, config, rng)
        batch = simulator.step(policy.actions(simulator, observe(batch), lcf, rng, config.deterministic))
        for slot in np.flatnonzero(batch.outcome):
            endings[episode, int(batch.acted_life[slot])] = int(batch.outcome[slot])
        _begin_lives(batch, lcf, policy, config, rng)
        caption = f"{name} · {float(batch.episode_step) * STEP_S:.1f} s"
        if endings:
            caption += f" · {_success(endings)}"
        yield _Shot(episode, _copy(batch), simulator.wrecks(), lcf.copy(), caption)


def _begin_lives(
    batch: StepBatch, lcf: np.ndarray, policy: Policy, config: WatchConfig, rng: np.random.Generator
) -> None:
    """A life keeps the coordination factor that it is born with."""
    born = batch.spawned
    lcf[born] = policy.draw_lcf(int(born.sum()), rng) if config.lcf is None else config.lcf


def _draw(shots: list[_Shot], renderer: TopDownRenderer, endings: Endings, config: WatchConfig) -> Iterator[np.ndarray]:
    for step, shot in enumerate(shots):
        values = None
        if config.colour_by == "lcf":
            values = shot.lcf
        elif config.colour_by == "outcome":
            values = np.array([endings.get((shot.episode, int(life)), Outcome.RUNNING) for life in shot.batch.life])
        if step % config.stride:
            renderer.note(shot.batch)
        else:
            yield renderer.frame(shot.batch, shot.wrecks, values, shot.caption)


def _copy(batch: StepBatch) -> StepBatch:
    """A copy without what the vehicles see, which is most of it."""
    arrays = {field.name: getattr(batch, field.name) for field in fields(StepBatch)}
    arrays |= {name: arrays[name][:, :0] for name in ("obs", "final_obs")}
    return StepBatch(**{name: array.copy() for name, array in arrays.items()})


def _success(endings: Endings) -> str:
    arrived = sum(outcome == Outcome.SUCCESS for outcome in endings.values())
    return f"{arrived} of {len(endings)} arrived" if endings else ""


def _summary(endings: Endings) -> str:
    if not endings:
        return "no life ended yet: film more steps"
    counts = Counter(endings.values())
    return (
        f"{_success(endings)} ({counts[Outcome.SUCCESS] / len(endings):.0%}), {counts[Outcome.CRASH]} crashed, "
        f"{counts[Outcome.OUT_OF_ROAD]} left the road, {counts[Outcome.MAX_STEP]} ran out of time"
    )


def _bar(console: Console) -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(bar_width=None),
        MofNCompleteColumn(),
        TextColumn("{task.fields[success]}"),
        TimeRemainingColumn(),
        console=console,
        disable=not console.is_terminal,
    )
