"""Ctrl-C, SIGTERM and SIGHUP: as an exception at once, or remembered until the learner stands at an iteration's end."""

from __future__ import annotations

import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from types import FrameType

IMPATIENCE = 1.0
"""Seconds after the first signal, from which on another Ctrl-C stops at once."""


class Interrupted(Exception):
    """A signal to stop arrived; the learner stands at the end of an iteration. The message says what was saved."""


@contextmanager
def handled_by(handler: Callable[[int, FrameType | None], None], *numbers: signal.Signals) -> Iterator[None]:
    """Meanwhile `handler` gets these signals, but for those that are ignored: nohup wants SIGHUP to stay so."""
    before = {}
    for number in numbers:
        with suppress(ValueError):  # not in the main thread: whoever is there handles signals
            if signal.getsignal(number) is not signal.SIG_IGN:
                before[number] = signal.signal(number, handler)
    try:
        yield
    finally:
        for number, handler_before in before.items():
            signal.signal(number, handler_before)


class Signals:
    """Remembers SIGINT, SIGTERM and SIGHUP instead of stopping in the middle of an update.

    A terminal that closes, or a system that shuts down, sends two of them in one moment, and a finger may slip: only a
    Ctrl-C that comes a second after the first signal or later stops at once.
    """

    def __enter__(self) -> Signals:
        self.raised = False
        self._first = 0.0
        self._handlers = ExitStack()
        self._handlers.enter_context(handled_by(self._remember, signal.SIGINT, signal.SIGTERM, signal.SIGHUP))
        return self

    def __exit__(self, *exception: object) -> None:
        self._handlers.close()

    def _remember(self, number: int, frame: FrameType | None) -> None:
        if not self.raised:
            self.raised, self._first = True, time.monotonic()
        elif number == signal.SIGINT and time.monotonic() - self._first > IMPATIENCE:
            sys.exit(130)
