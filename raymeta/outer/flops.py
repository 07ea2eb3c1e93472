"""Floating-point operations of a training step."""

import math
from contextlib import suppress
from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from raymeta.compile.dispatch import TorchDispatchMode
from raymeta.problem import BilevelProblem
from raymeta.types import Hparams

ATEN = torch.ops.aten

#: Elementwise operators of torch that compute nothing.
COPIES = (ATEN.clone.default, ATEN.alias.default)

#: Operators that take in every element once. By name, for torch before 2.10 has no tag
#: for them.
REDUCTIONS = (
    *(ATEN.sum, ATEN.mean, ATEN.nansum, ATEN.prod, ATEN.var, ATEN.std, ATEN.norm),
    *(ATEN.linalg_vector_norm, ATEN.max, ATEN.min, ATEN.amax, ATEN.amin),
)


def step_flops(problem: BilevelProblem, hparams: Hparams) -> float:
    """Floating-point operations of one training step: what one gradient evaluation is.

    Multiplications and additions of matrix products, convolutions and attention, as
    `torch.utils.flop_counter` counts them; one operation for every element of an
    elementwise result (whether a sum, a tanh or a fused multiply-add), and one for
    every element that a sum, a mean or the like (`REDUCTIONS`) takes in. Other
    operators of torch (softmax, normalization, pooling, lookup, loss functions) and
    copies count nothing.
    NaN where the step raises: its trials will say why.
    """
    products, others = FlopCounterMode(display=False), _Elementwise()
    with suppress(Exception):
        state, batch = problem.init(hparams), problem.batch(0)
        with products, others:
            problem.step(state, hparams, batch)
        return float(products.get_total_flops() + others.total)
    return math.nan


class _Elementwise(TorchDispatchMode):
    """Counts the elements that elementwise operators give and reductions take."""

    def __init__(self) -> None:
        super().__init__()
        self.total = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple = (), kwargs: Any = None
    ) -> Any:
        found = func(*args, **(kwargs or {}))
        if func.overloadpacket in REDUCTIONS:
            self.total += args[0].numel()
        elif torch.Tag.pointwise in func.tags and func not in COPIES:
            # torch.equal is one, too, and gives a bool.
            self.total += found.numel() if isinstance(found, Tensor) else 0
        return found
