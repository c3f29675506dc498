"""The algorithms as rows of values: what differs between them, and nothing else.

| | critics see | value heads | policy advantage | after PPO | vehicles |
| --- | --- | --- | --- | --- | --- |
| ippo | o | own | A | - | all |
| ccppo_mean_field | o, mean of the near (o, a) | own | A | - | all |
| ccppo_concat | o, the K nearest (o, a) | own | A | - | all |
| curriculum | o | own | A | - | 25, 50, 75, 100 % |
| copo | o with phi | own, neighbourhood, global | cos(phi pi/2) A + sin(phi pi/2) A_N | LCF meta-step | all |

The other rows are the ablations that the authors ran.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from copo_algos.errors import UserError

OWN, NEIGHBOURHOOD, GLOBAL, COORDINATED = 0, 1, 2, 3  # order of the value heads

CriticInputName = Literal["ego", "mean_field", "concat"]


@dataclass(frozen=True)
class Algorithm:
    """One row of the table."""

    name: str
    title: str
    value_heads: int = 1
    """1: own. 2: and neighbourhood. 3: and global. 4: and the coordinated reward cos r + sin r_N, whose advantage the
    policy then follows."""
    lcf: Literal["none", "learned", "fixed", "uniform"] = "none"
    """Whether vehicles draw a local coordination factor, which they and the critics see, and from what: N(mean, std)
    that the meta-step learns, one value for all, or U[-1, 1]."""
    fixed_lcf: float | None = None
    """The one value; None: the setting of that name."""
    critic_input: CriticInputName = "ego"
    neighbours_distance: float | None = None
    """Metres, for the neighbourhood reward; None: the setting of that name."""
    counts_itself: bool = False
    """A vehicle is one of those over whom its neighbourhood reward is the mean."""
    curriculum: bool = False
    """The number of vehicles grows with training."""

    @property
    def uses_lcf(self) -> bool:
        """Vehicles have a coordination factor."""
        return self.lcf != "none"

    @property
    def learns_lcf(self) -> bool:
        """Its distribution is learned by the meta-step."""
        return self.lcf == "learned"


ALGORITHMS: dict[str, Algorithm] = {
    row.name: row
    for row in (
        Algorithm("ippo", "Independent PPO with shared parameters"),
        Algorithm("ccppo_mean_field", "PPO whose critic sees the neighbours' mean", critic_input="mean_field"),
        Algorithm("ccppo_concat", "PPO whose critic sees the nearest neighbours", critic_input="concat"),
        Algorithm("curriculum", "IPPO with a growing number of vehicles", curriculum=True),
        Algorithm("copo", "Coordinated Policy Optimization", value_heads=3, lcf="learned"),
        # Ablations
        Algorithm("copo_fixed_lcf", "CoPO with one coordination factor for all", value_heads=2, lcf="fixed"),
        Algorithm("copo_uniform_lcf", "CoPO with uniform coordination factors", value_heads=2, lcf="uniform"),
        Algorithm(
            "cooperative",
            "PPO on the mean reward of all others",
            value_heads=2,
            lcf="fixed",
            fixed_lcf=1.0,
            neighbours_distance=math.inf,
        ),
        Algorithm(
            "local_mean",
            "PPO on the mean reward within 10 m",
            value_heads=2,
            lcf="fixed",
            fixed_lcf=1.0,
            neighbours_distance=10.0,
            counts_itself=True,
        ),
        Algorithm("copo_coordinated_reward", "CoPO on the coordinated reward", value_heads=4, lcf="learned"),
        Algorithm(
            "copo_mean_field",
            "CoPO whose critics see the neighbours' mean",
            value_heads=3,
            lcf="learned",
            critic_input="mean_field",
        ),
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
