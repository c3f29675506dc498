"""The derivatives of a small tanh network by hand, without a graph: what learning spends nearly all its time in.

x (B, D) -> h1 = tanh(x W1 + b1) -> h2 = tanh(h1 W2 + b2) -> y = h2 W3 + b3 (B, K)

For minibatches of some hundred rows an autograd graph, fresh memory for every step and a scalar tanh cost as much as
the matrix products themselves. Here they are written into buffers that stay. Buffers make a `TanhMLP` good for one
thread.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import torch

from copo_algos.machine import Precision

_tanh_backward = torch.ops.aten.tanh_backward.grad_input  # d (1 - h^2) in one pass
TANH_IS_FAST = torch.backends.cpu.get_cpu_capability() == "AVX512"
"""Whether torch's tanh is vectorised well here. Where not, 2 sigmoid(2 z) - 1 is; the difference is one rounding."""


@contextmanager
def matrix_products(precision: Precision) -> Iterator[None]:
    """Within it torch rounds the factors of float32 matrix products to bfloat16, or not; sums and results are float32.

    A setting of the whole process, all its threads.
    """
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium" if precision == "bfloat16" else "highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


class Layers(NamedTuple):
    """The three layers of one network, or their gradients, or a direction, as views."""

    weights: tuple[torch.Tensor, ...]
    """Each (inputs, outputs)."""
    biases: tuple[torch.Tensor, ...]
    """Each (outputs,)."""


class TanhMLP:
    """One network's forward, backward and forward-mode passes over at most `rows` rows at a time.

    Args:
        layers: views of the parameters; an optimiser's step is seen at once.
        rows: most rows of one pass. Results are buffers, overwritten by the next pass.
    """

    def __init__(self, layers: Layers, rows: int):
        self.rows = rows
        self._w, self._b = layers
        sizes = [weight.shape[1] for weight in self._w]
        self._h1, self._h2, self._y = (self._w[0].new_empty(rows, size) for size in sizes)
        self._d1, self._d2 = (self._w[0].new_empty(rows, size) for size in sizes[:2])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """x (B, D) -> y (B, K)."""
        n = len(x)
        h1, h2, y = self._h1[:n], self._h2[:n], self._y[:n]
        for inputs, h, weight, bias in ((x, h1, self._w[0], self._b[0]), (h1, h2, self._w[1], self._b[1])):
            if TANH_IS_FAST:
                torch.addmm(bias, inputs, weight, out=h).tanh_()
            else:
                torch.addmm(bias, inputs, weight, beta=2, alpha=2, out=h).sigmoid_().mul_(2).sub_(1)
        return torch.addmm(self._b[2], h2, self._w[2], out=y)

    def backward(self, x: torch.Tensor, dy: torch.Tensor, gradients: Layers) -> None:
        """Write dL/dW and dL/db of the pass that `forward(x)` has just made, with dy = dL/dy (B, K), to `gradients`.

        dW3 = h2^T dy,  d2 = (dy W3^T) (1 - h2^2),  dW2 = h1^T d2,  d1 = (d2 W2^T) (1 - h1^2),  dW1 = x^T d1;
        each db is the sum of its d over the rows.
        """
        n = len(x)
        h1, h2, d1, d2 = self._h1[:n], self._h2[:n], self._d1[:n], self._d2[:n]
        for d, inputs, layer, before in ((dy, h2, 2, d2), (d2, h1, 1, d1), (d1, x, 0, None)):
            torch.mm(inputs.t(), d, out=gradients.weights[layer])
            torch.sum(d, 0, out=gradients.biases[layer])
            if before is not None:
                torch.mm(d, self._w[layer].t(), out=before)
                _tanh_backward(before, inputs, grad_input=before)

    def directional(self, x: torch.Tensor, direction: Layers) -> torch.Tensor:
        """dy (B, K) when the parameters move along `direction`: the forward-mode product of `forward(x)`.

        d1 = (x V1 + c1) (1 - h1^2),  d2 = (d1 W2 + h1 V2 + c2) (1 - h2^2),  dy = d2 W3 + h2 V3 + c3.
        """
        n = len(x)
        h1, h2, d1, d2 = self._h1[:n], self._h2[:n], self._d1[:n], self._d2[:n]
        v, c = direction
        _tanh_backward(torch.addmm(c[0], x, v[0], out=d1), h1, grad_input=d1)
        _tanh_backward(torch.addmm(c[1], h1, v[1], out=d2).addmm_(d1, self._w[1]), h2, grad_input=d2)
        return torch.addmm(c[2], h2, v[2]).addmm_(d2, self._w[2])
