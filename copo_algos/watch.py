"""`copo watch`: drive a trained policy and make a video of it, or show it in a window."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, fields
from itertools import islice
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import torch
import tyro
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from copo_algos.baselines import named_driver
from copo_algos.driving import Driving, EpisodeSettings, episode_generator, scene_to_drive
from copo_algos.errors import UserError
from copo_algos.option_help import with_help
from copo_algos.policy import Policy, load_policy, shipped_algorithm
from copo_algos.progress import PlainLines
from copo_algos.released import is_released, load_released
from copo_envs.make import make_simulator
from copo_envs.outcomes import Outcome
from copo_envs.render import RenderError, TopDownRenderer, check_video, render_options, write_video
from copo_envs.scenes import SceneOptions, get_scene
from copo_envs.step_batch import Simulator, StepBatch
from copo_envs.view_3d import View3D, check_assets, loading_assets
from copo_envs.window import Window

STEP_S = 0.1  # one env step, in every scene


@with_help
@dataclass(frozen=True)
class WatchConfig(EpisodeSettings):
    """Drive a trained policy and make a video of it, seen from above; or show it in a window, or in 3D."""

    run: Annotated[Path | None, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")] = None
    """A run folder, a checkpoint, a policy folder, or an .npz file of CoPO's authors (and --scene). Default: a policy
    that comes with the package."""
    scene: str | None = None
    """Where to drive. Default: where the policy was trained; without a run, intersection."""
    algorithm: str | None = None
    """Algorithm of a policy that comes with the package; or rule_based, or random: drivers that nobody trained.
    Default: copo, or whichever comes with the package for the scene. A run knows its own."""
    steps: int = 200
    """Env steps to film; one is 0.1 s. When an episode ends another begins."""
    warmup: int = 0
    """Env steps to drive before the film begins."""
    stride: int = 1
    """Draw every so many steps. With fps = 10 / stride the film runs in real time."""
    first_seed: Annotated[int, tyro.conf.arg(aliases=["--seed"])] = 0
    """Seed of the first episode; episode k has this plus k. On one kind of processor and with the same versions the
    same seed makes the same film, and shows the same episode as in copo evaluate."""
    output: Path | None = None
    """The file, .gif or .mp4. Default: videos/<scene>-<algorithm>.gif, in 3D .mp4."""
    size: int = 480
    """Pixels of the longest side."""
    fps: int = 10
    """Frames a second."""
    colour_by: Literal["vehicle", "outcome", "speed", "lcf"] = "vehicle"
    """What a vehicle's colour says: which one it is, how its life will end, its speed, or its coordination factor."""
    follow: str | None = None
    """Look at one vehicle instead of the whole map: agent_<number>, slot_<number>, or auto, which is also meant without
    a word after it: the first vehicle and, when it has ended, the one that began last."""
    span: float | None = None
    """Metres to see around the followed vehicle. Default: 60, or enough for the neighbourhood."""
    neighbourhood: float | None = None
    """Draw a circle of this radius in metres around the followed vehicle, or around every vehicle."""
    window: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Show it live in a window instead of writing a file."""
    view_3d: Annotated[bool, tyro.conf.FlagCreatePairsOff, tyro.conf.arg(aliases=["--3d"])] = False
    """MetaDrive's own 3D view. Needs its assets, which `python -m metadrive.pull_asset` fetches, and OpenGL."""
    camera: Literal["follow", "top"] = "follow"
    """In 3D: behind a vehicle, or looking straight down."""

    def __post_init__(self) -> None:
        for name in ("run", "output"):
            if isinstance(getattr(self, name), str):
                object.__setattr__(self, name, Path(getattr(self, name)))


@dataclass(frozen=True)
class _Shot:
    """A step on film: drawn later, when it is known how every life ended."""

    episode: int
    batch: StepBatch
    wrecks: np.ndarray
    traffic: np.ndarray
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
    with _filming(config) as film:
        output = film.write()
    Console().print(f"{output}: {film.name}, {_summary(film.endings)}", highlight=False, soft_wrap=True)
    return output


