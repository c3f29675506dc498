"""The window of render_mode="human", on SDL's display that nobody sees, and what is said without one."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from pettingzoo.test import render_test

import copo_envs
from copo_envs import particles_v0
from copo_envs.render import RenderError
from copo_envs.window import Window

pygame = pytest.importorskip("pygame")
PICTURE = np.zeros((40, 60, 3), np.uint8)


@pytest.fixture
def unseen(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("SDL_VIDEODRIVER", "dummy")
    yield
    pygame.display.quit()


def on_screen() -> np.ndarray:
    """(H, W, 3) what the window shows."""
    return pygame.surfarray.array3d(pygame.display.get_surface()).transpose(1, 0, 2)


def go(env: Any, steps: int = 1) -> None:
    for _ in range(steps):
        env.step({agent: np.array([0.0, 1.0]) for agent in env.agents})


def click_on_the_cross() -> None:
    pygame.event.post(pygame.event.Event(pygame.QUIT))


def test_reset_and_step_draw_by_themselves_what_rgb_array_gives(unseen: None, closing: Callable[[Any], Any]) -> None:
    made = {
        mode: closing(copo_envs.parallel_env("particles", render_mode=mode, render_options={"size": 300}))
        for mode in ("human", "rgb_array")
    }
    for env in made.values():
        env.reset(seed=0)
    shown = [on_screen()]
    pictures = [made["rgb_array"].render()]
    for env in made.values():
        go(env, 3)
    shown.append(on_screen())
    pictures.append(made["rgb_array"].render())
    assert made["human"].render() is None
    assert shown[0].shape == pictures[0].shape
    for window, picture in zip(shown, pictures, strict=True):
        np.testing.assert_array_equal(window[:-49], picture[:-49])  # less the strip with the caption
    assert (shown[0] != shown[1]).any()


def test_whoever_closes_the_window_goes_on_without_it(unseen: None, closing: Callable[[Any], Any]) -> None:
    env = closing(copo_envs.slots_env("particles", render_mode="human"))
    env.reset(seed=0)
    click_on_the_cross()
    go(env)
    assert not pygame.display.get_init()
    go(env)
    assert env.render() is None
    env.reset(seed=1)
    assert not pygame.display.get_init()


def test_close_takes_the_window_away_and_a_later_reset_opens_another(unseen: None) -> None:
    env = copo_envs.parallel_env("particles", render_mode="human")
    env.close()
    env.reset(seed=0)
    assert pygame.display.get_init()
    env.close()
    assert not pygame.display.get_init()
    env.reset(seed=0)
    assert pygame.display.get_init()
    env.close()
    env.close()


def test_two_windows_take_turns_and_closing_one_leaves_the_other(unseen: None) -> None:
    one, two = (copo_envs.parallel_env("particles", num_agents=n, render_mode="human") for n in (1, 2))
    one.reset(seed=0)
    two.reset(seed=0)
    go(one)
    one.close()
    go(two)
    assert pygame.display.get_init() and on_screen().any()
    two.reset(seed=1)
    one.close()
    assert pygame.display.get_init()
    two.close()
    assert not pygame.display.get_init()


def test_pettingzoos_own_test_of_both_modes(unseen: None) -> None:
    render_test(particles_v0.env)  # pyright: ignore[reportArgumentType]


def test_pictures_take_their_time(unseen: None) -> None:
    window = Window("slow", fps=50)
    window.show(PICTURE)
    began = time.perf_counter()
    for _ in range(5):
        assert window.show(PICTURE)
    assert time.perf_counter() - began > 0.08
    window.close()


def test_without_a_display_one_sentence_says_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("SDL_VIDEODRIVER", "DISPLAY", "WAYLAND_DISPLAY"):
        monkeypatch.delenv(name, raising=False)
    env = copo_envs.parallel_env("particles", render_mode="human")
    missing = 'DISPLAY is not set; set it to one, or use render_mode="rgb_array" or copo watch'
    with pytest.raises(RenderError, match=missing):
        env.reset(seed=0)
    monkeypatch.setenv("DISPLAY", ":4321")
    with pytest.raises(RenderError, match="DISPLAY=:4321 does not answer"):
        Window("nowhere", 10)
    monkeypatch.setenv("SDL_VIDEODRIVER", "crystal_ball")
    with pytest.raises(RenderError, match="crystal_ball not available"):
        Window("nowhere", 10)


@pytest.mark.parametrize(
    "options, message",
    [
        (
            {"follow": "agent_99999999"},
            "there is no 'agent_99999999' to follow; use auto or one of env.possible_agents",
        ),
        ({"follow": "slot_0"}, "there is no 'slot_0' to follow"),
        ({"colour_by": "lcf"}, "colour_by='lcf' needs values that an environment does not have; use vehicle or speed"),
        ({"neighbourhood": -1}, "neighbourhood=-1 is no radius"),
    ],
)
def test_render_options_that_cannot_be_are_refused_at_once(options: dict[str, Any], message: str) -> None:
    with pytest.raises(RenderError, match=message):
        copo_envs.parallel_env("particles", render_mode="rgb_array", render_options=options)


def test_every_view_follows(closing: Callable[[Any], Any]) -> None:
    options = {"follow": "auto", "span": 20.0, "size": 240}
    lives = closing(copo_envs.parallel_env("particles", render_mode="rgb_array", render_options=options))
    vector = closing(
        copo_envs.vector_env("particles", in_process=True, render_mode="rgb_array", render_options=options)
    )
    lives.reset(seed=0)
    vector.reset(seed=0)
    (picture,) = vector.render()
    assert picture.shape == (240, 240, 3)
    np.testing.assert_array_equal(picture, lives.render())
    with pytest.raises(RenderError, match="there is no 'slot_8' to follow"):
        copo_envs.vector_env("particles", in_process=True, render_options={"follow": "slot_8"})
