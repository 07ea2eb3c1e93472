"""Time and memory of a training step beside `torch.optim`'s, interleaved.

`python -m jobs.benchmarks.online_overhead`
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor, nn

import raymeta

VOCABULARY, WIDTH, LAYERS, CONTEXT = 256, 256, 4, 64


class Transformer(nn.Module):
    """3.3 million weights, for characters."""

    def __init__(self) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(
            WIDTH, 4, 4 * WIDTH, dropout=0.0, batch_first=True
        )
        self.embed = nn.Embedding(VOCABULARY, WIDTH)
        self.layers = nn.TransformerEncoder(layer, LAYERS, enable_nested_tensor=False)
        self.head = nn.Linear(WIDTH, VOCABULARY)

    def forward(self, tokens: Tensor) -> Tensor:
        """Logits of the next token, (batch × context, vocabulary)."""
        return self.head(self.layers(self.embed(tokens))).flatten(0, 1)


def perceptron() -> nn.Module:
    """784-1000-1000-10: 1.8 million weights."""
    return nn.Sequential(
        nn.Linear(784, 1000),
        nn.ReLU(),
        nn.Linear(1000, 1000),
        nn.ReLU(),
        nn.Linear(1000, 10),
    )


def step_of(
    net: nn.Module, x: Tensor, y: Tensor, optimizer: torch.optim.Optimizer
) -> Callable[[], None]:
    """A training step: forward, backward, update."""

    def step() -> None:
        optimizer.zero_grad()
        nn.functional.cross_entropy(net(x), y).backward()
        optimizer.step()

    return step


def bytes_kept(optimizer: torch.optim.Optimizer) -> int:
    """Bytes of the tensors in the optimizer's state."""
    return sum(
        x.numel() * x.element_size()
        for state in optimizer.state.values()
        for x in state.values()
        if isinstance(x, Tensor)
    )


def main() -> None:
    """Print a line per network and kind of optimizer."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=40)
    given = parser.parse_args()
    tokens = torch.randint(VOCABULARY, (16, CONTEXT))
    cases = {
        "transformer": (Transformer, tokens, tokens.flatten()),
        "mlp": (perceptron, torch.randn(128, 784), torch.randint(10, (128,))),
    }
    kinds: dict[str, dict[str, object]] = {
        "group": {"per": "group"},
        "tensor": {"per": "tensor"},
        "weight": {"per": "weight"},
    }
    for name, (make, x, y) in cases.items():
        steps, kept = {}, {}
        for kind in ("torch", *kinds):
            torch.manual_seed(0)
            net = make()
            optimizer = (
                torch.optim.AdamW(net.parameters(), lr=1e-4)
                if kind == "torch"
                else raymeta.online.AdamW(net.parameters(), lr=1e-4, **kinds[kind])  # type: ignore[arg-type]
            )
            steps[kind] = step_of(net, x, y, optimizer)
            for _ in range(3):
                steps[kind]()
            kept[kind] = bytes_kept(optimizer)
        weights = sum(p.numel() for p in make().parameters())
        times: dict[str, list[float]] = {kind: [] for kind in steps}
        for _ in range(given.rounds):
            for kind, step in steps.items():
                begun = time.process_time()
                step()
                times[kind].append(time.process_time() - begun)
        plain = statistics.median(times["torch"])
        for kind in kinds:
            ratio = statistics.median(times[kind]) / plain
            tensors = (kept[kind] - kept["torch"]) / (4 * weights)
            print(
                f"{name:12s} {weights / 1e6:.1f} M per={kind:7s} time × {ratio:.3f}, "
                f"{tensors:+.2f} tensors per parameter",
                flush=True,
            )


if __name__ == "__main__":
    main()
