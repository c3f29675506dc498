"""Settings: every field says what it is, presets are what the documents say, and nonsense is refused with numbers."""

from __future__ import annotations

import ast
import inspect
import json
import math
from dataclasses import fields
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from copo_algos import config as config_module
from copo_algos.algorithms import ALGORITHMS, get_algorithm
from copo_algos.config import (
    PRESETS,
    CriticConfig,
    LCFConfig,
    PPOConfig,
    TrainConfig,
    check,
    preset,
    with_values,
    without_effect,
)
from copo_algos.errors import UserError
from copo_envs.scenes import SCENES, SceneError

NUMBERS = {
    field.name: getattr(part, field.name)
    for part in (TrainConfig("ippo"), PPOConfig(), LCFConfig(), CriticConfig())
    for field in fields(part)
    if type(getattr(part, field.name)) in (int, float)
}


def refusal(**values: Any) -> str:
    with pytest.raises(UserError) as error:
        check(with_values(TrainConfig("ippo"), values))
    message = str(error.value)
    assert len(message.splitlines()) == 1
    return message


@pytest.mark.parametrize("name", ["PPOConfig", "LCFConfig", "CriticConfig", "TrainConfig"])
def test_every_field_is_followed_by_a_sentence(name: str):
    tree = ast.parse(inspect.getsource(config_module))
    (body,) = (node.body for node in tree.body if isinstance(node, ast.ClassDef) and node.name == name)
    for node, after in zip(body, [*body[1:], None], strict=True):
        if isinstance(node, ast.AnnAssign) and ast.unparse(node.target) not in ("ppo", "lcf", "critic"):
            assert isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant), ast.unparse(node)
            assert str(after.value.value).endswith(".")


def test_the_sentences_name_every_scene_and_algorithm():
    source = inspect.getsource(TrainConfig)
    assert all(name in source for name in (*SCENES, *ALGORITHMS))


@pytest.mark.parametrize("name", ["precision", "neighbour_rule", "lcf_estimator", "preset"])
def test_what_is_none_of_the_choices_is_refused_with_them(name: str):
    message = refusal(**{name: "half"})
    assert message.startswith(f"{name}='half'; use one of ")


def test_a_preset_in_name_only_is_refused():
    assert "preset='paper', but none of its values is set; begin with" in refusal(preset="paper")
    check(with_values(preset("paper", "copo"), {"num_envs": 2}))


def test_defaults_are_accepted_for_every_algorithm_and_preset():
    for algorithm in ALGORITHMS:
        for name in PRESETS:
            config = preset(name, algorithm)
            check(config)
            assert config.algorithm == algorithm and config.preset == name


def test_the_published_values():
    config = preset("paper")
    assert config.steps_per_iteration == 1600 and config.num_envs == 4 and config.total_steps == 1_000_000
    ppo, lcf = config.ppo, config.lcf
    assert (ppo.learning_rate, ppo.gamma, ppo.gae_lambda, ppo.global_gamma) == (3e-4, 0.99, 0.95, 1.0)
    assert (ppo.update_epochs, ppo.minibatch_size, ppo.clip_coef, ppo.value_clip) == (5, 512, 0.3, 10.0)
    assert (ppo.value_coef, ppo.entropy_coef, ppo.kl_coef, ppo.kl_target) == (1.0, 0.0, 0.2, 0.01)
    assert config.neighbour_rule == "tf"
    assert ppo.fragment_steps == 200 == config.steps_per_iteration // 8
    assert (lcf.lcf_estimator, lcf.lcf_learning_rate, lcf.lcf_passes, lcf.lcf_minibatch_size) == (
        "released",
        1e-4,
        5,
        512,
    )
    assert (lcf.lcf_initial_mean, lcf.lcf_initial_std) == (0.0, 0.1)


def test_the_default_clips_as_the_torch_code_does():
    config = preset("default")
    assert (config.ppo.clip_coef, config.ppo.value_clip) == (0.2, 100.0)
    assert (config.num_envs, config.steps_per_iteration, config.ppo.fragment_steps) == (2, 800, 0)
    assert config == TrainConfig("copo")


