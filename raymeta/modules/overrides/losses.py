"""Losses and distances of torch that lack a derivative, written out.

Forward derivatives of `huber_loss` and `soft_margin_loss`, second ones of the margin
losses and of distances, and all by weights of classes are missing in torch 2.13, and
tracing the forward derivative of a sum of squared errors ends the process.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from raymeta.modules.counter_rng import Noise


def _reduced(loss: Tensor, reduction: str) -> Tensor:
    """The mean, the sum, or all of them."""
    if reduction == "none":
        return loss
    return loss.mean() if reduction == "mean" else loss.sum()


def _legacy(size_average: Any, reduce: Any, reduction: str) -> str:
    """What two arguments of old stand for."""
    if reduce is False:
        return "none"
    if size_average is None and reduce is None:
        return reduction
    return "sum" if size_average is False else "mean"


def mse_loss(
    noise: Noise,
    input: Tensor,
    target: Tensor,
    size_average: bool | None = None,
    reduce: bool | None = None,
    reduction: str = "mean",
    **others: Any,
) -> Tensor:
    """`F.mse_loss`; a sum by a square and a sum."""
    reduction = _legacy(size_average, reduce, reduction)
    if reduction != "sum" or others.get("weight") is not None:
        return F.mse_loss(input, target, reduction=reduction, **others)
    return (input - target).square().sum()


def huber_loss(
    noise: Noise,
    input: Tensor,
    target: Tensor,
    reduction: str = "mean",
    delta: float = 1.0,
    weight: Tensor | None = None,
) -> Tensor:
    r"""`F.huber_loss`: $r^2 / 2$ up to δ, then $\delta (|r| - \delta / 2)$."""
    r = (input - target).abs()
    small = r.clamp(max=delta)
    loss = small * (r - 0.5 * small)
    return _reduced(loss if weight is None else loss * weight, reduction)


def soft_margin_loss(
    noise: Noise,
    input: Tensor,
    target: Tensor,
    size_average: bool | None = None,
    reduce: bool | None = None,
    reduction: str = "mean",
) -> Tensor:
    """`F.soft_margin_loss`: log(1 + exp(-y x))."""
    loss = F.softplus(-target * input)
    return _reduced(loss, _legacy(size_average, reduce, reduction))


def multi_margin_loss(
    noise: Noise,
    input: Tensor,
    target: Tensor,
    p: int = 1,
    margin: float = 1.0,
    weight: Tensor | None = None,
    size_average: bool | None = None,
    reduce: bool | None = None,
    reduction: str = "mean",
) -> Tensor:
    r"""`F.multi_margin_loss`: $\tfrac1K \sum_{k \ne y} \max(0, m - x_y + x_k)^p$."""
    rows, y = input.reshape(-1, input.shape[-1]), target.reshape(-1, 1)
    gaps = (margin - rows.gather(1, y) + rows).clamp(min=0) ** p
    if weight is not None:
        gaps = gaps * weight[y]
    others = torch.ones_like(rows).scatter(1, y, 0.0)
    loss = (gaps * others).mean(1).reshape(target.shape)
    return _reduced(loss, _legacy(size_average, reduce, reduction))


def multilabel_margin_loss(
    noise: Noise,
    input: Tensor,
    target: Tensor,
    size_average: bool | None = None,
    reduce: bool | None = None,
    reduction: str = "mean",
) -> Tensor:
    r"""`F.multilabel_margin_loss`: $\tfrac1K \sum_{ij} \max(0, 1 - x_{y_j} + x_i)$.

    j runs over the labels before the first -1, i over the classes that are none.
    """
    x, y = torch.atleast_2d(input), torch.atleast_2d(target)
    given = (y < 0).cumsum(1) == 0
    y = torch.where(given, y, 0)
    label = torch.zeros_like(x).scatter_add(1, y, given.to(x.dtype)) > 0
    gaps = (1 - x.gather(1, y)[:, :, None] + x[:, None, :]).clamp(min=0)
    counted = given[:, :, None] & ~label[:, None, :]
    loss = (gaps * counted).sum((1, 2)) / x.shape[1]
    loss = loss.reshape(input.shape[:-1])
    return _reduced(loss, _legacy(size_average, reduce, reduction))


def nll_loss(
    noise: Noise,
    input: Tensor,
    target: Tensor,
    weight: Tensor | None = None,
    size_average: bool | None = None,
    ignore_index: int = -100,
    reduce: bool | None = None,
    reduction: str = "mean",
) -> Any:
    """`F.nll_loss` with weights of classes, by which torch has no derivative."""
    if weight is None:
        return NotImplemented
    reduction = _legacy(size_average, reduce, reduction)
    return _weighted_nll(input, target, weight, ignore_index, reduction, 0.0)


def cross_entropy(
    noise: Noise,
    input: Tensor,
    target: Tensor,
    weight: Tensor | None = None,
    size_average: bool | None = None,
    ignore_index: int = -100,
    reduce: bool | None = None,
    reduction: str = "mean",
    label_smoothing: float = 0.0,
) -> Any:
    """`F.cross_entropy` with weights of classes, likewise."""
    if weight is None or target.is_floating_point():
        return NotImplemented
    log_p = F.log_softmax(input, min(input.ndim - 1, 1))
    reduction = _legacy(size_average, reduce, reduction)
    return _weighted_nll(
        log_p, target, weight, ignore_index, reduction, label_smoothing
    )


def _weighted_nll(
    log_p: Tensor,
    target: Tensor,
    weight: Tensor,
    ignored: int,
    reduction: str,
    smoothing: float,
) -> Tensor:
    r"""$-(1-\alpha) w_y \log p_y - \tfrac\alpha K \sum_k w_k \log p_k$.

    The mean is over the sum of $w_y$.
    """
    axis = min(log_p.ndim - 1, 1)
    counted = target != ignored
    y = torch.where(counted, target, 0)
    w = torch.where(counted, weight[y], 0.0)
    picked = log_p.gather(axis, y.unsqueeze(axis)).squeeze(axis)
    loss = -w * torch.where(counted, picked, 0.0)
    if smoothing:
        each = log_p.movedim(axis, -1) @ weight
        share = smoothing / log_p.shape[axis]
        loss = (1 - smoothing) * loss - share * torch.where(counted, each, 0.0)
    return loss.sum() / w.sum() if reduction == "mean" else _reduced(loss, reduction)


def hardsigmoid(noise: Noise, input: Tensor, inplace: bool = False) -> Tensor:
    """`F.hardsigmoid`: from 0 at -3 to 1 at 3."""
    y = (input + 3).clamp(0, 6) / 6
    return input.copy_(y) if inplace else y


def cdist(
    noise: Noise,
    x1: Tensor,
    x2: Tensor,
    p: float = 2.0,
    compute_mode: str = "use_mm_for_euclid_dist_if_necessary",
) -> Tensor:
    """`torch.cdist`; the derivative of a distance of 0 is 0, as there."""
    return _norm(x1[..., :, None, :] - x2[..., None, :, :], p)


def pdist(noise: Noise, input: Tensor, p: float = 2.0) -> Tensor:
    """`F.pdist`: the distances of rows i < j."""
    i, j = torch.triu_indices(len(input), len(input), 1, device=input.device)
    return _norm(input[i] - input[j], p)


def _norm(r: Tensor, p: float) -> Tensor:
    """The p-norm over the last dimension, with a derivative of 0 at 0."""
    if p == 1:
        return r.abs().sum(-1)
    if p == float("inf"):
        return r.abs().amax(-1)
    if p == 0:
        return (r != 0).to(r.dtype).sum(-1)
    powers = r.square() if p == 2 else r.abs() ** p
    total = powers.sum(-1)
    away = total > 0
    return torch.where(away, torch.where(away, total, 1.0) ** (1 / p), 0.0)


RULES: dict[Any, Callable[..., Any]] = {
    F.mse_loss: mse_loss,
    F.huber_loss: huber_loss,
    F.soft_margin_loss: soft_margin_loss,
    F.multi_margin_loss: multi_margin_loss,
    F.multilabel_margin_loss: multilabel_margin_loss,
    F.nll_loss: nll_loss,
    F.cross_entropy: cross_entropy,
    F.hardsigmoid: hardsigmoid,
    torch.cdist: cdist,
    F.pdist: pdist,
    torch.pdist: pdist,
}
