"""The arrays view for Stable-Baselines3: a `VecEnv` whose rows end when the vehicles in them do.

Needs stable-baselines3 (the `sb3` extra); `import copo_envs` does not import this module.

    from copo_envs.sb3 import MaskedRolloutBuffer, SceneVecEnv
    venv = SceneVecEnv("intersection", num_scenes=2)
    model = PPO("MlpPolicy", venv, rollout_buffer_class=MaskedRolloutBuffer)

Rows are those of `copo_envs.vector`: `scene * N + slot`. Every life is an episode of its own, so returns and advantages
stop at its end. **Empty rows**: Stable-Baselines3 has no mask. A slot that waits for its next vehicle is a row of zeros
whose action does nothing, and a learner that does not know trains on it; `MaskedRolloutBuffer` leaves these rows out of
PPO's and A2C's minibatches. Its counters (`total_timesteps`, `n_steps`), `VecNormalize` and replay buffers still
count them.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable, Sequence
from copy import deepcopy
from typing import Any

import gymnasium
import numpy as np

try:
    from stable_baselines3.common.buffers import RolloutBuffer
    from stable_baselines3.common.monitor import Monitor
    from stable_baselines3.common.type_aliases import RolloutBufferSamples
    from stable_baselines3.common.vec_env import VecEnv
except ImportError as error:
    raise ImportError('copo_envs.sb3 needs stable-baselines3: pip install ".[sb3]" in the checkout') from error

from copo_envs.outcomes import Outcome
from copo_envs.scenes import SceneError, check_seed
from copo_envs.vector import SceneVectorEnv

_INFO_KEYS = (
    *("acted", "outcome", "own_reward", "velocity_m_s", "route_completion", "cost", "energy", "life_steps"),
    *("active", "life", "spawned", "seed", "map_seed", "episode_step", "episode_over", "worker_restarted"),
)


class SceneVecEnv(VecEnv):
    """E scenes of N slots as E * N rows of a Stable-Baselines3 `VecEnv`.

    A row's info has those of `SceneVectorEnv` as plain numbers, with `TimeLimit.truncated`. Where a life ended also
    `terminal_observation`, `episode` ("r": its return, "l": its steps, "t": 0.0, what a `Monitor` would report, so
    `rollout/ep_rew_mean` is that of lives) and `is_success`. No row is ever done without a vehicle that ended.

    `seed(s)` determines everything from the next reset on: scene e begins with the episode of s + e, as
    `parallel_env(...).reset(seed=...)`.

    Args:
        scene: a name from `copo_envs.SCENES`.
        num_scenes: E, each in a worker process of its own.
        render_mode: None or "rgb_array".
        in_process: True: the one scene (E = 1) lives in this process, without a worker.
        options: fields of `SceneOptions`; and `render_options`, see `SceneVectorEnv`.

    Raises:
        SceneError: an unknown scene or option, or a value that cannot be.
    """

    def __init__(
        self,
        scene: str,
        num_scenes: int = 1,
        *,
        render_mode: str | None = None,
        in_process: bool = False,
        **options: Any,
    ):
        self.scenes = SceneVectorEnv(scene, num_scenes, render_mode=render_mode, in_process=in_process, **options)
        self._actions = np.zeros(self.scenes.action_space.shape or (), np.float32)
        self._returns = np.zeros(self.scenes.num_envs)
        self._next_seed: int | None = None
        super().__init__(self.scenes.num_envs, self.scenes.single_observation_space, self.scenes.single_action_space)

    def reset(self) -> np.ndarray:
        """Begin an episode in every scene; (rows, D) float32."""
        options = self._options[0]
        if any(other != options for other in self._options):
            raise SceneError(
                "the rows have different reset options; slots of a scene share theirs: give set_options one"
            )
        obs, infos = self.scenes.reset(seed=self._next_seed, options=deepcopy(options))
        self._next_seed = None
        self._reset_options()
        self._returns[:] = 0
        self.reset_infos = _as_dicts(infos, self.num_envs)
        return obs

    def step_async(self, actions: np.ndarray) -> None:
        """Remember the actions (rows, 2) for `step_wait`."""
        self._actions = actions

    def step_wait(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, list[dict[str, Any]]]:
        """One step: observations (rows, D), rewards (rows,) float32, dones (rows,) bool, infos."""
        obs, rewards, terminated, truncated, infos = self.scenes.step(self._actions)
        self._returns += rewards
        dones = terminated | truncated
        dicts = _as_dicts(infos, self.num_envs)
        for info, cut in zip(dicts, truncated.tolist(), strict=True):
            info["TimeLimit.truncated"] = cut
        for row in np.nonzero(dones)[0]:
            info = dicts[row]
            info["terminal_observation"] = infos["final_obs"][row]
            info["episode"] = {"r": float(self._returns[row]), "l": info["life_steps"], "t": 0.0}
            info["is_success"] = info["outcome"] == Outcome.SUCCESS
        self._returns[dones] = 0
        return obs, rewards.astype(np.float32), dones, dicts

    def seed(self, seed: int | None = None) -> Sequence[int | None]:
        """Determine what happens from the next reset on. None: a fresh seed. Returns the seed of each row's scene.

        Raises:
            SceneError: a seed that is none.
        """
        if seed is None:
            seed = int(np.random.default_rng().integers(2**31))
        self._next_seed = check_seed(seed)
        return [self._next_seed + row // self.scenes.num_slots for row in range(self.num_envs)]

    def rule_actions(self) -> np.ndarray:
        """(rows, 2) float32: what the rule-based driver would do now; see `SceneEnv.rule_actions`."""
        return self.scenes.rule_actions()

    def close(self) -> None:
        """End the workers."""
        self.scenes.close()

    def get_images(self) -> Sequence[np.ndarray | None]:
        """One picture per scene, which `render` tiles."""
        return self.scenes.render() or ()

    def get_attr(self, attr_name: str, indices: int | Iterable[int] | None = None) -> list[Any]:
        """An attribute of the `SceneVectorEnv`, which all rows share, once per row."""
        value = getattr(self.scenes, attr_name)
        return [value for _ in self._get_indices(indices)]

    def set_attr(self, attr_name: str, value: Any, indices: int | Iterable[int] | None = None) -> None:
        """Set an attribute of the `SceneVectorEnv`; of all rows, as they share it."""
        self._refuse_some(f"set_attr({attr_name!r})", indices)
        setattr(self.scenes, attr_name, value)

    def env_method(
        self, method_name: str, *method_args: Any, indices: int | Iterable[int] | None = None, **method_kwargs: Any
    ) -> list[Any]:
        """Call a method of the `SceneVectorEnv` once; its result once per row."""
        self._refuse_some(f"env_method({method_name!r})", indices)
        result = getattr(self.scenes, method_name)(*method_args, **method_kwargs)
        return [result] * self.num_envs

    def env_is_wrapped(
        self, wrapper_class: type[gymnasium.Wrapper], indices: int | Iterable[int] | None = None
    ) -> list[bool]:
        """False, except for `Monitor`: its `episode` infos are here, so that `evaluate_policy` counts lives."""
        return [issubclass(wrapper_class, Monitor) for _ in self._get_indices(indices)]

    def _refuse_some(self, what: str, indices: int | Iterable[int] | None) -> None:
        if set(self._get_indices(indices)) != set(range(self.num_envs)):
            raise SceneError(f"{what} for some rows only; the rows share their scenes: leave indices out")


class MaskedRolloutBuffer(RolloutBuffer):
    """A rollout buffer that leaves empty rows out of the minibatches: `PPO(..., rollout_buffer_class=...)`.

    An empty row is known by its observation, which is all zeros; no vehicle ever sees that. Advantages are those of
    `RolloutBuffer`: a vehicle's never include an empty row, because a row is done when its vehicle ends.
    """

    def get(self, batch_size: int | None = None) -> Generator[RolloutBufferSamples, None, None]:
        """Every row with a vehicle once, in random order, in minibatches of `batch_size` (None: one).

        Raises:
            ValueError: no row holds a vehicle, or observations are not in [0, 1], as after `VecNormalize`, so that
                empty rows cannot be told.
        """
        if not self.generator_ready:
            next(super().get(1))  # flattens the arrays to one row per sample
        if self.observations.min() < 0 or self.observations.max() > 1:
            raise ValueError(
                f"observations from {self.observations.min()} to {self.observations.max()}: those of a scene are in "
                "[0, 1], and empty rows zero; use VecNormalize with norm_obs=False, or the plain RolloutBuffer"
            )
        held = np.nonzero(self.observations.any(axis=-1))[0]
        if not len(held):
            raise ValueError("no row of this rollout holds a vehicle: use more n_steps")
        # The draw is from NumPy's global generator, as in Stable-Baselines3, so that PPO(seed=...) covers it.
        order = np.random.permutation(held)  # noqa: NPY002
        size = batch_size or len(order)
        for start in range(0, len(order), size):
            yield self._get_samples(order[start : start + size])


def _as_dicts(infos: dict[str, Any], rows: int) -> list[dict[str, Any]]:
    columns = [infos[key].tolist() for key in _INFO_KEYS]
    return [dict(zip(_INFO_KEYS, values, strict=True)) for values in zip(*columns, strict=True)]
