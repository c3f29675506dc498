"""Pictures of a made-up street whose every pixel can be reasoned about, and the videos made of them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from copo_envs.make import make_simulator
from copo_envs.outcomes import Outcome
from copo_envs.render import (
    MARKER_STEPS,
    RenderError,
    TopDownRenderer,
    check_video,
    render_options,
    write_gif,
    write_video,
)
from copo_envs.scenes import scene_options
from copo_envs.step_batch import StepBatch

ROAD = np.array([[0.0, 0.0], [100.0, 0.0], [100.0, 60.0], [0.0, 60.0]])
NO_WRECKS = np.zeros((0, 3))


def scenery(**changes: Any) -> dict[str, Any]:
    street = {"lanes": [ROAD], "lines": [], "buildings": [], "vehicle_size": (4.5, 1.9)}
    return {**street, **changes}


def batch_of(*vehicles: tuple[float, float, float], step: int = 0) -> StepBatch:
    """Living vehicles at (x, y, heading), life k in slot k, in four slots."""
    batch = StepBatch.zeros(4, 1)
    batch.episode_step[...] = step
    for slot, (x, y, heading) in enumerate(vehicles):
        batch.active[slot] = True
        batch.life[slot] = slot
        batch.position[slot] = x, y
        batch.heading[slot] = heading
    return batch


def ended(batch: StepBatch, slot: int, x: float, y: float, outcome: Outcome, life: int = 9) -> StepBatch:
    batch.acted[slot] = True
    batch.acted_life[slot] = life
    batch.acted_position[slot] = x, y
    batch.outcome[slot] = outcome
    return batch


def changed(first: np.ndarray, second: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rows and columns of the pixels that differ visibly."""
    rows, columns = np.nonzero(np.abs(first.astype(int) - second).max(axis=-1) > 12)
    return rows, columns


SCALE = 400 / (100 + 2 * 4.5)
"""Pixels to a metre in a picture 400 wide: the street with a margin of one vehicle's length around it."""


def place(x: float, y: float) -> tuple[float, float]:
    """Row and column of a point."""
    return (60 + 4.5 - y) * SCALE, (x + 4.5) * SCALE


def colour_at(frame: np.ndarray, x: float, y: float) -> np.ndarray:
    row, column = place(x, y)
    return frame[int(row), int(column)].astype(int)


@pytest.fixture(scope="module")
def renderer() -> TopDownRenderer:
    return TopDownRenderer(scenery(), size=400)


def test_a_frame_is_an_image_of_the_size_asked_for_with_even_sides(renderer: TopDownRenderer) -> None:
    frame = renderer.frame(batch_of(), NO_WRECKS)
    assert frame.dtype == np.uint8
    assert frame.shape[1] == 400
    assert frame.shape[0] % 2 == 0 and 60 / 100 * 400 < frame.shape[0] < 400
    tall = TopDownRenderer(scenery(lanes=[ROAD[:, ::-1]]), size=400).frame(batch_of(), NO_WRECKS)
    assert tall.shape[0] == 400 and tall.shape[1] % 2 == 0


@pytest.mark.parametrize("x, y", [(20.0, 15.0), (80.0, 15.0), (50.0, 45.0)])
def test_a_vehicle_changes_the_pixels_where_it_is_and_no_others(renderer: TopDownRenderer, x: float, y: float) -> None:
    empty = renderer.frame(batch_of(), NO_WRECKS)
    rows, columns = changed(empty, renderer.frame(batch_of((x, y, 0.0)), NO_WRECKS))
    row, column = place(x, y)
    assert rows.mean() == pytest.approx(row, abs=1.0)
    assert columns.mean() == pytest.approx(column, abs=1.0)
    assert np.ptp(columns) + 1 == pytest.approx(4.5 * SCALE, abs=3.0)
    assert np.ptp(rows) + 1 == pytest.approx(1.9 * SCALE, abs=3.0)


