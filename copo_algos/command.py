"""How a command ends: what is the user's to mend is one sentence on stderr, never a traceback."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

from copo_algos.errors import UserError
from copo_algos.interrupts import Interrupted
from copo_envs.process import WorkerError
from copo_envs.scenes import SceneError


def exit_code(name: str, work: Callable[[], Any], stopped: str = "stopped") -> int:
    """Do the work of a command and return its exit code.

    Args:
        name: of the command; the sentence begins with it.
        work: raises `UserError`, `SceneError` or `WorkerError` for what the user can mend.
        stopped: what to say after Ctrl-C, where the exception does not say it.

    Returns:
        0; 2 where there was something to mend; 130 after Ctrl-C or SIGTERM.
    """
    try:
        work()
    except (UserError, SceneError, WorkerError) as error:
        print(f"{name}: {error}", file=sys.stderr)
        return 2
    except (KeyboardInterrupt, Interrupted) as error:
        print(f"{name}: {str(error) or stopped}", file=sys.stderr)
        return 130
    return 0
