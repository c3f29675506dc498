"""How many vehicles there are, as a function of how much of the training is done."""

from __future__ import annotations

SHARES = (0.25, 0.5, 0.75, 1.0)


def vehicles_at(env_steps: int, total_steps: int, num_agents: int) -> int:
    """25, 50, 75 and 100 % of `num_agents`, rounded down but at least 1, for one quarter of `total_steps` each."""
    stage = min(len(SHARES) * env_steps // total_steps, len(SHARES) - 1)
    return max(1, int(num_agents * SHARES[stage]))


def everybody_drives(env_steps: int, total_steps: int) -> bool:
    """Whether an iteration that begins after `env_steps` is of the last quarter, whose rates compare with others'."""
    return vehicles_at(env_steps, total_steps, len(SHARES)) == len(SHARES)
