"""Learners and families of users, by `path.py:Name` or by entry point."""

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from raymeta.data import FAMILIES, FOLDERS, Family
from raymeta.data import family as family_by_name
from raymeta.errors import said, unknown_name
from raymeta.meta import Learner
from raymeta.tasks import loading


def learner(name: str, others: Iterable[str]) -> Callable[[int], Learner]:
    """The learner of this name: seed -> `Learner`.

    Args:
        name: `path.py:Name`, or an entry point of `raymeta.learners`.
        others: names of algorithms that are meant otherwise.

    Raises:
        ValueError: there is none; see `loading.from_file`.
    """
    found = loading.own(name, loading.LEARNER)
    if found is None:
        known = {*others, *loading.entry_points(loading.LEARNER)}
        raise unknown_name("algorithm", name, known)
    return found


def family(name: str, data: str | Path | None, sizes: Mapping[str, int]) -> Family:
    """The family of this name: one that ships, or the user's own.

    Raises:
        ValueError: there is none; data or sizes for one that has its own; see
            `raymeta.data.family`, `loading.from_file`.
    """
    mine = None
    if name not in FAMILIES | FOLDERS:
        mine = loading.own(name, loading.FAMILY)
    if mine is None:
        return family_by_name(name, data, **sizes)
    given = {"data": data, **sizes}
    require_left_out("a family of your own has its data and sizes itself", given)
    return mine


def require_left_out(rule: str, given: Mapping[str, Any]) -> None:
    """Raise ValueError if anything is given."""
    for name, value in given.items():
        if value is not None:
            raise ValueError(f"{rule}, but got {name}={said(value)}: leave it out")


def name_of(name: str) -> str:
    """What a thing of this name is called: `Name` of `path.py:Name`."""
    return name.rpartition(".py:")[2]
