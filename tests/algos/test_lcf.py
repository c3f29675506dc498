"""The meta-step against its formulas: literally, sample by sample, and as a derivative of what it stands for."""

from __future__ import annotations

import copy
import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.distributions import Independent, Normal

from copo_algos import lcf
from copo_algos.algorithms import GLOBAL, NEIGHBOURHOOD, OWN
from copo_algos.config import LCFConfig
from copo_algos.lcf import (
    LCFDistribution,
    coordinated_advantage,
    lcf_update,
    log_prob_directional,
    log_prob_gradient,
    surrogate_gradient,
)
from copo_algos.networks import GaussianActor
from copo_algos.types import Samples

COUNT, OBS_SIZE, CLIP = 40, 4, 0.3


def make_samples(seed: int = 0) -> tuple[GaussianActor, Samples]:
    """The actor that acted, and its samples, in float64. The three advantages depend on the action."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    old = GaussianActor(OBS_SIZE, 2, generator).double()
    head = old.layers[2]
    assert isinstance(head, nn.Linear)
    with torch.no_grad():
        head.weight.mul_(30)
    obs = normal(COUNT, OBS_SIZE)
    with torch.no_grad():
        mean, log_std = old(obs)
        action = mean + log_std.exp() * normal(COUNT, 2)
        log_prob = Independent(Normal(mean, log_std.exp()), 1).log_prob(action)
    advantage = normal(COUNT, 3) + action @ normal(2, 3)
    samples = Samples(
        obs=obs,
        critic_obs=obs,
        action=action,
        log_prob=log_prob,
        mean=mean,
        log_std=log_std,
        advantage=advantage,
        value=normal(COUNT, 3),
        lcf=normal(COUNT),
        policy_advantage=normal(COUNT),
        raw_mean=0.3,
        raw_std=1.7,
    )
    return old, samples


def moved(actor: GaussianActor, scale: float) -> GaussianActor:
    """The actor some way on."""
    generator = torch.Generator().manual_seed(9)
    out = copy.deepcopy(actor)
    with torch.no_grad():
        for parameter in out.parameters():
            parameter += scale * torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
    return out


def log_prob_of(actor: Any, samples: Samples, rows: torch.Tensor) -> torch.Tensor:
    mean, log_std = actor(samples.obs[rows])
    return Independent(Normal(mean, log_std.exp()), 1).log_prob(samples.action[rows])


def standardised_global(samples: Samples) -> torch.Tensor:
    values = samples.advantage[:, GLOBAL]
    return (values - values.mean()) / values.std(correction=0)


def global_objective(actor: GaussianActor, samples: Samples, rows: torch.Tensor) -> torch.Tensor:
    """J_G: the clipped surrogate with the standardised global advantage."""
    ratio = torch.exp(log_prob_of(actor, samples, rows) - samples.log_prob[rows])
    advantage = standardised_global(samples)[rows]
    return torch.minimum(ratio * advantage, ratio.clip(1 - CLIP, 1 + CLIP) * advantage).mean()


def coordinated(samples: Samples, rows: torch.Tensor, phi: torch.Tensor) -> torch.Tensor:
    """A_C(phi), with the batch's raw mean and std."""
    raw = torch.cos(phi * math.pi / 2) * samples.advantage[rows, OWN]
    raw = raw + torch.sin(phi * math.pi / 2) * samples.advantage[rows, NEIGHBOURHOOD]
    return (raw - samples.raw_mean) / samples.raw_std


def inner(one: Any, other: Any) -> torch.Tensor:
    return torch.stack([(a * b).sum() for a, b in zip(one, other, strict=True)]).sum()


