"""Batch norms by policy: which statistics they normalize with, and what they keep."""

from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules import batchnorm

from raymeta.errors import said
from raymeta.modules.share import current
from raymeta.types import Tensors


@dataclass(frozen=True)
class PerStep:
    """Batch norms with statistics of their own for every training step.

    Training normalizes by the batch, as ever. Step t moves row t of T of the running
    statistics towards those of its batch, by the layer's `momentum`; with None it sets
    them. Evaluation after t steps uses row t - 1, and the last row beyond T. Rows begin
    as the module's own statistics. Weights γ and β may have T rows as well, (T,
    channels), by `init_params` or `frozen`: step t uses row t. A layer is called once a
    step.

    Attributes:
        steps: T.

    Source: Antoniou et al. 2019 (MAML++), section 4: per-step batch normalization
        running statistics (BNRS), weights and biases (BNWB).
    """

    steps: int

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise ValueError(f"PerStep needs steps >= 1, but got steps={self.steps}")


Policy = Literal["running", "batch", "frozen"] | PerStep


def apply_policy(module: nn.Module, policy: Policy) -> set[str]:
    """Let the batch norms of a module follow a policy, in place.

    They compute where derivatives see their running statistics. torch's kernel updates
    them behind the back of autograd, and refuses to differentiate the outer loss by
    them: a part of dE/dλ would be missing.

    Returns:
        The names of the buffers that they keep; these are never written into.

    Raises:
        ValueError: another layer keeps running statistics by such a kernel; there is no
            such policy.
    """
    if not isinstance(policy, PerStep) and policy not in ("running", "batch", "frozen"):
        raise ValueError(
            "batch_norm must be 'running', 'batch', 'frozen' or PerStep(steps), but "
            f"got {said(policy)}"
        )
    kept: set[str] = set()
    for name, layer in module.named_modules():
        if not isinstance(layer, batchnorm._NormBase):
            continue
        plain = type(layer).forward is batchnorm._BatchNorm.forward
        if not layer.track_running_stats:
            if plain:
                layer.forward = partial(_own, layer)
            continue
        if not plain:
            raise ValueError(
                "raymeta cannot differentiate the running statistics of "
                f"{type(layer).__name__}: use nn.BatchNorm1d, 2d or 3d, or "
                "track_running_stats=False"
            )
        if policy == "batch":
            _forget(layer)
            layer.forward = partial(_own, layer)
            continue
        if isinstance(policy, PerStep):
            layer.num_batches_tracked = torch.zeros_like(
                cast(Tensor, layer.num_batches_tracked)
            )
            for key in ("running_mean", "running_var"):
                own = getattr(layer, key)
                setattr(layer, key, own.expand(policy.steps, -1).clone())
            layer.forward = partial(_per_step, layer)
        else:
            layer.forward = partial(_running if policy == "running" else _frozen, layer)
        kept |= {f"{name}.{key}" if name else key for key in layer._buffers}
    return kept


def tuned_norms(module: nn.Module, policy: Policy, tensors: Tensors) -> Tensors:
    """Let torch's own batch norms evaluate as those of a policy do.

    Args:
        module: a copy that follows no policy, changed in place.
        policy: see `module_problem`.
        tensors: parameters and buffers of a run under the policy, by name.

    Returns:
        The same for torch's norms: of rows for every step, those of the last step.
    """
    tensors = dict(tensors)
    for name, layer in module.named_modules():
        if not (isinstance(layer, batchnorm._NormBase) and layer.track_running_stats):
            continue
        if policy == "batch":
            _forget(layer)
        if isinstance(policy, PerStep):
            prefix = f"{name}." if name else ""
            past = tensors[f"{prefix}num_batches_tracked"]
            row = (past - 1).clamp(0, policy.steps - 1)
            for key in ("running_mean", "running_var", "weight", "bias"):
                if f"{prefix}{key}" in tensors:
                    rows = tensors[f"{prefix}{key}"]
                    tensors[f"{prefix}{key}"] = cast(Tensor, _at(row, rows))
    return tensors


def _forget(layer: Any) -> None:
    """Keep no running statistics."""
    layer.track_running_stats = False
    for key in layer._buffers:
        layer._buffers[key] = None


