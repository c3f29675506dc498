"""What the sheets say that no code knows."""

from __future__ import annotations

from dataclasses import dataclass

from copo_envs.scenes import get_scene


@dataclass(frozen=True)
class Prose:
    """The sentences of one scene."""

    task: str
    map: str
    destination: str
    """Where a vehicle has to go."""
    drawn: str
    """What the seed decides."""
    size: tuple[int, int] | None = None
    """Metres along x and y from one end of the road to the other; None: it depends on the map."""
    kept: tuple[str, ...] = ()
    """What is odd and stays so, because the published numbers have it."""


_ARMS = "the end of one of the four arms, its own included, drawn for every life"
_OTHER_END = "the other end of the road"
_PLACES = "spawn places, at the beginning and of everybody who respawns"
_PLACES_AND_GOALS = "spawn places and destinations, at the beginning and of everybody who respawns"
_SECOND_CHECKPOINT = (
    "`checkpoint_2` is as far to the right of the next road's leftmost lane as the middle of the present road is to "
    "the right of its own. So it is not the middle where the next road has another number of lanes"
)

PROSE = {
    "roundabout": Prose(
        task="Vehicles come from four arms, go around the ring and leave by an arm that is drawn for each of them. "
        "Nobody has the right of way.",
        map="a ring of two lanes and four arms of two lanes a way",
        destination=_ARMS,
        drawn=_PLACES_AND_GOALS,
        size=(211, 211),
    ),
    "intersection": Prose(
        task="Vehicles come from four arms and go straight on, left, right or back, as is drawn for each of them. "
        "There are no lights, and nobody has the right of way.",
        map="a crossing of four arms of two lanes a way",
        destination=_ARMS,
        drawn=_PLACES_AND_GOALS,
        size=(150, 150),
    ),
    "tollgate": Prose(
        task="A road of three lanes a way widens to eight lanes, passes the toll, and narrows again. Every second lane "
        "of the toll road is closed by a booth. On the others a vehicle may not be faster than 3 km/h, and one that "
        "leaves the toll road less than 30 steps after it came has not paid: its life ends. No entry tells the way, "
        "which leads straight on.",
        map="a straight road of three lanes a way; eight at the toll road, which is 10 m long",
        destination=_OTHER_END,
        drawn=_PLACES,
        size=(222, 56),
        kept=(
            "The counter behind `stayed_long_enough` is one for all vehicles that respawned and the first one: every "
            "respawn sets it to 0, every vehicle on the toll road drives it on. So it can be 1 after fewer than 30 of "
            'a vehicle\'s own steps, and who believes it dies. `toll_counter="per_vehicle"` repairs it.',
            "There is no penalty for driving into a toll booth nor for passing too soon: the life ends with an "
            "ordinary reward.",
        ),
    ),
    "bottleneck": Prose(
        task="Two streams of four lanes each become one lane each, which is 20 m long, and open again. On the way in "
        "vehicles have to take turns.",
        map="a straight road of four lanes a way; one a way in the neck of 20 m",
        destination=_OTHER_END,
        drawn=_PLACES,
        size=(180, 28),
        kept=(f"{_SECOND_CHECKPOINT}: before the neck it lies beside the neck.",),
    ),
    "parking_lot": Prose(
        task="Some vehicles come in by three entrances and go to a free space that is drawn for them, the others leave "
        "their space by one of the three. There is one lane a way, and vehicles can drive backwards.",
        map="one lane a way, eight spaces, a T-junction at one end",
        destination="for those who come in, a free space; for those in a space, one of the three ways out; drawn for "
        "every life",
        drawn=_PLACES_AND_GOALS,
        size=(58, 44),
        kept=("White lines end nothing.",),
    ),
    "pg_map": Prose(
        task="A road of three random blocks: bends, straights, crossings, roundabouts, ramps. Everybody starts on the "
        "50 m before them and goes to the same far end.",
        map="made by its number: three random blocks, three lanes a way where they begin. By default it is number 5000 "
        "in every episode: a T-junction, a bend, a ramp",
        destination="the end of the last block, the same for everybody; the map's number chooses where it has several",
        drawn=f"{_PLACES}, and the map, number `start_seed + seed % num_scenarios`",
        kept=(f"{_SECOND_CHECKPOINT}.",),
    ),
    "particles": Prose(
        task="Discs begin at the sides of a square and cross it, each to a goal on another side, without touching. No "
        "roads and no MetaDrive: all of it is some lines of numpy, so tests and tutorials are instant. It is no part "
        "of the published benchmark.",
        map="an empty square",
        destination="one of seven points on one of the other three sides, drawn for every life",
        drawn=_PLACES_AND_GOALS,
        size=(60, 60),
    ),
}

KEPT_EVERYWHERE = (
    "`steering` hardly moves, see its range.",
    "A single vehicle (`num_agents=1`) always begins at the first spawn place; only its position within it varies.",
)


def info_texts(scene: str) -> dict[str, str]:
    """Key of an info -> what it is."""
    if get_scene(scene).metadrive_class:
        cost = "1.0 when its life ends by touching a vehicle or a wreck, and not by leaving the road too, else 0.0"
        energy = "fuel of this step, millilitres, by MetaDrive's formula"
    else:
        cost = "1.0 when its life ends by touching a disc or by leaving the square, else 0.0"
        energy = "work of the throttle in this step, J/kg"
    number = "number of the map" if scene == "pg_map" else "says nothing here: there is one map"
    return {
        "outcome": "how its life ended in this step, see above; 0 while it goes on",
        "own_reward": "the reward again",
        "velocity_m_s": "its speed, m/s",
        "route_completion": "share of the way to its destination, in [0, 1]",
        "cost": cost,
        "energy": energy,
        "life_steps": "steps that its life has lasted, this one included",
        "seed": "of the episode: `reset(seed=...)` with it drives the same again",
        "map_seed": number,
        "active": "a vehicle is in the slot and acts next",
        "life": "its number in the episode, -1 for none",
        "terminated": "the vehicle that acted in the slot ended in this step, by itself",
        "truncated": "or because its time was over",
        "spawned": "the vehicle in the slot appeared in this step",
    }


VERSIONS = (("v0", "0.1.0", "first version"),)
