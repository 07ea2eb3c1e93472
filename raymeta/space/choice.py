"""A discrete hyperparameter: one of several values of any type."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from raymeta.errors import said


class _First:
    """Stands for the first option, since None may be an option itself."""

    def __repr__(self) -> str:
        return "the first option"


FIRST: Any = _First()
#: What JSON has, and gives back as it was.
Plain = float | int | bool | str | None
_PLAIN = (float, int, bool, str, type(None))


@dataclass(frozen=True)
class Choice:
    """One of several values of any type; black-box search picks, gradients do not.

    No two options may be equal, as True, 1 and 1.0 are: what others make of a frame or
    of JSON would take them for one. λ holds the option itself; a `Point` what JSON has
    of it, see `plain`.

    Attributes:
        options: the values, in a list or tuple.
        initial: the one to start from; the first by default.

    Raises:
        ValueError: no list or tuple; no options; one that is a tensor, or equal to
            another; an initial value that is not among them.
    """

    options: Sequence[Any]
    initial: Any = FIRST

    def __post_init__(self) -> None:
        # Text is a sequence of its letters, which nobody means.
        if not isinstance(self.options, Sequence) or isinstance(
            self.options, str | bytes
        ):
            raise ValueError(
                f"Choice needs a list or tuple of options, but got "
                f"{said(self.options)}: write Choice((…, …))"
            )
        if not self.options:
            raise ValueError("Choice needs at least one option, but got none")
        for number, option in enumerate(self.options):
            if isinstance(option, Tensor):
                raise ValueError(
                    "Choice needs options that are no tensors, which λ would take for "
                    f"hyperparameters to differentiate, but got {said(option)}: give "
                    "their names or numbers, and look the tensors up where they are "
                    "used"
                )
            for other in self.options[:number]:
                if same(option, other):
                    raise ValueError(
                        "Choice needs options that differ, but got "
                        f"{said(option)} twice"
                    )
                if _would_be_one(option, other):
                    raise ValueError(
                        f"Choice needs options that differ, but got {said(other)} and "
                        f"{said(option)}, which are equal: leave one of them out"
                    )
        if self.initial is FIRST:
            object.__setattr__(self, "initial", self.options[0])
        if self._find(self.initial) is None:
            raise ValueError(
                f"Choice needs initial among its options {said(list(self.options))}, "
                f"but got {said(self.initial)}"
            )

    @property
    def labels(self) -> list[str]:
        """What frames and figures call the options: as different as these are."""
        names = [label(option) for option in self.options]
        taken = {option for option in self.options if type(option) is str}
        for number, option in enumerate(self.options):
            name, again = names[number], 2
            while type(option) is not str and names[number] in taken:
                names[number], again = f"{name} ({again})", again + 1
            taken.add(names[number])
        return names

    def index(self, value: Any) -> int:
        """The number of an option.

        Of one that is the same, or equal, or reads the same: a frame has text, and a
        task that makes its space anew has other functions of the same name.

        Raises:
            ValueError: there is none.
        """
        found = self._find(value)
        if found is None:
            raise ValueError(
                f"a Choice needs one of its options {said(list(self.options))}, but "
                f"got {said(value)}"
            )
        return found

    def option(self, value: Any) -> Any:
        """The option that a value stands for, see `index`."""
        return self.options[self.index(value)]

    def plain(self, value: Any) -> Plain:
        """An option as a `Point` has it: numbers, text and None; of all else its label.

        `option` gives it back: labels differ from each other, and from text.
        """
        number = self.index(value)
        option = self.options[number]
        return option if type(option) in _PLAIN else self.labels[number]

    def _find(self, value: Any) -> int | None:
        for alike in (same, _equal):
            for number, option in enumerate(self.options):
                if alike(option, value):
                    return number
        if isinstance(value, str):
            labels = self.labels
            return labels.index(value) if value in labels else None
        similar = [i for i, o in enumerate(self.options) if _reads_like(o, value)]
        return similar[0] if len(similar) == 1 else None


def label(option: Any) -> str:
    """What an option is called, in every process: the name of what has one."""
    if isinstance(option, str):
        return option
    try:
        name = getattr(option, "__qualname__", None) or str(option)
    except Exception:  # of a class of the user's
        name = said(option)
    return without_addresses(" ".join(name.split()))


def without_addresses(text: str) -> str:
    """Without the memory addresses of objects, which differ in every process."""
    return re.sub(r" at 0x[0-9a-f]+", "", text)


def same(one: Any, other: Any) -> bool:
    """Whether two options are one: of the same type and value, NaN included."""
    if one is other:
        return True
    if type(one) is not type(other):
        return False
    if isinstance(one, list | tuple):
        pairs = zip(one, other, strict=False)
        return len(one) == len(other) and all(same(a, b) for a, b in pairs)
    if isinstance(one, Mapping):
        return one.keys() == other.keys() and all(same(one[k], other[k]) for k in one)
    return _equal(one, other) or (_is_nan(one) and _is_nan(other))


def _equal(one: Any, other: Any) -> bool:
    """Whether `==` says so, of arrays for all elements, and a list like a tuple."""
    if isinstance(one, list | tuple) and isinstance(other, list | tuple):
        pairs = zip(one, other, strict=False)
        return len(one) == len(other) and all(_equal(a, b) for a, b in pairs)
    if getattr(one, "shape", ()) != getattr(other, "shape", ()):
        return False
    try:
        equal = one == other
        return bool(equal.all()) if hasattr(equal, "all") else bool(equal)
    except Exception:  # what cannot be compared is not equal
        return False


def _would_be_one(one: Any, other: Any) -> bool:
    """Whether two options are equal, though of different types; a list is no tuple."""
    return isinstance(one, list) == isinstance(other, list) and _equal(one, other)


def _is_nan(value: Any) -> bool:
    return isinstance(value, float) and value != value


def _reads_like(one: Any, other: Any) -> bool:
    """Whether objects of one type, made twice, are told apart by nothing but address.

    Of functions and modules of torch, say.
    """
    return type(one) is type(other) and label(one) == label(other)
