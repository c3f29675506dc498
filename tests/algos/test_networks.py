"""The networks: initialisation as promised, and the batched critic against separate ones."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from copo_algos.networks import HIDDEN, LOG_STD_RANGE, GaussianActor, ValueCritic, normc_

OBS_SIZE, HEADS = 9, 3


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def separate_critics(critic: ValueCritic) -> list[nn.Sequential]:
    """One torch MLP per head, with the weights of the batched one."""
    out = []
    for head in range(critic.heads):
        mlp = nn.Sequential(
            nn.Linear(OBS_SIZE, HIDDEN), nn.Tanh(), nn.Linear(HIDDEN, HIDDEN), nn.Tanh(), nn.Linear(HIDDEN, 1)
        )
        for layer, weight, bias in zip((mlp[0], mlp[2], mlp[4]), critic.weights, critic.biases, strict=True):
            assert isinstance(layer, nn.Linear)
            layer.weight = nn.Parameter(weight.detach()[head].T.clone())
            layer.bias = nn.Parameter(bias.detach()[head, 0].clone())
        out.append(mlp)
    return out


@pytest.mark.parametrize("scale", [1.0, 0.01])
def test_normc_rows_have_the_norm_asked_for(scale: float):
    weight = torch.empty(5, 7)
    normc_(weight, scale, generator())
    torch.testing.assert_close(weight.norm(dim=1), torch.full((5,), scale))
    assert weight.std() > 0


def test_layers_begin_with_normc_rows_and_zero_biases():
    actor = GaussianActor(OBS_SIZE, 2, generator())
    for layer, norm in zip(actor.layers, (1.0, 1.0, 0.01), strict=True):
        assert isinstance(layer, nn.Linear)
        torch.testing.assert_close(layer.weight.norm(dim=1), torch.full((layer.out_features,), norm))
        assert not layer.bias.any()
    critic = ValueCritic(OBS_SIZE, HEADS, generator())
    for weight, bias, norm in zip(critic.weights, critic.biases, (1.0, 1.0, 0.01), strict=True):
        torch.testing.assert_close(weight.norm(dim=1), torch.full((HEADS, weight.shape[2]), norm))
        assert not bias.any()


def test_an_untrained_policy_is_near_the_standard_normal():
    actor = GaussianActor(OBS_SIZE, 2, generator())
    mean, log_std = actor(torch.rand(100, OBS_SIZE, generator=generator(1)))
    assert mean.shape == log_std.shape == (100, 2)
    # The head's rows have norm 0.01 and tanh is bounded, so nothing exceeds 0.01 * sqrt(256).
    assert mean.abs().max() < 0.16 and log_std.abs().max() < 0.16


def test_the_log_std_is_kept_in_range():
    actor = GaussianActor(OBS_SIZE, 2, generator())
    head = actor.layers[2]
    assert isinstance(head, nn.Linear)
    with torch.no_grad():
        head.bias.copy_(torch.tensor([50.0, -50.0, 50.0, -50.0]))
    mean, log_std = actor(torch.zeros(1, OBS_SIZE))
    assert log_std.tolist() == [[LOG_STD_RANGE[1], LOG_STD_RANGE[0]]]
    torch.testing.assert_close(mean, torch.tensor([[50.0, -50.0]]))


def test_batched_heads_equal_separate_networks():
    critic = ValueCritic(OBS_SIZE, HEADS, generator()).double()
    obs = torch.randn(20, OBS_SIZE, generator=generator(1), dtype=torch.float64)
    values = critic(obs)
    assert values.shape == (20, HEADS)
    alone = separate_critics(critic)
    for head in range(HEADS):
        torch.testing.assert_close(values[:, head], alone[head](obs)[:, 0])
    assert not torch.allclose(values[:, 0], values[:, 1])


def test_a_head_learns_as_if_it_were_alone():
    critic = ValueCritic(OBS_SIZE, HEADS, generator()).double()
    obs = torch.randn(20, OBS_SIZE, generator=generator(1), dtype=torch.float64)
    targets = torch.randn(20, HEADS, generator=generator(2), dtype=torch.float64)
    ((critic(obs) - targets) ** 2).mean(0).sum().backward()
    for head, mlp in enumerate(separate_critics(critic)):
        ((mlp(obs)[:, 0] - targets[:, head]) ** 2).mean().backward()
        for layer, weight, bias in zip((mlp[0], mlp[2], mlp[4]), critic.weights, critic.biases, strict=True):
            assert isinstance(layer, nn.Linear) and weight.grad is not None and bias.grad is not None
            torch.testing.assert_close(weight.grad[head].T, layer.weight.grad)
            torch.testing.assert_close(bias.grad[head, 0], layer.bias.grad)


def test_the_same_seed_makes_the_same_networks():
    for make in (lambda g: GaussianActor(OBS_SIZE, 2, g), lambda g: ValueCritic(OBS_SIZE, HEADS, g)):
        one, two, other = make(generator(5)), make(generator(5)), make(generator(6))
        pairs = list(zip(one.parameters(), two.parameters(), other.parameters(), strict=True))
        assert all(torch.equal(a, b) for a, b, _ in pairs)
        assert not torch.equal(pairs[0][0], pairs[0][2])