def test_heading_turns_a_vehicle_and_tells_its_front_from_its_back(renderer: TopDownRenderer) -> None:
    empty = renderer.frame(batch_of(), NO_WRECKS)
    east, north, west = (
        renderer.frame(batch_of((50.0, 30.0, heading)), NO_WRECKS) for heading in (0.0, np.pi / 2, np.pi)
    )
    rows, columns = changed(empty, north)
    assert np.ptp(rows) > 1.8 * np.ptp(columns)
    # Life 0 is blue and its tail lamps are red; its head lamps alone are bright in red and in green.
    column = place(50.0, 30.0)[1]
    rows, columns = changed(empty, east)
    assert columns[east[rows, columns, :2].min(axis=-1) > 150].mean() > column + 4
    rows, columns = changed(empty, west)
    assert columns[west[rows, columns, :2].min(axis=-1) > 150].mean() < column - 4


def test_headings_are_counter_clockwise(renderer: TopDownRenderer) -> None:
    empty = renderer.frame(batch_of(), NO_WRECKS)
    rows, columns = changed(empty, renderer.frame(batch_of((50.0, 30.0, np.pi / 4)), NO_WRECKS))
    row, column = place(50.0, 30.0)
    # Up in the picture is a smaller row: a vehicle to the north-east has its right half above its left half.
    assert ((rows - row) * (columns - column)).mean() < -2


def test_a_wreck_is_dark_and_a_vehicle_is_not(renderer: TopDownRenderer) -> None:
    alive = renderer.frame(batch_of((50.0, 30.0, 0.0)), NO_WRECKS)
    wreck = renderer.frame(batch_of(), np.array([[50.0, 30.0, 0.0]]))
    beside_the_cross = (49.2, 30.6)
    assert colour_at(alive, *beside_the_cross).max() > 150
    assert colour_at(wreck, *beside_the_cross).max() < 90


def test_rule_based_traffic_is_drawn_where_it_is_and_grey(renderer: TopDownRenderer) -> None:
    empty = renderer.frame(batch_of(), NO_WRECKS, traffic=NO_WRECKS)
    driven = renderer.frame(batch_of(), NO_WRECKS, traffic=np.array([[50.0, 30.0, 0.0]]))
    agents = renderer.frame(batch_of((50.0, 30.0, 0.0)), NO_WRECKS)
    rows, columns = changed(empty, driven)
    assert len(rows) > 20
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == tuple(
        f(axis) for axis in changed(empty, agents) for f in (np.min, np.max)
    )
    plain, explained = TopDownRenderer(scenery()), TopDownRenderer(scenery(rule_based=True))
    assert (plain.frame(batch_of(), NO_WRECKS) != explained.frame(batch_of(), NO_WRECKS)).any(), "the legend says so"
    body = driven[rows, columns].astype(int)
    assert np.ptp(body, axis=1).mean() < 25 < np.ptp(agents[rows, columns].astype(int), axis=1).mean()


def test_a_life_keeps_its_colour_wherever_it_goes(renderer: TopDownRenderer) -> None:
    def body(frame: np.ndarray, x: float, y: float) -> np.ndarray:
        return colour_at(frame, x - 0.4, y)

    before = renderer.frame(batch_of((20.0, 30.0, 0.0), (60.0, 30.0, 0.0)), NO_WRECKS)
    after = renderer.frame(batch_of((40.0, 15.0, 0.0), (80.0, 45.0, 0.0)), NO_WRECKS)
    assert np.abs(body(before, 20, 30) - body(after, 40, 15)).max() < 40
    assert np.abs(body(before, 20, 30) - body(before, 60, 30)).max() > 60


@pytest.mark.parametrize("colour_by, low, high", [("lcf", -1.0, 1.0), ("speed", 0.0, 20.0), ("outcome", 1, 2)])
def test_a_value_colours_its_vehicle(colour_by: str, low: float, high: float) -> None:
    renderer = TopDownRenderer(scenery(), size=400, colour_by=colour_by)
    vehicles = batch_of((30.0, 30.0, 0.0), (70.0, 30.0, 0.0))
    frame = renderer.frame(vehicles, NO_WRECKS, values=np.array([low, high, 0, 0]))
    swapped = renderer.frame(vehicles, NO_WRECKS, values=np.array([high, low, 0, 0]))
    assert np.abs(colour_at(frame, 29.6, 30) - colour_at(frame, 69.6, 30)).max() > 60
    assert np.abs(colour_at(frame, 29.6, 30) - colour_at(swapped, 69.6, 30)).max() < 40


