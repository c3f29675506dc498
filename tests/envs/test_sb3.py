"""The Stable-Baselines3 view: its contract, endings of vehicles, empty rows left out, and PPO learns from it."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

sb3 = pytest.importorskip("stable_baselines3")

import torch  # noqa: E402
from stable_baselines3 import PPO  # noqa: E402
from stable_baselines3.common.callbacks import BaseCallback  # noqa: E402
from stable_baselines3.common.evaluation import evaluate_policy  # noqa: E402
from stable_baselines3.common.monitor import Monitor  # noqa: E402
from stable_baselines3.common.vec_env import VecNormalize  # noqa: E402

from copo_envs.outcomes import Outcome  # noqa: E402
from copo_envs.sb3 import MaskedRolloutBuffer, SceneVecEnv  # noqa: E402
from copo_envs.scenes import SceneError  # noqa: E402
from copo_envs.vector import SceneVectorEnv  # noqa: E402

pytestmark = pytest.mark.slow

Closing = Callable[[SceneVecEnv], SceneVecEnv]


def forwards(rows: int, rng: np.random.Generator) -> np.ndarray:
    return np.stack([rng.normal(0, 0.2, rows), rng.uniform(0.2, 1, rows)], axis=1).clip(-1, 1).astype(np.float32)


def test_it_is_the_arrays_view(closing: Closing) -> None:
    venv = closing(SceneVecEnv("particles", 2, num_agents=4, horizon=50, drain=False))
    env = SceneVectorEnv("particles", 2, num_agents=4, horizon=50, drain=False)
    assert venv.seed(3) == [3] * 4 + [4] * 4
    obs, rng, returns, ended = venv.reset(), np.random.default_rng(0), np.zeros(8), 0
    np.testing.assert_array_equal(obs, env.reset(seed=3)[0])
    assert [info["seed"] for info in venv.reset_infos] == [3] * 4 + [4] * 4
    for _ in range(120):
        moves = forwards(8, rng)
        obs, rewards, dones, infos = venv.step(moves)
        expected, reward, terminated, truncated, arrays = env.step(moves)
        np.testing.assert_array_equal(obs, expected)
        np.testing.assert_allclose(rewards, reward, rtol=1e-6)
        assert rewards.dtype == np.float32 and dones.dtype == np.bool_
        np.testing.assert_array_equal(dones, terminated | truncated)
        returns += reward
        for row, info in enumerate(infos):
            for key in ("acted", "active", "life", "outcome", "life_steps", "spawned", "worker_restarted"):
                assert info[key] == arrays[key][row] and type(info[key]) in (bool, int)
            assert info["TimeLimit.truncated"] == truncated[row]
            assert ("terminal_observation" in info) == ("episode" in info) == ("is_success" in info) == dones[row]
            if dones[row]:
                np.testing.assert_array_equal(info["terminal_observation"], arrays["final_obs"][row])
                assert info["episode"]["l"] == info["life_steps"] and info["episode"]["r"] == pytest.approx(
                    returns[row]
                )
                assert info["is_success"] == (info["outcome"] == Outcome.SUCCESS)
                returns[row] = 0
                ended += 1
    assert ended > 15
    env.close()


def test_a_return_is_that_of_a_life_after_a_reset_in_the_middle_of_others(closing: Closing) -> None:
    venv = closing(SceneVecEnv("particles", in_process=True, num_agents=4, horizon=40))
    rng = np.random.default_rng(0)
    venv.seed(3)
    venv.reset()
    earned = np.zeros(4)
    for _ in range(5):
        _, rewards, dones, _ = venv.step(forwards(4, rng))
        assert not dones.any()
        earned += rewards
    assert (np.abs(earned) > 0.1).all()
    venv.reset()
    returns, first = np.zeros(4), {}
    while len(first) < 4:
        _, rewards, dones, infos = venv.step(forwards(4, rng))
        returns += rewards
        for row in np.nonzero(dones)[0]:
            first.setdefault(row, (infos[row]["episode"]["r"], returns[row]))
    for told, summed in first.values():
        assert told == pytest.approx(summed, rel=1e-5)


def test_seeds_and_options(closing: Closing) -> None:
    venv = closing(SceneVecEnv("particles", in_process=True, num_agents=3))
    venv.seed(1)
    first, second = venv.reset(), venv.reset()
    assert not np.array_equal(first, second)
    venv.seed(1)
    np.testing.assert_array_equal(venv.reset(), first)
    np.testing.assert_array_equal(venv.reset(), second)
    assert venv.seed() != venv.seed()
    for seed in (-1, 1.5, "1"):
        with pytest.raises(SceneError, match=f"seed={seed!r} at reset; use a whole number of 0 or more"):
            venv.seed(seed)  # pyright: ignore[reportArgumentType]
    venv.set_options({"num_agents": 1})
    assert venv.reset().any(axis=1).tolist() == [True, False, False]
    assert venv.reset().any(axis=1).all()
    venv.set_options([{"num_agents": 1}, {}, {}])
    with pytest.raises(SceneError, match="different reset options"):
        venv.reset()


def test_attributes_and_methods(closing: Closing) -> None:
    venv = closing(SceneVecEnv("particles", 2, num_agents=2, render_mode="rgb_array"))
    venv.reset()
    assert venv.get_attr("num_slots") == [2] * 4 and venv.get_attr("scene", indices=[0, 3]) == ["particles"] * 2
    assert venv.has_attr("options") and not venv.has_attr("cars")
    positions = venv.env_method("positions")
    assert len(positions) == 4 and positions[0].shape == (4, 2)
    venv.set_attr("note", 7)
    assert venv.get_attr("note") == [7] * 4
    for call in (lambda: venv.set_attr("note", 1, indices=0), lambda: venv.env_method("positions", indices=[1])):
        with pytest.raises(SceneError, match="for some rows only"):
            call()
    assert venv.env_is_wrapped(Monitor) == [True] * 4  # its `episode` infos are here
    assert venv.env_is_wrapped(sb3.common.atari_wrappers.AtariWrapper, indices=0) == [False]
    picture = venv.render()
    frames = venv.get_images()
    assert picture is not None and len(frames) == 2 and frames[0] is not None
    assert picture.shape[0] >= frames[0].shape[0] and picture.dtype == np.uint8


class Watch(BaseCallback):
    """Counts what PPO was shown."""

    held = 0
    samples = 0

    def _on_step(self) -> bool:
        self.held += int(self.locals["obs_tensor"].any(dim=1).sum())
        return True

    def _on_rollout_end(self) -> None:
        buffer = self.locals["rollout_buffer"]
        batches = [batch.observations for batch in buffer.get(64)]
        assert all(bool(batch.any(dim=1).all()) for batch in batches)
        self.samples += sum(len(batch) for batch in batches)


def make_ppo(venv: SceneVecEnv | VecNormalize, **options: object) -> PPO:
    torch.set_num_threads(1)
    return PPO(
        "MlpPolicy",
        venv,
        rollout_buffer_class=MaskedRolloutBuffer,
        **{"n_steps": 128, "batch_size": 64, "n_epochs": 5, "gamma": 0.97, "device": "cpu", "seed": 0, **options},  # pyright: ignore
    )


def test_ppo_learns_on_particles_and_from_vehicles_alone(closing: Closing) -> None:
    venv = closing(SceneVecEnv("particles", in_process=True))
    ppo, watch = make_ppo(venv, learning_rate=1e-3), Watch()
    ppo.learn(16 * 1024, watch)
    assert watch.samples == watch.held < 16 * 1024  # some rows were empty
    assert ppo.ep_success_buffer is not None and np.mean(ppo.ep_success_buffer) > 0.25  # at random it is below 0.05
    rewards, lengths = evaluate_policy(ppo, venv, n_eval_episodes=16, return_episode_rewards=True)
    assert np.shape(rewards) == (16,) and np.max(lengths) <= 1000


def test_a_seed_repeats_the_training(closing: Closing) -> None:
    obs = np.linspace(0, 1, 32, dtype=np.float32)

    def trained(seed: int) -> np.ndarray:
        venv = closing(SceneVecEnv("particles", in_process=True, num_agents=4))
        return make_ppo(venv, n_steps=32, seed=seed).learn(256).predict(obs, deterministic=True)[0]

    assert np.array_equal(trained(0), trained(0)) and not np.array_equal(trained(0), trained(1))


def test_the_advantage_of_a_vehicle_stops_at_its_end() -> None:
    # Two rows of three steps. Row 0: a life ends at its first step, an empty slot, a newborn. Row 1: one life.
    venv = SceneVecEnv("particles", in_process=True, num_agents=2)
    buffer = MaskedRolloutBuffer(
        3, venv.observation_space, venv.action_space, device="cpu", gae_lambda=0.5, gamma=0.5, n_envs=2
    )
    seen = np.ones((2, 32), np.float32) / 2
    gone = seen.copy()
    gone[0] = 0
    zero = torch.zeros(2)
    for obs, reward, start in ((seen, [8, 1], [1, 1]), (gone, [0, 1], [1, 0]), (seen, [4, 1], [0, 0])):
        buffer.add(obs, np.zeros((2, 2)), np.array(reward), np.array(start), zero, zero)
    buffer.compute_returns_and_advantage(zero, np.zeros(2, bool))
    batch = next(buffer.get())
    # The newborn's 4 does not reach the 8 of the life before it; the empty row, which would have got 1, is not there.
    assert sorted(batch.advantages.tolist()) == [1.0, 1.25, 1.3125, 4.0, 8.0]
    again = [len(piece.advantages) for piece in buffer.get(2)]
    assert again == [2, 2, 1]


def test_rollouts_that_cannot_be_masked_are_refused(closing: Closing) -> None:
    venv = closing(SceneVecEnv("particles", in_process=True))
    with pytest.raises(ValueError, match="use VecNormalize with norm_obs=False"):
        make_ppo(VecNormalize(venv), n_steps=32).learn(256)
    make_ppo(VecNormalize(venv, norm_obs=False), n_steps=32).learn(256)
    buffer = MaskedRolloutBuffer(1, venv.observation_space, venv.action_space, device="cpu", n_envs=8)
    buffer.add(np.zeros((8, 32)), np.zeros((8, 2)), np.zeros(8), np.zeros(8), torch.zeros(8), torch.zeros(8))
    with pytest.raises(ValueError, match="no row of this rollout holds a vehicle"):
        next(buffer.get())


@pytest.mark.simulator
def test_ppo_on_metadrive(closing: Closing) -> None:
    horizon = 40  # so that everybody's first life has ended after half of the training
    venv = closing(SceneVecEnv("intersection", num_agents=8, horizon=horizon))
    ppo, watch = make_ppo(venv, n_steps=50), Watch()
    ppo.learn(8 * 100, watch)
    assert ppo.num_timesteps == 800 and 0 < watch.samples == watch.held
    lengths = [episode["l"] for episode in ppo.ep_info_buffer or ()]
    assert len(lengths) >= 8 and min(lengths) > 0 and max(lengths) == horizon
