"""Random functions of torch, drawing from `Noise`, not the global generator."""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from raymeta.modules.counter_rng import Noise
from raymeta.modules.overrides import distributions

#: λα of the SELU, negated: what alpha dropout sets a unit to.
_SELU_LIMIT = -1.7580993408473766


def _drop(x: Tensor, mask: Tensor, p: float, inplace: bool) -> Tensor:
    scaled = mask.to(x.dtype).mul_(1 / (1 - p) if p < 1 else 0.0)
    return x.mul_(scaled) if inplace else x * scaled


def dropout(
    noise: Noise,
    input: Tensor,
    p: float = 0.5,
    training: bool = True,
    inplace: bool = False,
) -> Tensor:
    """`F.dropout`: each element is 0 with probability p, else divided by 1 - p."""
    if not training or p == 0:
        return input
    return _drop(input, noise.bernoulli(input.shape, 1 - p), p, inplace)


def _plain(rule: Callable[..., Tensor], inplace: bool) -> Callable[..., Tensor]:
    """`torch.dropout` and its relatives, of which those in place have an underscore."""

    def plain(noise: Noise, input: Tensor, p: float, train: bool) -> Tensor:
        return rule(noise, input, p, train, inplace)

    return plain


def native_dropout(
    noise: Noise, input: Tensor, p: float, train: bool | None
) -> tuple[Tensor, Tensor]:
    """`torch.native_dropout`: the mask as well."""
    if train is False or p == 0:
        return input, torch.ones_like(input, dtype=torch.bool)
    mask = noise.bernoulli(input.shape, 1 - p)
    return _drop(input, mask, p, False), mask


def _dropout_of_channels(single: int | None) -> Callable[..., Tensor]:
    """`F.dropout1d`, `2d`, `3d`: whole channels are dropped.

    Args:
        single: how many dimensions an input without a batch has, if it is allowed.
    """

    def dropout(
        noise: Noise,
        input: Tensor,
        p: float = 0.5,
        training: bool = True,
        inplace: bool = False,
    ) -> Tensor:
        if not training or p == 0:
            return input
        mask = noise.bernoulli(_per_channel(input, single), 1 - p)
        return _drop(input, mask, p, inplace)

    return dropout


def _per_channel(x: Tensor, single: int | None) -> list[int]:
    kept = 1 if x.ndim == single else 2
    return [*x.shape[:kept], *[1] * (x.ndim - kept)]


def _alpha_dropout(
    noise: Noise, x: Tensor, shape: Any, p: float, training: bool, inplace: bool
) -> Tensor:
    r"""$a (x d + \alpha' (1 - d)) + b$ with d ~ Bernoulli(q), q = 1 - p.

    $$ a = (q + \alpha'^2 q (1 - q))^{-1/2},\qquad b = -a (1 - q) \alpha' $$

    Source: Klambauer et al. 2017, section 2, "alpha dropout".
    """
    if not training or p == 0:
        return x
    if p == 1:
        return x.zero_() if inplace else x * 0
    q = 1 - p
    a = (q + _SELU_LIMIT**2 * q * p) ** -0.5
    keep = noise.bernoulli(shape, q).to(x.dtype)
    y = x * (a * keep) + a * _SELU_LIMIT * (1 - keep - p)
    return x.copy_(y) if inplace else y


def alpha_dropout(
    noise: Noise,
    input: Tensor,
    p: float = 0.5,
    training: bool = False,
    inplace: bool = False,
) -> Tensor:
    """`F.alpha_dropout`."""
    return _alpha_dropout(noise, input, input.shape, p, training, inplace)


def feature_alpha_dropout(
    noise: Noise,
    input: Tensor,
    p: float = 0.5,
    training: bool = False,
    inplace: bool = False,
) -> Tensor:
    """`F.feature_alpha_dropout`: whole channels."""
    shape = _per_channel(input, None)
    return _alpha_dropout(noise, input, shape, p, training, inplace)


def rrelu(
    noise: Noise,
    input: Tensor,
    lower: float = 1 / 8,
    upper: float = 1 / 3,
    training: bool = False,
    inplace: bool = False,
) -> Tensor:
    """`F.rrelu`: negative inputs times a slope, uniform in [lower, upper]."""
    slope: Any = (lower + upper) / 2
    if training:
        slope = lower + (upper - lower) * noise.uniform(input.shape, input.dtype)
    y = torch.where(input < 0, input * slope, input)
    return input.copy_(y) if inplace else y