def test_speed_comes_from_the_batch_and_newborns_stand_still() -> None:
    renderer = TopDownRenderer(scenery(), size=400, colour_by="speed")
    batch = batch_of((30.0, 30.0, 0.0), (70.0, 30.0, 0.0))
    batch.velocity[:] = 15.0
    batch.spawned[1] = True
    explicit = renderer.frame(batch, NO_WRECKS, values=np.array([15.0, 0.0, 0.0, 0.0]))
    np.testing.assert_array_equal(renderer.frame(batch, NO_WRECKS), explicit)


@pytest.mark.parametrize(
    "outcome, channel", [(Outcome.SUCCESS, 1), (Outcome.CRASH, 0), (Outcome.OUT_OF_ROAD, 0), (Outcome.MAX_STEP, 2)]
)
def test_a_ring_shows_how_a_life_ended_for_a_while(outcome: Outcome, channel: int) -> None:
    renderer = TopDownRenderer(scenery(), size=400)
    empty = renderer.frame(batch_of(step=5), NO_WRECKS)
    frame = renderer.frame(ended(batch_of(step=5), 2, 50.0, 30.0, outcome), NO_WRECKS)
    rows, columns = changed(empty, frame)
    row, column = place(50.0, 30.0)
    assert (rows.mean(), columns.mean()) == pytest.approx((row, column), abs=1.0)
    assert np.hypot(rows - row, columns - column).min() > 3, "the middle stays open"
    assert np.argmax(frame[rows, columns].mean(axis=0)) == channel
    still = renderer.frame(batch_of(step=5 + MARKER_STEPS - 1), NO_WRECKS)
    assert len(changed(empty, still)[0]) > 0
    np.testing.assert_array_equal(renderer.frame(batch_of(step=5 + MARKER_STEPS), NO_WRECKS), empty)


def test_an_ending_in_a_step_that_was_only_noted_is_drawn_later_and_forgotten_in_the_next_episode() -> None:
    renderer = TopDownRenderer(scenery(), size=400)
    empty = renderer.frame(batch_of(), NO_WRECKS)
    renderer.note(ended(batch_of(step=5), 2, 50.0, 30.0, Outcome.CRASH))
    assert len(changed(empty, renderer.frame(batch_of(step=6), NO_WRECKS))[0]) > 0
    np.testing.assert_array_equal(renderer.frame(batch_of(step=0), NO_WRECKS), empty)


def test_the_same_batch_gives_the_same_picture() -> None:
    batch = ended(batch_of((50.0, 30.0, 1.0), step=3), 1, 20.0, 20.0, Outcome.SUCCESS)
    first, second = (TopDownRenderer(scenery(), size=300) for _ in range(2))
    picture = first.frame(batch, NO_WRECKS, caption="street")
    np.testing.assert_array_equal(picture, second.frame(batch, NO_WRECKS, caption="street"))
    np.testing.assert_array_equal(picture, first.frame(batch, NO_WRECKS, caption="street"))


def test_lines_and_buildings_are_drawn_where_they_are() -> None:
    middle = np.array([[0.0, 30.0], [100.0, 30.0]])
    booth = np.array([[45.0, 5.0], [55.0, 5.0], [55.0, 10.0], [45.0, 10.0]])
    plain = TopDownRenderer(scenery(), size=400)
    solid = TopDownRenderer(scenery(lines=[(middle, "yellow", False)], buildings=[booth]), size=400)
    dashed = TopDownRenderer(scenery(lines=[(middle, "white", True)], buildings=[booth]), size=400)
    empty, with_solid, with_dashed = (r.frame(batch_of(), NO_WRECKS) for r in (plain, solid, dashed))
    red, green, blue = colour_at(with_solid, 20.0, 30.0)
    assert red > blue + 30 and green > blue + 20, "yellow"
    row = int(place(0.0, 30.0)[0])

    def drawn(frame: np.ndarray) -> float:
        return float((np.abs(frame[row, 20:380].astype(int) - empty[row, 20:380]).max(axis=-1) > 12).mean())

    assert drawn(with_solid) == 1.0
    assert 0.3 < drawn(with_dashed) < 0.6, "3 m of every 7.5 m, and their soft ends"
    assert np.abs(colour_at(with_solid, 50, 7.5) - colour_at(empty, 50, 7.5)).max() > 60


