"""The contracts of a lives view and of a simulator as functions, for these scenes and for your own.

PettingZoo's tests act uniformly at random, so that almost no vehicle moves and none ends. These drive forwards, and
`drive_forwards_space` makes PettingZoo's do so. Too long for a test suite, and so a command:

    python -m copo_envs.testing --scenes intersection parking_lot
"""

from __future__ import annotations

import argparse
import sys
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from gymnasium.spaces import Box
from pettingzoo.utils.env import ParallelEnv

from copo_envs.outcomes import Outcome
from copo_envs.step_batch import Simulator, StepBatch

Env = ParallelEnv[str, np.ndarray, Any]


def drive_forwards(env: Env, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """An action for every agent: a little random steering and throttle, no brake. Vehicles end soon, in many ways."""
    actions = {}
    for agent in env.agents:
        steering = rng.normal(0.0, 0.2)
        actions[agent] = np.array([np.clip(steering, -1, 1), rng.uniform(0.2, 1.0)], np.float32)
    return actions


class ForwardBox(Box):
    """The action space of a scene, but its samples drive: uniform ones stand still on average, and nobody ends."""

    def sample(self, mask: Any = None, probability: Any = None) -> np.ndarray:
        steering, throttle = super().sample(mask, probability)
        return np.array([0.3 * steering, abs(throttle)], np.float32)


def drive_forwards_space(env: Any, seed: int = 0) -> Any:
    """Give a view of a scene (not reset yet) an action space whose samples drive, for tests that sample it."""
    space = ForwardBox(-1.0, 1.0, (2,), np.float32, seed=seed)
    env.action_spaces = dict.fromkeys(env.possible_agents, space)
    return env


def check_pettingzoo(
    make_env: Callable[[], Env], cycles: int = 100, forwards: bool = True, seeds: bool = False
) -> None:
    """PettingZoo's `parallel_api_test` and, through AEC, `api_test`; with `seeds` also `parallel_seed_test`.

    Args:
        make_env: makes a view of a scene. With `seeds` two are open at once: it must not insist on `in_process=True`.
        cycles: steps of each test.
        forwards: sample actions that drive; else uniform ones.
        seeds: see above.

    Raises:
        AssertionError: and what else PettingZoo's tests raise.
    """
    from pettingzoo.test import api_test, parallel_api_test, parallel_seed_test
    from pettingzoo.utils.conversions import parallel_to_aec

    def make() -> Env:
        return drive_forwards_space(make_env()) if forwards else make_env()

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="unknown reset option 'options'")  # passed by the test itself
        for in_turn in (False, True):
            env = make()
            try:
                if in_turn:
                    api_test(parallel_to_aec(env), cycles)
                else:
                    parallel_api_test(env, cycles)
            finally:
                env.close()
        if seeds:
            envs = []
            try:
                parallel_seed_test(lambda: envs.append(make()) or envs[-1], cycles)
            finally:  # a failure must not leave this process with an engine
                for env in envs:
                    env.close()


