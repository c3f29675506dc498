"""The table of algorithms, against the numbers of the paper and of the authors' code, written out once more."""

from __future__ import annotations

import math
from dataclasses import asdict
from typing import Any

import pytest

from copo_algos.algorithms import ALGORITHMS

PLAIN: dict[str, Any] = {
    "value_heads": 1,
    "lcf": "none",
    "fixed_lcf": None,
    "critic_input": "ego",
    "neighbours_distance": None,  # the setting's: 40 m
    "counts_itself": False,
    "curriculum": False,
}
DEPARTURES: dict[str, dict[str, Any]] = {
    "ippo": {},
    "ccppo_mean_field": {"critic_input": "mean_field"},
    "ccppo_concat": {"critic_input": "concat"},
    "curriculum": {"curriculum": True},
    # Own, neighbourhood and global reward; the meta-step needs the last of them.
    "copo": {"value_heads": 3, "lcf": "learned"},
    "copo_mean_field": {"value_heads": 3, "lcf": "learned", "critic_input": "mean_field"},
    "copo_coordinated_reward": {"value_heads": 4, "lcf": "learned"},
    "copo_fixed_lcf": {"value_heads": 2, "lcf": "fixed"},
    "copo_uniform_lcf": {"value_heads": 2, "lcf": "uniform"},
    # phi = 1 on the mean over all others, and over oneself and those within 10 m.
    "cooperative": {"value_heads": 2, "lcf": "fixed", "fixed_lcf": 1.0, "neighbours_distance": math.inf},
    "local_mean": {
        "value_heads": 2,
        "lcf": "fixed",
        "fixed_lcf": 1.0,
        "neighbours_distance": 10.0,
        "counts_itself": True,
    },
}


def test_there_are_no_others():
    assert ALGORITHMS.keys() == DEPARTURES.keys()


@pytest.mark.parametrize("name", DEPARTURES)
def test_a_row_is_as_published(name: str):
    row = asdict(ALGORITHMS[name])
    assert row.pop("name") == name and row.pop("title")
    assert row == PLAIN | DEPARTURES[name]
