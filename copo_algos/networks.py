"""The two networks: a Gaussian actor, and critics with one or more heads."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import nn

from copo_algos.config import LOG_STD_RANGE, PPOConfig

HIDDEN = PPOConfig.hidden_size
"""Units of a hidden layer where nothing else is asked for: those of the published networks."""


class Layers(NamedTuple):
    """The three layers of one network, or their gradients, or a direction, as views."""

    weights: tuple[torch.Tensor, ...]
    """Each (inputs, outputs)."""
    biases: tuple[torch.Tensor, ...]
    """Each (outputs,)."""


def normc_(weight: torch.Tensor, scale: float, generator: torch.Generator) -> None:
    """RLlib's `normc` initialiser: normal, then each row (the last axis: inputs of one unit) scaled to norm `scale`."""
    with torch.no_grad():
        weight.normal_(generator=generator)
        weight.mul_(scale / weight.pow(2).sum(-1, keepdim=True).sqrt())


def make_layers(inputs: int, outputs: int, generator: torch.Generator, hidden: int = HIDDEN) -> nn.ModuleList:
    """The three linear layers of an MLP with two hidden ones, initialised as RLlib does: rows of hidden layers have
    norm 1, those of the output 0.01; biases are zero."""
    sizes = (inputs, hidden, hidden, outputs)
    found = nn.ModuleList()
    for size, next_size, scale in zip(sizes[:-1], sizes[1:], (1.0, 1.0, 0.01), strict=True):
        layer = nn.Linear(size, next_size)
        normc_(layer.weight, scale, generator)
        nn.init.zeros_(layer.bias)
        found.append(layer)
    return found


def through(layers: nn.Module, x: torch.Tensor) -> torch.Tensor:
    """x (..., inputs) -> (..., outputs), with tanh between the three layers."""
    first, second, last = layers.children()
    return last(torch.tanh(second(torch.tanh(first(x)))))


def layers_of(tensors: Sequence[torch.Tensor]) -> Layers:
    """The tensors of one MLP in the order of `parameters()` (themselves, gradients, a direction) as views."""
    return Layers(tuple(weight.t() for weight in tensors[0::2]), tuple(tensors[1::2]))


class GaussianActor(nn.Module):
    """MLP with two hidden layers and tanh; the head holds the means and the log standard deviations of a diagonal
    Gaussian.

    Args:
        obs_size: D, the coordination factor included where there is one.
        action_size: 2.
        generator: draws the weights.
        log_std_init: bias of the head's log standard deviations, which is about what an untrained actor gives.
        hidden: units of each hidden layer.
    """

    def __init__(
        self,
        obs_size: int,
        action_size: int,
        generator: torch.Generator,
        log_std_init: float = 0.0,
        hidden: int = HIDDEN,
    ):
        super().__init__()
        self.layers = make_layers(obs_size, 2 * action_size, generator, hidden)
        head = self.layers[-1]
        assert isinstance(head, nn.Linear)
        nn.init.constant_(head.bias[action_size:], log_std_init)

    def forward(self, obs: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """obs (..., D) -> mean (..., 2), log_std (..., 2)."""
        return split_head(through(self.layers, obs))


class ValueCritic(nn.Module):
    """H separate MLPs as the actor's, one per value head, which share nothing.

    Args:
        obs_size: D.
        heads: H.
        generator: draws the weights.
        hidden: units of each hidden layer.
    """

    def __init__(self, obs_size: int, heads: int, generator: torch.Generator, hidden: int = HIDDEN):
        super().__init__()
        self.heads = nn.ModuleList(make_layers(obs_size, 1, generator, hidden) for _ in range(heads))

    def forward(self, obs: torch.Tensor) -> torch.Tensor:
        """obs (B, D) -> values (B, H)."""
        return torch.cat([through(head, obs) for head in self.heads], dim=-1)


def parameters_of(module: nn.Module) -> list[torch.Tensor]:
    """The parameters without a graph: views that share their memory."""
    return [parameter.detach() for parameter in module.parameters()]


def gradients_of(module: nn.Module) -> list[torch.Tensor]:
    """The `.grad` of every parameter, made if it is not there, for writing into."""
    for parameter in module.parameters():
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
    return [parameter.grad for parameter in module.parameters() if parameter.grad is not None]


def split_head(head: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The actor's output (..., 4) as mean and log standard deviation (..., 2)."""
    mean, log_std = head.chunk(2, dim=-1)
    return mean, log_std.clamp(*LOG_STD_RANGE)


def gaussian_log_prob(mean: torch.Tensor, log_std: torch.Tensor, action: torch.Tensor) -> torch.Tensor:
    """Log density of `action` (..., 2) under the diagonal Gaussian, summed over the last axis."""
    z = (action - mean) * torch.exp(-log_std)
    return (-0.5 * z * z - log_std - 0.5 * math.log(2 * math.pi)).sum(-1)
