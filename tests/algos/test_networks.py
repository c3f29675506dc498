"""The networks: initialisation as promised, and what they compute against torch's own layers."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from copo_algos.config import LOG_STD_RANGE
from copo_algos.networks import GaussianActor, ValueCritic, gradients_of, make_layers, normc_, through

OBS_SIZE, HEADS = 9, 3


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("scale", [1.0, 0.01])
def test_normc_rows_have_the_norm_asked_for(scale: float):
    weight = torch.empty(5, 7)
    normc_(weight, scale, generator())
    torch.testing.assert_close(weight.norm(dim=1), torch.full((5,), scale))
    assert weight.std() > 0


def test_layers_begin_with_normc_rows_and_zero_biases():
    critic = ValueCritic(OBS_SIZE, HEADS, generator())
    assert len(critic.heads) == HEADS
    for mlp in (GaussianActor(OBS_SIZE, 2, generator()).layers, *critic.heads):
        for layer, norm in zip(mlp.children(), (1.0, 1.0, 0.01), strict=True):
            assert isinstance(layer, nn.Linear)
            torch.testing.assert_close(layer.weight.norm(dim=1), torch.full((layer.out_features,), norm))
            assert not layer.bias.any()


def test_an_untrained_policy_is_near_the_standard_normal():
    actor = GaussianActor(OBS_SIZE, 2, generator())
    mean, log_std = actor(torch.rand(100, OBS_SIZE, generator=generator(1)))
    assert mean.shape == log_std.shape == (100, 2)
    # The head's rows have norm 0.01 and tanh is bounded, so nothing exceeds 0.01 * sqrt(256).
    assert mean.abs().max() < 0.16 and log_std.abs().max() < 0.16


def test_log_std_init_is_what_an_untrained_actor_gives_and_nothing_else():
    obs = torch.rand(100, OBS_SIZE, generator=generator(1))
    mean, log_std = GaussianActor(OBS_SIZE, 2, generator())(obs)
    same_mean, less = GaussianActor(OBS_SIZE, 2, generator(), log_std_init=-0.7)(obs)
    assert torch.equal(mean, same_mean)
    torch.testing.assert_close(less, log_std - 0.7)


def test_the_log_std_is_kept_in_range():
    actor = GaussianActor(OBS_SIZE, 2, generator())
    head = actor.layers[2]
    assert isinstance(head, nn.Linear)
    with torch.no_grad():
        head.bias.copy_(torch.tensor([50.0, -50.0, 50.0, -50.0]))
    mean, log_std = actor(torch.zeros(1, OBS_SIZE))
    assert log_std.tolist() == [[LOG_STD_RANGE[1], LOG_STD_RANGE[0]]]
    torch.testing.assert_close(mean, torch.tensor([[50.0, -50.0]]))


def test_through_is_torchs_own_mlp():
    mlp = make_layers(OBS_SIZE, 3, generator()).double()
    torch_mlp = nn.Sequential(mlp[0], nn.Tanh(), mlp[1], nn.Tanh(), mlp[2])
    obs = torch.randn(20, OBS_SIZE, generator=generator(1), dtype=torch.float64)
    assert torch.equal(through(mlp, obs), torch_mlp(obs))


def test_a_critic_is_its_heads_side_by_side_and_they_share_nothing():
    critic = ValueCritic(OBS_SIZE, HEADS, generator()).double()
    obs = torch.randn(20, OBS_SIZE, generator=generator(1), dtype=torch.float64)
    values = critic(obs)
    assert values.shape == (20, HEADS)
    for number, head in enumerate(critic.heads):
        assert torch.equal(values[:, number], through(head, obs)[:, 0])
    assert not torch.allclose(values[:, 0], values[:, 1])
    values[:, 1].sum().backward()
    moved = [any(gradient.any() for gradient in gradients_of(head)) for head in critic.heads]
    assert moved == [False, True, False]


def test_the_same_seed_makes_the_same_networks():
    for make in (lambda g: GaussianActor(OBS_SIZE, 2, g), lambda g: ValueCritic(OBS_SIZE, HEADS, g)):
        one, two, other = make(generator(5)), make(generator(5)), make(generator(6))
        pairs = list(zip(one.parameters(), two.parameters(), other.parameters(), strict=True))
        assert all(torch.equal(a, b) for a, b, _ in pairs)
        assert not torch.equal(pairs[0][0], pairs[0][2])
