"""How a command ends: what is the user's to mend is one sentence on stderr, never a traceback."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout, suppress
from types import FrameType
from typing import Any, TextIO, cast

from copo_algos.errors import UserError
from copo_algos.interrupts import Interrupted, handled_by
from copo_envs.process import WorkerError
from copo_envs.scenes import SceneError


class PatientOutput:
    """Standard output that nobody has to read.

    A training has better things to do than to fail because a pipe is closed, a log is on a full disk, or a terminal
    cannot show a character.
    """

    def __init__(self, stream: TextIO):
        self._stream = stream

    def write(self, text: str) -> int:
        """Write what can be written."""
        try:
            self._stream.write(text)
        except UnicodeEncodeError:
            encoding = self._stream.encoding
            self._stream.write(text.encode(encoding, "replace").decode(encoding))
        except OSError:
            self._give_up()
        return len(text)

    def flush(self) -> None:
        """Flush what can be flushed."""
        try:
            self._stream.flush()
        except OSError:
            self._give_up()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def _give_up(self) -> None:
        # What is left in the stream's buffer would fail again at the interpreter's end.
        with suppress(OSError, ValueError), open(os.devnull, "w") as nowhere:
            os.dup2(nowhere.fileno(), self._stream.fileno())


@contextmanager
def termination_is_interruption() -> Iterator[None]:
    """SIGTERM and SIGHUP (a closed terminal) raise KeyboardInterrupt, as Ctrl-C does."""

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    with handled_by(interrupt, signal.SIGTERM, signal.SIGHUP):
        yield


def exit_code(name: str, work: Callable[[], Any], stopped: str = "stopped") -> int:
    """Do the work of a command and return its exit code.

    Args:
        name: of the command; the sentence begins with it.
        work: raises `UserError`, `SceneError` or `WorkerError` for what the user can mend.
        stopped: what to say after Ctrl-C, where the exception does not say it.

    Returns:
        0; 2 where there was something to mend; 130 after Ctrl-C, SIGTERM or SIGHUP.
    """
    try:
        with termination_is_interruption(), redirect_stdout(cast(TextIO, PatientOutput(sys.stdout))):
            work()
            sys.stdout.flush()
    except (UserError, SceneError, WorkerError) as error:
        print(f"{name}: {error}", file=sys.stderr)
        return 2
    except (KeyboardInterrupt, Interrupted) as error:
        print(f"{name}: {str(error) or stopped}", file=sys.stderr)
        return 130
    return 0
