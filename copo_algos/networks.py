"""The two networks: a Gaussian actor, and critics with one or more heads."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import nn

from copo_algos.mlp import Layers

HIDDEN = 256
LOG_STD_RANGE = (-20.0, 2.0)


def normc_(weight: torch.Tensor, scale: float, generator: torch.Generator) -> None:
    """RLlib's `normc` initialiser: normal, then each row (the last axis: inputs of one unit) scaled to norm `scale`."""
    with torch.no_grad():
        weight.normal_(generator=generator)
        weight.mul_(scale / weight.pow(2).sum(-1, keepdim=True).sqrt())


class GaussianActor(nn.Module):
    """MLP 256-256 with tanh; the head holds the means and the log standard deviations of a diagonal Gaussian.

    Args:
        obs_size: D, the coordination factor included where there is one.
        action_size: 2.
        generator: draws the weights.
    """

    def __init__(self, obs_size: int, action_size: int, generator: torch.Generator):
        super().__init__()
        self.layers = nn.ModuleList(
            [nn.Linear(obs_size, HIDDEN), nn.Linear(HIDDEN, HIDDEN), nn.Linear(HIDDEN, 2 * action_size)]
        )
        for layer, scale in zip(self.layers, (1.0, 1.0, 0.01), strict=True):
            assert isinstance(layer, nn.Linear)
            normc_(layer.weight, scale, generator)
            nn.init.zeros_(layer.bias)

    def layers_of(self, tensors: Sequence[torch.Tensor]) -> Layers:
        """Tensors in the order of `parameters()` (or themselves, or gradients) as views, layer by layer."""
        weights, biases = tensors[0::2], tensors[1::2]
        return Layers(tuple(weight.t() for weight in weights), tuple(biases))

    def forward(self, obs: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """obs (..., D) -> mean (..., 2), log_std (..., 2)."""
        hidden = torch.tanh(self.layers[0](obs))
        hidden = torch.tanh(self.layers[1](hidden))
        return split_head(self.layers[2](hidden))


class ValueCritic(nn.Module):
    """H separate MLPs 256-256 with tanh, one per value head, as one batched matrix product.

    Args:
        obs_size: D.
        heads: H.
        generator: draws the weights.
    """

    def __init__(self, obs_size: int, heads: int, generator: torch.Generator):
        super().__init__()
        self.heads = heads
        sizes = (obs_size, HIDDEN, HIDDEN, 1)
        self.weights = nn.ParameterList()
        self.biases = nn.ParameterList()
        for inputs, outputs, scale in zip(sizes[:-1], sizes[1:], (1.0, 1.0, 0.01), strict=True):
            weight = torch.empty(heads, outputs, inputs)
            normc_(weight, scale, generator)
            # (H, inputs, outputs), as the product needs it
            self.weights.append(nn.Parameter(weight.transpose(1, 2).contiguous()))
            self.biases.append(nn.Parameter(torch.zeros(heads, 1, outputs)))

    def layers_of(self, tensors: Sequence[torch.Tensor]) -> list[Layers]:
        """Tensors in the order of `parameters()` as views, head by head."""
        return [
            Layers(tuple(weight[head] for weight in tensors[:3]), tuple(bias[head, 0] for bias in tensors[3:]))
            for head in range(self.heads)
        ]

    def forward(self, obs: torch.Tensor) -> torch.Tensor:
        """obs (B, D) -> values (B, H)."""
        x = obs.unsqueeze(0).expand(self.heads, -1, -1)
        for layer, (weight, bias) in enumerate(zip(self.weights, self.biases, strict=True)):
            x = torch.baddbmm(bias, x, weight)
            if layer < 2:
                x = torch.tanh(x)
        return x.squeeze(-1).transpose(0, 1)


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
