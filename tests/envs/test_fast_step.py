"""The batched step is MetaDrive's step: side by side on every scene, and what happens where it cannot be used."""

from __future__ import annotations

import copy
import logging
import os
import subprocess
import sys
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.step_equality import Comparison, _compare, compare
from copo_envs.outcomes import Outcome
from copo_envs.process import ProcessSimulator
from copo_envs.scenes import REWARDS, SCENES, scene_options
from copo_envs.simulator import MetaDriveSimulator

pytestmark = pytest.mark.simulator

METADRIVE_SCENES = [name for name, scene in SCENES.items() if scene.metadrive_class]


def assert_same(found: Comparison) -> None:
    assert found.parted_at == -1
    assert found.cells_apart == 0 and found.largest_obs == 0.0
    assert found.largest_number == 0.0


@pytest.mark.parametrize("scene", METADRIVE_SCENES)
def test_every_number_equals_metadrives_own(scene: str) -> None:
    found = compare(scene, steps=50, seed=3, bias=0.6)  # a driver who errs that much soon ends lives
    assert_same(found)
    assert found.steps == 50 and found.endings >= 3 and found.cells > 20_000


@pytest.mark.parametrize(
    "scene, options",
    [
        ("tollgate", {"geometry": "metadrive", "toll_counter": "per_vehicle"}),
        ("bottleneck", {"geometry": "metadrive", "num_agents": 1}),
        ("parking_lot", {"horizon": 20, "respawn": False}),  # nobody left, and time-outs
        ("intersection", {"num_agents": 1, "delay_done": 5, "horizon": 16}),  # a place that becomes free at the horizon
        ("intersection", {"num_agents": 2, "delay_done": 1, "horizon": 12, "drain": False, "max_lives": 3}),
        ("pg_map", {"num_agents": 4, "num_scenarios": 2, "horizon": 9, "drain": False}),  # maps come back
    ],
)
def test_the_same_under_other_options(scene: str, options: dict[str, Any]) -> None:
    assert_same(compare(scene, steps=35, seed=1, bias=0.3, **options))


@pytest.mark.parametrize("scene, steps", [("parking_lot", 80), ("intersection", 145)])
def test_who_arrives_leaves_no_wreck(scene: str, steps: int, closing: Callable[..., Any]) -> None:
    options: dict[str, Any] = {"num_agents": 6, "delay_done": 1000}  # whoever stays, stays to the end
    fast = closing(MetaDriveSimulator(scene_options(scene, **options)))
    stock = closing(ProcessSimulator(scene_options(scene, **options, step_backend="stock")))
    found, standing = Comparison(scene, fast.options.geometry, fast.num_slots, seed=1), 0
    _compare(found, fast.reset(1), stock.reset(1))
    for _ in range(steps):
        moves = stock.rule_actions()  # nobody arrives in so few steps by chance
        here, there = fast.step(moves), stock.step(moves)
        assert fast.backend == "fast"
        _compare(found, here, there)
        standing += int((there.acted & (there.outcome > Outcome.SUCCESS)).sum())
        assert len(fast.wrecks()) == standing
        np.testing.assert_array_equal(fast.wrecks(), stock.wrecks())
    assert_same(found)
    assert found.arrivals >= 1


def test_kernels_are_compiled_for_one_kind_of_arrays_only() -> None:
    for scene, vehicles in (("pg_map", 1), ("tollgate", 3)):
        compare(scene, steps=2, seed=0, num_agents=vehicles)
    from copo_envs.fast import kernels

    assert {kernel.__name__: len(kernel.signatures) for kernel in kernels.KERNELS} == {
        kernel.__name__: 1 for kernel in kernels.KERNELS
    }


def stock_because(
    caplog: pytest.LogCaptureFixture, closing: Callable[[MetaDriveSimulator], MetaDriveSimulator]
) -> list[str]:
    """Resets a scene twice, which must fall back and say so once; returns what was logged."""
    with caplog.at_level(logging.WARNING, logger="copo_envs"):
        simulator = closing(MetaDriveSimulator(scene_options("intersection", num_agents=2)))
        simulator.reset(0)
        simulator.reset(1)
    assert simulator.backend == "stock"
    return [record.getMessage() for record in caplog.records if record.name == "copo_envs"]


