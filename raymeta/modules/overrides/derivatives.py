"""Derivatives of torch's functions that lack a second or a forward one.

The fused kernels that they replace (attention, bags of embeddings, recurrent layers,
weight norm) give the same numbers to rounding. Norms are replaced within `vmap` alone:
torch 2.13's rules for the second derivatives of those kernels give wrong ones there.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.backends import cudnn, mkldnn
from torch.nn import functional as F

from raymeta._tree import vmapped
from raymeta.autograd.stop_gradient import hooked
from raymeta.modules.counter_rng import Noise
from raymeta.modules.overrides.random import dropout


def scaled_dot_product_attention(
    noise: Noise,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    """`F.scaled_dot_product_attention` by matrix products and a softmax."""
    if enable_gqa:
        groups = query.shape[-3] // key.shape[-3]
        key, value = (x.repeat_interleave(groups, -3) for x in (key, value))
    scale = query.shape[-1] ** -0.5 if scale is None else scale
    scores = query @ key.mT * scale
    if is_causal:
        attn_mask = torch.ones_like(scores, dtype=torch.bool).tril()
    if attn_mask is not None and attn_mask.dtype == torch.bool:
        scores = scores.masked_fill(~attn_mask, -math.inf)
    elif attn_mask is not None:
        scores = scores + attn_mask
    # A row that is masked altogether is 0.
    weights = torch.ops.aten._safe_softmax(scores, -1)
    return dropout(noise, weights, dropout_p) @ value


def embedding(
    noise: Noise,
    input: Tensor,
    weight: Tensor,
    padding_idx: int | None = None,
    max_norm: float | None = None,
    norm_type: float = 2.0,
    scale_grad_by_freq: bool = False,
    sparse: bool = False,
) -> Any:
    """`F.embedding` whose padding stays out of training gradients alone.

    torch leaves it out of all derivatives. But the outer loss depends on the padding's
    vector, which λ reaches by weight decay or initial weights. Gradients are dense.
    """
    _require_derivative("embedding", max_norm, scale_grad_by_freq)
    if padding_idx is None:
        return F.embedding(input, weight) if sparse else NotImplemented
    rows = torch.arange(len(weight), device=weight.device)[:, None]
    trained = rows != padding_idx % len(weight)
    return F.embedding(input, hooked(weight, [lambda g: g * trained]))


def _require_derivative(
    name: str, max_norm: float | None, scale_grad_by_freq: bool
) -> None:
    if max_norm is not None or scale_grad_by_freq:
        raise ValueError(
            f"raymeta cannot differentiate {name} with max_norm or "
            f"scale_grad_by_freq, but got max_norm={max_norm}, scale_grad_by_freq="
            f"{scale_grad_by_freq}: leave them out"
        )


def embedding_bag(
    noise: Noise,
    input: Tensor,
    weight: Tensor,
    offsets: Tensor | None = None,
    max_norm: float | None = None,
    norm_type: float = 2.0,
    scale_grad_by_freq: bool = False,
    mode: str = "mean",
    sparse: bool = False,
    per_sample_weights: Tensor | None = None,
    include_last_offset: bool = False,
    padding_idx: int | None = None,
) -> Tensor:
    """`F.embedding_bag` by an embedding and a sum, mean or maximum over each bag."""
    _require_derivative("embedding_bag", max_norm, scale_grad_by_freq)
    if offsets is None:
        count, rows = input.shape
        bag = torch.arange(count, device=input.device).repeat_interleave(rows)
    else:
        starts = offsets[:-1] if include_last_offset else offsets
        count = len(starts)
        places = torch.arange(len(input), device=input.device)
        bag = torch.searchsorted(starts, places, right=True) - 1
    flat = input.flatten()
    if padding_idx is not None:  # one bag more, for the padding
        bag = torch.where(flat == padding_idx % len(weight), count, bag)
    vectors = F.embedding(flat, weight)
    if per_sample_weights is not None:
        vectors = vectors * per_sample_weights.flatten()[:, None]
    empty = vectors.new_zeros(count + 1, weight.shape[1])
    if mode == "max":
        index = bag[:, None].expand_as(vectors)
        best = empty.scatter_reduce(0, index, vectors, "amax", include_self=False)
        return best[:count]
    total = empty.index_add(0, bag, vectors)[:count]
    if mode == "sum":
        return total
    ones = vectors.new_ones(len(flat))
    sizes = vectors.new_zeros(count + 1).index_add(0, bag, ones)[:count]
    return total / sizes.clamp(min=1)[:, None]


def recurrent(function: Callable[..., Any]) -> Callable[..., Any]:
    """`torch.gru`, `lstm`, `rnn_tanh`, `rnn_relu`: unfused, dropout between layers.

    Args:
        function: called with (input, hx, weights, biases, layers, dropout, training,
            both ways, batch first), or with (input, sizes, hx, ..., both ways) for
            packed sequences; hx is a tuple for an LSTM, weights are a list.
    """

    def rule(noise: Noise, *args: Any) -> tuple[Tensor, ...]:
        at = 2 if isinstance(args[2], list) else 3
        (x, *sizes), hx = args[: at - 1], args[at - 1]
        weights, biases, layers, p, training, both_ways, *order = args[at:]
        if layers == 1 or not training:
            p = 0.0
        if p == 0:
            return _unfused(function, args)
        each, ways = len(weights) // layers, 1 + both_ways
        ends = []
        for i in range(layers):
            rows = slice(i * ways, (i + 1) * ways)
            start = tuple(h[rows] for h in hx) if isinstance(hx, tuple) else hx[rows]
            own = weights[i * each : (i + 1) * each]
            now = (x, *sizes, start, own, biases, 1, 0.0, training, both_ways, *order)
            x, *end = _unfused(function, now)
            ends.append(end)
            x = dropout(noise, x, p, training=i < layers - 1)
        return (x, *(torch.cat(states) for states in zip(*ends, strict=True)))

    return rule


def _unfused(function: Callable[..., Any], args: tuple) -> Any:
    """Without oneDNN, whose layer has no forward derivative, and cuDNN, no second."""
    before = mkldnn.enabled, cudnn.enabled
    mkldnn.enabled = cudnn.enabled = False  # type: ignore[assignment]
    try:
        return function(*args)
    except RuntimeError as error:
        if "Batching rule not implemented" not in str(error):
            raise
        raise ValueError(
            f"torch.func.vmap has no rule for {function.__name__}: for tasks of "
            "meta-learning use engine='higher'"
        ) from error
    finally:
        mkldnn.enabled, cudnn.enabled = before


def weight_norm(noise: Noise, v: Tensor, g: Tensor, dim: int = 0) -> Tensor:
    r"""$g\, v / \lVert v \rVert$, `torch.nn.utils.parametrizations.weight_norm`."""
    axes = [i for i in range(v.ndim) if dim == -1 or i != dim]
    return v * (g / torch.linalg.vector_norm(v, 2, axes, keepdim=dim != -1))


def batch_norm(
    noise: Noise,
    input: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    """`F.batch_norm` of shape (batch, channels, ...); within vmap by the formula."""
    if not (vmapped() and training and running_mean is None):
        own = (running_mean, running_var, weight, bias, training, momentum, eps)
        return F.batch_norm(input, *own)
    along = (-1, *[1] * (input.ndim - 2))
    return _normalized(input, [0, *range(2, input.ndim)], eps, weight, bias, along)


def instance_norm(
    noise: Noise,
    input: Tensor,
    running_mean: Tensor | None = None,
    running_var: Tensor | None = None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    use_input_stats: bool = True,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    """`F.instance_norm` of (batch, channels, ...); within vmap by the formula."""
    if not (vmapped() and use_input_stats and running_mean is None):
        own = (running_mean, running_var, weight, bias, use_input_stats, momentum, eps)
        return F.instance_norm(input, *own)
    along = (-1, *[1] * (input.ndim - 2))
    return _normalized(input, [*range(2, input.ndim)], eps, weight, bias, along)


def layer_norm(
    noise: Noise,
    input: Tensor,
    normalized_shape: Sequence[int],
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
) -> Tensor:
    """`F.layer_norm`; within vmap by the formula."""
    if not vmapped():
        return F.layer_norm(input, normalized_shape, weight, bias, eps)
    axes, along = [*range(-len(normalized_shape), 0)], tuple(normalized_shape)
    return _normalized(input, axes, eps, weight, bias, along)


def _normalized(
    x: Tensor,
    axes: list[int],
    eps: float,
    weight: Tensor | None,
    bias: Tensor | None,
    along: tuple[int, ...],
) -> Tensor:
    """(x - μ) / √(σ² + ε) over some axes, then scaled and shifted in few passes."""
    x = x - x.mean(axes, keepdim=True)
    scale = (x.square().mean(axes, keepdim=True) + eps).rsqrt()
    if weight is not None:
        scale = scale * weight.view(along)
    return x * scale if bias is None else torch.addcmul(bias.view(along), x, scale)


def in_float32(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """A norm of inputs of half the width, with weights of float32.

    torch has no forward derivative for the two together.
    """

    def rule(noise: Noise, input: Tensor, *args: Any, **others: Any) -> Tensor:
        return function(input.float(), *args, **others)

    return rule


RULES: dict[Any, Callable[..., Any]] = {
    F.scaled_dot_product_attention: scaled_dot_product_attention,
    F.embedding: embedding,
    F.embedding_bag: embedding_bag,
    torch.gru: recurrent(torch.gru),
    torch.lstm: recurrent(torch.lstm),
    torch.rnn_tanh: recurrent(torch.rnn_tanh),
    torch.rnn_relu: recurrent(torch.rnn_relu),
    torch._weight_norm: weight_norm,
    F.batch_norm: batch_norm,
    F.instance_norm: instance_norm,
    F.layer_norm: layer_norm,
}
_NORMS = (F.batch_norm, F.layer_norm, F.group_norm, F.instance_norm)
MIXED_RULES: dict[Any, Callable[..., Any]] = {norm: in_float32(norm) for norm in _NORMS}