def draws(passes: int, size: int, rng: np.random.Generator | None = None) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """The minibatches and the noise of `lcf_update` with `rng` (generator 0): rows (size,), noise (size,)."""
    rng = rng or np.random.default_rng(0)
    out = []
    for _ in range(passes):
        order = rng.permutation(COUNT)[: COUNT // size * size].reshape(-1, size)
        out += [(torch.from_numpy(rows), torch.from_numpy(rng.standard_normal(size, np.float32))) for rows in order]
    return out


def all_rows() -> torch.Tensor:
    return torch.arange(COUNT)


def test_the_surrogate_gradient_is_that_of_minus_the_clipped_objective():
    old, samples = make_samples()
    actor = moved(old, 0.05)
    rows = torch.tensor([3, 1, 30, 17, 5, 11, 12, 39])
    expected = torch.autograd.grad(-global_objective(actor, samples, rows), list(actor.parameters()))
    found = surrogate_gradient(actor, samples, standardised_global(samples), CLIP, rows)
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b)


def test_pieces_add_up_to_the_whole(monkeypatch: pytest.MonkeyPatch):
    old, samples = make_samples()
    actor = moved(old, 0.05)
    whole = surrogate_gradient(actor, samples, standardised_global(samples), CLIP, all_rows())
    along = log_prob_directional(old, samples, whole)
    monkeypatch.setattr(lcf, "GRADIENT_ROWS", 7)
    pieces = surrogate_gradient(actor, samples, standardised_global(samples), CLIP, all_rows())
    for a, b in zip(pieces, whole, strict=True):
        torch.testing.assert_close(a, b)
    torch.testing.assert_close(log_prob_directional(old, samples, whole), along)


def test_directional_derivatives_equal_inner_products_sample_by_sample():
    old, samples = make_samples()
    direction = surrogate_gradient(moved(old, 0.05), samples, standardised_global(samples), CLIP, all_rows())
    found = log_prob_directional(old, samples, direction)
    assert found.shape == (COUNT,) and found.dtype == torch.float64
    for i in range(COUNT):
        own = torch.autograd.grad(log_prob_of(old, samples, torch.tensor([i])).sum(), list(old.parameters()))
        torch.testing.assert_close(found[i], inner(direction, own))


def test_the_log_prob_gradient_is_the_mean_over_samples():
    old, samples = make_samples()
    rows = torch.tensor([2, 4, 8])
    each = [log_prob_gradient(old, samples, row[None]) for row in rows]
    for found, *parts in zip(log_prob_gradient(old, samples, rows), *each, strict=True):
        torch.testing.assert_close(found, torch.stack(parts).mean(0))


def test_the_coordinated_advantage_by_hand():
    _, samples = make_samples()
    distribution = LCFDistribution(0.5, 0.25).double()
    found = coordinated_advantage(distribution, samples, torch.tensor([7]), torch.tensor([2.0]))
    # phi = 0.5 + 2 * 0.25 = 1, which is 90 degrees: the neighbours alone.
    expected = (samples.advantage[7, NEIGHBOURHOOD] - 0.3) / 1.7
    assert found.item() == pytest.approx(expected.item(), abs=1e-6)


