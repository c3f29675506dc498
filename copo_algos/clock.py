"""Where the time of an iteration goes."""

from __future__ import annotations

import time


class Clock:
    """A stopwatch whose laps have names; laps of one name add up."""

    def __init__(self) -> None:
        self.wall: dict[str, float] = {}
        """Name -> seconds."""
        self.cpu: dict[str, float] = {}
        """Name -> CPU seconds of this process, all its threads; worker processes have their own."""
        self._last = time.perf_counter(), time.process_time()

    def lap(self, name: str) -> None:
        """What has passed since the last lap, or since the start, belongs to `name`."""
        now = time.perf_counter(), time.process_time()
        self.wall[name] = self.wall.get(name, 0.0) + now[0] - self._last[0]
        self.cpu[name] = self.cpu.get(name, 0.0) + now[1] - self._last[1]
        self._last = now

    @property
    def total(self) -> float:
        """Seconds of all laps."""
        return sum(self.wall.values())