def test_the_fast_preset_updates_more_often_from_more_environments():
    config, usual = preset("fast"), preset("default")
    assert (config.num_envs, config.steps_per_iteration, config.ppo.update_epochs) == (8, 400, 3)
    assert config.stagger_episodes and not usual.stagger_episodes
    assert config.ppo.normalize_observations and not usual.ppo.normalize_observations
    # phi may go as far per env step: half as long a step, twice as often
    rates = [one.lcf.lcf_learning_rate / one.steps_per_iteration for one in (config, usual)]
    assert rates[0] == rates[1]


def test_the_values_of_the_torch_code():
    config = preset("paper_torch")
    assert (config.steps_per_iteration, config.neighbour_rule) == (2000, "torch")
    assert (config.ppo.clip_coef, config.ppo.value_clip, config.ppo.fragment_steps) == (0.2, 100.0, 0)
    assert (config.lcf.lcf_estimator, config.lcf.lcf_learning_rate) == ("released", 1e-4)
    assert (config.critic.mean_field_distance, config.critic.num_neighbours, config.critic.counterfactual) == (
        10.0,
        4,
        True,
    )


def test_the_map_of_a_run_belongs_to_its_seed():
    assert [TrainConfig("ippo", seed=seed).start_seed for seed in (0, 1, 7)] == [5000, 6000, 12000]


def test_the_run_folder():
    config = TrainConfig("copo", scene="tollgate", seed=3)
    assert str(config.folder()) == "runs/tollgate/copo/seed3"


def test_as_dict_is_flat_and_survives_json():
    config = preset("paper", "copo")
    flat = config.as_dict()
    assert json.loads(json.dumps(flat)) == flat
    names = {field.name for part in (PPOConfig, LCFConfig, CriticConfig, TrainConfig) for field in fields(part)}
    assert set(flat) == names - {"ppo", "lcf", "critic", "run_dir", "resume"}
    assert with_values(TrainConfig("ippo"), flat) == config


@pytest.mark.parametrize(
    ("algorithm", "values", "found"),
    [
        ("ippo", {"num_neighbours": 9, "learning_rate": 1e-3}, ["num_neighbours=9"]),
        ("ippo", {"counterfactual": False, "global_gamma": 0.9}, ["global_gamma=0.9", "counterfactual=False"]),
        ("ccppo_concat", {"num_neighbours": 9, "mean_field_distance": 5.0}, ["mean_field_distance=5.0"]),
        ("copo", {"lcf_passes": 3, "global_gamma": 0.9, "fixed_lcf": 0.5}, ["fixed_lcf=0.5"]),
        ("copo_fixed_lcf", {"lcf_passes": 3, "fixed_lcf": 0.5}, ["lcf_passes=3"]),
        ("cooperative", {"fixed_lcf": 0.5}, ["fixed_lcf=0.5"]),
        ("local_mean", {"neighbours_distance": 5.0}, ["neighbours_distance=5.0"]),
        ("copo_mean_field", {"mean_field_distance": 5.0, "lcf_passes": 3}, []),
    ],
)
def test_settings_that_an_algorithm_does_not_use_are_named(algorithm: str, values: dict[str, Any], found: list[str]):
    assert without_effect(with_values(TrainConfig(algorithm), values)) == found


def test_no_preset_has_a_setting_to_complain_about():
    for name in PRESETS:
        assert not any(without_effect(preset(name, algorithm)) for algorithm in ALGORITHMS)


def test_values_are_set_by_flat_names():
    config = with_values(TrainConfig("ippo"), {"gamma": 0.5, "lcf_passes": 2, "seed": 9})
    assert (config.ppo.gamma, config.lcf.lcf_passes, config.seed) == (0.5, 2, 9)


