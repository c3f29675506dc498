# pyright: reportMissingImports=false
"""The Tianshou example, where Tianshou is installed, which constraints.txt does not allow (it wants pandas below 3)."""

from __future__ import annotations

import runpy
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import copo_envs
from copo_envs.outcomes import Outcome

pytest.importorskip(
    "tianshou", reason="Tianshou is not installed: it wants Python 3.11 and pandas below 3, unlike constraints.txt"
)
torch = pytest.importorskip("torch")
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def example() -> dict[str, Any]:
    return runpy.run_path(str(Path(__file__).parents[2] / "examples" / "tianshou_ppo.py"))


def collect(example: dict[str, Any], num_scenes: int, chunks: list[int], num_agents: int, **options: Any) -> Any:
    """What a Tianshou collector puts into the buffer in `chunks` of steps with an untrained policy that is fast, and
    the actions of all rows."""
    from tianshou.data import Collector

    torch.manual_seed(0)
    rows = example["Rows"]("particles", num_scenes, 3, **options)
    ppo = example["make_ppo"](rows)
    ppo.policy.actor.mu.model[-1].bias.data[1] = 2.0  # full throttle, so that somebody crashes or leaves the square
    buffer = example["LivesBuffer"](sum(chunks) * rows.env_num, rows.env_num)
    collector = Collector(ppo, rows, buffer)
    collector.reset(gym_reset_kwargs={"options": {"num_agents": num_agents}})
    actions, step = [], rows.step

    def remember(action: Any, id: Any = None) -> Any:
        actions.append(np.array(action))
        return step(action, id)

    rows.step = remember
    stats = [collector.collect(n_step=steps * rows.env_num) for steps in chunks]
    rows.close()
    return ppo, buffer, actions, stats


def lives_by_row(actions: list[np.ndarray], num_scenes: int, num_agents: int, **options: Any) -> list[list[dict]]:
    """What the vehicles of each row of the arrays view did, driven with these actions."""
    scenes = copo_envs.vector_env("particles", num_scenes, **options)
    obs, _ = scenes.reset(seed=3, options={"num_agents": num_agents})
    steps: list[list[dict]] = [[] for _ in range(scenes.num_envs)]
    for action in actions:
        after, rewards, terminated, truncated, infos = scenes.step(action)
        for row in np.nonzero(infos["acted"])[0]:
            ended = terminated[row] or truncated[row]
            steps[row].append(
                {
                    "obs": obs[row],
                    "act": action[row],
                    "rew": rewards[row],
                    "obs_next": infos["final_obs"][row] if ended else after[row],
                    "terminated": terminated[row],
                    "truncated": truncated[row],
                    "outcome": infos["outcome"][row],
                    "life_steps": infos["life_steps"][row],
                }
            )
        obs = after
    scenes.close()
    return steps


# With a horizon of 60 some are out of time; of 8 rows with 5 vehicles three stay empty.
@pytest.mark.parametrize(("num_scenes", "num_agents", "horizon"), [(1, 8, 1000), (1, 8, 60), (1, 5, 60), (2, 8, 60)])
def test_the_buffer_holds_the_lives_of_the_arrays_view(
    example: dict[str, Any], num_scenes: int, num_agents: int, horizon: int
) -> None:
    _, buffer, actions, stats = collect(example, num_scenes, [30, 170], num_agents, horizon=horizon)
    rows = lives_by_row(actions, num_scenes, num_agents, horizon=horizon)
    ended = kept = out_of_time = 0
    returns: list[float] = []
    for row, (part, steps) in enumerate(zip(buffer.buffers, rows, strict=True)):
        assert len(part) == len(steps)
        start = buffer.subbuffer_edges[row]
        life: list[float] = []
        for t, expected in enumerate(steps):
            data = buffer[int(start) + t]
            for key in ("obs", "act", "obs_next", "rew", "terminated", "truncated"):
                np.testing.assert_array_equal(data[key], expected[key])
            assert data.info.outcome == expected["outcome"]
            life.append(expected["rew"])
            assert data.info.life_steps == len(life)  # a life is in one piece, and nothing else is
            assert data.done == (expected["terminated"] or expected["truncated"]) == (expected["outcome"] > 0)
            if data.done:
                returns.append(sum(life))
                life = []
                ended += 1
                out_of_time += int(expected["truncated"])
        kept += len(steps)
    assert len(buffer) == kept < len(actions) * len(rows)  # some rows were empty
    assert ended > 5 and (out_of_time > 0) == (horizon == 60)
    np.testing.assert_allclose(np.sort(np.concatenate([part.returns for part in stats])), np.sort(returns))


def test_advantages_stop_at_the_end_of_a_life(example: dict[str, Any]) -> None:
    """Tianshou's against the recursion A_t = r + gamma V' (1 - terminated) - V + gamma lambda (1 - done) A_t+1."""
    ppo, buffer, actions, _ = collect(example, 1, [150], 8, horizon=60)
    indices = buffer.sample_indices(0)
    batch = buffer[indices]
    with torch.no_grad():
        values, next_values = (ppo.critic(obs).flatten().numpy() for obs in (batch.obs, batch.obs_next))
    _, advantages = ppo.compute_episodic_return(
        batch, buffer, indices, next_values, values, gamma=ppo.gamma, gae_lambda=ppo.gae_lambda
    )
    assert (ppo.gamma, ppo.gae_lambda) == (0.97, 0.95)
    place = 0
    for steps in lives_by_row(actions, 1, 8, horizon=60):
        advantage = 0.0
        for t in reversed(range(len(steps))):
            step, value, next_value = steps[t], values[place + t], next_values[place + t]
            advantage *= not (step["terminated"] or step["truncated"])
            delta = step["rew"] + 0.97 * next_value * (not step["terminated"]) - value
            advantage = delta + 0.97 * 0.95 * advantage
            np.testing.assert_allclose(advantages[place + t], advantage, rtol=1e-4, atol=1e-4)
        place += len(steps)
    assert place == len(advantages) < 8 * len(actions)


def test_some_rows_alone_are_refused(example: dict[str, Any]) -> None:
    rows = example["Rows"]("particles", seed=0)
    rows.reset()
    with pytest.raises(ValueError, match="n_step"):
        rows.step(np.zeros((3, 2), np.float32), np.arange(3))
    rows.close()


def test_learns_on_particles(example: dict[str, Any]) -> None:
    endings = example["main"](["--scene", "particles", "--total-timesteps", "20000"])
    assert endings[Outcome.SUCCESS] / endings.total() > 0.12  # at random it is below 0.05


def test_a_seed_repeats_the_training(example: dict[str, Any]) -> None:
    one, same, other = (
        torch.cat([p.flatten() for p in example["train"]("particles", 1024, 1, seed).parameters()])
        for seed in (0, 0, 1)
    )
    assert torch.equal(one, same) and not torch.equal(one, other)


@pytest.mark.simulator
def test_runs_on_metadrive(example: dict[str, Any]) -> None:
    example["main"](["--scene", "intersection", "--total-timesteps", "960", "--evaluation-steps", "60"])