def show(config: WatchConfig) -> None:
    """Show it live in a window, until its end or until the user closes the window.

    Raises:
        UserError, SceneError, CheckpointError: as `watch`, and no display.
    """
    with _filming(config) as film:
        film.show()
    Console().print(f"{film.name}, {_summary(film.endings)}", highlight=False, soft_wrap=True)


@contextmanager
def _filming(config: WatchConfig) -> Iterator[_Film]:
    _check_numbers(config)
    try:
        _check_view(config)
        policy = _policy(config)
        _check_lcf(config, policy)
        options = _scene(config, policy)
        torch.set_num_threads(1)  # a population is a small batch: handing it between threads costs more than it wins
        film = _Film(policy, config, options)
        try:
            yield film
        finally:
            film.simulator.close()
    except RenderError as error:
        raise UserError(str(error)) from error


class _Film:
    """One film of a policy on a simulator."""

    def __init__(self, policy: Policy, config: WatchConfig, options: SceneOptions):
        self._stage = (
            View3D(options, config.size, config.camera, config.follow, config.span) if config.view_3d else None
        )
        self.simulator: Simulator = make_simulator(options) if self._stage is None else self._stage.simulator
        self.name = f"{options.scene} · {policy.info.algorithm}"
        self.endings: Endings = {}
        self._policy, self._config = policy, config
        self._file_name = f"{options.scene}-{policy.info.algorithm}"

    def show(self) -> None:
        """In a window."""
        window = Window(self.name, self._config.fps)
        try:
            shots = islice(self._shots(), self._config.warmup, None)
            for picture in _draw(shots, self._renderer(), self.endings, self._config):
                if not window.show(picture):
                    break
        finally:
            window.close()

    def write(self) -> Path:
        """To a file: drawn from above when everything has been driven, or in 3D meanwhile. Returns its path."""
        config, stage = self._config, self._stage
        default = f"{self._file_name}.gif" if stage is None else f"{self._file_name}-3d.mp4"
        output = check_video(config.output or Path("videos") / default, config.fps)
        drawn = len(range(0, config.steps, config.stride))
        shots = self._shots()
        console = Console()
        with _bar(console) as bar:
            if stage is not None:
                filming = bar.add_task(self.name, total=drawn, success="")
                frames = _draw_3d(islice(shots, config.warmup, None), stage, config)
                frames = PlainLines(console).over(frames, drawn, "pictures filmed")
                return write_video(output, bar.track(frames, task_id=filming), config.fps)
            renderer = self._renderer()
            driving = bar.add_task(self.name, total=config.warmup + config.steps, success="")
            driven = []
            for shot in PlainLines(console).over(shots, config.warmup + config.steps, "env steps driven"):
                bar.update(driving, advance=1, success=_success(self.endings))
                driven.append(shot)
            seen = driven[config.warmup :]
            _check_followed(config.follow, seen)
            drawing = bar.add_task("drawing", total=drawn, success="")
            frames = _draw(seen, renderer, self.endings, config)
            frames = PlainLines(console).over(frames, drawn, "pictures drawn")
            return write_video(output, bar.track(frames, task_id=drawing), config.fps)

    def _shots(self) -> Iterator[_Shot]:
        with loading_assets() if self._stage else nullcontext():
            self.simulator.reset(self._config.first_seed)
        return _drive(self.simulator, self._policy, self._config, self.endings, self.name)

    def _renderer(self) -> TopDownRenderer:
        return TopDownRenderer(self.simulator.scenery(), **_look(self._config))


def _check_numbers(config: WatchConfig) -> None:
    for name, least in (("steps", 1), ("warmup", 0), ("stride", 1), ("first_seed", 0)):
        if getattr(config, name) < least:
            raise UserError(f"{name}={getattr(config, name)} is too small; use {least} or more")
    if config.lcf is not None and not -1 <= config.lcf <= 1:
        raise UserError(f"lcf={config.lcf} is not in [-1, 1]; 0 is selfish, 1 lives for the neighbours")


