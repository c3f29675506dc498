"""The algorithms as rows of values: what differs between them, and nothing else.

| | value heads | policy advantage | after PPO |
| --- | --- | --- | --- |
| ippo | own | A | - |
| copo | own, neighbourhood, global | cos(phi pi/2) A + sin(phi pi/2) A_N | LCF meta-step |
"""

from __future__ import annotations

from dataclasses import dataclass

from copo_algos.errors import UserError

OWN, NEIGHBOURHOOD, GLOBAL = 0, 1, 2  # order of the value heads


@dataclass(frozen=True)
class Algorithm:
    """One row of the table."""

    name: str
    title: str
    value_heads: int
    """1: own. 3: own, neighbourhood, global."""
    learns_lcf: bool
    """Vehicles draw a local coordination factor that they and the critics see; it is learned by the meta-step."""


ALGORITHMS: dict[str, Algorithm] = {
    row.name: row
    for row in (
        Algorithm("ippo", "Independent PPO with shared parameters", value_heads=1, learns_lcf=False),
        Algorithm("copo", "Coordinated Policy Optimization", value_heads=3, learns_lcf=True),
    )
}


def get_algorithm(name: str) -> Algorithm:
    """The row of that name.

    Raises:
        UserError: no such algorithm.
    """
    if name not in ALGORITHMS:
        raise UserError(f"unknown algorithm {name!r}; choose one of {', '.join(ALGORITHMS)}")
    return ALGORITHMS[name]
