"""One small problem with every kind of hyperparameter, for any inner optimizer."""

from collections.abc import Callable
from math import prod
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from raymeta.optim import Optimizer
from raymeta.problem import BilevelProblem, descent
from raymeta.testing.optimizers import FORMS, formed
from raymeta.testing.problems import SHAPES
from raymeta.types import Batch, Hparams, Tensors
from tests.conformance.optimizers import CASES, JOINT, Case

#: The ways to give a setting: one number for all, and those of `optimizers.FORMS`.
ALL_FORMS = ("scalars", *FORMS)


def everything(
    name: str, form: str = "scalars", *, zeros: tuple[str, ...] = ()
) -> tuple[BilevelProblem, Hparams]:
    """A network of ten weights of which all is learned that can be.

    λ has every number of the optimizer, in a form; a weight for each example, label
    smoothing, a regularizer, a learned part of the loss; the initial weights and their
    scale. One input is always 0, and so are its weights at the start, whose gradient
    thus is exactly 0 for ever.

    Args:
        name: of the optimizer in `optimizers.CASES`.
        form: one of `ALL_FORMS`.
        zeros: settings, and entries of λ, that are exactly 0.
    """
    case = CASES[name]
    learned: Tensors = {}

    def start(setting: str, *shape: int) -> Tensor:
        spread = torch.linspace(1.0, 0.8, prod(shape)).reshape(shape)
        value = 0.0 if setting in zeros else case.settings[setting]
        return learned.setdefault(f"{setting} {len(learned)}", value * spread)

    _settings(case, form, start)
    names = list(learned)

    def optimizer(h: Hparams) -> Optimizer:
        values = iter([h[name] for name in names])
        given = _settings(case, form, lambda setting, *shape: next(values))
        return case.rule(**given)

    learned |= _loss_and_start()
    learned |= {name: 0 * learned[name] for name in zeros if name in learned}
    return _training(optimizer), learned


def _settings(case: Case, form: str, value: Callable[..., Tensor]) -> dict[str, Any]:
    """All settings in a form; `value` gets a setting's name and a shape."""
    if form == "scalars":
        return {setting: value(setting) for setting in case.settings}
    named: Any = {setting: setting for setting in case.settings}
    return formed(named, form, value, JOINT)


def _loss_and_start() -> Tensors:
    generator = torch.Generator().manual_seed(3)
    start = {k: torch.randn(shape, generator=generator) for k, shape in SHAPES.items()}
    start["layer.weight"][:, 2] = 0.0
    return {
        "example weights": torch.linspace(-1, 1, 16),
        "smoothing": torch.tensor(0.1),
        "penalty": torch.tensor([0.02, 0.01]),
        "loss hidden": torch.randn(2, 3, generator=generator),
        "loss out": 0.3 * torch.randn(3, generator=generator),
        "scale": torch.tensor(1.3),
        **{f"start {name}": value for name, value in start.items()},
    }


def _training(optimizer: Callable[[Hparams], Optimizer]) -> BilevelProblem:
    generator = torch.Generator().manual_seed(5)
    x = torch.randn(24, 3, generator=generator)
    x[:, 2] = 0.0
    y = (x[:, 0] + torch.randn(24, generator=generator) > 0).to(x)

    def predict(params: Tensors, x: Tensor) -> Tensor:
        hidden = torch.tanh(x @ params["layer.weight"].T + params["layer.bias"])
        return hidden @ params["head"]

    def inner_loss(params: Tensors, h: Hparams, batch: Batch) -> Tensor:
        x, y, index = batch.data
        logits = predict(params, x)
        targets = (1 - h["smoothing"]) * y + h["smoothing"] / 2
        each = F.binary_cross_entropy_with_logits(logits, targets, reduction="none")
        hidden = torch.tanh(torch.stack([logits, targets], 1) @ h["loss hidden"])
        each = torch.sigmoid(h["example weights"])[index] * (
            each + hidden @ h["loss out"]
        )
        squares = [params[name].square().sum() for name in ("layer.bias", "head")]
        return each.mean() + h["penalty"] @ torch.stack(squares)

    def outer_loss(params: Tensors, h: Hparams) -> Tensor:
        return F.binary_cross_entropy_with_logits(predict(params, x[16:]), y[16:])

    def batch(t: int) -> Batch:
        index = torch.arange(4) + 4 * (t % 4)
        return Batch(torch.tensor(t), (x[index], y[index], index))

    return descent(
        init_params=lambda h: {k: h["scale"] * h[f"start {k}"] for k in SHAPES},
        inner_loss=inner_loss,
        outer_loss=outer_loss,
        optimizer=optimizer,
        batch=batch,
        outer_cost=8 / 4,
    )