def _complex(draw: Callable[..., Tensor], share: float) -> Callable[..., Tensor]:
    """Real and imaginary part by themselves, each times a share, where they are two."""

    def both(noise: Noise, shape: Any, dtype: torch.dtype | None) -> Tensor:
        if dtype is None or not dtype.is_complex:
            return draw(noise, shape, dtype)
        parts = draw(noise, (*shape, 2), dtype.to_real())
        return torch.view_as_complex(parts * share)

    return both


#: Complex normal numbers have a variance of 1 as well.
_uniform = _complex(Noise.uniform, 1.0)
_normal = _complex(Noise.normal, 0.5**0.5)


def _factory(draw: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """`torch.rand`, `torch.randn`: a shape in one piece or in many."""

    def create(noise: Noise, *size: Any, dtype: Any = None, **where: Any) -> Tensor:
        whole = bool(size) and isinstance(size[0], tuple | list)
        shape = where.pop("size", size[0] if whole else size)
        numbers = draw(noise, shape, dtype)
        return numbers.to(where["device"]) if where.get("device") else numbers

    return create


def _like(draw: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """`torch.rand_like`, `torch.randn_like`."""

    def create(noise: Noise, input: Tensor, *, dtype: Any = None, **_: Any) -> Tensor:
        return draw(noise, input.shape, dtype or input.dtype)

    return create


def bernoulli(noise: Noise, input: Tensor, p: float | None = None, **_: Any) -> Tensor:
    """`torch.bernoulli`: probabilities of ones."""
    if p is not None:
        return noise.bernoulli(input.shape, p).to(input.dtype)
    return (noise.uniform(input.shape, input.dtype) < input).to(input.dtype)


def bernoulli_(noise: Noise, self: Tensor, p: Any = 0.5, **_: Any) -> Tensor:
    """`Tensor.bernoulli_`."""
    if isinstance(p, Tensor):
        return self.copy_(noise.uniform(self.shape, p.dtype) < p)
    return self.copy_(noise.bernoulli(self.shape, p))


def uniform_(
    noise: Noise, self: Tensor, from_: float = 0.0, to: float = 1.0, **ends: Any
) -> Tensor:
    """`Tensor.uniform_`."""
    low = ends.get("from", from_)
    return self.copy_(low + (to - low) * noise.uniform(self.shape, self.dtype))


def normal_(
    noise: Noise, self: Tensor, mean: float = 0.0, std: float = 1.0, **_: Any
) -> Tensor:
    """`Tensor.normal_`."""
    return self.copy_(mean + std * noise.normal(self.shape, self.dtype))


def _initial(rule: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Of `torch.nn.init`."""

    def fill(noise: Noise, tensor: Tensor, *settings: Any, **named: Any) -> Tensor:
        named.pop("generator", None)
        with torch.no_grad():
            return rule(noise, tensor, *settings, *named.values())

    return fill


def exponential_(noise: Noise, self: Tensor, lambd: float = 1.0, **_: Any) -> Tensor:
    """`Tensor.exponential_`."""
    return self.copy_(noise.uniform(self.shape, self.dtype).log_().div_(-lambd))


_PLAIN = {
    function: _plain(rule, inplace)
    for rule, functions in {
        dropout: (torch.dropout, torch.dropout_),
        alpha_dropout: (torch.alpha_dropout, torch.alpha_dropout_),
        feature_alpha_dropout: (
            torch.feature_alpha_dropout,
            torch.feature_alpha_dropout_,
        ),
        _dropout_of_channels(single=None): (
            torch.feature_dropout,
            torch.feature_dropout_,
        ),
    }.items()
    for inplace, function in zip((False, True), functions, strict=True)
}
RULES: dict[Any, Callable[..., Any]] = {
    F.dropout: dropout,
    torch.native_dropout: native_dropout,
    **_PLAIN,
    F.dropout1d: _dropout_of_channels(single=2),
    F.dropout2d: _dropout_of_channels(single=None),
    F.dropout3d: _dropout_of_channels(single=4),
    F.alpha_dropout: alpha_dropout,
    F.feature_alpha_dropout: feature_alpha_dropout,
    F.rrelu: rrelu,
    torch.rrelu: rrelu,
    torch.rrelu_: partial(rrelu, inplace=True),
    torch.rand: _factory(_uniform),
    torch.randn: _factory(_normal),
    torch.rand_like: _like(_uniform),
    torch.randn_like: _like(_normal),
    torch.bernoulli: bernoulli,
    Tensor.bernoulli: bernoulli,
    Tensor.bernoulli_: bernoulli_,
    Tensor.uniform_: uniform_,
    Tensor.normal_: normal_,
    nn.init.uniform_: _initial(uniform_),
    nn.init.normal_: _initial(normal_),
    Tensor.exponential_: exponential_,
    **distributions.RULES,
}
