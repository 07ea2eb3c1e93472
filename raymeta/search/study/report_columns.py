"""Reports of a study in columns: arrays of numbers in the place of objects."""

import copy
import math
from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Self, overload

from raymeta.outer.report import Report

#: What a journal holds of a report, with the values of one that says nothing.
_DEFAULTS = Report().travelling()

#: (field, key in it): a key of hparams, metrics or evidence, "" for a plain field.
_Name = tuple[str, str]


class ReportColumns(Sequence[tuple[int, Report]]):
    """(trial number, report) in order, of trials that journals hold.

    Reports that say the same fields, and have the same names in λ, metrics and
    evidence, are rows of one table. So what is rarely said costs nothing where it is
    not, and what is said costs 4 or 8 bytes: float64, int64, or the place of one of the
    column's distinct values. What is taken out is equal to what was put in, to the bit;
    a NaN is `math.nan` itself.

    Args:
        pairs: the first of them.
    """

    def __init__(self, pairs: Iterable[tuple[int, Report]] = ()) -> None:
        self._numbers, self._places = array("q"), array("q")
        self._table_of = array("i")
        self._tables: list[_Table] = []
        self._known: dict[tuple[tuple[_Name, ...], str], int] = {}
        for pair in pairs:
            self.append(pair)

    def __len__(self) -> int:
        return len(self._numbers)

    @overload
    def __getitem__(self, index: int) -> tuple[int, Report]: ...
    @overload
    def __getitem__(self, index: slice) -> Self: ...
    def __getitem__(self, index: Any) -> Any:
        """A report with its trial, made anew; or some of them, in columns again."""
        if isinstance(index, slice):
            return type(self)(self[i] for i in range(*index.indices(len(self))))
        table = self._tables[self._table_of[index]]
        return self._numbers[index], table.report(self._places[index])

    def __eq__(self, other: object) -> bool:
        """Whether another sequence has the same in the same order."""
        if not isinstance(other, Sequence):
            return NotImplemented
        return len(self) == len(other) and all(
            mine == theirs for mine, theirs in zip(self, other, strict=True)
        )

    __hash__ = None  # type: ignore[assignment]

    def followed_by(self, more: Iterable[tuple[int, Report]]) -> Self:
        """Those, then more."""
        whole = copy.deepcopy(self)
        for pair in more:
            whole.append(pair)
        return whole

    def append(self, pair: tuple[int, Report]) -> None:
        """Put one at the end."""
        number, report = pair
        said = dict(_said(report))
        key = tuple(said), "".join(map(_kind, said.values()))
        place = self._known.setdefault(key, len(self._tables))
        if place == len(self._tables):
            self._tables.append(_Table(*key))
        self._numbers.append(number)
        self._table_of.append(place)
        self._places.append(self._tables[place].append(said.values()))

    def of(self, number: int) -> list[Report]:
        """The reports of one trial."""
        return [self[i][1] for i, n in enumerate(self._numbers) if n == number]

    def saying(self, field: str) -> Iterator[tuple[int, Report]]:
        """Those that say a field of `Report`: the others are not looked at."""
        saying = [table.says(field) for table in self._tables]
        return (self[i] for i, table in enumerate(self._table_of) if saying[table])

    def drop(self, number: int, after: int) -> None:
        """Forget what a trial has reported after so many outer steps."""
        own = [i for i, n in enumerate(self._numbers) if n == number]
        for i in reversed(own):
            if self[i][1].outer_step > after:
                del self._numbers[i], self._table_of[i], self._places[i]


class _Table:
    """Reports that say the same fields, in one column each.

    Args:
        names: of the columns, those of one field together.
        kinds: "d", "q" or "v" of each, see `_kind`.
    """

    def __init__(self, names: Iterable[_Name], kinds: str) -> None:
        self._columns = [_Values() if k == "v" else array(k) for k in kinds]
        self._length = 0
        self._plain: list[tuple[str, Any]] = []
        self._mappings: dict[str, list[tuple[str, Any]]] = {}
        for (field, key), column in zip(names, self._columns, strict=True):
            if isinstance(_DEFAULTS[field], Mapping):
                self._mappings.setdefault(field, []).append((key, column))
            else:
                self._plain.append((field, column))

    def says(self, field: str) -> bool:
        """Whether its reports say a field."""
        return field in self._mappings or field in dict(self._plain)

    def append(self, values: Iterable[Any]) -> int:
        """Put a row at the end; return its place."""
        for column, value in zip(self._columns, values, strict=True):
            column.append(value)
        self._length += 1
        return self._length - 1

    def report(self, place: int) -> Report:
        """The report in a row."""
        fields: dict[str, Any] = {
            field: _number(column[place]) for field, column in self._plain
        }
        for field, columns in self._mappings.items():
            fields[field] = {key: _number(column[place]) for key, column in columns}
        return Report(**fields)


class _Values:
    """A column of options, reasons and the like, each distinct one kept once."""

    def __init__(self) -> None:
        self._codes = array("i")
        self._distinct: list[Any] = []
        self._known: dict[tuple[type, Any], int] = {}  # True, 1 and 1.0 are three

    def __getitem__(self, place: int) -> Any:
        return self._distinct[self._codes[place]]

    def append(self, value: Any) -> None:
        code = self._known.setdefault((type(value), value), len(self._distinct))
        if code == len(self._distinct):
            self._distinct.append(value)
        self._codes.append(code)


def _said(report: Report) -> Iterator[tuple[_Name, Any]]:
    """What a report says that one without arguments does not."""
    assert report.state is None, "the state of a training does not travel"
    assert report.schedule is None, "nor does its schedule"
    for field, default in _DEFAULTS.items():
        value = getattr(report, field)
        if isinstance(default, Mapping):
            yield from (((field, key), each) for key, each in value.items())
        elif not (value is default or (_kind(value) == "v" and value == default)):
            yield (field, ""), value


def _kind(value: Any) -> str:
    """Where a value is kept: an array of "d" or "q", or among distinct "v"alues."""
    if isinstance(value, float):
        return "d"
    return "q" if type(value) is int and -(2**63) <= value < 2**63 else "v"


def _number(value: Any) -> Any:
    """A value; for a NaN the one that is equal to itself in tuples and dictionaries."""
    return math.nan if value != value else value
