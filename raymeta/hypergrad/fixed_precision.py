r"""Fixed-point numbers that shrink by a factor and grow back, bit for bit.

Multiplying an integer by μ < 1 maps several integers to one. What tells them apart goes
into an information buffer, log2(1/μ) bits on average, and comes back from it when the
multiplication is undone. Maclaurin et al. 2015, Algorithm 3, exchange digits of the
number for digits of the buffer with a rational μ = n/d:

$$ c = q d + r \;\to\; c' = q n + r',\qquad i \leftarrow i d + r,\quad
   r' = i \bmod n,\quad i \leftarrow \lfloor i / n \rfloor $$

Here d is a power of two and n varies with q, so that μ is any float64: the block of the
d integers from q d on goes to the block from A_q to A_{q+1} - 1.

$$ A_q = \lfloor q \mu d \rfloor,\qquad n_q = A_{q+1} - A_q,\qquad c' = A_q + r' $$
"""

from typing import NamedTuple

import torch
from torch import Tensor

#: Digits exchanged with the buffer have this many bits: d = 2^12. Each multiplication
#: is off by at most d units. Less would leave no room between A_q and A_{q+1} for the
#: rounding of q μ d, which is up to 2^8 units.
DIGIT_BITS = 12
#: Fixed-point numbers stay below 2^62 units, so that a sum of two fits into 64 bits.
MAGNITUDE_BITS = 62
WORD_BITS = 32


def to_units(x: Tensor, fractional_bits: int) -> Tensor:
    """The nearest fixed-point number, int64: x in units of 2^-fractional_bits."""
    return (x.double() * 2.0**fractional_bits).round().to(torch.int64)


def from_units(c: Tensor, fractional_bits: int) -> Tensor:
    """The value of a fixed-point number, float64."""
    return c.double() * 2.0**-fractional_bits


class InformationBuffer:
    """A stack of digits for each element, the base of every digit its own.

    A stack is one integer i: pushing a digit of base b makes it i b + digit. Its head
    is held in an int64; when that fills up, its low 32 bits move to a list of words.

    Args:
        like: the numbers whose digits it takes.

    Attributes:
        head: int64, the shape of `like`; the part of i that digits are pushed to and
            popped from, in [0, 2^62).
        words: (count of reservations made before, int32 of the same shape), last one on
            top.
    """

    def __init__(self, like: Tensor) -> None:
        self.head = torch.zeros_like(like, dtype=torch.int64)
        self.words: list[tuple[int, Tensor]] = []
        self._reservations = 0

    def reserve(self, bits: int) -> None:
        """Make room in every head for a digit of this many bits."""
        room = 62 - bits
        assert room >= 31
        while int(self.head.max()) >> room:
            word = (self.head & (2**WORD_BITS - 1)) - 2 ** (WORD_BITS - 1)
            self.words.append((self._reservations, word.to(torch.int32)))
            self.head >>= WORD_BITS
        self._reservations += 1

    def release(self) -> None:
        """Undo the last `reserve` that has not been undone."""
        self._reservations -= 1
        while self.words and self.words[-1][0] == self._reservations:
            word = self.words.pop()[1].to(torch.int64) + 2 ** (WORD_BITS - 1)
            self.head = (self.head << WORD_BITS) + word

    def push(self, digit: Tensor, base: Tensor | int) -> None:
        """Add a digit, 0 <= digit < base; there must be room for it."""
        self.head.mul_(base).add_(digit)

    def pop(self, base: Tensor | int) -> Tensor:
        """Take the last digit."""
        # Rounding towards zero is the same for i >= 0, and faster.
        rest = torch.div(self.head, base, rounding_mode="trunc")
        digit = self.head.sub_(rest * base)
        self.head = rest
        return digit

    @property
    def empty(self) -> bool:
        """Whether every digit that was pushed has been popped."""
        return not self.words and not bool(self.head.any())

    @property
    def bits(self) -> float:
        """Length of i in binary digits, on average over the elements."""
        length = torch.frexp(self.head.double()).exponent  # 2^(k-1) <= i < 2^k; 0 for 0
        return WORD_BITS * len(self.words) + float(length.double().mean())

    @property
    def bytes(self) -> int:
        """Memory that it takes."""
        tensors = [self.head, *(word for _, word in self.words)]
        return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


class Factor(NamedTuple):
    """What numbers are multiplied by, 0 <= μ <= 1, as m 2^-h with m >= 1/2.

    Attributes:
        scale: m d, float64; broadcasts against the numbers.
        halvings: 2^h as int64 factors of at most 2^31; none where no h is above 0.
    """

    scale: Tensor
    halvings: tuple[Tensor, ...]


def factor(mu: Tensor) -> Factor:
    """A factor from its value; below 2^-62 (and at 0) it is taken as 2^-63.

    Raises:
        ValueError: an element is outside [0, 1].
    """
    mu = mu.double()
    if not bool(((mu >= 0) & (mu <= 1)).all()):
        raise ValueError(
            "Reversible needs momentum in [0, 1], but got values from "
            f"{float(mu.min())} to {float(mu.max())}"
        )
    exponent = torch.frexp(mu.clamp(min=2.0**-63)).exponent
    h = (-exponent).clamp(min=0).to(torch.int64)
    halvings: tuple[Tensor, ...] = ()
    if int(h.max()):
        halvings = (2 ** h.clamp(max=31), 2 ** (h - 31).clamp(min=0))
    mantissa = torch.ldexp(mu, h).clamp(min=0.5)
    return Factor(mantissa * 2**DIGIT_BITS, halvings)


def shrink(c: Tensor, mu: Factor, buffer: InformationBuffer) -> Tensor:
    """μ c to within 2^12 units; what rounding loses goes to the buffer."""
    d = 2**DIGIT_BITS
    q, r = c >> DIGIT_BITS, c & (d - 1)
    start, size = _block(q, mu.scale)
    buffer.reserve(DIGIT_BITS)
    buffer.push(r, d)
    c = start + buffer.pop(size)
    for power in mu.halvings:
        buffer.reserve(31)
        buffer.push(c % power, power)
        c = torch.div(c, power, rounding_mode="floor")
    return c


def grow(c: Tensor, mu: Factor, buffer: InformationBuffer) -> Tensor:
    """What `shrink` made c from; takes from the buffer what that put there."""
    for power in reversed(mu.halvings):
        c = c * power + buffer.pop(power)
        buffer.release()
    # Rounding is off by less than one block: the block of c or one beside it.
    q = (c.double() / mu.scale).floor().to(torch.int64)
    start, size = _block(q, mu.scale)
    q = q + (c >= start + size).to(torch.int64) - (c < start).to(torch.int64)
    start, size = _block(q, mu.scale)
    buffer.push(c - start, size)
    r = buffer.pop(2**DIGIT_BITS)
    buffer.release()
    return (q << DIGIT_BITS) + r


def _block(q: Tensor, scale: Tensor) -> tuple[Tensor, Tensor]:
    """A_q and n_q. Rounding is monotone, so that blocks neither overlap nor leave gaps.

    |q| < 2^50 is exact in float64, and |A_q| < 2^62 is rounded to a multiple of at most
    2^9 units: n_q >= 2^11 - 2^9 - 1.
    """
    start = (q.double() * scale).floor().to(torch.int64)
    end = ((q + 1).double() * scale).floor().to(torch.int64)
    return start, end - start