def check_scene(
    env: Env,
    steps: int = 300,
    seed: int = 0,
    act: Callable[[Env, np.random.Generator], Mapping[str, np.ndarray]] = drive_forwards,
) -> Counter[Outcome]:
    """Drive and see that a lives view keeps its contract.

    Spaces (the same object at every call, observations inside), the keys of all dicts, newborns, endings, ids that
    never come back, infos with constant keys and finite numbers, positions of everybody who acted or was born.

    Args:
        env: closed by the caller.
        steps: how many, over as many episodes as that takes.
        seed: of the first episode and of the actions.
        act: the actions of everybody in `env.agents`.

    Returns:
        How many lives ended in which way. A check in which nobody ended says little: look at it.

    Raises:
        AssertionError: names what does not hold.
    """
    rng = np.random.default_rng(seed)
    name = env.metadata.get("name", type(env).__name__)
    assert env.metadata.get("is_parallelizable"), f"{name}: metadata['is_parallelizable'] is not True"
    assert len(set(env.possible_agents)) == len(env.possible_agents), f"{name}: an id twice in possible_agents"
    info_keys: set[str] = set()
    endings: Counter[Outcome] = Counter()
    ages: dict[str, int] = {}
    seen: set[str] = set()
    for step in range(steps):
        where = f"{name}, step {step}"
        if not env.agents or step == 0:
            obs, infos = env.reset(seed=seed + step)
            ages, seen = dict.fromkeys(env.agents, 0), set(env.agents)
            assert env.agents, f"{where}: nobody is there after a reset"
            _check_keys(where, env.agents, {"observations": obs, "infos": infos, "positions": _positions(env)})
            info_keys = info_keys or set(infos[env.agents[0]])
            _check_values(where, env, obs, infos, info_keys)
        acted = list(env.agents)
        obs, rewards, terminated, truncated, infos = env.step(dict(act(env, rng)))

        dicts = {"rewards": rewards, "terminations": terminated, "truncations": truncated, "infos": infos}
        newborns = [agent for agent in obs if agent not in acted]
        _check_keys(where, [*acted, *newborns], {"observations": obs, "positions": _positions(env), **dicts})
        for agent in newborns:
            assert agent not in seen, f"{where}: {agent} came back after its end"
            assert rewards[agent] == 0, f"{where}: newborn {agent} has reward {rewards[agent]}"
            assert not terminated[agent] and not truncated[agent], f"{where}: newborn {agent} ended before it acted"
        ended = {agent for agent in obs if terminated[agent] or truncated[agent]}
        staying = sorted(set(obs) - ended)
        assert sorted(env.agents) == staying, f"{where}: agents are {sorted(env.agents)}, going on are {staying}"
        assert set(env.agents) <= set(env.possible_agents), f"{where}: an agent is not one of possible_agents"
        _check_values(where, env, obs, infos, info_keys)
        seen.update(newborns)
        ages = {agent: ages.get(agent, -1) + 1 for agent in obs}
        for agent in obs:
            for ending in (terminated[agent], truncated[agent]):
                assert type(ending) is bool, f"{where}: an ending of {agent} is a {type(ending).__name__}, not a bool"
            assert isinstance(rewards[agent], float) and np.isfinite(rewards[agent]), (
                f"{where}: the reward of {agent} is {rewards[agent]!r}, not a finite float"
            )
            outcome = Outcome(infos[agent]["outcome"])
            expected = (outcome in (Outcome.SUCCESS, Outcome.CRASH, Outcome.OUT_OF_ROAD), outcome == Outcome.MAX_STEP)
            assert (terminated[agent], truncated[agent]) == expected, (
                f"{where}: {agent} has outcome {outcome.name}, terminated={terminated[agent]}, "
                f"truncated={truncated[agent]}"
            )
            assert infos[agent]["life_steps"] == ages[agent], (
                f"{where}: {agent} has acted {ages[agent]} times, life_steps says {infos[agent]['life_steps']}"
            )
        endings.update(Outcome(infos[agent]["outcome"]) for agent in ended)
    return endings


def check_deterministic(
    make_env: Callable[[], Env],
    steps: int = 300,
    seed: int = 0,
    others: Iterable[Callable[[], Env]] = (),
    min_endings: int = 0,
) -> int:
    """See that the same seed and actions give the same episodes, bit for bit.

    After another episode in the same environment, in an environment made anew, and in those that `others` make (one
    in a worker process, say). Every environment is closed before the next one is made.

    Args:
        make_env: makes a lives view.
        steps: how many, over as many episodes as that takes.
        seed: of the first episode and of the actions.
        others: makers of environments that must agree with that of `make_env`.
        min_endings: drive on after `steps` until so many lives have ended, at most ten times as far.

    Returns:
        How many lives ended. A check in which nobody ended says little.

    Raises:
        AssertionError: names the first difference, or fewer endings than `min_endings`.
    """
    env = make_env()
    first = _record(env, steps, seed, min_endings)
    steps = sum("rewards" in moment for moment in first)
    _record(env, min(steps, 50), seed + 1)
    _compare(first, _record(env, steps, seed), "after another reset")
    env.close()
    for number, make_other in enumerate([make_env, *others]):
        env = make_other()
        _compare(first, _record(env, steps, seed), f"in environment {number + 2}")
        env.close()
    endings = sum(map(_endings, first))
    assert endings >= min_endings, f"{endings} lives ended in {steps} steps, and {min_endings} were asked for"
    return endings


