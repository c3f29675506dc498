"""The lives view: PettingZoo's tests, the contract, repeatability, refusals."""

from __future__ import annotations

import copy
import pickle
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from gymnasium.spaces import Box
from pettingzoo.test import api_test, parallel_api_test, parallel_seed_test, seed_test
from pettingzoo.utils.conversions import parallel_to_aec

from copo_envs import particles_v0
from copo_envs.lives_env import LivesEnv, parallel_env
from copo_envs.outcomes import Outcome
from copo_envs.render import RenderError
from copo_envs.scenes import SCENES, SceneError
from copo_envs.testing import (
    check_deterministic,
    check_pettingzoo,
    check_scene,
    drive_forwards,
    drive_forwards_space,
)

METADRIVE_SCENES = [name for name, scene in SCENES.items() if scene.metadrive_class]
INFO_KEYS = {
    "outcome",
    "own_reward",
    "velocity_m_s",
    "route_completion",
    "cost",
    "energy",
    "life_steps",
    "seed",
    "map_seed",
}


@pytest.fixture
def only_expected_warnings() -> Iterator[None]:
    """PettingZoo's tests only warn of much that is wrong; here those are errors."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", message="unknown reset option 'options'")
        # max_lives is a bound; most episodes end before it.
        warnings.filterwarnings("ignore", message="No agents present but not all possible_agents")
        yield


def run_pettingzoo_tests(make: Callable[..., LivesEnv], cycles: int) -> None:
    for num_agents in (None, 1, 2):
        for biased in (False, True):
            env = make(num_agents=num_agents)
            parallel_api_test(drive_forwards_space(env) if biased else env, cycles if biased else cycles // 3)
            env.close()


@pytest.mark.usefixtures("only_expected_warnings")
def test_pettingzoo() -> None:
    run_pettingzoo_tests(particles_v0.parallel_env, cycles=300)
    parallel_api_test(drive_forwards_space(parallel_env("particles", horizon=50)), 300)


@pytest.mark.filterwarnings("ignore:unknown reset option")
def test_pettingzoo_in_turn() -> None:
    api_test(particles_v0.env(), 300)


def test_agents_in_turn_are_told_what_all_at_once_are() -> None:
    turns: Any = particles_v0.env(num_agents=4)
    turns.reset(seed=3)
    lives = parallel_env("particles", num_agents=4)
    lives.reset(seed=3)
    for _ in range(5):
        actions = lives.rule_actions()
        for agent, action in actions.items():
            np.testing.assert_array_equal(turns.rule_actions()[agent], action)
            assert turns.headings() == lives.headings() and turns.backend is lives.backend is None
            np.testing.assert_array_equal(turns.positions()[agent], lives.positions()[agent])
        for action in actions.values():
            turns.step(action)
        lives.step(actions)
    api_test(particles_v0.raw_env(), 300)
    api_test(parallel_to_aec(drive_forwards_space(parallel_env("particles", num_agents=2, horizon=60))), 300)
    seed_test(particles_v0.env, 50)
    parallel_seed_test(particles_v0.parallel_env, 50)


@pytest.mark.simulator
@pytest.mark.usefixtures("only_expected_warnings")
@pytest.mark.parametrize("scene", METADRIVE_SCENES)
def test_pettingzoo_on_metadrive(scene: str) -> None:
    warnings.filterwarnings("ignore", category=DeprecationWarning)  # of libraries that MetaDrive imports
    run_pettingzoo_tests(lambda **options: parallel_env(scene, in_process=True, **options), cycles=60)


@pytest.mark.parametrize("num_agents", [1, 2, 8, 32])
def test_pettingzoo_with_few_and_with_all(num_agents: int) -> None:
    check_pettingzoo(lambda: parallel_env("particles", num_agents=num_agents, horizon=60), 80, seeds=True)


@pytest.mark.simulator
@pytest.mark.parametrize("scene", METADRIVE_SCENES)
def test_pettingzoo_in_turn_on_metadrive(scene: str) -> None:
    for num_agents in (1, 2):
        env = drive_forwards_space(parallel_env(scene, num_agents=num_agents, horizon=30, in_process=True))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            api_test(parallel_to_aec(env), 20)
        env.close()


@pytest.mark.simulator
def test_two_scenes_in_one_process(closing: Callable[[LivesEnv], LivesEnv]) -> None:
    # Steps two environments alternately: the second one finds an engine in the process and goes to a worker.
    parallel_seed_test(lambda: closing(parallel_env("intersection", num_agents=4)), 15)


@pytest.mark.parametrize("num_agents", [None, 1, 2])
def test_contract(num_agents: int | None) -> None:
    endings = check_scene(parallel_env("particles", num_agents=num_agents, horizon=100), steps=400)
    assert endings.total() >= 4 and endings[Outcome.OUT_OF_ROAD] > 0


@pytest.mark.simulator
@pytest.mark.parametrize("scene", METADRIVE_SCENES)
def test_contract_on_metadrive(scene: str, closing: Callable[[LivesEnv], LivesEnv]) -> None:
    endings: Counter[Outcome] = Counter()
    for num_agents, steps in ((None, 120), (1, 80), (2, 80)):
        env = closing(parallel_env(scene, num_agents=num_agents, horizon=70, in_process=True))
        endings += check_scene(env, steps)
        env.close()
    assert endings[Outcome.OUT_OF_ROAD] + endings[Outcome.CRASH] > 5 and endings[Outcome.MAX_STEP] > 0


@pytest.mark.slow
def test_repeatable() -> None:
    make = lambda **options: parallel_env("particles", horizon=120, **options)  # noqa: E731
    assert check_deterministic(make, 300, others=[lambda: make(in_process=False)], min_endings=100) >= 100


@pytest.mark.simulator
@pytest.mark.parametrize(
    ("scene", "steps", "endings"),
    [
        ("intersection", 200, 30),
        ("parking_lot", 200, 20),
        ("tollgate", 40, 3),
        ("bottleneck", 50, 3),
        ("pg_map", 60, 3),
        ("roundabout", 30, 3),
    ],
)
def test_repeatable_on_metadrive(scene: str, steps: int, endings: int) -> None:
    here = lambda: parallel_env(scene, in_process=True)  # noqa: E731
    worker = lambda: parallel_env(scene, in_process=False)  # noqa: E731
    assert check_deterministic(here, steps, others=[worker]) >= endings


def test_seeds() -> None:
    env = parallel_env("particles")

    def seed_of(**arguments: Any) -> int:
        seeds = {info["seed"] for info in env.reset(**arguments)[1].values()}
        assert len(seeds) == 1
        return seeds.pop()

    assert seed_of() != seed_of()
    assert seed_of(seed=7) == 7
    then = [seed_of(), seed_of()]
    assert then[0] != then[1]
    seed_of(seed=np.int64(7))
    assert [seed_of(), seed_of()] == then  # a given seed determines the episodes after it too
    assert parallel_env("particles").reset()[1]["agent_0"]["seed"] != then[0]


def test_number_of_agents_at_reset() -> None:
    env = parallel_env("particles", num_agents=5)
    for count in (2, 5, 1):
        obs, infos = env.reset(seed=0, options={"num_agents": count})
        assert len(obs) == len(infos) == len(env.agents) == count
        for _ in range(150):
            env.step(dict.fromkeys(env.agents, np.array([0.0, 1.0])))
            assert len(env.agents) <= count
    env.reset()
    assert len(env.agents) == 5


def test_ids_positions_and_infos_of_a_life() -> None:
    env = parallel_env("particles", num_agents=3)
    obs, infos = env.reset(seed=1)
    assert list(obs) == ["agent_0", "agent_1", "agent_2"] == env.agents
    zeros = {"outcome": 0, "own_reward": 0.0, "velocity_m_s": 0.0, "life_steps": 0, "seed": 1}
    assert zeros.items() <= infos["agent_0"].items() and infos["agent_0"].keys() == INFO_KEYS
    assert env.positions().keys() == env.headings().keys() == obs.keys()
    newborn = None
    for _ in range(400):
        obs, rewards, terminated, _, infos = env.step({agent: np.array([0.0, 1.0]) for agent in env.agents})
        assert all(infos[agent]["own_reward"] == rewards[agent] for agent in obs)
        ended = [agent for agent in obs if terminated[agent]]
        assert not set(ended) & set(env.agents) and set(ended) <= env.positions().keys() == env.headings().keys()
        newborn = next((agent for agent in obs if agent not in ("agent_0", "agent_1", "agent_2")), None)
        if newborn:
            assert newborn == "agent_3" and infos[newborn] == {**infos[newborn], **zeros}
            break
    assert newborn


def test_observations_are_the_callers() -> None:
    env = parallel_env("particles")
    kept = env.reset(seed=0)[0]
    before = {agent: obs.copy() for agent, obs in kept.items()}
    for _ in range(5):
        env.step(dict.fromkeys(env.agents, np.array([0.3, 1.0])))
    assert all(np.array_equal(kept[agent], before[agent]) for agent in kept)


def test_max_lives_bounds_the_ids() -> None:
    env = parallel_env("particles", num_agents=4, max_lives=6)
    assert env.possible_agents == [f"agent_{life}" for life in range(6)]
    env.reset(seed=0)
    seen = set(env.agents)
    while env.agents:
        seen |= env.step(dict.fromkeys(env.agents, np.array([0.0, 1.0])))[0].keys()
    assert seen == set(env.possible_agents)


@pytest.mark.simulator
def test_metadrive_horizon_lives_and_drain(closing: Callable[[LivesEnv], LivesEnv]) -> None:
    env = closing(parallel_env("parking_lot", num_agents=5, max_lives=7, in_process=True))
    env.reset(seed=0)
    born = set(env.agents)
    while env.agents:
        born |= env.step(dict.fromkeys(env.agents, np.array([0.0, 1.0])))[0].keys()
    assert born == set(env.possible_agents)
    env.close()

    lengths = {}
    for drain in (False, True):
        env = closing(parallel_env("intersection", num_agents=10, horizon=120, drain=drain, in_process=True))
        env.reset(seed=0)
        rng = np.random.default_rng(0)
        lengths[drain] = 0
        truncated: dict[str, bool] = {}
        while env.agents:
            _, _, _, truncated, _ = env.step(drive_forwards(env, rng))
            lengths[drain] += 1
        assert drain or all(truncated.values())
        env.close()
    assert lengths[False] == 120 < lengths[True] <= 240


def test_no_respawn() -> None:
    env = parallel_env("particles", num_agents=4, respawn=False)
    env.reset(seed=0)
    while env.agents:
        assert env.step(dict.fromkeys(env.agents, np.array([0.0, 1.0])))[0].keys() <= {f"agent_{i}" for i in range(4)}


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"agent_0": None}, "the action of 'agent_0' is None; it must be 2 finite numbers in [-1, 1]"),
        ({"agent_0": [0.0, np.nan]}, "the action of 'agent_0' is [0.0, nan]; it must be 2 finite numbers"),
        ({"agent_0": [0.0, 0.0, 0.0]}, "the action of 'agent_0' is [0.0, 0.0, 0.0]; it must be 2 finite"),
        ({"agent_0": "left"}, "the action of 'agent_0' is 'left'; it must be 2 finite numbers"),
        ({"agent_0": ["0.1", "0.2"]}, "the action of 'agent_0' is ['0.1', '0.2']; it must be 2 finite numbers"),
        ({"agent_0": [1j, 0.0]}, "the action of 'agent_0' is [1j, 0.0]; it must be 2 finite numbers"),
        ({"agent_77": [0.0, 0.0]}, "an action for 'agent_77', which has not been in this episode"),
    ],
)
def test_actions_that_are_none(change: dict[str, Any], sentence: str) -> None:
    env = parallel_env("particles", num_agents=2)
    env.reset(seed=0)
    with pytest.raises(SceneError) as refusal:
        env.step({"agent_0": [0.0, 0.0], "agent_1": [0.0, 0.0], **change})
    assert sentence in str(refusal.value)


@pytest.mark.parametrize("actions", [None, [[0.0, 0.0], [0.0, 0.0]], np.zeros((2, 2))])
def test_actions_without_names(actions: Any) -> None:
    env = parallel_env("particles", num_agents=2)
    env.reset(seed=0)
    with pytest.raises(SceneError, match=r"actions are of type \w+; step\(\) takes a dictionary, agent -> "):
        env.step(actions)


def test_finite_actions_that_float32_cannot_hold_are_clipped() -> None:
    one, two = (parallel_env("particles", num_agents=1) for _ in range(2))
    one.reset(seed=0)
    two.reset(seed=0)
    far, full = one.step({"agent_0": [0.0, 1e39]}), two.step({"agent_0": [0.0, 1.0]})
    np.testing.assert_array_equal(far[0]["agent_0"], full[0]["agent_0"])


def test_an_environment_that_has_drawn_can_be_pickled_and_copied() -> None:
    env = parallel_env("particles", render_mode="rgb_array")
    env.reset(seed=0)
    picture = env.render()
    for other in (pickle.loads(pickle.dumps(env)), copy.deepcopy(env)):
        np.testing.assert_array_equal(other.render(), picture)


def test_other_refusals() -> None:
    with pytest.raises(SceneError, match="unknown render_mode 'ansi'; use None or 'human', 'rgb_array'"):
        parallel_env("particles", render_mode="ansi")
    with pytest.raises(SceneError, match="unknown option 'num_cars'"):
        parallel_env("particles", num_cars=3)
    with pytest.raises(SceneError, match="in_process='no'; use True, False or None"):
        parallel_env("particles", in_process="no")  # pyright: ignore[reportArgumentType]
    with pytest.raises(RenderError, match=r"render_options=640; use a dictionary such as {'size': 640}, or None"):
        parallel_env("particles", render_options=640)
    with pytest.raises(RenderError, match="size=100000 pixels is too large to draw; use 4096 or less"):
        parallel_env("particles", render_options={"size": 100_000})
    env = parallel_env("particles", num_agents=2, horizon=2)
    for call in (lambda: env.step({}), env.state):
        with pytest.raises(SceneError, match=r"has not been reset: call reset\(\) first"):
            call()
    with pytest.raises(SceneError, match="num_agents=3 at reset; this environment was made for 1 to 2"):
        env.reset(options={"num_agents": 3})
    with pytest.raises(SceneError, match="num_agents='two' at reset; this environment was made for 1 to 2"):
        env.reset(options={"num_agents": "two"})
    with pytest.raises(SceneError, match="unknown maps 'new' at reset; choose one of train, heldout"):
        env.reset(options={"maps": "new"})
    with pytest.raises(SceneError, match="maps='heldout', but particles has one map; only pg_map has held-out ones"):
        env.reset(options={"maps": "heldout"})
    for seed in (-1, 1.5, 2**63):
        with pytest.raises(SceneError, match=f"seed={seed} at reset; use a whole number of 0 or more, below 2"):
            env.reset(seed=seed)  # pyright: ignore[reportArgumentType]
    with pytest.raises(SceneError, match=r"reset options are 2; use a dictionary such as {'num_agents': 1}, or None"):
        env.reset(options=2)  # pyright: ignore[reportArgumentType]
    with pytest.warns(UserWarning, match="unknown reset option 'agents' is ignored; there are 'num_agents' and 'maps'"):
        env.reset(options={"agents": 1})
    with pytest.raises(SceneError, match="no action for 'agent_1'; step\\(\\) takes one for every agent"):
        env.step({"agent_0": np.zeros(2)})
    while env.agents:
        env.step(dict.fromkeys(env.agents, np.zeros(2)))
    with pytest.raises(SceneError, match=r"the episode is over: call reset\(\)"):
        env.step({})


def test_actions_of_the_dead_are_ignored_and_large_ones_clipped() -> None:
    one, other = (parallel_env("particles", num_agents=2) for _ in range(2))
    for env in (one, other):
        env.reset(seed=0)
    dead: set[str] = set()
    for _ in range(200):
        actions = dict.fromkeys(one.agents, np.array([0.0, 1.0]))
        loud = {**dict.fromkeys(one.agents, np.array([0.0, 9.0])), **dict.fromkeys(dead, None)}
        result, same = one.step(actions), other.step(loud)
        assert result[1:] == same[1:]
        dead |= {agent for agent in result[0] if result[2][agent]}
    assert dead


def test_spaces() -> None:
    env = parallel_env("particles", num_agents=3)
    space = env.observation_space("agent_0")
    assert space is env.observation_space("agent_9") and space == Box(0.0, 1.0, (32,), np.float32)
    assert env.action_space("agent_0") == Box(-1.0, 1.0, (2,), np.float32)
    env.reset(seed=0)
    env.max_cycles = 10
    assert env.unwrapped is env and env.num_agents == 3


def test_the_state_is_who_acts_next() -> None:
    env = parallel_env("particles", num_agents=5, horizon=200)
    assert env.state_space.shape == (5 * 6,) and env.state_space.dtype == np.float32
    env.reset(seed=0, options={"num_agents": 4})
    speed = dict.fromkeys(env.agents, 0.0)
    born = empty = 0
    while True:
        places, headings = env.positions(), env.headings()
        expected = [
            [1.0, *places[agent], np.cos(headings[agent]), np.sin(headings[agent]), speed[agent]]
            for agent in env.agents
        ]
        state = env.state()
        assert env.state_space.contains(state)
        rows = state.reshape(5, 6)
        there = rows[rows[:, 0] == 1]
        found, expected = (
            sorted(rows, key=lambda row: np.round(row, 3).tolist()) for rows in (there.tolist(), expected)
        )
        np.testing.assert_allclose(found, expected, atol=1e-5)
        assert not rows[rows[:, 0] != 1].any()
        empty += 5 - len(there)
        if not env.agents:
            break
        before = set(env.agents)
        *_, infos = env.step({agent: np.array([0.0, 1.0]) for agent in env.agents})
        speed = {agent: info["velocity_m_s"] if agent in before else 0.0 for agent, info in infos.items()}
        born += len(set(env.agents) - before)
    assert born > 3 and empty > 50


def test_state_in_turn() -> None:
    one: Any = particles_v0.env(num_agents=3)
    other = parallel_env("particles", num_agents=3)
    one.reset(seed=1)
    other.reset(seed=1)
    for _ in range(20):
        assert one.state_space == other.state_space
        np.testing.assert_array_equal(one.state(), other.state())
        for _ in other.agents:
            one.step(np.array([0.0, 1.0]))
        other.step(dict.fromkeys(other.agents, np.array([0.0, 1.0])))


def test_pictures() -> None:
    env = parallel_env("particles", render_mode="rgb_array")
    with pytest.raises(SceneError, match="has not been reset"):
        env.render()
    env.reset(seed=0)
    first = env.render()
    assert first is not None and first.dtype == np.uint8 and first.ndim == 3 and first.shape[2] == 3
    for _ in range(20):
        env.step(dict.fromkeys(env.agents, np.array([0.0, 1.0])))
    later = env.render()
    assert later is not None and later.shape == first.shape and not np.array_equal(later, first)
    mute = parallel_env("particles")
    mute.reset(seed=0)
    with pytest.warns(UserWarning, match="without a render mode"):
        assert mute.render() is None


def test_a_picture_shows_the_endings_since_the_last_one(closing: Callable[[LivesEnv], LivesEnv]) -> None:
    seldom, always = (closing(parallel_env("particles", render_mode="rgb_array")) for _ in range(2))
    for env in (seldom, always):
        env.reset(seed=0)
        env.render()
    rng, shown = np.random.default_rng(0), 0
    for step in range(1, 121):
        moves = {agent: np.array([rng.uniform(-0.3, 0.3), 1.0]) for agent in seldom.agents}
        _, _, terminated, _, _ = seldom.step(moves)
        always.step(moves)
        picture = always.render()
        if step % 3 == 0:
            np.testing.assert_array_equal(seldom.render(), picture)
        else:
            shown += any(terminated.values())
    assert shown >= 3


@pytest.mark.simulator
def test_pictures_of_metadrive(closing: Callable[[LivesEnv], LivesEnv]) -> None:
    pictures = []
    for in_process in (True, False):
        env = closing(parallel_env("intersection", num_agents=6, render_mode="rgb_array", in_process=in_process))
        env.reset(seed=0)
        for _ in range(40):
            env.step(dict.fromkeys(env.agents, np.array([0.1, 1.0])))
        pictures.append(env.render())
        env.close()
    assert pictures[0].std() > 5 and np.array_equal(*pictures)


def test_close_and_go_on_and_pickle() -> None:
    env = pickle.loads(pickle.dumps(parallel_env("particles", in_process=False)))
    first, _ = env.reset(seed=3)
    env.close()
    env.close()
    assert env.agents == [] and env.positions() == {}
    again, _ = env.reset(seed=3)
    assert all(np.array_equal(first[agent], again[agent]) for agent in first)
    env.close()
