"""Time of second derivatives: eager double backward against `raymeta.compile_twice`.

A gradient penalty's derivative by the weights, and a Hessian-vector product, each with
the value and the first derivative that they need; best of interleaved runs on one
thread, and whether `torch.compile` does it.

    python -m jobs.benchmarks.second_derivatives
"""

import argparse
import time
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import raymeta


class Block(nn.Module):
    """Attention and a feed-forward network, by plain operators."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        """Shape (batch, length, width), as x."""
        q, k, v = self.qkv(self.norms[0](x)).chunk(3, -1)
        scores = q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5
        x = x + self.out(scores.softmax(-1) @ v)
        return x + self.down(F.gelu(self.up(self.norms[1](x))))


class Recurrent(nn.Module):
    """Eight steps of a gated unit, by plain operators."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.gates, self.new = nn.Linear(width, 2 * width), nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        """The last state, (batch, width), of x (batch, width) at each step."""
        state = torch.zeros_like(x)
        for _ in range(8):
            r, z = torch.sigmoid(self.gates(x + state)).chunk(2, -1)
            state = (1 - z) * torch.tanh(self.new(x + r * state)) + z * state
        return state


def penalty(function: Callable[[Tensor], Tensor], net: nn.Module, x: Tensor) -> list:
    """The derivatives of |dE/dx|² by the weights."""
    x = x.detach().requires_grad_()
    (slope,) = torch.autograd.grad(function(x).square().mean(), x, create_graph=True)
    weights = list(net.parameters())
    return list(
        torch.autograd.grad(slope.square().sum(), weights, materialize_grads=True)
    )


def product(function: Callable[[Tensor], Tensor], net: nn.Module, x: Tensor) -> list:
    """The Hessian of E by the weights, times the weights."""
    weights = list(net.parameters())
    slopes = torch.autograd.grad(
        function(x).square().mean(), weights, create_graph=True
    )
    dots = [(s * w.detach()).sum() for s, w in zip(slopes, weights, strict=True)]
    return list(torch.autograd.grad(torch.stack(dots).sum(), weights))


def seconds(function: Callable[[], object]) -> float:
    """Of the processor, of one call."""
    start = time.process_time()
    function()
    return time.process_time() - start


def main() -> None:
    """Print a row for each network and derivative."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=15)
    repeats = parser.parse_args().repeats
    torch.set_num_threads(1)
    torch.manual_seed(0)
    small = [layer for _ in range(4) for layer in (nn.Linear(64, 64), nn.Tanh())]
    cases = {
        "MLP, 4 x 64, 32 rows": (nn.Sequential(*small), torch.randn(32, 64)),
        "MLP, 4 x 64, 1,024 rows": (nn.Sequential(*small), torch.randn(1024, 64)),
        "gated unit, 8 steps, 32 x 32": (Recurrent(32), torch.randn(32, 32)),
        "transformer block, 8 x 32 x 64": (Block(64), torch.randn(8, 32, 64)),
    }
    print(
        "| network | derivative | eager ms | compiled ms | ratio | first s | off by |"
    )
    for name, (net, x) in cases.items():
        for what in (penalty, product):
            twice = raymeta.compile_twice(net)
            first = seconds(lambda: what(twice, net, x))  # noqa: B023
            found, wanted = what(twice, net, x), what(net, net, x)
            off = max(
                float((a - b).norm() / (b.norm() + 1e-12))
                for a, b in zip(found, wanted, strict=True)
            )
            times: dict[str, list[float]] = {"eager": [], "compiled": []}
            for _ in range(repeats):
                times["eager"].append(seconds(lambda: what(net, net, x)))  # noqa: B023
                times["compiled"].append(seconds(lambda: what(twice, net, x)))  # noqa: B023
            eager, compiled = (min(each) * 1e3 for each in times.values())
            print(
                f"| {name} | {what.__name__} | {eager:.2f} | {compiled:.2f} | "
                f"{compiled / eager:.2f} | {first:.1f} | {off:.0e} |",
                flush=True,
            )
    try:
        penalty(torch.compile(net), net, x)
    except RuntimeError as error:
        print(f"torch.compile: {str(error).splitlines()[0]}")


if __name__ == "__main__":
    main()
