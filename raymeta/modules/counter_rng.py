"""Random numbers that are a pure function of a seed and a step."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from raymeta.modules.share import current

_WORD = 1 << 64
#: The odd integer closest to 2^64 over the golden ratio.
_GOLDEN = 0x9E3779B97F4A7C15
_FACTORS = (0xBF58476D1CE4E5B9, 0x94D049BB133111EB)
#: (shift, mask of what a logical shift leaves) of the three xorshifts.
_SHIFTS = tuple((by, (1 << (64 - by)) - 1) for by in (30, 27, 31))
#: A step has 2^40 numbers of its own.
_NUMBERS_BITS = 40


class Noise:
    r"""Random tensors as a function of (seed, t) and of the order of the draws.

    The i-th number of step t is SplitMix64's output number $n = 2^{40} t + i + 1$:

    $$ z = m(\mathrm{seed}) + n \gamma \bmod 2^{64},\qquad m(z) = x \oplus (x \gg 31),
       \quad x = (y \oplus (y \gg 27))\, c_2,\quad y = (z \oplus (z \gg 30))\, c_1 $$

    Integer tensor operations only: the same bits on every device, and a step that uses
    them can be traced, compiled, differentiated and vmapped. Up to 2^24 steps, no two
    draws of a seed share a number. A `Share` of a batch gets the numbers that its
    examples have in the whole batch.

    Args:
        seed: any integer.
        t: the step, an int64 tensor of shape (); its device is that of the numbers.

    Source: Steele, Lea & Flood 2014, with the constants of Stafford's variant 13.
    """

    def __init__(self, seed: int, t: Tensor) -> None:
        self.seed, self.t = seed, t
        self._drawn = self._draws = 0

    def bits(self, shape: int | Sequence[int]) -> Tensor:
        """Numbers of 64 random bits, int64, of this shape."""
        shape = (shape,) if isinstance(shape, int) else tuple(shape)
        return self._bits(*self._places(shape)).view(shape)

    def uniform(self, shape: Sequence[int], dtype: torch.dtype | None = None) -> Tensor:
        """Uniform numbers of the open interval (0, 1), of torch's default dtype."""
        dtype = torch.get_default_dtype() if dtype is None else dtype
        digits = 52 if dtype == torch.float64 else 23
        places, count = self._places(shape)
        # The middles of 2^digits cells: neither end is among them.
        cell = self._bits(places, count) >> (64 - digits)
        cell = cell.bitwise_and_((1 << digits) - 1).view(tuple(shape))
        wide = cell.to(torch.float64 if digits == 52 else torch.float32)
        return wide.add_(0.5).mul_(2.0**-digits).to(dtype)

    def normal(self, shape: Sequence[int], dtype: torch.dtype | None = None) -> Tensor:
        """Standard normal numbers, of torch's default dtype."""
        return torch.special.ndtri(self.uniform(shape, dtype))

    def bernoulli(self, shape: Sequence[int], probability: float) -> Tensor:
        """True with a probability in [0, 1], bool; exact to 2^-32."""
        places, count = self._places(shape)
        pairs = -(-count // 2)
        if places is None:
            halves = self._bits(None, pairs).view(torch.int32)[:count]
        else:
            both = self._bits(places >> 1, pairs).view(torch.int32).view(-1, 2)
            halves = torch.where((places & 1).bool(), both[:, 1], both[:, 0])
        threshold = round(probability * (1 << 32)) - (1 << 31)
        if threshold == 1 << 31:
            return torch.ones(tuple(shape), dtype=torch.bool, device=self.t.device)
        return (halves < threshold).view(tuple(shape))

    def _bits(self, places: Tensor | None, count: int) -> Tensor:
        """The numbers at these places of the next `count`, all of them if None."""
        first = self.t * (1 << _NUMBERS_BITS) + (self._drawn + 1)
        self._drawn += count
        if places is None:
            places = torch.arange(count, device=self.t.device)
        # A compiler takes products of an arange for mathematical integers, that do not
        # wrap around: not before it is a sum with what is known at run time alone.
        n = places + first
        z = n.mul_(_signed(_GOLDEN)).add_(_signed(_mix(self.seed % _WORD)))
        for (by, mask), factor in zip(_SHIFTS, _FACTORS, strict=False):
            z.bitwise_xor_((z >> by).bitwise_and_(mask)).mul_(_signed(factor))
        by, mask = _SHIFTS[2]
        return z.bitwise_xor_((z >> by).bitwise_and_(mask))

    def _places(self, shape: Sequence[int]) -> tuple[Tensor | None, int]:
        """Which elements of the whole batch's tensor these are, and how many it has."""
        share, count = current(), math.prod(shape)
        draw, self._draws = (self.seed, self._draws), self._draws + 1
        axis = None if share is None else share.drawn(draw, tuple(shape))
        if share is None or axis is None:
            return None, count
        inside = math.prod(shape[axis.dim + 1 :]) * axis.each
        outside = math.prod(shape[: axis.dim])
        places = torch.arange(share.count * inside, device=self.t.device)
        places = places + share.first * inside
        if outside > 1:
            rows = torch.arange(outside, device=self.t.device) * (share.total * inside)
            places = (rows[:, None] + places).view(-1)
        return places, outside * share.total * inside


def _mix(z: int) -> int:
    for (by, _), factor in zip(_SHIFTS, _FACTORS, strict=False):
        z = (z ^ (z >> by)) * factor % _WORD
    return z ^ (z >> _SHIFTS[2][0])


def _signed(z: int) -> int:
    """The int64 of the same 64 bits."""
    return (z + _WORD // 2) % _WORD - _WORD // 2


def mix(seed: int, t: int) -> int:
    """One 63-bit seed from two numbers, without the collisions of a sum."""
    return (seed * _GOLDEN + t * _FACTORS[0] + 1) % (1 << 63)
