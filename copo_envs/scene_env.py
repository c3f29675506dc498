"""What the two PettingZoo views of a scene share: the simulator, seeds, spaces, checks of actions, and pictures."""

from __future__ import annotations

import warnings
from collections.abc import Container, Mapping
from typing import Any

import gymnasium
import numpy as np
from gymnasium.spaces import Box
from pettingzoo.utils.env import ParallelEnv

from copo_envs.make import make_simulator
from copo_envs.scenes import SceneError, as_numbers, check_seed, get_scene, is_whole, map_seed, scene_options
from copo_envs.step_batch import ACTION_SIZE, StepBatch

RENDER_MODES = ("human", "rgb_array")
RENDER_FPS = 10
STEP_S = 0.1

STATE_FIELDS = {
    "active": (0, 1),
    "x": (-np.inf, np.inf),
    "y": (-np.inf, np.inf),
    "cos_heading": (-1, 1),
    "sin_heading": (-1, 1),
    "speed": (0, np.inf),
}
"""What `SceneEnv.state()` says of each slot, in metres and m/s, and its bounds."""

# key of an info -> the field of the batch that it is taken from
INFO_FIELDS = {
    "outcome": "outcome",
    "own_reward": "reward",
    "velocity_m_s": "velocity",
    "route_completion": "route_completion",
    "cost": "cost",
    "energy": "energy",
    "life_steps": "life_steps",
}


def check_render_options(options: Any, agents: Container[str]) -> dict[str, Any]:
    """The render options of an environment with these agents, none for None.

    Raises:
        RenderError: no dictionary, or something that the environment cannot draw; with the value in the sentence.
    """
    if options is None:
        return {}
    from copo_envs.render import RenderError, render_options

    if not isinstance(options, Mapping) or not all(isinstance(name, str) for name in options):
        raise RenderError(f"render_options={options!r}; use a dictionary such as {{'size': 640}}, or None")
    made = render_options(**options)
    if made.colour_by not in ("vehicle", "speed"):
        raise RenderError(
            f"colour_by={made.colour_by!r} needs values that an environment does not have; use vehicle or speed, "
            "or draw with copo_envs.render.TopDownRenderer"
        )
    if made.follow not in (None, "auto") and made.follow not in agents:
        raise RenderError(f"there is no {made.follow!r} to follow; use auto or one of env.possible_agents")
    return dict(options)


def read_reset_options(options: Any, num_slots: int, stacklevel: int) -> tuple[int | None, str | None]:
    """The number of vehicles and the maps that `options` of a reset ask for, None where they do not.

    Args:
        options: None, or a dictionary with "num_agents", "maps" or both. Others are ignored with a warning.
        num_slots: the most vehicles that there can be.
        stacklevel: of the warning, as of `warnings.warn`.

    Raises:
        SceneError: no dictionary, or a number of vehicles that cannot be.
    """
    if options is not None and not isinstance(options, Mapping):
        raise SceneError(f"reset options are {options!r}; use a dictionary such as {{'num_agents': 1}}, or None")
    wanted = dict(options or {})
    num_agents, maps = wanted.pop("num_agents", None), wanted.pop("maps", None)
    if wanted:
        # A warning and no refusal, because PettingZoo's own test passes an unknown one.
        warnings.warn(
            f"unknown reset option {', '.join(map(repr, wanted))} is ignored; there are 'num_agents' and 'maps'",
            stacklevel=stacklevel,
        )
    if num_agents is not None:
        if not is_whole(num_agents) or not 1 <= num_agents <= num_slots:
            raise SceneError(f"num_agents={num_agents!r} at reset; this environment was made for 1 to {num_slots}")
        num_agents = int(num_agents)
    return num_agents, maps


