"""Derivatives by hand against autograd's, in float64."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from copo_algos import losses
from copo_algos import mlp as mlp_module
from copo_algos.machine import Precision, bfloat16_instructions
from copo_algos.mlp import TanhMLP, matrix_products
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


@pytest.mark.parametrize("tanh_is_fast", [True, False])
def test_the_forward_pass_is_the_networks(monkeypatch: pytest.MonkeyPatch, tanh_is_fast: bool):
    monkeypatch.setattr(mlp_module, "TANH_IS_FAST", tanh_is_fast)
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


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_products_within_a_precision_are_that_precise(precision: Precision):
    """Rounding both factors to bfloat16's 8 bits changes a product by less than 2^-7 of itself, and a sum of many by
    less; a processor that cannot do it stays at float32."""
    left, right = normal(1, 256, 256), normal(2, 256, 256)
    with matrix_products(precision):
        found = left.float() @ right.float()
    error = (found.double() - left @ right).norm() / (left @ right).norm()
    assert found.dtype == torch.float32
    assert error < (2**-7 if precision == "bfloat16" else 1e-6)
    if precision == "bfloat16" and "amx_bf16" in bfloat16_instructions():
        assert error > 1e-4, "nothing was rounded"


def test_the_precision_of_the_process_is_given_back():
    before = torch.get_float32_matmul_precision()
    with pytest.raises(ZeroDivisionError), matrix_products("bfloat16"):
        assert torch.get_float32_matmul_precision() == "medium"
        _ = 1 / 0
    assert torch.get_float32_matmul_precision() == before