def check_simulator(
    simulator: Simulator, steps: int = 300, seed: int = 0, num_agents: int | None = None, rule_based: int = 0
) -> int:
    """Drive forwards and see that a simulator keeps the contract of `StepBatch`.

    Who acted is who was alive; empty rows are zero; lives are numbered from 0 in an episode and end once, in one way;
    living vehicles and wrecks together are at most `num_agents` and `rule_based`, and lives at most `max_lives`.

    Args:
        simulator: closed by the caller.
        steps: how many, over as many episodes as that takes.
        seed: of the first episode and of the actions.
        num_agents: for `reset`.
        rule_based: vehicles that a rule drives, as in the simulator's options.

    Returns:
        How many lives ended. A check in which nobody ended says little.

    Raises:
        AssertionError: names what does not hold.
    """
    rng = np.random.default_rng(seed)
    population = num_agents or simulator.num_slots
    over, endings, lives = True, 0, 0
    for step in range(steps):
        where = f"step {step}"
        if over:
            batch = simulator.reset(seed + step, num_agents)
            assert batch.active.sum() == population, f"{where}: {batch.active.sum()} vehicles after a reset"
            assert not batch.acted.any() and not batch.episode_over and batch.episode_step == 0, (
                f"{where}: something happened before the first step"
            )
            lives = population
            assert sorted(batch.life[batch.active]) == list(range(lives)), f"{where}: first lives are {batch.life}"
            _check_now(where, batch)
        alive, life, clock = (
            simulator.batch.active.copy(),
            simulator.batch.life.copy(),
            simulator.batch.episode_step + 0,
        )
        actions = np.stack([rng.normal(0, 0.2, len(alive)), rng.uniform(0.2, 1, len(alive))], axis=1).clip(-1, 1)
        batch = simulator.step(actions)

        ended = batch.terminated | batch.truncated
        assert np.array_equal(batch.acted, alive), f"{where}: alive were {alive}, acted have {batch.acted}"
        assert np.array_equal(batch.acted_life, life), f"{where}: lives were {life}, acted have {batch.acted_life}"
        assert not (batch.terminated & batch.truncated).any(), f"{where}: a life was terminated and truncated"
        assert not (ended & ~alive).any(), f"{where}: a life ended that was not alive"
        assert np.array_equal(batch.outcome == Outcome.MAX_STEP, batch.truncated), f"{where}: truncated is not MAX_STEP"
        assert np.array_equal(batch.outcome != Outcome.RUNNING, ended), f"{where}: outcome without ending or otherwise"
        for name in ("reward", "acted_position", "acted_heading", "velocity", "route_completion", "cost", "energy"):
            values = getattr(batch, name)
            assert np.isfinite(values).all(), f"{where}: {name} is not finite: {values}"
            assert not values[~alive].any(), f"{where}: {name} of slots that did not act is not zero"
        assert not batch.final_obs[~ended].any(), f"{where}: a final observation of a life that goes on"
        assert (batch.life_steps[alive] >= 1).all() and not batch.life_steps[~alive].any(), f"{where}: life_steps"
        assert batch.episode_step > clock, f"{where}: the clock stands at {clock}"
        goes_on = alive & ~ended
        if not batch.episode_over:
            assert np.array_equal(batch.life[goes_on], life[goes_on]), f"{where}: a living vehicle changed its number"
            assert np.array_equal(batch.spawned, batch.active & ~goes_on), f"{where}: spawned is not who is new"
            newborns = sorted(batch.life[batch.spawned])
            assert newborns == list(range(lives, lives + len(newborns))), f"{where}: new lives {newborns} after {lives}"
            lives += len(newborns)
            assert batch.active.any(), f"{where}: nobody is alive and the episode goes on"
        on_the_road = batch.active.sum() + len(simulator.wrecks()) + len(simulator.traffic())
        assert on_the_road <= population + rule_based, (
            f"{where}: {on_the_road} on the road, {population + rule_based} were asked for"
        )
        assert lives <= simulator.max_lives, f"{where}: {lives} lives, at most {simulator.max_lives} were allowed"
        _check_now(where, batch)
        endings += int(ended.sum())
        over = bool(batch.episode_over)
    return endings