@pytest.mark.parametrize("estimator", ["per_sample", "split", "released"])
def test_meta_steps_equal_a_literal_evaluation(estimator: Any):
    """Two passes of three minibatches of 13 with Adam, each objective evaluated as its formula says."""
    old, samples = make_samples()
    actor = moved(old, 0.03)
    config = LCFConfig(lcf_estimator=estimator, lcf_passes=2, lcf_minibatch_size=13)
    distribution = LCFDistribution(0.2, 0.4).double()
    x, y = (value.detach().clone().requires_grad_() for value in (distribution.x, distribution.y))
    optimizer = torch.optim.Adam(distribution.parameters(), lr=0.01)
    stats = lcf_update(distribution, optimizer, actor, old, samples, config, CLIP, np.random.default_rng(0))

    literal = torch.optim.Adam([x, y], lr=0.01)
    parameters, old_parameters = list(actor.parameters()), list(old.parameters())
    objectives, gradients = [], []
    rng = np.random.default_rng(0)
    halves: list[torch.Tensor] = []
    if estimator == "split":
        halves = list(torch.from_numpy(rng.permutation(COUNT)).tensor_split(2))
    for rows, noise in draws(passes=2, size=13, rng=rng):
        phi = torch.tanh(x) + torch.exp(y) * noise
        advantage = coordinated(samples, rows, phi)
        if estimator == "released":
            g_new = torch.autograd.grad(-global_objective(actor, samples, rows), parameters)
            g_old = torch.autograd.grad(log_prob_of(old, samples, rows).mean(), old_parameters)
            objective = inner(g_new, g_old) * advantage.mean()
        elif estimator == "split":
            one, other = halves
            objective = torch.zeros((), dtype=torch.float64)
            for half, rest in ((one, other), (other, one)):
                mine = torch.isin(rows, half)
                g_new = torch.autograd.grad(-global_objective(actor, samples, rest), parameters)
                total = (log_prob_of(old, samples, rows[mine]) * advantage[mine]).sum()
                g_old = torch.autograd.grad(total / len(rows), old_parameters, create_graph=True)
                objective = objective + inner(g_new, g_old)
        else:
            g_new = torch.autograd.grad(-global_objective(actor, samples, all_rows()), parameters)
            g_old = torch.autograd.grad(
                (log_prob_of(old, samples, rows) * advantage).mean(), old_parameters, create_graph=True
            )
            objective = inner(g_new, g_old)
        literal.zero_grad()
        objective.backward(inputs=[x, y])
        literal.step()
        objectives.append(objective.item())
        assert x.grad is not None
        gradients.append(x.grad.item())
    assert len(objectives) == 6
    torch.testing.assert_close(distribution.x.detach(), x.detach())
    torch.testing.assert_close(distribution.y.detach(), y.detach())
    assert stats.objective == pytest.approx(np.mean(objectives))
    assert stats.gradient_mean == pytest.approx(np.mean(gradients))


@pytest.mark.parametrize("alpha", [0.002, 0.5])
def test_the_per_sample_meta_gradient_is_the_derivative_through_a_policy_gradient_step(alpha: float):
    """theta_new(Phi) = theta_old + alpha grad mean(log pi A_C(Phi)), and J_G its clipped global objective.

    The chain rule gives dJ_G / dPhi = <grad J_G, alpha d/dPhi grad mean(log pi A_C)> = -alpha d objective / dPhi with
    g_new = -grad J_G at theta_new. That holds to first order for PPO's epochs; for one gradient step it is exact.
    """
    old, samples = make_samples()
    distribution = LCFDistribution(0.2, 0.3).double()
    ((order, noise_in_order),) = draws(passes=1, size=COUNT)
    noise = torch.empty(COUNT, dtype=torch.float64)
    noise[order] = noise_in_order.double()

    def step(x: torch.Tensor, y: torch.Tensor) -> GaussianActor:
        advantage = coordinated(samples, all_rows(), torch.tanh(x) + torch.exp(y) * noise)
        out = copy.deepcopy(old)
        gradient = torch.autograd.grad(
            (log_prob_of(out, samples, all_rows()) * advantage).mean(), list(out.parameters())
        )
        with torch.no_grad():
            for parameter, ascent in zip(out.parameters(), gradient, strict=True):
                parameter += alpha * ascent
        return out

    x, y = distribution.x.detach().clone(), distribution.y.detach().clone()
    new = step(x, y)
    config = LCFConfig(lcf_passes=1)
    stay = torch.optim.SGD(distribution.parameters(), lr=0.0)
    stats = lcf_update(distribution, stay, new, old, samples, config, CLIP, np.random.default_rng(0))
    assert distribution.x.grad is not None and distribution.y.grad is not None
    assert stats.gradient_mean == distribution.x.grad.item()

    ratio = torch.exp(log_prob_of(new, samples, all_rows()) - samples.log_prob)
    assert ((ratio - 1).abs() > CLIP).any() == (alpha == 0.5)  # the large step is clipped here and there
    epsilon = 1e-5
    for gradient, dx, dy in ((distribution.x.grad, epsilon, 0.0), (distribution.y.grad, 0.0, epsilon)):
        up, down = (global_objective(step(x + s * dx, y + s * dy), samples, all_rows()).item() for s in (1, -1))
        derivative = (up - down) / (2 * epsilon)
        assert abs(derivative) > 1e-6
        assert -alpha * gradient.item() == pytest.approx(derivative, rel=1e-5)