def test_a_caption_stands_below_the_scene_and_is_cut_at_the_edge(renderer: TopDownRenderer) -> None:
    empty = renderer.frame(batch_of(), NO_WRECKS)
    rows, columns = changed(empty, renderer.frame(batch_of(), NO_WRECKS, caption="words " * 100))
    assert rows.min() > place(0.0, 0.0)[0]
    assert columns.max() < 400 - 5


def test_discs_are_round() -> None:
    renderer = TopDownRenderer(scenery(vehicle_size=(4.5, 4.5)), size=400)
    empty = renderer.frame(batch_of(), NO_WRECKS)
    rows, columns = changed(empty, renderer.frame(batch_of(), np.array([[50.0, 30.0, 0.0]])))
    assert np.ptp(rows) == pytest.approx(np.ptp(columns), abs=1)
    nose = changed(empty, renderer.frame(batch_of((50.0, 30.0, 0.0)), NO_WRECKS))[1].max()
    assert nose > columns.max() + 3, "the nose points ahead, to the right"


def test_every_size_and_shape_keeps_its_legend_inside() -> None:
    for span in ((100.0, 5.0), (5.0, 100.0), (50.0, 50.0)):
        for size in (200, 333, 640):
            for colour_by in ("vehicle", "outcome", "speed", "lcf"):
                frame = TopDownRenderer(scenery(lanes=[ROAD * np.array(span) / (100, 60)]), size, colour_by).frame(
                    batch_of(), NO_WRECKS, values=np.zeros(4)
                )
                assert max(frame.shape) in (size, size - 1)
                ground = frame[0, 0].astype(int)
                edge = np.concatenate([frame[-1], frame[:, 0], frame[:, -1]]).astype(int)
                assert np.abs(edge - ground).max() < 12, (span, size, colour_by)


def test_values_of_the_callers_colour_from_low_to_high_and_unknown_ones_are_neutral() -> None:
    made = TopDownRenderer(
        scenery(), size=400, colour_by="value", value_range=(10.0, 30.0), value_name="steps since the last meal"
    )
    vehicles = batch_of((20.0, 30.0, 0.0), (50.0, 30.0, 0.0), (80.0, 30.0, 0.0))

    def bodies(*values: float) -> list[np.ndarray]:
        frame = made.frame(vehicles, NO_WRECKS, values=np.array([*values, 0.0]))
        return [colour_at(frame, x - 0.4, 30) for x in (20.0, 50.0, 80.0)]

    low, high, unknown = bodies(10.0, 30.0, np.nan)
    assert low[2] > low[0] + 60, "violet"
    assert min(high[0], high[1]) > high[2] + 60, "yellow"
    assert np.ptp(unknown) < 20 and unknown.min() > 180, "light grey"
    below, middle, above = bodies(-5.0, 20.0, 99.0)
    np.testing.assert_allclose(below, low, atol=2)
    np.testing.assert_allclose(above, high, atol=2)
    assert np.abs(middle - low).max() > 40 and np.abs(middle - high).max() > 40


# --- following a vehicle

SPAN = 20.0


def following(**options: Any) -> TopDownRenderer:
    middle = np.array([[0.0, 32.0], [100.0, 32.0]])
    lines: list[Any] = [(middle, "white", True)]
    return TopDownRenderer(scenery(lines=lines), size=300, **{"follow": "auto", "span": SPAN, **options})


def scene_of(frame: np.ndarray) -> np.ndarray:
    """The picture without the strip under it: three rows of text, (1.6 * 3 + 0.6) times 9 pixels, rounded."""
    return frame[:-49]


