"""A window that shows pictures as they come. Needs pygame, which MetaDrive brings, and a display."""

from __future__ import annotations

import os
from typing import Any

import numpy as np

from copo_envs.drawing.options import RenderError


class Window:
    """Opens with the first picture. SDL_VIDEODRIVER=dummy makes one that nobody sees, for tests.

    pygame has one window per process: of several, each takes the place of the others when it shows a picture.

    Args:
        title: text in its bar.
        fps: most pictures a second; `show` waits that long.

    Raises:
        RenderError: no pygame or no display.
    """

    _shown: Window | None = None
    """Whose picture pygame's window shows."""

    def __init__(self, title: str, fps: float):
        os.environ.setdefault("PYGAME_HIDE_SUPPORT_PROMPT", "1")
        try:
            import pygame
        except ImportError as error:
            raise RenderError(f'a window needs pygame: pip install pygame, or use "rgb_array" ({error})') from error
        self._pygame: Any = pygame
        self._check_display()
        self.closed = False
        """The user has closed it."""
        self._title, self._fps = title, fps
        self._screen: Any = None
        self._clock = pygame.time.Clock()

    def show(self, picture: np.ndarray) -> bool:
        """Show (H, W, 3) uint8 and wait for its time. False, and nothing is shown, once the user has closed the window.

        Raises:
            RenderError: the display is gone.
        """
        pygame = self._pygame
        if self.closed:
            return False
        height, width = picture.shape[:2]
        if Window._shown is not self or self._screen.get_size() != (width, height):
            self._check_display()
            Window._shown = self
            self._screen = pygame.display.set_mode((width, height))
            pygame.display.set_caption(self._title)
        if any(event.type == pygame.QUIT for event in pygame.event.get()):
            self.close()
            self.closed = True
            return False
        self._screen.blit(pygame.image.frombuffer(picture.tobytes(), (width, height), "RGB"), (0, 0))
        pygame.display.flip()
        self._clock.tick(self._fps)
        return True

    def close(self) -> None:
        """Take it away. Closing twice is fine."""
        self._screen = None
        if Window._shown in (self, None):
            Window._shown = None
            self._pygame.display.quit()

    def _check_display(self) -> None:
        """Connect to the display. SDL goes on without one, offscreen, unless it is told which driver to use."""
        display = self._pygame.display
        try:
            display.init()
            seen = "SDL_VIDEODRIVER" in os.environ or display.get_driver() not in ("offscreen", "dummy")
            reason = (
                f"DISPLAY={os.environ['DISPLAY']} does not answer"
                if os.environ.get("DISPLAY")
                else "DISPLAY is not set"
            )
        except self._pygame.error as error:
            seen, reason = False, str(error)
        if not seen:
            display.quit()
            raise RenderError(
                f'a window needs a display, and {reason}; set it to one, or use render_mode="rgb_array" or copo watch'
            )
