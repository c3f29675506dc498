"""MetaDrive's step, batched over vehicles and exact. Behind `copo_envs.simulator`; nothing else uses it."""

from copo_envs.fast.covered import NotCovered
from copo_envs.fast.step import BatchedStep

__all__ = ["BatchedStep", "NotCovered"]