def test_the_followed_vehicle_is_in_the_middle_and_metres_are_those_of_the_span() -> None:
    alone = scene_of(following().frame(batch_of((50.0, 30.0, 0.0)), NO_WRECKS))
    both = scene_of(following().frame(batch_of((50.0, 30.0, 0.0), (56.0, 27.0, 0.0)), NO_WRECKS))
    assert alone.shape == (251, 300, 3)
    scale = 251 / SPAN  # the shorter side shows the span
    rows, columns = changed(alone, both)
    assert rows.mean() == pytest.approx(251 / 2 + 3.0 * scale, abs=1.0)
    assert columns.mean() == pytest.approx(300 / 2 + 6.0 * scale, abs=1.0)
    assert np.ptp(columns) + 1 == pytest.approx(4.5 * scale, abs=5.0)
    white = alone.min(axis=-1) > 240
    white[: int(125.5 - 1.5 * scale)] = white[int(125.5 + 1.5 * scale) :] = False  # the line of the road
    rows, columns = np.nonzero(white)
    assert (rows.mean(), columns.mean()) == pytest.approx((125.5, 150), abs=2.0), "its white edge, in the middle"


def test_what_stands_still_keeps_its_pixels_while_the_view_moves() -> None:
    made = following()
    scale = 251 / SPAN
    frames = [
        scene_of(made.frame(batch_of((50.0 + shift / scale, 25.0, 0.0)), NO_WRECKS)) for shift in (0.0, 7.0, 0.3, 400.0)
    ]
    road = slice(0, 90)  # above the vehicle: the line, which is 7 m further up
    np.testing.assert_array_equal(frames[0][road, 7:], frames[1][road, :-7])
    np.testing.assert_array_equal(frames[0][road], frames[2][road])
    fresh = scene_of(following().frame(batch_of((50.0 + 400.0 / scale, 25.0, 0.0)), NO_WRECKS))
    np.testing.assert_array_equal(frames[3], fresh)


def test_the_view_stays_where_a_life_ended_and_then_goes_on_to_another() -> None:
    made = following()
    made.frame(batch_of((50.0, 30.0, 0.0), (80.0, 30.0, 0.0)), NO_WRECKS)
    assert made.followed == 0
    over = ended(batch_of(step=1), 0, 51.0, 30.0, Outcome.CRASH, life=0)
    over.active[1], over.life[1], over.position[1] = True, 1, (80.0, 30.0)
    frame = scene_of(made.frame(over, NO_WRECKS))
    rows, columns = np.nonzero((frame[..., 0] > 200) & (frame[..., 1] < 100))
    assert (rows.mean(), columns.mean()) == pytest.approx((125.5, 150), abs=2.0), "the red ring, in the middle"
    over.acted[:], over.outcome[:] = False, 0
    for step in range(2, 20):
        over.episode_step[...] = step
        made.note(over)
    assert made.followed == 1


