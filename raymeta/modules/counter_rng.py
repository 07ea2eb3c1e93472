"""Random numbers that are a pure function of a seed and a step."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

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
    draws of a seed share a number.

    Args:
        seed: any integer.
        t: the step, an int64 tensor of shape (); its device is that of the numbers.

    Source: Steele, Lea & Flood 2014, with the constants of Stafford's variant 13.
    """

    def __init__(self, seed: int, t: Tensor) -> None:
        self.seed, self.t = seed, t
        self._drawn = 0

    def bits(self, count: int) -> Tensor:
        """Numbers of 64 random bits, int64, shape (count,)."""
        first = self.t * (1 << _NUMBERS_BITS) + (self._drawn + 1)
        self._drawn += count
        # A compiler takes products of an arange for mathematical integers, that do not
        # wrap around: not before it is a sum with what is known at run time alone.
        n = torch.arange(count, device=self.t.device) + first
        z = n.mul_(_signed(_GOLDEN)).add_(_signed(_mix(self.seed % _WORD)))
        for (by, mask), factor in zip(_SHIFTS, _FACTORS, strict=False):
            z.bitwise_xor_((z >> by).bitwise_and_(mask)).mul_(_signed(factor))
        by, mask = _SHIFTS[2]
        return z.bitwise_xor_((z >> by).bitwise_and_(mask))

    def uniform(self, shape: Sequence[int], dtype: torch.dtype | None = None) -> Tensor:
        """Uniform numbers of the open interval (0, 1), of torch's default dtype."""
        dtype = torch.get_default_dtype() if dtype is None else dtype
        digits = 52 if dtype == torch.float64 else 23
        # The middles of 2^digits cells: neither end is among them.
        cell = self.bits(math.prod(shape)) >> (64 - digits)
        cell = cell.bitwise_and_((1 << digits) - 1).view(tuple(shape))
        wide = cell.to(torch.float64 if digits == 52 else torch.float32)
        return wide.add_(0.5).mul_(2.0**-digits).to(dtype)

    def normal(self, shape: Sequence[int], dtype: torch.dtype | None = None) -> Tensor:
        """Standard normal numbers, of torch's default dtype."""
        return torch.special.ndtri(self.uniform(shape, dtype))

    def bernoulli(self, shape: Sequence[int], probability: float) -> Tensor:
        """True with a probability in [0, 1], bool; exact to 2^-32."""
        count = math.prod(shape)
        halves = self.bits(-(-count // 2)).view(torch.int32)[:count]
        threshold = round(probability * (1 << 32)) - (1 << 31)
        if threshold == 1 << 31:
            return torch.ones(tuple(shape), dtype=torch.bool, device=self.t.device)
        return (halves < threshold).view(tuple(shape))


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