def test_unknown_names():
    with pytest.raises(UserError, match=r"unknown setting 'speed'; known are .*seed"):
        with_values(TrainConfig("ippo"), {"speed": 1})
    with pytest.raises(UserError, match="unknown preset 'mine'; choose one of paper, paper_torch, default, fast"):
        preset("mine")  # pyright: ignore[reportArgumentType]
    with pytest.raises(UserError, match="unknown algorithm 'sac'; choose one of ippo, ccppo_mean_field, "):
        get_algorithm("sac")
    with pytest.raises(UserError, match="unknown algorithm"):
        check(TrainConfig("sac"))


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"num_envs": -1}, "num_envs=-1; use 1 or more"),
        ({"num_envs": 3}, "steps_per_iteration=800 does not split over 3 environments"),
        ({"num_envs": 4, "steps_per_iteration": 0}, "steps_per_iteration=0 does not split over 4"),
        ({"num_envs": 0, "steps_per_iteration": 0}, "steps_per_iteration=0 does not split over 1"),
        ({"total_steps": 0}, "total_steps=0; use 1 or more"),
        ({"total_steps": 1e5}, "total_steps=100000.0 is not a whole number"),
        ({"update_epochs": 1.5}, "update_epochs=1.5 is not a whole number"),
        ({"num_agents": "all"}, "num_agents='all' is not a whole number"),
        ({"gamma": "x"}, "gamma='x' is not a number"),
        ({"stagger_episodes": "no"}, "stagger_episodes='no' is not True or False"),
        ({"max_grad_norm": 0.0}, "max_grad_norm=0.0; use a number above 0"),
        ({"keep_checkpoints": -1}, "keep_checkpoints=-1 is negative"),
        ({"gamma": 1.01}, "gamma=1.01 is not in [0, 1]"),
        ({"fixed_lcf": -1.5}, "fixed_lcf=-1.5 is not in [-1, 1]"),
        ({"num_neighbours": 0}, "num_neighbours=0; use a number above 0"),
        (
            {"algorithm": "ccppo_concat", "num_agents": 1},
            "the critic of ccppo_concat looks at neighbours, and num_agents=1 has none; use 2 or more",
        ),
        ({"global_gamma": -0.1}, "global_gamma=-0.1 is not in [0, 1]"),
        ({"gae_lambda": 2.0}, "gae_lambda=2.0 is not in [0, 1]"),
        ({"lcf_initial_mean": 1.0}, "lcf_initial_mean=1.0 is not in [-0.999, 0.999]"),
        ({"lcf_learning_rate": 1e38}, "lcf_learning_rate=1e+38 is not in [0, 1000]"),
        ({"lcf_learning_rate": 0.0}, "lcf_learning_rate=0.0; use a number above 0"),
        ({"seed": -1}, "seed=-1 is negative"),
        ({"learning_rate": 0.0}, "learning_rate=0.0; use a number above 0"),
        ({"value_learning_rate": 0.0}, "value_learning_rate=0.0; use a number above 0"),
        ({"value_learning_rate": math.nan}, "value_learning_rate=nan; use a number above 0"),
        ({"minibatch_size": 0}, "minibatch_size=0; use a number above 0"),
        ({"lcf_initial_std": 0.0}, "lcf_initial_std=0.0 is not between exp(-20) and exp(2), about 7.389"),
        ({"lcf_initial_std": 7.4}, "lcf_initial_std=7.4 is not between exp(-20) and exp(2), about 7.389"),
        ({"seed": 2_147_479}, "seed=2147479 is too large: the map of pg_map, 5000 + 1000 * seed, can be 2147483647"),
        (
            {"seed": 995, "scene": "pg_map"},
            "seed=995 is map 1000000 of pg_map, and 1000000 to 1000999 are kept apart to test on; use another seed",
        ),
        (
            {"algorithm": "ccppo_concat", "scene": "particles", "num_neighbours": 8},
            "num_neighbours=8, but each of the 8 vehicles has 7 others that its critic can see; use 7 or less",
        ),
        (
            {"algorithm": "ccppo_mean_field", "scene": "particles", "rule_based": 7},
            "the critic of ccppo_mean_field looks at neighbours, and num_agents=1 has none; use 2 or more",
        ),
        ({"neighbours_distance": -40.0}, "neighbours_distance=-40.0; use a number above 0"),
        ({"checkpoint_every": 0}, "checkpoint_every=0; use a number above 0"),
    ],
)
def test_impossible_values(values: dict[str, Any], sentence: str):
    assert sentence in refusal(**values)