def _check_now(where: str, batch: StepBatch) -> None:
    empty = ~batch.active
    assert (batch.life[empty] == -1).all() and (batch.life[~empty] >= 0).all(), f"{where}: lives are {batch.life}"
    for name in ("obs", "position", "heading"):
        assert not getattr(batch, name)[empty].any(), f"{where}: {name} of an empty slot is not zero"
    for name in ("obs", "final_obs"):
        values = getattr(batch, name)
        assert (values >= 0).all() and (values <= 1).all(), f"{where}: {name} from {values.min()} to {values.max()}"


def _positions(env: Env) -> dict[str, np.ndarray]:
    unwrapped: Any = env
    return unwrapped.positions()


def _check_keys(where: str, agents: list[str], dicts: Mapping[str, Mapping[str, Any]]) -> None:
    for name, values in dicts.items():
        assert set(values) == set(agents), f"{where}: {name} are of {sorted(values)} and should be of {sorted(agents)}"


def _check_values(
    where: str, env: Env, obs: Mapping[str, np.ndarray], infos: Mapping[str, Mapping[str, Any]], info_keys: set[str]
) -> None:
    positions = _positions(env)
    for agent in obs:
        space = env.observation_space(agent)
        assert space is env.observation_space(agent), f"{where}: observation_space({agent!r}) is a new object each time"
        assert env.action_space(agent) is env.action_space(agent), f"{where}: action_space({agent!r}) is a new object"
        assert space.contains(obs[agent]), f"{where}: the observation of {agent} is not in {space}: {_why(obs, agent)}"
        assert isinstance(env.action_space(agent), Box), f"{where}: the action space of {agent} is no Box"
        position = np.asarray(positions[agent])
        assert position.shape == (2,) and np.isfinite(position).all(), f"{where}: {agent} is at {position}"
        assert infos[agent].keys() == info_keys, (
            f"{where}: infos of {agent} have {sorted(infos[agent])}, others {sorted(info_keys)}"
        )
        for key, value in infos[agent].items():
            numbers = np.asarray(value)
            assert numbers.dtype.kind in "biuf", f"{where}: info {key!r} of {agent} is {value!r}, not a number"
            assert numbers.ndim or np.isfinite(numbers), f"{where}: info {key!r} of {agent} is {value!r}"


def _why(obs: Mapping[str, np.ndarray], agent: str) -> str:
    values = np.asarray(obs[agent])
    return f"shape {values.shape}, {values.dtype}, from {np.min(values)} to {np.max(values)}"


def _endings(moment: dict[str, dict[str, Any]]) -> int:
    return sum(sum(moment.get(what, {}).values()) for what in ("terminations", "truncations"))


def _record(env: Env, steps: int, seed: int, min_endings: int = 0) -> list[dict[str, dict[str, Any]]]:
    rng = np.random.default_rng(seed)
    moments: list[dict[str, dict[str, Any]]] = []
    endings = 0
    for step in range(10 * steps if min_endings else steps):
        if step >= steps and endings >= min_endings:
            break
        if not env.agents or step == 0:
            obs, infos = env.reset(seed=seed + step)
            moments.append({"observations": obs, "infos": infos, "positions": _positions(env)})
        obs, rewards, terminated, truncated, infos = env.step(drive_forwards(env, rng))
        moments.append(
            {
                "observations": obs,
                "rewards": rewards,
                "terminations": terminated,
                "truncations": truncated,
                "infos": infos,
                "positions": _positions(env),
                "agents": dict.fromkeys(env.agents),
            }
        )
        endings += _endings(moments[-1])
    return moments


