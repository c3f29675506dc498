"""The terms of the PPO loss, by hand and against torch.distributions."""

from __future__ import annotations

import pytest
import torch
from torch.distributions import Independent, Normal, kl_divergence

from copo_algos.losses import clipped_surrogate, clipped_value_loss, gaussian_entropy, gaussian_kl
from copo_algos.networks import gaussian_log_prob


def gaussians(seed: int) -> tuple[torch.Tensor, torch.Tensor, Independent]:
    """Mean and log std (7, 2), and the distribution they make."""
    generator = torch.Generator().manual_seed(seed)
    mean, log_std = torch.randn(2, 7, 2, generator=generator, dtype=torch.float64)
    return mean, log_std, Independent(Normal(mean, log_std.exp()), 1)


def test_where_nothing_has_changed_the_surrogate_is_the_mean_advantage():
    advantage = torch.tensor([1.0, -4.0, 6.0])
    assert clipped_surrogate(torch.ones(3), advantage, 0.2).item() == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("ratio", "advantage", "objective", "slope"),
    [
        (1.1, 2.0, 2.2, 2.0),  # inside
        (0.9, -2.0, -1.8, -2.0),
        (1.5, 2.0, 2.6, 0.0),  # gone far enough up: no more to win
        (0.5, 2.0, 1.0, 2.0),  # gone the wrong way: the full way back
        (0.5, -2.0, -1.4, 0.0),  # gone far enough down
        (1.5, -2.0, -3.0, -2.0),  # gone the wrong way
    ],
)
def test_the_clip_holds_on_the_side_of_the_gain(ratio: float, advantage: float, objective: float, slope: float):
    variable = torch.tensor([ratio], requires_grad=True)
    surrogate = clipped_surrogate(variable, torch.tensor([advantage]), 0.3)
    surrogate.backward()
    assert surrogate.item() == pytest.approx(objective)
    assert variable.grad is not None and variable.grad.item() == pytest.approx(slope)


@pytest.mark.parametrize(
    ("value", "loss", "slope"),
    [
        (1.5, (1.5 - 4) ** 2, 2 * (1.5 - 4)),  # within the clip of V_old = 1: plain
        (3.0, (2.0 - 4) ** 2, 0.0),  # towards R = 4 by more than 1: counts as 2, held
        (-2.0, (-2.0 - 4) ** 2, 2 * (-2.0 - 4)),  # away from R: the plain error is the larger one
        (9.0, (9.0 - 4) ** 2, 2 * (9.0 - 4)),  # past R
    ],
)
def test_value_clipping_by_hand(value: float, loss: float, slope: float):
    variable = torch.tensor([value], requires_grad=True)
    result = clipped_value_loss(variable, torch.tensor([1.0]), torch.tensor([4.0]), 1.0)
    result.backward()
    assert result.item() == pytest.approx(loss)
    assert variable.grad is not None and variable.grad.item() == pytest.approx(slope)


def test_the_value_loss_is_a_mean_over_samples():
    value = torch.tensor([1.0, 3.0])
    assert clipped_value_loss(value, value, torch.zeros(2), 10.0).item() == (1 + 9) / 2


def test_kl_agrees_with_torch():
    old_mean, old_log_std, old = gaussians(0)
    mean, log_std, new = gaussians(1)
    expected = kl_divergence(old, new).mean()
    assert gaussian_kl(old_mean, old_log_std, mean, log_std).item() == pytest.approx(expected.item())
    assert gaussian_kl(mean, log_std, mean, log_std).item() == 0.0


def test_entropy_agrees_with_torch():
    _, log_std, distribution = gaussians(2)
    assert gaussian_entropy(log_std).item() == pytest.approx(distribution.entropy().mean().item())


def test_log_prob_agrees_with_torch():
    mean, log_std, distribution = gaussians(3)
    action, _, _ = gaussians(4)
    torch.testing.assert_close(gaussian_log_prob(mean, log_std, action), distribution.log_prob(action))