class SceneEnv(ParallelEnv[str, np.ndarray, Any]):
    """A scene without agents: `LivesEnv` and `SlotsEnv` give names to who drives in it.

    Nothing starts before the first `reset`, so an environment that was not reset yet can be pickled and copied.

    Args:
        scene: a name from `copo_envs.SCENES`.
        render_mode: None; "rgb_array": `render()` gives a picture; "human": a window, in which `reset` and `step` draw
            by themselves.
        render_options: fields of `copo_envs.render.RenderOptions`: size, colour_by ("vehicle" or "speed"), follow,
            span, neighbourhood.
        in_process: True: simulate in this process; False: in a worker process; None: in this process, unless it holds
            a MetaDrive engine already.
        options: fields of `SceneOptions`.

    Raises:
        SceneError: an unknown scene or option, or a value that the scene cannot take.
        RenderError: render options that cannot be.
    """

    def __init__(
        self,
        scene: str,
        *,
        render_mode: str | None = None,
        render_options: Mapping[str, Any] | None = None,
        in_process: bool | None = None,
        **options: Any,
    ):
        if render_mode is not None and render_mode not in RENDER_MODES:
            raise SceneError(f"unknown render_mode {render_mode!r}; use None or {', '.join(map(repr, RENDER_MODES))}")
        if in_process is not None and not isinstance(in_process, bool):
            raise SceneError(f"in_process={in_process!r}; use True, False or None")
        self.scene = scene
        self.options = scene_options(scene, **options)
        self.render_mode = render_mode
        self.metadata = {
            "name": f"{scene}_v0",
            "is_parallelizable": True,
            "render_modes": list(RENDER_MODES),
            "render_fps": RENDER_FPS,
        }
        # PettingZoo's tests assign this; how long an episode lasts is the option `horizon`.
        self.max_cycles = self.options.horizon
        obs_size = get_scene(scene).obs_size
        low, high = np.tile(np.array(list(STATE_FIELDS.values()), np.float32).T, self.num_slots)
        self.state_space = Box(low, high, dtype=np.float32)
        # One space for all: PettingZoo wants the same object for the same agent, and there may be a thousand of them.
        self._obs_space = Box(0.0, 1.0, (obs_size,), np.float32)
        self._action_space = Box(-1.0, 1.0, (ACTION_SIZE,), np.float32)
        self._simulator = make_simulator(self.options, in_process)
        self._batch: StepBatch | None = None
        self._episode_seed = self._map_seed = 0
        self._seeds: np.random.Generator | None = None
        self._render_options: Any = render_options  # checked as soon as the agents have names
        self._renderer: Any = None
        self._window: Any = None
        self.agents = []

    @property
    def num_slots(self) -> int:
        """N: the most vehicles that there can be at once."""
        return self.options.num_agents

    def _name_agents(self, possible_agents: list[str]) -> None:
        self.possible_agents = possible_agents
        self._render_options = check_render_options(self._render_options, possible_agents)
        self.observation_spaces: dict[str, gymnasium.Space[np.ndarray]] = dict.fromkeys(
            possible_agents, self._obs_space
        )
        self.action_spaces: dict[str, gymnasium.Space[np.ndarray]] = dict.fromkeys(possible_agents, self._action_space)

    def observation_space(self, agent: str) -> gymnasium.Space[np.ndarray]:
        """Box(0, 1, (D,), float32), the same object at every call."""
        return self.observation_spaces[agent]

    def action_space(self, agent: str) -> gymnasium.Space[np.ndarray]:
        """Box(-1, 1, (2,), float32): steering, throttle or brake. The same object at every call."""
        return self.action_spaces[agent]

    def state(self) -> np.ndarray:
        """(N * 6,) float32: who is there and acts next, slot by slot, for centralised critics.

        For each slot active (1), x, y in metres, cosine and sine of the heading, and speed in m/s, 0 of a newborn. Six
        zeros for an empty slot, and so for all of them after the last step of an episode.
        """
        batch = self._last_batch()
        speed = np.where(batch.spawned, 0.0, batch.velocity)
        x, y = batch.position.T
        rows = np.stack([np.ones_like(x), x, y, np.cos(batch.heading), np.sin(batch.heading), speed], axis=1)
        return np.where(batch.active[:, None], rows, 0.0).astype(np.float32).ravel()

    def rule_actions(self) -> dict[str, np.ndarray]:
        """What the rule-based driver would do now: agent -> (2,) float32, for every living vehicle.

        A baseline, and a teacher for imitation. It knows the map and where everybody is and goes, which no observation
        tells. Asking moves nobody. In MetaDrive's scenes the driver remembers what it saw, such as who has stood how
        long, and sees a step when it is asked in it: ask in every step, or an answer may differ.
        """
        self._last_batch()
        actions = self._simulator.rule_actions()
        return {agent: actions[slot] for agent, slot in self._living().items()}

    @property
    def backend(self) -> str | None:
        """The step that drives this episode: "fast", MetaDrive's for all vehicles at once, or "stock", MetaDrive's own,
        which gives the same numbers in 2.7 to 5.7 times as long. None before the first reset, and in `particles`."""
        return self._simulator.backend

    def _living(self) -> dict[str, int]:
        """Agents with a living vehicle, and their slots."""
        raise NotImplementedError

    def render(self) -> np.ndarray | None:
        """The scene from above, (H, W, 3) uint8, with `render_mode="rgb_array"`; None with "human", which shows it.

        Without a render mode None and a warning.

        Raises:
            RenderError: no display for the window.
        """
        if self.render_mode is None:
            gymnasium.logger.warn('render() without a render mode; make the environment with render_mode="rgb_array"')
            return None
        batch = self._last_batch()
        if self._renderer is None:
            from copo_envs.render import TopDownRenderer

            self._renderer = TopDownRenderer(self._simulator.scenery(), **self._render_options)
        if self.render_mode == "rgb_array":
            return self._renderer.frame(batch, self._simulator.wrecks(), traffic=self._simulator.traffic())
        window = self._open_window()
        if not window.closed:
            caption = f"{self.scene} · {float(batch.episode_step) * STEP_S:.1f} s"
            wrecks, traffic = self._simulator.wrecks(), self._simulator.traffic()
            window.show(self._renderer.frame(batch, wrecks, caption=caption, traffic=traffic))
        return None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_renderer": None, "_window": None}  # made anew when they are needed

    def close(self) -> None:
        """Free the simulator and close the window. A later `reset` starts another."""
        self._simulator.close()
        if self._window is not None:
            self._window.close()
        self._batch = self._renderer = self._window = None
        self.agents = []

    def _open_window(self) -> Any:
        if self._window is None:
            from copo_envs.window import Window

            self._window = Window(f"{self.scene} (copo)", RENDER_FPS)
        return self._window

    def _last_batch(self) -> StepBatch:
        if self._batch is None:
            raise SceneError("the environment has not been reset: call reset() first")
        return self._batch

    def _begin_episode(self, seed: int | None, options: dict[str, Any] | None) -> StepBatch:
        """The first batch of an episode; sets `_episode_seed`."""
        num_agents, maps = read_reset_options(options, self.num_slots, stacklevel=4)
        if seed is not None:
            episode_seed = check_seed(seed)
            self._seeds = np.random.default_rng(episode_seed)
        else:
            if self._seeds is None:
                self._seeds = np.random.default_rng()
            episode_seed = int(self._seeds.integers(2**31))
        map_number = map_seed(self.options, episode_seed, maps)
        if self.render_mode == "human":
            self._open_window()  # refuses before the simulator starts
        self._batch = self._simulator.reset(episode_seed, num_agents, maps)
        self._episode_seed = episode_seed
        if map_number != self._map_seed:
            self._map_seed, self._renderer = map_number, None  # it has drawn another road
        self._see(self._batch)
        return self._batch

    def _drive(self, actions: Mapping[str, Any], slot_of: Mapping[str, int], known: Container[str]) -> StepBatch:
        """One step of the simulator.

        Args:
            actions: by agent.
            slot_of: the agents that need one, and their slots.
            known: agents whose actions may be given; those not in `slot_of` are ignored.
        """
        batch = self._last_batch()
        if batch.episode_over:
            raise SceneError("the episode is over: call reset() to begin another")
        if not isinstance(actions, Mapping):
            raise SceneError(
                f"actions are of type {type(actions).__name__}; step() takes a dictionary, agent -> "
                "[steering, throttle]"
            )
        for agent in actions:
            if agent not in known:
                raise SceneError(
                    f"an action for {agent!r}, which has not been in this episode; "
                    "step() takes one for every agent in env.agents"
                )
        moves = np.zeros((self.num_slots, ACTION_SIZE), np.float32)
        for agent, slot in slot_of.items():
            if agent not in actions:
                raise SceneError(f"no action for {agent!r}; step() takes one for every agent in env.agents")
            move = as_numbers(actions[agent])
            if move is None or move.shape != (ACTION_SIZE,) or not np.isfinite(move).all():
                raise SceneError(
                    f"the action of {agent!r} is {actions[agent]!r}; it must be {ACTION_SIZE} finite numbers "
                    "in [-1, 1]: steering, throttle"
                )
            moves[slot] = move
        self._batch = self._simulator.step(moves)
        self._see(self._batch)
        return self._batch

    def _see(self, batch: StepBatch) -> None:
        """Draw what happened if there is a window; else remember it for pictures that may be asked for."""
        if self.render_mode == "human":
            self.render()
        elif self._renderer is not None:
            self._renderer.note(batch)

    def _infos_by_slot(self, batch: StepBatch) -> list[dict[str, Any]]:
        """For every slot what its vehicle did in this step: zeros where nobody acted."""
        columns = (getattr(batch, field).tolist() for field in INFO_FIELDS.values())
        return [
            {**dict(zip(INFO_FIELDS, row, strict=True)), "seed": self._episode_seed, "map_seed": self._map_seed}
            for row in zip(*columns, strict=True)
        ]

    def _newborn_info(self) -> dict[str, Any]:
        return {
            "outcome": 0,
            "own_reward": 0.0,
            "velocity_m_s": 0.0,
            "route_completion": 0.0,
            "cost": 0.0,
            "energy": 0.0,
            "life_steps": 0,
            "seed": self._episode_seed,
            "map_seed": self._map_seed,
        }
