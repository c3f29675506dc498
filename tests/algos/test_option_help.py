"""What a setting looks like on the command line, and the settings that two commands share."""

from __future__ import annotations

import re
from dataclasses import fields
from importlib import import_module

import pytest

from copo_algos.cli import main, train_config
from copo_algos.driving import EpisodeSettings
from copo_algos.evaluate import EvaluateConfig
from copo_algos.option_help import descriptions, whole_number
from copo_algos.watch import WatchConfig


@pytest.mark.parametrize("word", ["100000", "1e5", "1E5", "1.0e+5", "100000.0", "100_000"])
def test_a_whole_number_may_be_written_as_one_likes(word: str):
    assert whole_number(word) == 100_000 and type(whole_number(word)) is int
    for option in ("--total-steps", "--num-agents", "--checkpoint-every"):
        config = train_config(["copo", option, word])
        assert getattr(config, option[2:].replace("-", "_")) == 100_000
    assert train_config(["copo", "--lcf-minibatch-size", word]).lcf.lcf_minibatch_size == 100_000


@pytest.mark.parametrize("word", ["1.5", "1e-5", "inf", "nan", "many", ""])
def test_what_is_no_whole_number_is_refused(word: str):
    with pytest.raises(ValueError, match=re.escape(f"{word!r} is no whole number; use one such as 100000 or 1e5")):
        whole_number(word)


def test_numbers_that_may_be_left_out_are_read_like_the_others():
    config = train_config(["copo", "--num-agents", "2e1", "--value-learning-rate", "1e-3"])
    assert (config.num_agents, config.ppo.value_learning_rate) == (20, 1e-3)
    config = train_config(["copo", "--num-agents", "None", "--value-learning-rate", "None", "--run-dir", "None"])
    assert (config.num_agents, config.ppo.value_learning_rate, config.run_dir) == (None, None, None)
    assert train_config(["copo", "--max-grad-norm", "None"]).ppo.max_grad_norm is None
    assert train_config(["copo", "--neighbours-distance", "inf"]).neighbours_distance == float("inf")


@pytest.mark.parametrize("command", ["train", "evaluate", "watch"])
def test_help_shows_one_default_and_no_none(
    command: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setenv("COLUMNS", "500")
    with pytest.raises(SystemExit):
        main([command, "--help"])
    text = capsys.readouterr().out
    # The one setting of which None is a value to be given.
    assert "None" not in text.replace("--max-grad-norm {None}|FLOAT", "").replace("None: it is not", "")
    assert [line for line in text.splitlines() if "Default: " in line and "(default: " in line] == []
    assert re.search(r"--horizon INT .*\(default: 1000\)", text)
    assert re.search(r"--num-agents INT[\s│]+.*Default: ", text)
    if command != "train":
        assert "--geometry {published,metadrive}" in text and "1000 whatever the training had" in text


def test_evaluate_and_watch_share_their_options():
    ours, theirs = ([field.name for field in fields(config)] for config in (EvaluateConfig, WatchConfig))
    shared = [field.name for field in fields(EpisodeSettings)]
    assert set(shared) == (set(ours) & set(theirs)) - {"scene", "algorithm", "first_seed", "output"}
    assert ours[0] == "path" and theirs[0] == "run"  # what is a command's own comes first in its help
    assert ours[-len(shared) :] == theirs[-len(shared) :] == shared
    sentences = [descriptions(config) for config in (EvaluateConfig, WatchConfig)]
    assert sentences[0]["algorithm"] == sentences[1]["algorithm"]


@pytest.mark.parametrize("option", ["--first-seed", "--seed"])
def test_the_first_seed_has_two_names(option: str, monkeypatch: pytest.MonkeyPatch):
    seen = []
    for command in ("evaluate", "watch"):
        monkeypatch.setattr(import_module(f"copo_algos.{command}"), command, seen.append)
        assert main([command, option, "7"]) == 0
    assert [config.first_seed for config in seen] == [7, 7]
