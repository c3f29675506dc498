"""Ctrl-C, SIGTERM and SIGHUP, which wait until the learner stands at the end of an iteration."""

from __future__ import annotations

import signal
import sys
from types import FrameType
from typing import Any


class Interrupted(Exception):
    """A signal to stop arrived; the learner stands at the end of an iteration. The message says what was saved."""


class Signals:
    """Remembers SIGINT, SIGTERM and SIGHUP instead of stopping in the middle of an update; a second stops at once."""

    def __enter__(self) -> Signals:
        self.raised = False
        self._before: dict[int, Any] = {}
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            try:
                if signal.getsignal(number) is signal.SIG_IGN:  # nohup wants SIGHUP ignored
                    continue
                self._before[number] = signal.signal(number, self._remember)
            except ValueError:  # not in the main thread: whoever is there handles signals
                break
        return self

    def __exit__(self, *exception: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _remember(self, number: int, frame: FrameType | None) -> None:
        if self.raised:
            sys.exit(130)
        self.raised = True