def _check_view(config: WatchConfig) -> None:
    """Refuse views that cannot be or do not go together."""
    if config.follow is not None and config.run is None and Path(config.follow).exists():
        raise UserError(f"follow={config.follow} is a file or folder and no vehicle; put the run before --follow")
    render_options(**_look(config))
    if config.window and config.output is not None:
        raise UserError(f"window shows it instead of writing {config.output}; leave one out")
    if config.window and config.colour_by == "outcome":
        raise UserError("colour_by=outcome is how a life will end, which nobody knows while it is shown; write a file")
    if not config.view_3d:
        if config.camera != "follow":
            raise UserError(f"camera={config.camera} is one of the 3D view; give 3d too")
        return
    for name, given in (
        ("window", config.window),
        (f"neighbourhood={config.neighbourhood}", config.neighbourhood is not None),
        (f"colour_by={config.colour_by}", config.colour_by != "vehicle"),
    ):
        if given:
            raise UserError(f"{name} belongs to the view from above; leave it out, or leave out 3d")
    if config.camera == "follow" and config.span is not None:
        raise UserError(f"span={config.span} is what camera=top sees; leave it out, or give that camera")
    check_assets()


def _look(config: WatchConfig) -> dict[str, Any]:
    names = ("size", "colour_by", "follow", "span", "neighbourhood")
    return {name: getattr(config, name) for name in names}


def _policy(config: WatchConfig) -> Policy:
    if config.run is None:
        scene = config.scene or "intersection"
        return named_driver(scene, config.algorithm or shipped_algorithm(scene))
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
    options = scene_to_drive(info, spec.name, config)
    if config.view_3d and options.rule_based:
        raise UserError(f"rule_based={options.rule_based} vehicles are not in the 3D view; use rule_based=0")
    return options


def _drive(simulator: Simulator, policy: Policy, config: WatchConfig, endings: Endings, name: str) -> Iterator[_Shot]:
    """Step through as many episodes as it takes, from a simulator that has been reset. Fills `endings`."""

    def begin(episode: int) -> Driving:
        """As `copo evaluate` drives it, whatever came before."""
        rng = episode_generator(config.first_seed + episode)
        driving = Driving(policy, simulator.num_slots, rng, config.deterministic, config.lcf)
        driving.admit(simulator.batch)
        return driving

    batch, episode = simulator.batch, 0
    driving = begin(episode)
    for _ in range(config.warmup + config.steps):
        if batch.episode_over:
            episode += 1
            batch = simulator.reset(config.first_seed + episode)
            driving = begin(episode)
        batch = simulator.step(driving.actions(simulator))
        for slot in np.flatnonzero(batch.outcome):
            endings[episode, int(batch.acted_life[slot])] = int(batch.outcome[slot])
        driving.admit(batch)
        caption = f"{name} · {float(batch.episode_step) * STEP_S:.1f} s"
        if endings:
            caption += f" · {_success(endings)}"
        yield _Shot(episode, _copy(batch), simulator.wrecks(), simulator.traffic(), driving.lcf.copy(), caption)


def _check_followed(follow: str | None, shots: list[_Shot]) -> None:
    """Refuse to follow an agent that is not in the film."""
    if follow is None or not follow.startswith("agent_"):
        return
    lives = {int(life) for shot in shots for life in shot.batch.life[shot.batch.active]}
    if lives and int(follow.removeprefix("agent_")) not in lives:
        raise RenderError(
            f"{follow} does not drive in this film; choose one of agent_{min(lives)} to agent_{max(lives)}"
        )


def _draw_3d(shots: Iterable[_Shot], stage: View3D, config: WatchConfig) -> Iterator[np.ndarray]:
    for step, shot in enumerate(shots):
        if step % config.stride:
            stage.note(shot.batch)
        else:
            yield stage.frame(shot.batch)


def _draw(
    shots: Iterable[_Shot], renderer: TopDownRenderer, endings: Endings, config: WatchConfig
) -> Iterator[np.ndarray]:
    for step, shot in enumerate(shots):
        values = None
        if config.colour_by == "lcf":
            values = shot.lcf
        elif config.colour_by == "outcome":
            values = np.array([endings.get((shot.episode, int(life)), Outcome.RUNNING) for life in shot.batch.life])
        if step % config.stride:
            renderer.note(shot.batch)
        else:
            yield renderer.frame(shot.batch, shot.wrecks, values, shot.caption, shot.traffic)


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