def test_a_neighbourhood_is_a_circle_of_its_radius_around_the_followed_or_around_everybody() -> None:
    def blue(frame: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        rows, columns = np.nonzero(frame[..., 2].astype(int) - frame[..., 0] > 90)
        return rows, columns

    vehicles = batch_of((50.0, 30.0, 0.0), (70.0, 30.0, 0.0))
    vehicles.life[:2] = 1, 3  # neither of them is blue
    rows, columns = blue(scene_of(following(neighbourhood=8.0).frame(vehicles, NO_WRECKS)))
    radii = np.hypot(rows - 125.5, columns - 150) / (251 / SPAN)
    assert radii.mean() == pytest.approx(7.95, abs=0.1) and np.ptp(radii) < 0.5

    whole = TopDownRenderer(scenery(), size=400, neighbourhood=5.0)
    rows, columns = changed(whole.frame(batch_of(), NO_WRECKS), whole.frame(vehicles, NO_WRECKS))
    for x in (50.0, 70.0):
        near = np.abs(columns - place(x, 30.0)[1]) < 8 * SCALE
        assert np.ptp(columns[near]) + 1 == pytest.approx(10.0 * SCALE, abs=2.0)
        assert np.ptp(rows[near]) + 1 == pytest.approx(10.0 * SCALE, abs=2.0)


def test_the_default_span_shows_the_neighbourhood() -> None:
    assert render_options(follow="auto").view_span == 60.0
    assert render_options(follow="auto", neighbourhood=40.0).view_span > 80.0
    assert render_options(follow="auto", neighbourhood=40.0, span=30.0).view_span == 30.0


def test_what_cannot_be_drawn_is_refused_in_one_sentence(renderer: TopDownRenderer) -> None:
    with pytest.raises(RenderError, match="nothing to draw"):
        TopDownRenderer(scenery(lanes=[]))
    with pytest.raises(RenderError, match="one LCF"):
        TopDownRenderer(scenery(), colour_by="lcf").frame(batch_of(), NO_WRECKS)
    with pytest.raises(RenderError, match=r"needs values: one number \(hunger\) per slot"):
        TopDownRenderer(scenery(), colour_by="value", value_name="hunger").frame(batch_of(), NO_WRECKS)
    with pytest.raises(RenderError, match=r"shape \(3,\); one per slot is \(4,\)"):
        renderer.frame(batch_of(), NO_WRECKS, values=np.zeros(3))
    with pytest.raises(RenderError, match="no slot_4 to follow; choose one of slot_0 to slot_3"):
        TopDownRenderer(scenery(), follow="slot_4").frame(batch_of(), NO_WRECKS)


@pytest.mark.parametrize(
    "options, message",
    [
        ({"mood": 1}, "unknown render option 'mood'; options are size, colour_by, follow, span"),
        ({"colour_by": "mood"}, "unknown colour_by 'mood'; choose one of vehicle, outcome, speed, lcf, value"),
        ({"size": 20}, "size=20 pixels is too small to see anything; use 200 or more"),
        ({"size": 4097}, "size=4097 pixels is too large to draw; use 4096 or less"),
        ({"size": 100_000, "follow": "auto"}, "size=100000 pixels is too large to draw"),
        ({"follow": "car"}, "unknown vehicle to follow 'car'; use auto, agent_<number> or slot_<number>"),
        ({"follow": 3}, "unknown vehicle to follow 3; use auto"),
        ({"follow": "auto", "span": -60.0}, "span=-60.0 metres is no view; use 5 or more"),
        ({"follow": "auto", "span": float("nan")}, "span=nan metres is no view"),
        ({"span": 60.0}, "span=60.0 says how much to see around a vehicle; give follow too"),
        ({"neighbourhood": -40.0}, "neighbourhood=-40.0 is no radius; use a number of metres above 0"),
        ({"neighbourhood": 0}, "neighbourhood=0 is no radius"),
        ({"value_range": (1.0, 1.0)}, r"value_range=\(1.0, 1.0\) is no range; use two numbers, the lower one first"),
        ({"value_range": 7}, "value_range=7 is no range"),
    ],
)
def test_options_that_cannot_be_are_refused_in_one_sentence(options: dict[str, Any], message: str) -> None:
    with pytest.raises(RenderError, match=message):
        TopDownRenderer(scenery(), **options)


# --- videos


def drive(renderer: TopDownRenderer, count: int) -> list[np.ndarray]:
    return [renderer.frame(batch_of((5.0 + 3 * k, 30.0, 0.0)), NO_WRECKS) for k in range(count)]


def test_a_gif_holds_its_frames_their_time_and_nearly_their_colours(renderer: TopDownRenderer, tmp_path: Path) -> None:
    frames = drive(renderer, 30)
    path = write_gif(tmp_path / "new" / "drive.gif", frames, fps=20)
    with Image.open(path) as film:
        assert (getattr(film, "n_frames", 0), film.info["duration"], film.info["loop"]) == (30, 50, 0)
        for index in (0, 1, 29):
            film.seek(index)
            error = np.abs(np.asarray(film.convert("RGB")).astype(int) - frames[index])
            assert error.mean() < 0.5 and error.max() < 64
    assert path.stat().st_size < 60_000
    assert [item.name for item in path.parent.iterdir()] == ["drive.gif"], "nothing half-written is left"


def test_a_standing_picture_becomes_one_long_frame(renderer: TopDownRenderer, tmp_path: Path) -> None:
    first, second = drive(renderer, 2)
    with Image.open(write_gif(tmp_path / "a.gif", [first, first, first, second])) as film:
        assert (getattr(film, "n_frames", 0), film.info["duration"]) == (2, 300)


def test_a_video_is_written_in_the_format_of_its_name(renderer: TopDownRenderer, tmp_path: Path) -> None:
    frames = drive(renderer, 12)
    assert write_video(tmp_path / "a.gif", frames).read_bytes()[:6] == b"GIF89a"
    reader = pytest.importorskip("imageio.v2", reason="MP4 needs the train extra")
    pytest.importorskip("imageio_ffmpeg", reason="MP4 needs the train extra")
    film = reader.mimread(write_video(tmp_path / "a.mp4", iter(frames)))
    assert len(film) == 12 and film[0].shape == frames[0].shape
    assert np.abs(np.asarray(film[6]).astype(int) - frames[6]).mean() < 5


def test_what_cannot_be_written_is_refused_in_one_sentence(renderer: TopDownRenderer, tmp_path: Path) -> None:
    frames = drive(renderer, 2)
    with pytest.raises(RenderError, match=r"a\.avi: the name has to end in \.gif or \.mp4"):
        write_video(tmp_path / "a.avi", frames)
    with pytest.raises(RenderError, match="no frames"):
        write_gif(tmp_path / "a.gif", [])
    with pytest.raises(RenderError, match="of one shape"):
        write_gif(tmp_path / "a.gif", [frames[0], frames[1][:-2]])
    with pytest.raises(RenderError, match="uint8"):
        write_gif(tmp_path / "a.gif", [frames[0] / 255.0])
    with pytest.raises(RenderError, match=r"fps=0 .* use 1 to 50"):
        write_gif(tmp_path / "a.gif", frames, fps=0)
    with pytest.raises(RenderError, match=r"max_colours=1 .* use 8 to 255"):
        write_gif(tmp_path / "a.gif", frames, max_colours=1)
    (tmp_path / "file").touch()
    for path in (tmp_path / "file" / "a.gif", tmp_path / "file" / "deeper" / "a.mp4"):
        with pytest.raises(RenderError, match=r"cannot write .*; choose another place"):
            check_video(path)
        with pytest.raises(RenderError, match=r"cannot write .*; choose another place"):
            write_video(path, frames)
    assert [item.name for item in tmp_path.iterdir()] == ["file"]


def test_a_failure_leaves_the_film_that_was_there(renderer: TopDownRenderer, tmp_path: Path) -> None:
    pytest.importorskip("imageio_ffmpeg", reason="MP4 needs the train extra")
    path = tmp_path / "a.mp4"
    path.write_bytes(b"before")

    def broken() -> Iterator[np.ndarray]:
        yield from drive(renderer, 3)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_video(path, broken())
    assert path.read_bytes() == b"before"
    assert [item.name for item in tmp_path.iterdir()] == ["a.mp4"]


def test_an_mp4_without_imageio_names_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("copo_envs.video.find_spec", lambda name: None)
    with pytest.raises(RenderError, match=r'pip install "\.\[train\]"'):
        check_video(tmp_path / "a.mp4")
    check_video(tmp_path / "a.gif")


# --- scenes


def test_particles_are_drawn_where_they_are() -> None:
    simulator = make_simulator(scene_options("particles"), in_process=True)
    batch = simulator.reset(0)
    renderer = TopDownRenderer(simulator.scenery(), size=300)
    frame = renderer.frame(batch, simulator.wrecks())
    empty = renderer.frame(StepBatch.zeros(simulator.num_slots, simulator.obs_size), NO_WRECKS)
    scale = frame.shape[1] / (60 + 2 * 1.2)  # a square of 60 m, and a margin of 2 % of it
    for x, y in batch.position[batch.active]:
        spot = (int((31.2 - y) * scale), int((31.2 + x) * scale))
        assert np.abs(frame[spot].astype(int) - empty[spot]).max() > 60
    assert len(changed(frame, empty)[0]) < 8 * 60, "eight small discs, nothing else"


@pytest.mark.simulator
def test_intersection_becomes_a_small_gif(tmp_path: Path) -> None:
    simulator = make_simulator(scene_options("intersection"))
    try:
        batch = simulator.reset(0)
        renderer = TopDownRenderer(simulator.scenery(), size=480)
        rng = np.random.default_rng(0)
        frames = []
        for _ in range(60):
            batch = simulator.step(np.column_stack([rng.normal(0, 0.1, len(batch.active)), np.ones(len(batch.active))]))
            frames.append(renderer.frame(batch, simulator.wrecks(), caption=f"step {int(batch.episode_step)}"))
    finally:
        simulator.close()
    assert max(frames[0].shape) == 480
    assert write_gif(tmp_path / "intersection.gif", frames).stat().st_size < 600_000, "so 200 frames stay below 2 MB"