def test_a_minibatch_is_no_larger_than_an_iteration():
    few = {"scene": "particles", "steps_per_iteration": 40}
    sentence = "=321 is more than an iteration holds: 40 env steps with 8 vehicles are 320 samples at most; use 320 or"
    assert f"minibatch_size{sentence} less" in refusal(**few, minibatch_size=321)
    few |= {"minibatch_size": 320}
    check(with_values(TrainConfig("copo"), {**few, "lcf_minibatch_size": 320}))
    assert f"lcf_minibatch_size{sentence} less" in refusal(algorithm="copo", **few, lcf_minibatch_size=321)
    check(with_values(TrainConfig("ippo"), {**few, "lcf_minibatch_size": 321}))  # it has no meta-step
    assert "with 5 vehicles are 200 samples" in refusal(**few, num_agents=5)
    assert "with 6 vehicles are 240 samples" in refusal(**few, rule_based=2)


def test_a_training_shorter_than_an_iteration_may_be_smaller_than_a_minibatch():
    check(with_values(TrainConfig("ippo"), {"total_steps": 1, "num_agents": 1, "minibatch_size": 800}))


@pytest.mark.parametrize("name", NUMBERS)
def test_nothing_may_be_negative_or_no_number(name: str):
    kind = type(NUMBERS[name])
    if name not in (
        "lcf_initial_mean",
        "fixed_lcf",
        "log_std_init",
        "horizon",
    ):  # may be negative; the scene's own check
        assert f"{name}=-1" in refusal(**{name: kind(-1)})
    if kind is float:
        assert f"{name}=nan" in refusal(**{name: math.nan})


@pytest.mark.parametrize("value", [-20.1, 2.1])
def test_the_log_std_begins_in_its_range(value: float):
    assert f"log_std_init={value} is not in [-20.0, 2.0]" in refusal(log_std_init=value)


@given(st.floats(-0.999, 0.999), st.floats(0, 1), st.integers(0, 2_147_478))
def test_possible_values(mean: float, gamma: float, seed: int):
    check(with_values(TrainConfig("copo"), {"lcf_initial_mean": mean, "gamma": gamma, "seed": seed}))


@pytest.mark.parametrize("name", [name for name, value in NUMBERS.items() if type(value) is float])
def test_infinity_is_for_what_has_no_limit(name: str):
    if name in ("neighbours_distance", "mean_field_distance", "clip_coef", "value_clip"):
        check(with_values(TrainConfig("copo"), {name: math.inf}))  # everybody is a neighbour, nothing is clipped
    else:
        assert f"{name}=inf" in refusal(**{name: math.inf})


def test_every_other_seed_has_a_map_to_train_on():
    for seed in (0, 994, 996, 2_147_478):
        config = TrainConfig("ippo", scene="pg_map", seed=seed)
        check(config)
        assert config.scene_options().start_seed == 5000 + 1000 * seed
    check(TrainConfig("ippo", scene="particles", seed=995))


def test_how_many_neighbours_does_not_matter_to_critics_that_list_none():
    check(with_values(TrainConfig("ccppo_concat", scene="particles"), {"num_neighbours": 7}))
    for algorithm in ("ippo", "copo", "ccppo_mean_field"):
        check(with_values(TrainConfig(algorithm), {"num_neighbours": 1_000_000}))


def test_the_scene_of_a_training():
    config = TrainConfig("ippo", "pg_map", 3, num_agents=5, horizon=50, geometry="metadrive", step_backend="stock")
    options = config.scene_options()
    assert (options.scene, options.num_agents, options.horizon, options.start_seed) == ("pg_map", 5, 50, 8000)
    assert (options.geometry, options.step_backend, options.rule_based) == ("metadrive", "stock", 0)
    with pytest.raises(SceneError, match="horizon=0 is too small"):
        check(TrainConfig("ippo", horizon=0))