def test_another_metadrive_is_refused_by_name(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, closing: Callable[..., MetaDriveSimulator]
) -> None:
    from copo_envs.fast import covered

    monkeypatch.setattr(covered, "KNOWN_METADRIVE", "0.4.9")
    assert stock_because(caplog, closing) == [
        "intersection: the batched step does not cover MetaDrive 0.4.3, whose inside may differ; it works with 0.4.9; "
        "using MetaDrive's own"
    ]


def test_a_setting_that_is_not_covered_falls_back(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, closing: Callable[..., MetaDriveSimulator]
) -> None:
    from copo_envs.fast import covered

    monkeypatch.setitem(covered._EXPECTED, "crash_done", False)
    (sentence,) = stock_because(caplog, closing)
    assert "does not cover crash_done=True" in sentence


def test_without_numba_metadrives_own_step_is_used(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, closing: Callable[..., MetaDriveSimulator]
) -> None:
    monkeypatch.setitem(sys.modules, "copo_envs.fast", None)
    (sentence,) = stock_because(caplog, closing)
    assert "needs numba" in sentence and "using MetaDrive's own step" in sentence


def test_kernels_that_do_not_compile_fall_back(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, closing: Callable[..., MetaDriveSimulator]
) -> None:
    from copo_envs.fast import covered, kernels

    def fails() -> None:
        raise RuntimeError("no such processor")

    monkeypatch.setattr(kernels, "warm_up", fails)
    covered.compile_kernels.cache_clear()
    (sentence,) = stock_because(caplog, closing)
    assert "do not compile here (no such processor); using MetaDrive's own" in sentence


@pytest.mark.parametrize("scene", ["intersection", "tollgate"])
def test_weights_of_the_reward_and_cost_hold_in_both_steps(scene: str) -> None:
    weights = dict(zip(REWARDS, (0.5, 0.3, 20.0, 7.0, 6.0, 4.0, 2.0, 3.0, 5.0), strict=True))
    weights |= {"overspeed_penalty": 0.9} if scene == "tollgate" else {}
    found = compare(scene, steps=60, seed=2, num_agents=12, rewards=weights)
    assert found.endings > 0
    assert_same(found)


def test_weights_change_the_reward_and_nothing_else(
    closing: Callable[[MetaDriveSimulator], MetaDriveSimulator],
) -> None:
    def drive(**rewards: float) -> tuple[np.ndarray, ...]:
        simulator = closing(MetaDriveSimulator(scene_options("intersection", num_agents=8, rewards=rewards)))
        simulator.reset(0)
        moves = np.tile(np.array([0.4, 1.0], np.float32), (8, 1))
        batches = [copy.deepcopy(simulator.step(moves)) for _ in range(40)]
        simulator.close()
        names = ("obs", "outcome", "reward", "cost")
        return tuple(np.stack([getattr(batch, name) for batch in batches]) for name in names)

    (obs, outcome, reward, cost), (obs_, outcome_, reward_, cost_) = drive(), drive(out_of_road_penalty=8.0)
    np.testing.assert_array_equal(obs, obs_)
    np.testing.assert_array_equal(outcome, outcome_)
    np.testing.assert_array_equal(cost, cost_)
    out = outcome == Outcome.OUT_OF_ROAD
    assert out.any() and (reward[out] == -10.0).all() and (reward_[out] == -8.0).all()
    np.testing.assert_array_equal(reward[~out], reward_[~out])


