"""Derivatives by hand against autograd's in float64, and the compiled float32 and bfloat16 against those."""

from __future__ import annotations

import copy
import math
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
import torch

from copo_algos import kernels, losses
from copo_algos.machine import Precision
from copo_algos.mlp import TanhMLP
from copo_algos.networks import (
    GaussianActor,
    ValueCritic,
    gaussian_log_prob,
    gradients_of,
    layers_of,
    parameters_of,
    split_head,
)

EXACT: dict[str, Any] = {"rtol": 1e-10, "atol": 1e-12}
ROWS, OBS_SIZE = 9, 7


def normal(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def networks() -> tuple[GaussianActor, ValueCritic]:
    """Weights of like size everywhere, biases included, so that every term matters; log std stays within its limits."""
    generator = torch.Generator().manual_seed(0)
    modules = GaussianActor(OBS_SIZE, 2, generator).double(), ValueCritic(OBS_SIZE, 2, generator).double()
    with torch.no_grad():
        for module in modules:
            for parameter in module.parameters():
                parameter.normal_(std=0.08, generator=generator)
    return modules


def test_the_forward_pass_is_the_networks():
    actor, critic = networks()
    obs = normal(1, ROWS, OBS_SIZE)
    found = split_head(TanhMLP(layers_of(parameters_of(actor)), ROWS).forward(obs))
    for one, other in zip(found, actor(obs), strict=True):
        torch.testing.assert_close(one, other.detach(), **EXACT)
    for number, head in enumerate(critic.heads):
        found = TanhMLP(layers_of(parameters_of(head)), ROWS).forward(obs)[:, 0]
        torch.testing.assert_close(found, critic(obs)[:, number].detach(), **EXACT)


@pytest.mark.parametrize("rows", [ROWS, ROWS + 5])  # a pass may be smaller than the buffers
def test_the_backward_pass_is_autograds(rows: int):
    actor, critic = networks()
    obs = normal(1, ROWS, OBS_SIZE)
    dy = normal(2, ROWS, 6)
    networks_with_dy = [(actor, dy[:, :4]), *((head, dy[:, 4 + h, None]) for h, head in enumerate(critic.heads))]
    for network, by_output in networks_with_dy:
        mlp = TanhMLP(layers_of(parameters_of(network)), rows)
        mlp.forward(obs)
        mlp.backward(obs, by_output, layers_of(gradients_of(network)))
    for module, output in ((actor, torch.cat(actor(obs), 1)), (critic, critic(obs))):
        weight = dy[:, :4] if module is actor else dy[:, 4:]
        expected = torch.autograd.grad((output * weight).sum(), list(module.parameters()))
        for parameter, gradient in zip(module.parameters(), expected, strict=True):
            assert gradient.abs().max() > 0
            torch.testing.assert_close(parameter.grad, gradient, **EXACT)


def test_the_forward_mode_product_is_autograds():
    actor, _ = networks()
    obs = normal(1, ROWS, OBS_SIZE)
    primals = tuple(parameters_of(actor))
    direction = tuple(normal(3 + i, *p.shape) for i, p in enumerate(primals))
    names = [name for name, _ in actor.named_parameters()]

    def head(*parameters: torch.Tensor) -> torch.Tensor:
        return torch.cat(torch.func.functional_call(actor, dict(zip(names, parameters, strict=True)), (obs,)), 1)

    expected = torch.func.jvp(head, primals, direction)[1]
    mlp = TanhMLP(layers_of(primals), ROWS)
    mlp.forward(obs)
    torch.testing.assert_close(mlp.directional(obs, layers_of(direction)), expected, **EXACT)


def test_an_optimisers_step_is_seen():
    actor, _ = networks()
    mlp = TanhMLP(layers_of(parameters_of(actor)), ROWS)
    obs = normal(1, ROWS, OBS_SIZE)
    before = mlp.forward(obs).clone()
    for gradient in gradients_of(actor):
        gradient.fill_(1.0)
    torch.optim.SGD(actor.parameters(), lr=0.1).step()
    after = split_head(mlp.forward(obs))
    assert not torch.allclose(torch.cat(after, 1), before)
    torch.testing.assert_close(after[0], actor(obs)[0].detach(), **EXACT)


def gaussians() -> tuple[torch.Tensor, ...]:
    """head (B, 4) with a log std beyond either limit, action, old mean, old log std (B, 2)."""
    head = normal(5, ROWS, 4)
    head[0, 2], head[1, 3] = 2.5, -20.5
    return head, normal(6, ROWS, 2), normal(7, ROWS, 2), 0.3 * normal(8, ROWS, 2)


def by_head(loss: Any) -> torch.Tensor:
    variable = gaussians()[0].requires_grad_()
    loss(*split_head(variable)).backward()
    assert variable.grad is not None
    return variable.grad


def test_the_derivative_of_the_log_probability():
    head, action, _, _ = gaussians()
    action[1] = head[1, :2]  # at the tiny standard deviation nothing but the mean itself has a finite z
    weight = normal(9, ROWS)
    expected = by_head(lambda mean, log_std: (weight * gaussian_log_prob(mean, log_std, action)).sum())
    parts = (weight[:, None] * d for d in losses.log_prob_gradient(*split_head(head), action))
    torch.testing.assert_close(losses.head_gradient(head, *parts), expected, **EXACT)
    assert expected[0, 2] == 0 == expected[1, 3]  # held by the limits


def test_the_derivative_of_the_kl():
    head, _, old_mean, old_log_std = gaussians()
    head = head.clamp(-3, 2.5)
    variable = head.clone().requires_grad_()
    losses.gaussian_kl(old_mean, old_log_std, *split_head(variable)).backward()
    found = losses.head_gradient(head, *losses.kl_gradient(old_mean, old_log_std, *split_head(head)))
    torch.testing.assert_close(found, variable.grad, **EXACT)


def test_the_derivative_of_the_clipped_surrogate():
    log_ratio = 0.5 * normal(10, 200)
    variable = log_ratio.clone().requires_grad_()
    advantage = normal(11, 200)
    losses.clipped_surrogate(torch.exp(variable), advantage, 0.3).backward()
    found = losses.surrogate_gradient(torch.exp(log_ratio), advantage, 0.3)
    assert 0 < (found == 0).sum() < 150
    torch.testing.assert_close(found, variable.grad, **EXACT)


def test_the_derivative_of_the_clipped_value_loss():
    value, old, returns = normal(12, 200), normal(13, 200), 2 * normal(14, 200)
    variable = value.clone().requires_grad_()
    losses.clipped_value_loss(variable, old, returns, 0.4).backward()
    found = losses.value_gradient(value, old, returns, 0.4)
    assert 0 < (found == 0).sum() < 150
    torch.testing.assert_close(found, variable.grad, **EXACT)


def test_the_derivative_of_the_policys_loss():
    head, action, old_mean, old_log_std = gaussians()
    head, action = head.clamp(-3, 2.5), action.clone()
    log_prob, advantage = normal(15, ROWS) - 3, normal(16, ROWS)

    def loss(mean: torch.Tensor, log_std: torch.Tensor) -> torch.Tensor:
        ratio = torch.exp(gaussian_log_prob(mean, log_std, action) - log_prob)
        kl = losses.gaussian_kl(old_mean, old_log_std, mean, log_std)
        surrogate = losses.clipped_surrogate(ratio, advantage, 0.3)
        return -surrogate + 0.7 * kl - 0.2 * losses.gaussian_entropy(log_std)

    variable = head.clone().requires_grad_()
    loss(*split_head(variable)).backward()
    arguments = (head, action, log_prob, advantage, old_mean, old_log_std)
    found, ratio = losses.policy_gradient(*arguments, clip_coef=0.3, kl_coef=0.7, entropy_coef=0.2)
    torch.testing.assert_close(found, variable.grad, **EXACT)
    torch.testing.assert_close(ratio, torch.exp(gaussian_log_prob(*split_head(head), action) - log_prob), **EXACT)


def test_the_compiled_derivatives_of_the_losses_are_those_of_float64():
    head, action, old_mean, old_log_std = (torch.cat([part] * 6).clamp(-1, 2.5) for part in gaussians())
    head = head + 0.5 * normal(17, *head.shape)
    rows = len(head)
    log_prob = gaussian_log_prob(*split_head(head), action) + 0.4 * normal(18, rows)  # ratios on both sides of the clip
    arguments = (head, action, log_prob, normal(19, rows), old_mean, old_log_std)
    exact, exact_ratio = losses.policy_gradient(*arguments, clip_coef=0.3, kl_coef=0.7, entropy_coef=0.2)
    no_kl = losses.policy_gradient(*arguments, clip_coef=0.3, kl_coef=0.0, entropy_coef=0.0)[0]
    assert 0 < (no_kl == 0).all(1).sum() < rows and (exact[:, 2:] == 0).any()  # held by the clip, and by the limits
    for (kl_coef, entropy_coef), expected in {(0.7, 0.2): exact, (0.0, 0.0): no_kl}.items():
        found, ratio = losses.policy_gradient(
            *(part.float() for part in arguments), clip_coef=0.3, kl_coef=kl_coef, entropy_coef=entropy_coef
        )
        assert found.dtype == torch.float32
        torch.testing.assert_close(found.double(), expected, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(ratio.double(), exact_ratio, rtol=1e-4, atol=1e-6)

    values = torch.stack([normal(20, 200), normal(21, 200), 2 * normal(22, 200)], 1)  # columns, as in `Samples`
    expected = losses.value_gradient(*values.T, value_clip=0.4)
    assert 0 < (expected == 0).sum() < 150
    found = losses.value_gradient(*values.float().T, value_clip=0.4)
    torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("column", range(6))
def test_what_is_not_a_number_has_no_compiled_derivative_either(column: int):
    """Where a hand-written derivative is NaN, so that a training stops, the compiled one is."""
    head, action, old_mean, old_log_std = gaussians()
    head = head.clamp(-1, 2.5)
    log_prob = gaussian_log_prob(*split_head(head), action)  # a ratio of 1, which no clip holds
    arguments = [head, action, log_prob, normal(16, ROWS), old_mean, old_log_std]
    arguments[column][:3] = torch.nan
    exact, found = (
        losses.policy_gradient(*(part.to(kind) for part in arguments), clip_coef=0.3, kl_coef=0.7, entropy_coef=0.2)
        for kind in (torch.float64, torch.float32)
    )
    for one, other in zip(exact, found, strict=True):
        assert torch.equal(one.isnan(), other.isnan())
    assert exact[0].isnan().any() and not exact[0][3:].isnan().any()
    if column < 3:
        values = [normal(20 + number, 50) for number in range(3)]
        values[column][:10] = torch.nan
        exact, found = (
            losses.value_gradient(*(part.to(kind) for part in values), value_clip=0.4)
            for kind in (torch.float64, torch.float32)
        )
        assert torch.equal(exact.isnan(), found.isnan())


@pytest.mark.parametrize(
    ("precision", "least", "most"),
    [("float32", 1e-9, 1e-6), ("bfloat16", 1e-4, 2**-6)],  # 24 bits and 8, some of them lost on the way
)
def test_passes_are_as_precise_as_they_say(precision: Precision, least: float, most: float):
    """Forward and backward in single precision against the same in float64, by the norms of the differences."""
    exact, _ = networks()
    single = copy.deepcopy(exact).float()
    obs, dy = normal(1, 200, OBS_SIZE), normal(2, 200, 4)
    reference = TanhMLP(layers_of(parameters_of(exact)), 200)
    mlp = TanhMLP(layers_of(parameters_of(single)), 256, precision)
    found, expected = [mlp.forward(obs.float()).clone()], [reference.forward(obs).clone()]
    reference.backward(obs, dy, layers_of(gradients_of(exact)))
    mlp.backward(obs.float(), dy.float(), layers_of(gradients_of(single)))
    found += gradients_of(single)
    expected += gradients_of(exact)
    errors = [float((one.double() - other).norm() / other.norm()) for one, other in zip(found, expected, strict=True)]
    assert all(one.dtype == torch.float32 for one in found)
    assert max(errors) < most
    output, *by_hidden = errors[:5]  # y, then the gradients of W1, b1, W2, b2
    assert min(output, *by_hidden) > least, "nothing was rounded"


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_smaller_pass_after_a_larger_one_is_as_if_alone(precision: Precision):
    actor = networks()[0].float()
    obs, dy = normal(1, 50, OBS_SIZE).float(), normal(2, 50, 4).float()
    results = []
    for passes in ([slice(0, 50), slice(40, 50)], [slice(40, 50)]):
        mlp = TanhMLP(layers_of(parameters_of(actor)), 64, precision)
        outputs = []
        for rows in passes:
            outputs.append(mlp.forward(obs[rows]).clone())
            mlp.backward(obs[rows], dy[rows], layers_of(gradients_of(actor)))
        results.append([outputs[-1], *(gradient.clone() for gradient in gradients_of(actor))])
    for one, other in zip(*results, strict=True):
        torch.testing.assert_close(one, other)


def single(seed: int, *shape: int) -> torch.Tensor:
    return normal(seed, *shape).float()


def test_tanh_is_tanh_as_far_as_float32_goes():
    z = torch.cat([torch.linspace(-12, 12, 9_999), torch.tensor([0.0, 1e-30, torch.inf, -torch.inf, torch.nan])])
    bias = torch.zeros(len(z))
    found = z[None].clone()
    kernels.tanh(found.numpy(), bias.numpy())
    torch.testing.assert_close(found[0].double(), torch.tanh(z.double()), rtol=4e-7, atol=0, equal_nan=True)
    shifted = single(1, 5, 8)
    expected = torch.tanh(shifted + single(2, 8))
    kernels.tanh(shifted.numpy(), single(2, 8).numpy())
    torch.testing.assert_close(shifted, expected, rtol=1e-6, atol=1e-7)


def test_what_is_not_a_number_stays_so():
    """So that learning that has diverged is seen."""
    every_bit = torch.from_numpy(
        np.array([[0x7FFFFFFF]], np.uint32).view(np.float32)
    )  # a NaN that rounding up would end
    z = torch.cat([torch.tensor([[torch.nan, torch.inf]]), every_bit], 1)[:, [0, 2, 1]]
    h, half, sums = torch.zeros(1, 3), z.bfloat16(), torch.zeros(3)
    kernels.tanh_bfloat16(half.view(torch.uint16).numpy(), sums.numpy(), h.numpy())
    assert h.isnan().tolist() == half.isnan().tolist() == [[True, True, False]]
    assert half[0, 2] == 1 == pytest.approx(float(h[0, 2]), abs=3e-7)
    for d in (z.clone(), z.bfloat16()):
        bits = d.view(torch.uint16) if d.dtype == torch.bfloat16 else d
        kernel = kernels.through_tanh if bits is d else kernels.through_tanh_bfloat16
        kernel(bits.numpy(), torch.full((1, 3), 0.5).numpy(), sums.numpy())
        assert d.isnan().tolist() == [[True, True, False]]
        assert d[0, 2] == sums[2] == torch.inf


@pytest.mark.slow
def test_where_nothing_can_be_cached_every_process_compiles():
    script = (
        "import numba.core.caching as caching; caching.CacheImpl._locator_classes = []\n"
        "import numpy as np; from copo_algos import kernels\n"
        "z = np.full((2, 3), 0.5, np.float32); kernels.tanh(z, z[0].copy()); print(z[1, 2])"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) == pytest.approx(math.tanh(1), abs=1e-6)


def test_the_compiled_derivatives_are_torchs():
    d, h = single(1, 6, 8), torch.tanh(single(2, 6, 8))
    expected = d * (1 - h * h)
    for found, kernel, precise in (
        (d.clone(), kernels.through_tanh, 1e-6),
        (d.bfloat16(), kernels.through_tanh_bfloat16, 2**-7),
    ):
        sums = torch.full((8,), torch.nan)
        bits = found.view(torch.uint16) if found.dtype == torch.bfloat16 else found
        kernel(bits.numpy(), h.numpy(), sums.numpy())
        torch.testing.assert_close(found.float(), expected, rtol=precise, atol=1e-7)
        torch.testing.assert_close(sums, expected.sum(0), rtol=precise, atol=precise)


def test_a_hidden_layer_in_bfloat16_is_float32s_rounded():
    z, bias = single(1, 500, 256).bfloat16(), single(2, 256)
    expected = torch.tanh(z.float() + bias)
    h = torch.empty(500, 256)
    kernels.tanh_bfloat16(z.view(torch.uint16).numpy(), bias.numpy(), h.numpy())
    torch.testing.assert_close(h, expected, rtol=1e-6, atol=1e-7)
    torch.testing.assert_close(z, h.bfloat16(), rtol=0, atol=0)  # the same rounding as torch's, ties included
