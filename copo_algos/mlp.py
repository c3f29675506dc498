"""The derivatives of a small tanh network by hand, without a graph: what learning spends nearly all its time in.

x (B, D) -> h1 = tanh(x W1 + b1) -> h2 = tanh(h1 W2 + b2) -> y = h2 W3 + b3 (B, K)

For minibatches of some hundred rows an autograd graph and fresh memory for every step cost as much as the matrix
products themselves. Here they are written into buffers that stay. Buffers make a `TanhMLP` good for one thread.
"""

from __future__ import annotations

import torch

from copo_algos import kernels
from copo_algos.machine import Precision
from copo_algos.networks import Layers

_tanh_backward = torch.ops.aten.tanh_backward.grad_input  # d (1 - h^2) in one pass


class TanhMLP:
    """One network's forward, backward and forward-mode passes over at most `rows` rows at a time.

    Args:
        layers: views of the parameters; an optimiser's step is seen at once.
        rows: most rows of one pass. Results are buffers, overwritten by the next pass.
        precision: what the hidden layers multiply in `forward` and `backward`: with bfloat16 the factors and the
            product of x W1, h1 W2 and their derivatives are rounded to it. Sums, tanh, the output layer and all that
            comes in and goes out stay in float32.
    """

    def __init__(self, layers: Layers, rows: int, precision: Precision = "float32"):
        self.rows = rows
        self._w, self._b = layers
        first = self._w[0]
        sizes = [weight.shape[1] for weight in self._w]
        self._h1, self._h2, self._y = (first.new_empty(rows, size) for size in sizes)
        self._d1, self._d2 = (first.new_empty(rows, size) for size in sizes[:2])
        self._halves = _Halves(self._w, rows) if precision == "bfloat16" else None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """x (B, D) -> y (B, K)."""
        n = len(x)
        h1, h2, y = self._h1[:n], self._h2[:n], self._y[:n]
        if self._halves is not None:
            self._halves.forward(x, self._w, self._b, h1, h2)
        else:
            _tanh(torch.mm(x, self._w[0], out=h1), self._b[0])
            _tanh(torch.mm(h1, self._w[1], out=h2), self._b[1])
        return torch.addmm(self._b[2], h2, self._w[2], out=y)

    def backward(self, x: torch.Tensor, dy: torch.Tensor, gradients: Layers) -> None:
        """Write dL/dW and dL/db of the pass that `forward(x)` has just made, with dy = dL/dy (B, K), to `gradients`.

        dW3 = h2^T dy,  d2 = (dy W3^T) (1 - h2^2),  dW2 = h1^T d2,  d1 = (d2 W2^T) (1 - h1^2),  dW1 = x^T d1;
        each db is the sum of its d over the rows.
        """
        n = len(x)
        h1, h2, d1, d2 = self._h1[:n], self._h2[:n], self._d1[:n], self._d2[:n]
        weights, biases = gradients
        torch.mm(h2.t(), dy, out=weights[2])
        torch.sum(dy, 0, out=biases[2])
        _through_tanh(torch.mm(dy, self._w[2].t(), out=d2), h2, biases[1])
        if self._halves is not None:
            self._halves.backward(d2, h1, gradients)
            return
        torch.mm(h1.t(), d2, out=weights[1])
        _through_tanh(torch.mm(d2, self._w[1].t(), out=d1), h1, biases[0])
        torch.mm(x.t(), d1, out=weights[0])

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


class _Halves:
    """What the hidden layers multiply, rounded to bfloat16: x, both weights, z = h W and d; products too."""

    def __init__(self, weights: tuple[torch.Tensor, ...], rows: int):
        inputs, first, second = weights[0].shape[0], weights[0].shape[1], weights[1].shape[1]

        def half(*shape: int) -> torch.Tensor:
            return torch.empty(shape, dtype=torch.bfloat16, device=weights[0].device)

        self._w = half(first, inputs).t(), half(second, first).t()  # laid out as the parameters and gradients are
        self._gradients = half(first, inputs).t(), half(second, first).t()
        self._x, self._z1, self._z2 = half(rows, inputs), half(rows, first), half(rows, second)
        self._d1, self._d2 = half(rows, first), half(rows, second)

    def forward(
        self,
        x: torch.Tensor,
        weights: tuple[torch.Tensor, ...],
        biases: tuple[torch.Tensor, ...],
        h1: torch.Tensor,
        h2: torch.Tensor,
    ) -> None:
        """Write both hidden layers to h1 and h2 (B, H), float32; z1 holds h1 rounded."""
        n = len(x)
        for half, weight in zip(self._w, weights, strict=False):  # the output layer's is not rounded
            half.copy_(weight)
        z1, z2 = self._z1[:n], self._z2[:n]
        torch.mm(self._x[:n].copy_(x), self._w[0], out=z1)
        kernels.tanh_bfloat16(_bits(z1), biases[0].numpy(), h1.numpy())
        torch.mm(z1, self._w[1], out=z2)
        kernels.tanh_bfloat16(_bits(z2), biases[1].numpy(), h2.numpy())

    def backward(self, d2: torch.Tensor, h1: torch.Tensor, gradients: Layers) -> None:
        """From d2 (B, H) on, to the gradients of W1, W2 and b1."""
        n = len(d2)
        half2 = self._d2[:n].copy_(d2)
        torch.mm(self._z1[:n].t(), half2, out=self._gradients[1])
        half1 = torch.mm(half2, self._w[1].t(), out=self._d1[:n])
        kernels.through_tanh_bfloat16(_bits(half1), h1.numpy(), gradients.biases[0].numpy())
        torch.mm(self._x[:n].t(), half1, out=self._gradients[0])
        for half, gradient in zip(self._gradients, gradients.weights, strict=False):
            gradient.copy_(half)


def _bits(half: torch.Tensor):
    return half.view(torch.uint16).numpy()


def _tanh(z: torch.Tensor, bias: torch.Tensor) -> None:
    """z (B, H) <- tanh(z + bias)."""
    if kernels.takes(z):
        kernels.tanh(z.numpy(), bias.numpy())
    else:
        z.add_(bias).tanh_()


def _through_tanh(d: torch.Tensor, h: torch.Tensor, by_bias: torch.Tensor) -> None:
    """d (B, H) <- d (1 - h^2); by_bias (H,) <- its sum over the rows."""
    if kernels.takes(d):
        kernels.through_tanh(d.numpy(), h.numpy(), by_bias.numpy())
    else:
        torch.sum(_tanh_backward(d, h, grad_input=d), 0, out=by_bias)