def _compare(first: list[dict[str, dict[str, Any]]], again: list[dict[str, dict[str, Any]]], where: str) -> None:
    for moment, (one, other) in enumerate(zip(first, again, strict=True)):
        assert one.keys() == other.keys(), f"{where}, at moment {moment}: an episode ended at another step"
        for what, values in one.items():
            assert list(values) == list(other[what]), (
                f"{where}, at moment {moment}: {what} of {list(values)} and of {list(other[what])}"
            )
            for agent, value in values.items():
                same = (
                    np.array_equal(value, other[what][agent])
                    if isinstance(value, np.ndarray)
                    else value == other[what][agent]
                )
                assert same, (
                    f"{where}, at moment {moment}: {what} of {agent} are {value} first and {other[what][agent]} then"
                )


def main(arguments: Sequence[str] | None = None) -> int:
    """PettingZoo's tests and the checks above on whole scenes, one line each; exit code 1 where one fails."""
    from copo_envs.lives_env import parallel_env
    from copo_envs.scenes import SCENES
    from copo_envs.slots_env import slots_env

    parser = argparse.ArgumentParser(prog="python -m copo_envs.testing", description=(main.__doc__ or "").strip())
    parser.add_argument("--scenes", nargs="+", default=list(SCENES), choices=list(SCENES))
    parser.add_argument(
        "--num-agents", nargs="+", type=int, help="numbers of vehicles; left out: 1, 2, the default and the most"
    )
    parser.add_argument("--cycles", type=int, default=150, help="steps of each of PettingZoo's tests")
    parser.add_argument("--steps", type=int, default=300, help="steps of each check; determinism: and 100 endings")
    args = parser.parse_args(arguments)
    failed = 0

    def report(what: str, check: Callable[[], Any]) -> None:
        nonlocal failed
        try:
            result = check()
            print(f"ok      {what}{'' if result is None else f': {result}'}", flush=True)
        except Exception as error:  # whatever a check raises is what it found
            failed += 1
            print(f"FAILED  {what}: {type(error).__name__}: {error}", flush=True)

    for scene in args.scenes:
        for num_agents in args.num_agents or sorted({1, 2, SCENES[scene].num_agents, SCENES[scene].capacity}):
            for view in (parallel_env, slots_env):
                for forwards in (True, False):
                    name = f"{scene}, {num_agents} vehicles, {view.__name__}, {'forwards' if forwards else 'uniform'}"

                    def make(view: Any = view, count: int = num_agents, scene: str = scene) -> Env:
                        return view(scene, num_agents=count, horizon=100)

                    report(
                        name, lambda make=make, forwards=forwards: check_pettingzoo(make, args.cycles, forwards, True)
                    )
            for_contract = {"num_agents": num_agents, "horizon": 100}
            report(
                f"{scene}, {num_agents} vehicles, contract", lambda s=scene, o=for_contract: _contract(s, o, args.steps)
            )
        report(
            f"{scene}, the same episodes again, anew, and in a worker",
            lambda scene=scene: check_deterministic(
                lambda: parallel_env(scene, in_process=True),
                args.steps,
                others=[lambda: parallel_env(scene, in_process=False)],
                min_endings=100,
            ),
        )
    return int(failed > 0)


def _contract(scene: str, options: dict[str, Any], steps: int) -> str:
    from copo_envs.lives_env import parallel_env

    env = parallel_env(scene, **options)
    try:
        endings = check_scene(env, steps)
    finally:
        env.close()
    return ", ".join(f"{ending.name.lower()} {count}" for ending, count in sorted(endings.items()))


if __name__ == "__main__":
    sys.exit(main())