def _running(layer: Any, x: Tensor) -> Tensor:
    """Training by the batch; evaluation by the running statistics, as in `torch.nn`."""
    if not layer.training:
        return _frozen(layer, x)
    y, mean, var = _by_batch(layer, x, layer.weight, layer.bias)
    layer.num_batches_tracked = layer.num_batches_tracked + 1
    rate = layer.momentum
    if rate is None:  # the mean over all batches
        rate = 1 / layer.num_batches_tracked.to(mean.dtype)
    layer.running_mean = layer.running_mean.lerp(mean, rate)
    layer.running_var = layer.running_var.lerp(var, rate)
    return y


def _own(layer: Any, x: Tensor) -> Tensor:
    """Training and evaluation by the batch."""
    return _by_batch(layer, x, layer.weight, layer.bias)[0]


def _frozen(layer: Any, x: Tensor) -> Tensor:
    """Training and evaluation by the statistics as they stand."""
    layer._check_input_dim(x)
    mean, var = layer.running_mean, layer.running_var
    return _affine(x, mean, var, layer.eps, layer.weight, layer.bias)


def _per_step(layer: Any, x: Tensor) -> Tensor:
    """Training by the batch, evaluation by the statistics of the last step."""
    past = layer.num_batches_tracked
    steps = len(layer.running_mean)
    row = (past if layer.training else past - 1).clamp(0, steps - 1)
    weight, bias = (_at(row, tensor) for tensor in (layer.weight, layer.bias))
    means, vars = layer.running_mean, layer.running_var
    if not layer.training:
        layer._check_input_dim(x)
        mean, var = _at(row, means), _at(row, vars)
        return _affine(x, mean, var, layer.eps, weight, bias)
    y, mean, var = _by_batch(layer, x, weight, bias)
    layer.num_batches_tracked = past + 1
    rate = 1.0 if layer.momentum is None else layer.momentum
    here = (torch.arange(steps, device=x.device) == row)[:, None]
    layer.running_mean = torch.where(here, means.lerp(mean, rate), means)
    layer.running_var = torch.where(here, vars.lerp(var, rate), vars)
    return y


def _at(row: Tensor, tensor: Tensor | None) -> Tensor | None:
    """A row of T, or what is the same for all of them."""
    if tensor is None or tensor.ndim == 1:
        return tensor
    return tensor.index_select(0, row.view(1)).squeeze(0)


def _by_batch(
    layer: Any, x: Tensor, weight: Tensor | None, bias: Tensor | None
) -> tuple[Tensor, Any, Any]:
    r"""Normalize x, shape (batch, channels, ...), by its own statistics.

    $$ y = \gamma \frac{x - \mu}{\sqrt{\sigma^2 + \epsilon}} + \beta $$

    Of a share of a batch they are those of the whole batch.

    Returns:
        y, and the mean and the unbiased variance of each channel, shape (channels,);
        None where a layer keeps none.

    Source: Ioffe & Szegedy 2015, Algorithm 1; running statistics as in `torch.nn`.
    """
    layer._check_input_dim(x)
    share, count = current(), x.numel() // x.shape[1]
    count = count if share is None else count * share.total // share.count
    if count == 1:
        raise ValueError(
            "batch normalization needs more than one value per channel for "
            f"training, but got inputs of shape {tuple(x.shape)}: raise batch_size"
        )
    axes = [0, *range(2, x.ndim)]
    if share is not None:
        along = (-1, *[1] * (x.ndim - 2))
        kept = x if layer.running_mean is None else layer.running_mean
        wide = x.to(torch.promote_types(kept.dtype, torch.float32))
        mean = share.mean(wide.mean(axes))
        var = share.mean((wide - mean.view(along)).square().mean(axes))
        y = _affine(x, mean, var, layer.eps, weight, bias)
        return y, mean, var * (count / (count - 1))
    y = F.batch_norm(x, None, None, weight, bias, training=True, eps=layer.eps)
    if layer.running_mean is None:
        return y, None, None
    var, mean = torch.var_mean(x.to(layer.running_mean.dtype), axes)
    return y, mean, var


def _affine(
    x: Tensor,
    mean: Tensor | None,
    var: Tensor | None,
    eps: float,
    weight: Tensor | None,
    bias: Tensor | None,
) -> Tensor:
    """Normalize x by statistics of shape (channels,) that do not depend on it."""
    assert mean is not None
    assert var is not None
    scale = (var + eps).rsqrt()
    if weight is not None:
        scale = scale * weight
    shift = -mean * scale
    if bias is not None:
        shift = shift + bias
    along = (-1, *[1] * (x.ndim - 2))
    return (x * scale.view(along) + shift.view(along)).to(x.dtype)
