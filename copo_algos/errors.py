"""Errors that are the user's to mend. The command line prints their one sentence and exits with 2."""

from __future__ import annotations


class UserError(ValueError):
    """Something asked for cannot be done. The message names the value, what is allowed and what to do."""


class CheckpointError(UserError):
    """A checkpoint is missing, truncated, or made for something else."""