def test_the_estimators_differ():
    old, samples = make_samples()
    found = []
    for estimator in ("per_sample", "split", "released"):
        distribution = LCFDistribution(0.2, 0.4).double()
        optimizer = torch.optim.SGD(distribution.parameters(), lr=0.0)
        config = LCFConfig(lcf_estimator=estimator, lcf_passes=1)
        found.append(
            lcf_update(distribution, optimizer, moved(old, 0.03), old, samples, config, CLIP, np.random.default_rng(0))
        )
    for number, stats in enumerate(found):
        assert stats.objective != pytest.approx(found[number - 1].objective, rel=0.1)


@pytest.mark.parametrize("count", [1, 2])
def test_split_with_next_to_no_samples(count: int):
    """One sample has no other half, and says nothing; of two, each is the other's."""
    old, samples = make_samples()
    distribution = LCFDistribution(0.2, 0.4).double()
    optimizer = torch.optim.Adam(distribution.parameters(), lr=0.1)
    few = samples.rows(torch.arange(count))
    config = LCFConfig(lcf_estimator="split", lcf_passes=1)
    stats = lcf_update(distribution, optimizer, moved(old, 0.03), old, few, config, CLIP, np.random.default_rng(0))
    assert (stats.objective == 0.0) == (stats.gradient_mean == 0.0) == (count == 1)


def test_the_meta_step_leaves_both_policies_alone():
    old, samples = make_samples()
    actor = moved(old, 0.03)
    before = [parameter.clone() for module in (actor, old) for parameter in module.parameters()]
    for estimator in ("per_sample", "split", "released"):
        distribution = LCFDistribution(0.0, 0.1)
        optimizer = torch.optim.Adam(distribution.parameters(), lr=0.1)
        config = LCFConfig(lcf_estimator=estimator)
        lcf_update(distribution, optimizer, actor, old, samples, config, CLIP, np.random.default_rng(0))
    after = [parameter for module in (actor, old) for parameter in module.parameters()]
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))
    assert all(parameter.grad is None for parameter in after)


@pytest.mark.parametrize(("mean", "std"), [(0.0, 0.1), (-0.7, 1.5), (0.999, 1e-3)])
def test_the_distribution_begins_where_it_is_told_to(mean: float, std: float):
    distribution = LCFDistribution(mean, std)
    assert distribution.mean().item() == pytest.approx(mean, abs=1e-6)
    assert distribution.std().item() == pytest.approx(std, rel=1e-5)


def test_the_distribution_stays_within_its_limits():
    distribution = LCFDistribution(0.0, 0.1).double()
    for x, mean in ((100.0, 1 - 1e-6), (-100.0, -1 + 1e-6)):
        distribution.x.data.fill_(x)
        assert distribution.mean().item() == mean
    for y, log_std in ((100.0, 2.0), (-100.0, -20.0)):
        distribution.y.data.fill_(y)
        assert distribution.std().item() == pytest.approx(math.exp(log_std))


@pytest.mark.filterwarnings("error")
def test_without_passes_the_distribution_stays():
    old, samples = make_samples()
    distribution = LCFDistribution(0.25, 0.1)
    optimizer = torch.optim.Adam(distribution.parameters(), lr=0.1)
    stats = lcf_update(
        distribution, optimizer, old, old, samples, LCFConfig(lcf_passes=0), CLIP, np.random.default_rng(0)
    )
    assert distribution.mean().item() == pytest.approx(0.25)
    assert math.isnan(stats.objective) and math.isnan(stats.gradient_mean)
