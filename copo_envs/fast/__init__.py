"""MetaDrive's step, batched over vehicles and exact. Behind `copo_envs.simulator`; nothing else uses it."""

from copo_envs.fast.step import BatchedStep
from copo_envs.fast.tables import NotCovered

__all__ = ["BatchedStep", "NotCovered"]
