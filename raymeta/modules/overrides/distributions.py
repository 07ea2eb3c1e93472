"""Distributions: torch's random functions of more of them, drawing from `Noise`."""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from raymeta._tree import vmapped
from raymeta.autograd.stop_gradient import stop
from raymeta.modules.counter_rng import Noise
from raymeta.modules.rng_state import host_number


def integers(noise: Noise, shape: Any, low: int, high: int) -> Tensor:
    """Uniform integers of low … high - 1, int64; the bias is (high - low) 2^-63."""
    bits = noise.bits(shape).bitwise_and_((1 << 63) - 1)
    return low + bits % (high - low)


def randperm(noise: Noise, n: int, *, dtype: Any = None, **where: Any) -> Tensor:
    """`torch.randperm`."""
    return placed(noise.bits(n).argsort(), dtype or torch.int64, where)


def randint(
    noise: Noise, *ends: Any, size: Any = None, dtype: Any = None, **where: Any
) -> Tensor:
    """`torch.randint(low=0, high, size)`."""
    if size is None:
        *ends, size = ends  # type: ignore[assignment]
    low, high = _ends(ends, where)
    return placed(integers(noise, size, low, high), dtype or torch.int64, where)


def randint_like(
    noise: Noise, input: Tensor, *ends: int, dtype: Any = None, **where: Any
) -> Tensor:
    """`torch.randint_like(input, low=0, high)`."""
    low, high = _ends(ends, where)
    drawn = integers(noise, input.shape, low, high)
    return placed(drawn, dtype or input.dtype, where)


def _ends(ends: Any, named: dict[str, Any]) -> tuple[int, int]:
    given = [named.pop(name) for name in ("low", "high") if name in named]
    low, high = (0, *ends, *given)[-2:]
    return int(low), int(high)


def placed(drawn: Tensor, dtype: torch.dtype, where: dict[str, Any]) -> Tensor:
    """Numbers of the dtype and on the device that are asked for."""
    return drawn.to(where.get("device") or drawn.device, dtype)


def random_(noise: Noise, self: Tensor, *ends: Any, **named: Any) -> Tensor:
    """`Tensor.random_(from=0, to)`; without an end the largest number of its dtype."""
    named = {{"from": "low", "to": "high"}.get(k, k): x for k, x in named.items()}
    if not ends and "high" not in named:
        digits = {torch.float64: 53, torch.float32: 24, torch.float16: 11}
        kind = self.dtype
        whole = not kind.is_floating_point
        top = torch.iinfo(kind).max if whole else 1 << digits.get(kind, 8)
        ends = (min(top, (1 << 62) - 1) + 1,)
    return self.copy_(integers(noise, self.shape, *_ends(ends, named)))


def normal(
    noise: Noise,
    mean: float | Tensor = 0.0,
    std: float | Tensor = 1.0,
    size: Any = None,
    *,
    dtype: Any = None,
    **where: Any,
) -> Tensor:
    """`torch.normal`: as of a sample, its inner gradient is 0."""
    given = [x for x in (mean, std) if isinstance(x, Tensor)]
    if size is None:
        size = torch.broadcast_shapes(*(x.shape for x in given))
    dtype = dtype or (given[0].dtype if given else torch.get_default_dtype())
    return stop(mean + std * placed(noise.normal(size, dtype), dtype, where))


def multinomial(
    noise: Noise,
    input: Tensor,
    num_samples: int,
    replacement: bool = False,
    **_: Any,
) -> Tensor:
    r"""`torch.multinomial`: a race, which the smallest of $e_i / p_i$ wins, e ~ Exp(1).

    In the order of arrival, the first k of one race are a draw without replacement.
    """
    p = input.detach()
    races = [*p.shape[:-1], num_samples if replacement else 1, p.shape[-1]]
    times = -noise.uniform(races, torch.float64).log() / p.unsqueeze(-2)
    if replacement:
        return times.argmin(-1)
    return times.squeeze(-2).argsort(-1)[..., :num_samples]


def poisson(noise: Noise, input: Tensor, **_: Any) -> Tensor:
    r"""`torch.poisson`: the least k with $P(X \le k) = Q(k + 1, \lambda) \ge u$."""
    rate = input.detach().to(torch.float64)
    u = noise.uniform(rate.shape, torch.float64)
    low, high = torch.full_like(rate, -1.0), (rate + 12 * rate.sqrt() + 40).floor()
    for _step in range(48):  # P(X <= low) < u <= P(X <= high)
        middle = ((low + high) / 2).floor()
        enough = torch.special.gammaincc(middle.clamp(min=0) + 1, rate) >= u
        enough = enough & (middle >= 0)
        low, high = torch.where(enough, low, middle), torch.where(enough, middle, high)
    return torch.where(rate == 0, 0.0, high).to(input.dtype)


def cauchy_(
    noise: Noise, self: Tensor, median: float = 0.0, sigma: float = 1.0, **_: Any
) -> Tensor:
    """`Tensor.cauchy_`."""
    turn = math.pi * (noise.uniform(self.shape, self.dtype) - 0.5)
    return self.copy_(median + sigma * turn.tan())


def log_normal_(
    noise: Noise, self: Tensor, mean: float = 1.0, std: float = 2.0, **_: Any
) -> Tensor:
    """`Tensor.log_normal_`."""
    return self.copy_((mean + std * noise.normal(self.shape, self.dtype)).exp())


def geometric_(noise: Noise, self: Tensor, p: float, **_: Any) -> Tensor:
    """`Tensor.geometric_`: trials up to the first success."""
    u = noise.uniform(self.shape, torch.float64)
    trials = u.log() / (math.log1p(-p) if p < 1 else -math.inf)
    return self.copy_(trials.ceil().clamp(min=1))


def by_generator(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """A function with a generator of its own, which the noise seeds.

    For samplers that reject: torch's are their own loops. Within vmap, where the seed
    has no value, torch says so.
    """

    def draw(noise: Noise, *args: Any, **others: Any) -> Tensor:
        seed = host_number(noise.bits(1)) & ((1 << 63) - 1)
        others["generator"] = torch.Generator(noise.t.device).manual_seed(seed)
        return function(*args, **others)

    return draw


def fresh(create: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """What makes a tensor to be filled: within vmap it must be each task's own."""

    def rule(noise: Noise, *args: Any, **others: Any) -> Tensor:
        made = create(*args, **others)
        if not vmapped():
            return made
        return torch.zeros_like(made) + torch.zeros_like(noise.t, dtype=made.dtype)

    return rule


_MADE = (torch.empty, torch.empty_like, Tensor.new_empty, Tensor.new)
RULES: dict[Any, Callable[..., Any]] = {
    torch.randperm: randperm,
    torch.randint: randint,
    torch.randint_like: randint_like,
    Tensor.random_: random_,
    torch.normal: normal,
    torch.multinomial: multinomial,
    Tensor.multinomial: multinomial,
    torch.poisson: poisson,
    Tensor.cauchy_: cauchy_,
    Tensor.log_normal_: log_normal_,
    Tensor.geometric_: geometric_,
    torch.binomial: by_generator(torch.binomial),
    torch._standard_gamma: by_generator(torch._standard_gamma),
    torch._sample_dirichlet: by_generator(torch._sample_dirichlet),
    **{create: fresh(create) for create in _MADE},
}