def test_a_map_that_is_not_covered_does_not_stand_for_the_next(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, closing: Callable[..., MetaDriveSimulator]
) -> None:
    from copo_envs.fast import BatchedStep, NotCovered

    begin, begun = BatchedStep.begin, []

    def begin_but_once(self: BatchedStep, key: Any) -> None:
        begun.append(key)
        if len(begun) == 2:
            raise NotCovered("a lane of type Rope")
        begin(self, key)

    monkeypatch.setattr(BatchedStep, "begin", begin_but_once)
    simulator, backends = closing(MetaDriveSimulator(scene_options("pg_map", num_agents=2, num_scenarios=3))), []
    with caplog.at_level(logging.WARNING, logger="copo_envs"):
        for seed in range(3):
            simulator.reset(seed)
            simulator.step(np.zeros((2, 2)))
            backends.append(simulator.backend)
    assert backends == ["fast", "stock", "fast"] and len(set(begun)) == 3
    (sentence,) = [record.getMessage() for record in caplog.records if record.name == "copo_envs"]
    assert "does not cover a lane of type Rope" in sentence


def test_the_tables_kept_are_those_of_the_maps_used_last(monkeypatch: pytest.MonkeyPatch) -> None:
    from copo_envs.fast import tables

    built: list[str] = []

    def build(env: str) -> str:
        built.append(env)
        return env

    monkeypatch.setattr(tables, "_kept", OrderedDict())
    monkeypatch.setattr(tables, "_build", build)
    monkeypatch.setattr(tables, "KEPT", 1)
    for name in ("one", "other", "other"):
        assert tables.tables_of(name, name) == name
    assert built == ["one", "other"]
    monkeypatch.setattr(tables, "KEPT", 2)
    for name in ("one", "other", "third", "other", "third", "one"):
        assert tables.tables_of(name, name) == name
    assert built == ["one", "other", "one", "third", "one"]


def test_tables_hold_the_booths_of_the_present_map_only() -> None:
    found = compare("tollgate", steps=12, seed=5, horizon=3, bias=0.0)  # several resets
    assert_same(found)


def test_nothing_is_kept_of_vehicles_that_are_gone(closing: Callable[[MetaDriveSimulator], MetaDriveSimulator]) -> None:
    simulator = closing(MetaDriveSimulator(scene_options("intersection", num_agents=8, delay_done=1)))
    simulator.reset(0)
    before = _sizes(simulator._fast)
    for _ in range(120):
        simulator.step(np.tile(np.array([0.4, 1.0], np.float32), (8, 1)))  # in circles, off the road
    manager = simulator.metadrive.agent_manager
    assert manager.next_agent_count > 24
    for kept in (manager.observations, manager.observation_spaces, manager.action_spaces):
        assert len(kept) <= 8
    after = _sizes(simulator._fast)
    assert len(before) >= 4
    assert all(after[name] <= max(size, 8) for name, size in before.items())


def _sizes(thing: Any) -> dict[str, int]:
    return {name: len(value) for name, value in vars(thing).items() if isinstance(value, (dict, list, set))}


def test_processes_that_start_together_compile_once(tmp_path: Path) -> None:
    code = (
        "import os, time\nfrom pathlib import Path\nfrom copo_envs.fast import covered, kernels\n"
        "def compile():\n    time.sleep(1)\n    place = Path(kernels.navigate.stats.cache_path)\n"
        "    place.mkdir(parents=True, exist_ok=True)\n    (place / 'kernels.some.nbi').touch()\n"
        "kernels.warm_up = compile\ncovered.compile_kernels()\n"
    )
    environment = {**os.environ, "NUMBA_CACHE_DIR": str(tmp_path)}
    together = [
        subprocess.Popen([sys.executable, "-c", code], env=environment, stderr=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    said = "".join(process.communicate()[1] for process in together)
    assert [process.returncode for process in together] == [0, 0]
    assert said.count("compiling the kernels") == 1


def test_without_a_place_for_the_lock_the_kernels_load_all_the_same(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    from copo_envs.fast import covered

    monkeypatch.setattr("tempfile.tempdir", "/nowhere")
    covered.compile_kernels.cache_clear()
    covered.compile_kernels()
    assert not caplog.records  # found where numba keeps them, and not compiled again


def test_stock_can_be_asked_for(closing: Callable[[MetaDriveSimulator], MetaDriveSimulator]) -> None:
    simulator = closing(MetaDriveSimulator(scene_options("intersection", num_agents=2, step_backend="stock")))
    simulator.reset(0)
    assert simulator.backend == "stock"
