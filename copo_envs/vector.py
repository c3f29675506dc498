"""The arrays view, a gymnasium `VectorEnv`: E scenes of N slots each as E * N rows that step together.

Row `scene * N + slot`. A row ends when the vehicle in it does, by the vehicle's own termination or truncation, and the
next vehicle that takes the slot begins there, often in the same step (autoreset mode SAME_STEP). In between the row is
**empty**: zero observation, zero reward, its action ignored, and neither terminated nor truncated. Gymnasium has no
mask, so it is in the infos: the transition of a row counts where `infos["acted"]`, and it will act next where
`infos["active"]`. Scenes live in worker processes; one that dies is replaced.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

import gymnasium
import numpy as np
from gymnasium.spaces import Box
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space

from copo_envs.scene_env import INFO_FIELDS, RENDER_FPS, check_render_options, read_reset_options
from copo_envs.scene_vector import SceneVector
from copo_envs.scenes import SceneError, as_numbers, check_seed, is_whole, map_seed, scene_options
from copo_envs.step_batch import ACTION_SIZE, StepBatch


def vector_env(
    scene: str, num_envs: int = 1, *, render_mode: str | None = None, in_process: bool = False, **options: Any
) -> SceneVectorEnv:
    """E = `num_envs` scenes as one vector environment. See `SceneVectorEnv`."""
    return SceneVectorEnv(scene, num_envs, render_mode=render_mode, in_process=in_process, **options)


def refuse_single(scene: str, **options: Any) -> NoReturn:
    """What `gymnasium.make` calls: a scene is no environment with one agent."""
    raise SceneError(
        f"{scene} has many vehicles and is a vector environment: use gymnasium.make_vec instead of gymnasium.make, "
        f"without a vectorization_mode, or copo_envs.parallel_env({scene!r})"
    )


class SceneVectorEnv(VectorEnv[np.ndarray, np.ndarray, np.ndarray]):
    """E scenes of N slots as E * N rows; `num_envs` is E * N, `num_scenes` E and `num_slots` N.

    Infos are arrays over the rows, always with the same keys, each with gymnasium's mask `_<key>` of the rows that it
    speaks of. About the vehicle that acted in the row in this step (zeros where nobody did): `acted`, `outcome`,
    `own_reward`, `velocity_m_s`, `route_completion`, `cost`, `energy`, `life_steps`. About the one that is in it now:
    `active`, `life` (its number in the episode, -1 for none), `spawned` (it appeared in this step), `next_position`
    and `next_heading`. `position` and `heading` are those of the former or, where nobody acted, of the latter: metres,
    and radians counter-clockwise from the x axis. About the scene of the row: `seed`, `map_seed` and
    `episode_step` of the running episode, `episode_over` (this step ended an episode; the next has begun),
    `worker_restarted`.

    Rows that ended have their last observation in `final_obs` (an object array, None elsewhere), and in `final_info`
    the keys above of the vehicle that ended, its `life` included.

    `worker_restarted`: the process that simulated the scene died and another one took its place. What the lost step
    did is not known: the lives in it are truncated with reward 0, outcome 0 and their last known observation, and
    another episode has begun.

    Args:
        scene: a name from `copo_envs.SCENES`.
        num_envs: E, scenes; each in a worker process of its own.
        render_mode: None or "rgb_array".
        render_options: as of `SceneEnv`; whom to follow is "auto", "slot_<number>" or "agent_<life>", in every scene.
        in_process: True: the one scene (E = 1) lives in this process, without a worker.
        options: fields of `SceneOptions`.

    Raises:
        SceneError: an unknown scene or option, or a value that cannot be.
        RenderError: render options that cannot be.
    """

    def __init__(
        self,
        scene: str,
        num_envs: int = 1,
        *,
        render_mode: str | None = None,
        render_options: Mapping[str, Any] | None = None,
        in_process: bool = False,
        **options: Any,
    ):
        if render_mode not in (None, "rgb_array"):
            raise SceneError(f"unknown render_mode {render_mode!r}; use None or 'rgb_array'")
        if not is_whole(num_envs) or num_envs < 1:
            raise SceneError(f"num_envs={num_envs!r}; use a whole number of scenes, 1 or more")
        if not isinstance(in_process, bool):
            raise SceneError(f"in_process={in_process!r}; use True or False")
        if in_process and num_envs != 1:
            raise SceneError(f"in_process=True with num_envs={num_envs}; this process holds one scene: use num_envs=1")
        self.scene = scene
        self.options = scene_options(scene, **options)
        self.render_mode = render_mode
        self.metadata = {
            "name": f"{scene}_v0",
            "render_modes": ["rgb_array"],
            "render_fps": RENDER_FPS,
            "autoreset_mode": AutoresetMode.SAME_STEP,
        }
        self._scenes = SceneVector(self.options, 0 if in_process else int(num_envs), restart=True)
        self.num_scenes, self.num_slots = self._scenes.num_envs, self._scenes.num_slots
        self.num_envs = self.num_scenes * self.num_slots
        self.single_observation_space = Box(0.0, 1.0, (self._scenes.obs_size,), np.float32)
        self.single_action_space = Box(-1.0, 1.0, (ACTION_SIZE,), np.float32)
        self.observation_space = batch_space(self.single_observation_space, self.num_envs)
        self.action_space = batch_space(self.single_action_space, self.num_envs)
        lives = {f"agent_{life}" for life in range(self.options.max_lives)}
        agents = lives | {f"slot_{slot}" for slot in range(self.num_slots)}
        self._render_options = check_render_options(render_options, agents)
        self._renderers: list[Any] = [None] * self.num_scenes
        self._map_seeds = np.zeros(self.num_scenes, np.int64)
        self._maps: str | None = None
        self._started = False

    def reset(
        self, *, seed: int | Sequence[int] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Begin an episode in every scene.

        Args:
            seed: scene e begins with the episode of `seed` + e, the same as `parallel_env(...).reset(seed=...)`, and
                all that follow there are determined by it too. A sequence: one per scene. None: each scene goes
                on to the episode that would have begun next; to one from the operating system if none was given yet.
            options: {"num_agents": vehicles on the road, at most as many as the scenes were made for, "maps": "train"
                or "heldout", which maps of `pg_map` the episodes take place on}, both optional.

        Returns:
            Observations (rows, D) float32 and infos.

        Raises:
            SceneError: a seed or number of agents that is none, or maps that there are not.
        """
        if isinstance(options, Mapping) and "reset_mask" in options:
            raise SceneError("reset option 'reset_mask': single rows cannot be reset, they reset themselves")
        if self.closed:
            raise SceneError("the environment is closed: make another")
        num_agents, maps = read_reset_options(options, self.num_slots, stacklevel=3)
        if isinstance(seed, (list, tuple)) and len(seed) == self.num_scenes and all(one is None for one in seed):
            seed = None
        seeds = None
        if seed is None:
            if not self._scenes.begun:
                seeds = [int(number) for number in self.np_random.integers(2**31, size=self.num_scenes)]
        elif isinstance(seed, (list, tuple)) or (isinstance(seed, np.ndarray) and seed.ndim):
            if len(seed) != self.num_scenes:
                raise SceneError(f"{len(seed)} seeds for {self.num_scenes} scenes; give one each, or a single number")
            seeds = [check_seed(number) for number in seed]
            self._np_random = np.random.default_rng(seeds)
            self._np_random_seed = -1  # gymnasium's word for: not from a single number
        else:
            first = check_seed(seed)
            seeds = [check_seed(first + scene) for scene in range(self.num_scenes)]
            super().reset(seed=first)
        map_seed(self.options, 0, maps)  # refuses maps that there are not
        batch = self._scenes.reset(seeds, num_agents, maps)
        self._started, self._maps = True, maps
        self._note()
        return self._rows(batch.obs), self._infos(batch)

    def step(self, actions: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        """One step of 0.1 s in every scene.

        Args:
            actions: (rows, 2) in [-1, 1], values beyond are clipped; those of empty rows are ignored.

        Returns:
            Observations (rows, D) float32, rewards (rows,) float64, terminations and truncations (rows,) bool, infos.

        Raises:
            SceneError: another shape, or NaN or infinity in the row of a vehicle; nothing has moved then.
            WorkerError: a worker died again and again, or its simulation failed.
        """
        self._check_started()
        moves = as_numbers(actions)
        if moves is None:
            raise SceneError(f"actions are no array of numbers; use ({self.num_envs}, {ACTION_SIZE}) of them")
        if moves.shape != (self.num_envs, ACTION_SIZE):
            raise SceneError(
                f"actions have shape {moves.shape}; {self.num_scenes} scenes of {self.num_slots} slots take "
                f"({self.num_envs}, {ACTION_SIZE}): steering and throttle per row"
            )
        before = self._scenes.episode_seed.copy(), self._map_seeds.copy()
        batch = self._scenes.step(moves.reshape(self.num_scenes, self.num_slots, ACTION_SIZE))
        self._note()
        infos = self._infos(batch)
        terminated, truncated = self._rows(batch.terminated), self._rows(batch.truncated)
        ended = terminated | truncated
        if ended.any():
            seeds, map_seeds = (np.repeat(numbers, self.num_slots) for numbers in before)
            self._add_final(infos, ended, life=self._rows(batch.acted_life), seed=seeds, map_seed=map_seeds)
            last = self._rows(batch.final_obs)
            for row in np.nonzero(ended)[0]:
                infos["final_obs"][row] = last[row]
        return self._rows(batch.obs), self._rows(batch.reward), terminated, truncated, infos

    def positions(self) -> np.ndarray:
        """(rows, 2) metres after the last step or reset: of the vehicle that acted, else of the newborn in the row;
        zeros where there is neither."""
        self._check_started()
        return self._positions(self._scenes.batch)

    def headings(self) -> np.ndarray:
        """(rows,) radians, counter-clockwise from the x axis, of those in `positions()`."""
        self._check_started()
        return self._headings(self._scenes.batch)

    @property
    def backend(self) -> str | None:
        """The step that drives the episode of the first scene, see `SceneEnv.backend`."""
        return self._scenes.backend(0) if self._started else None

    def rule_actions(self) -> np.ndarray:
        """(rows, 2) float32: what the rule-based driver would do now, zeros for empty rows; see
        `SceneEnv.rule_actions`."""
        self._check_started()
        return self._scenes.rule_actions().reshape(self.num_envs, ACTION_SIZE)

    def render(self) -> tuple[np.ndarray, ...] | None:
        """One picture per scene, (H, W, 3) uint8, with `render_mode="rgb_array"`; else None and a warning.

        Raises:
            WorkerDied: a worker died since the last step; the next one replaces it.
        """
        if self.render_mode is None:
            gymnasium.logger.warn('render() without a render mode; make the environment with render_mode="rgb_array"')
            return None
        self._check_started()
        from copo_envs.render import TopDownRenderer

        for scene in range(self.num_scenes):
            if self._renderers[scene] is None:
                self._renderers[scene] = TopDownRenderer(self._scenes.scenery(scene), **self._render_options)
        return tuple(
            renderer.frame(
                self._scenes.batch.row(scene), self._scenes.wrecks(scene), traffic=self._scenes.traffic(scene)
            )
            for scene, renderer in enumerate(self._renderers)
        )

    def close_extras(self, **kwargs: Any) -> None:
        """End the workers. `close` calls this."""
        self._scenes.close()
        self._renderers = [None] * self.num_scenes
        self._started = False

    def _check_started(self) -> None:
        if self.closed:
            raise SceneError("the environment is closed: make another")
        if not self._started:
            raise SceneError("the environment has not been reset: call reset() first")

    def _note(self) -> None:
        """Bring the numbers of the maps up to date, and the renderers, which mark endings for some steps."""
        numbers = [map_seed(self.options, int(seed), self._maps) for seed in self._scenes.episode_seed]
        for scene, (now, before) in enumerate(zip(numbers, self._map_seeds, strict=True)):
            if now != before:
                self._renderers[scene] = None  # it has drawn another road
            elif self._renderers[scene] is not None:
                self._renderers[scene].note(self._scenes.batch.row(scene))
        self._map_seeds[:] = numbers

    def _rows(self, array: np.ndarray) -> np.ndarray:
        """(E, N, ...) -> (E * N, ...), a copy."""
        return array.reshape(self.num_envs, *array.shape[2:]).copy()

    def _positions(self, batch: StepBatch) -> np.ndarray:
        return self._rows(np.where(batch.acted[..., None], batch.acted_position, batch.position))

    def _headings(self, batch: StepBatch) -> np.ndarray:
        return self._rows(np.where(batch.acted, batch.acted_heading, batch.heading))

    def _infos(self, batch: StepBatch) -> dict[str, Any]:
        acted, everywhere = self._rows(batch.acted), np.ones(self.num_envs, np.bool_)
        infos: dict[str, Any] = {"acted": acted, "_acted": everywhere}
        for key, field in INFO_FIELDS.items():
            infos[key], infos[f"_{key}"] = self._rows(getattr(batch, field)), acted
        for key in ("active", "life", "spawned"):
            infos[key], infos[f"_{key}"] = self._rows(getattr(batch, key)), everywhere
        for key, values, known in (
            ("position", self._positions(batch), acted | infos["active"]),
            ("heading", self._headings(batch), acted | infos["active"]),
            # Of who is there now: where a vehicle ended and another has its row already, that is not the same.
            ("next_position", self._rows(batch.position), infos["active"]),
            ("next_heading", self._rows(batch.heading), infos["active"]),
        ):
            infos[key], infos[f"_{key}"] = values, known
        scenes = self._scenes
        for key, per_scene in (
            ("seed", scenes.episode_seed),
            ("map_seed", self._map_seeds),
            ("episode_step", batch.episode_step),
            ("episode_over", batch.episode_over),
            ("worker_restarted", scenes.restarted),
        ):
            infos[key], infos[f"_{key}"] = np.repeat(per_scene, self.num_slots), everywhere
        return infos

    def _add_final(self, infos: dict[str, Any], ended: np.ndarray, **of_the_ended: np.ndarray) -> None:
        """`final_obs` (still empty) and `final_info` as gymnasium's own vector environments have them."""
        final: dict[str, Any] = {}
        columns = {key: infos[key] for key in (*INFO_FIELDS, "acted", "position", "heading", "worker_restarted")}
        for key, column in {**columns, **of_the_ended}.items():
            values = np.zeros_like(column)
            values[ended] = column[ended]
            final[key], final[f"_{key}"] = values, ended.copy()
        infos["final_obs"], infos["_final_obs"] = np.full(self.num_envs, None, dtype=object), ended.copy()
        infos["final_info"], infos["_final_info"] = final, ended.copy()
