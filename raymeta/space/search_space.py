"""Named hyperparameters with their domains, and which are used at which options."""

from collections.abc import Iterator, Mapping
from functools import lru_cache
from itertools import product
from typing import Any

import torch
from torch import Tensor

from raymeta import display
from raymeta.errors import said, unknown_name
from raymeta.space import conditions
from raymeta.space.choice import Choice, Plain
from raymeta.space.conditions import Conditions
from raymeta.space.continuous import Continuous, Positive, Real, Unit
from raymeta.types import Hparams, Tensors

#: Characters of a description from which on it is shortened for people.
LONG = 600

Domain = Positive | Unit | Real | Choice

#: λ as plain scalars by flat name, which JSON holds: made and read by `Space`.
Point = dict[str, Plain]


class Space(Mapping[str, Domain]):
    """Named hyperparameters with their domains.

    `Space(lr=Positive(0.1, low=1e-3, high=1.0), momentum=Unit(0.9))`. Flat names
    are `name` for a scalar, `name[i]` or `name[i,j]` for elements of a tensor; a
    `Point` has a plain scalar by each.

    A hyperparameter that only some options use has a condition:

    ```
    Space(
        lr=Positive(0.1), momentum=Unit(0.9), beta1=Unit(0.9),
        opt=Choice(("sgd", "adam", "rmsprop")),
        when={"momentum": {"opt": ("sgd", "rmsprop")}, "beta1": {"opt": "adam"}},
    )
    ```

    All conditions of a name must hold; a choice may have conditions itself. What is not
    used at the present options is left out of λ: it has no derivative but 0, searches
    do not sample it, and frames leave it empty. A space with choices and no `when` gets
    its conditions where a comparison or an optimization begins: by which names of λ
    the task's functions read at which options (`raymeta.outer.conditions`). Only what
    is never read there counts as unused. What is read, and has no derivative all the
    same, cannot be told apart from a mistake such as `.item()`: that must be declared.

    Args:
        when: name -> choice -> the option, or a tuple of options, at which the
            hyperparameter is used. With `when={}` all of them always are.
        **domains: the domains by name. Names may be any text without brackets, which
            are for elements.

    Raises:
        ValueError: an entry is not a domain; a name that is empty or has brackets; a
            condition on what does not exist.
    """

    def __init__(
        self,
        *,
        when: Mapping[str, Mapping[str, Any]] | None = None,
        **domains: Domain,
    ) -> None:
        for name, domain in domains.items():
            if not name or not name.isprintable() or set("[]") & set(name):
                raise ValueError(
                    "a hyperparameter needs a name without brackets, which are for the "
                    f"elements of tensors, but got {name!r}: call it otherwise"
                )
            if not isinstance(domain, Continuous | Choice):
                raise ValueError(
                    f"hyperparameter {name!r} needs Positive, Unit, Real or Choice, "
                    f"but got {said(domain)}: {_remedy(name, domain)}"
                )
        self._domains = dict(domains)
        self._declared = when is not None
        self._when: Conditions = (
            {} if when is None else conditions.parse(when, self._domains)
        )

    def __getitem__(self, name: str) -> Domain:
        if name not in self._domains:
            raise unknown_name("hyperparameter", name, self._domains)
        return self._domains[name]

    def __contains__(self, name: object) -> bool:
        return name in self._domains

    def __iter__(self) -> Iterator[str]:
        return iter(self._domains)

    def __len__(self) -> int:
        return len(self._domains)

    def description(self) -> str:
        """All of it as text, by which a comparison knows its space again."""
        inside = [f"{name}={domain}" for name, domain in self.items()]
        inside += [f"when={self._when}"] if self._when else []
        return f"Space({', '.join(inside)})"

    def __repr__(self) -> str:
        whole = self.description()
        if len(whole) <= LONG:
            return whole
        size = f"{len(self)} hyperparameters of {len(self.flat_domains())} elements"
        return f"Space({size}: {display.entries(self._domains)})"

    def _repr_html_(self) -> str:
        rows = {name: said(domain) for name, domain in self.items()}
        when = {f"when {name}": said(what) for name, what in self._when.items()}
        return display.table("Space", rows | when)

    def plot(self) -> Any:
        """A figure of the bounds and starts of all domains."""
        rows: list[dict[str, Any]] = []
        for name, domain in self.items():
            row: dict[str, Any] = {"name": name, "kind": type(domain).__name__}
            if isinstance(domain, Choice):
                row["options"] = len(domain.options)
            else:
                start = domain.start(torch.float64).flatten().tolist()
                row |= {"low": domain.low, "high": domain.high, "initial": start}
            rows.append(row)
        return display.figures().draw_space(rows)

    @property
    def continuous(self) -> dict[str, Continuous]:
        """The domains that gradients can walk in."""
        return {k: d for k, d in self.items() if isinstance(d, Continuous)}

    @property
    def choices(self) -> dict[str, Choice]:
        """The discrete domains."""
        return {k: d for k, d in self.items() if isinstance(d, Choice)}

    # ------------------------------------------------------------------- conditions

    @property
    def when(self) -> Conditions:
        """The conditions: name -> choice -> options."""
        return dict(self._when)

    @property
    def is_declared(self) -> bool:
        """Whether it was said which hyperparameters are used at which options."""
        return self._declared

    def active(self, hparams: Mapping[str, Any]) -> list[str]:
        """The names of what is used at the options of λ."""
        return [name for name in self if self.is_active(name, hparams)]

    def trim(self, hparams: Mapping[str, Any]) -> Hparams:
        """λ without what its options do not use."""
        self.check(hparams)
        return {name: hparams[name] for name in self.active(hparams)}

    def at(self, hparams: Mapping[str, Any]) -> "Space":
        """The space of what is used at the options of λ, which are the only ones."""
        domains = {name: self[name] for name in self.active(hparams)}
        fixed = {
            name: Choice((domain.option(hparams[name]),))
            for name, domain in domains.items()
            if isinstance(domain, Choice)
        }
        return Space(**{**domains, **fixed}, when={})

    def is_active(self, name: str, hparams: Mapping[str, Any]) -> bool:
        """Whether a hyperparameter is used at the options of λ."""
        return conditions.is_active(name, self._when, self._domains, hparams)

    def options(self) -> Iterator[dict[str, Any]]:
        """All combinations of options by name, each of the choices that it uses."""
        return self._combinations({}, list(self.in_order()))

    def in_order(self) -> Iterator[tuple[str, Choice]]:
        """The choices by name, each after those on which it depends."""
        choices = self.choices
        for name in conditions.in_order(list(choices), self._when):
            yield name, choices[name]

    def _combinations(
        self, at: dict[str, Any], left: list[tuple[str, Choice]]
    ) -> Iterator[dict[str, Any]]:
        if not left:
            yield at
            return
        (name, choice), *rest = left
        if not self.is_active(name, at):
            yield from self._combinations(at, rest)
            return
        for option in choice.options:
            yield from self._combinations({**at, name: option}, rest)

    # ----------------------------------------------------------------- natural values

    def initial(
        self,
        dtype: torch.dtype | None = None,
        device: torch.device | str = "cpu",
    ) -> Hparams:
        """Natural starting values of all, used or not; `dtype`: torch's default."""
        dtype = dtype or torch.get_default_dtype()
        start = {k: d.start(dtype).to(device) for k, d in self.continuous.items()}
        return start | {name: d.initial for name, d in self.choices.items()}

    def centre(self, dtype: torch.dtype | None = None) -> Hparams:
        """The median of black-box search's samples; choices stay at their initial."""
        dtype = dtype or torch.get_default_dtype()
        middle = {
            name: torch.full(d.shape, d.centre(), dtype=dtype)
            for name, d in self.continuous.items()
        }
        return middle | {name: d.initial for name, d in self.choices.items()}

    def unconstrained(self, hparams: Hparams) -> Tensors:
        """The coordinates of the continuous hyperparameters that are used, by name."""
        hparams = self.trim(hparams)
        domains = self.continuous
        return {
            k: domains[k].unconstrained(hparams[k]) for k in domains if k in hparams
        }

    def natural(self, coordinates: Tensors) -> Tensors:
        """The natural values at unconstrained coordinates."""
        return {k: d.natural(coordinates[k]) for k, d in self._walked(coordinates)}

    def project(self, coordinates: Tensors) -> Tensors:
        """The nearest coordinates within the bounds, and within `REACH`."""

        def clamp(domain: Continuous, coordinate: Tensor) -> Tensor:
            bounds = torch.tensor([domain.low, domain.high], dtype=torch.float64)
            low, high = domain.unconstrained(bounds).tolist()
            return coordinate.clamp(max(low, -domain.REACH), min(high, domain.REACH))

        return {k: clamp(d, coordinates[k]) for k, d in self._walked(coordinates)}

    def check(self, hparams: Mapping[str, Any]) -> None:
        """Raise ValueError unless λ has this space's names, shapes and options.

        What the present options do not use may be left out.
        """
        for name in hparams:
            self[name]
        for name in self.active(hparams):
            if name not in hparams:
                raise ValueError(
                    f"hyperparameter {name!r} is missing: got {sorted(hparams)}, the "
                    f"space has {sorted(self)}"
                )
            domain, value = self[name], hparams[name]
            if isinstance(domain, Choice):
                domain.index(value)
            else:
                _check_tensor(name, value, domain.shape)

    # ------------------------------------------------------------------------- points

    def flat_domains(self) -> dict[str, Domain]:
        """One domain per scalar element, by flat name, used or not."""
        return {
            flat: domain
            for name, domain in self.items()
            for flat in _flat_names(name, domain)
        }

    def used(self, point: Mapping[str, Any]) -> dict[str, Domain]:
        """Of `flat_domains`, what is used at the options of a point."""
        return {
            element: self[name]
            for name in self.active(point)
            for element in _flat_names(name, self[name])
        }

    def initial_point(self) -> Point:
        """The initial values of all, used or not, in double precision."""
        return Space(**self._domains, when={}).point(self.initial(torch.float64))

    def point(self, hparams: Mapping[str, Any]) -> Point:
        """λ as a point: plain scalars by flat name, of what is used."""
        point: Point = {}
        for name in self.active(hparams):
            domain = self[name]
            if isinstance(domain, Choice):
                point[name] = domain.plain(hparams[name])
            else:
                values = hparams[name].detach().flatten().tolist()
                point |= dict(zip(_flat_names(name, domain), values, strict=True))
        return point

    def parse(self, values: Mapping[str, Any]) -> Point:
        """The point of scalars by flat name, as searchers, users and files have them.

        Numbers of any library become floats; an option is told by itself, by what is
        equal, or by its label. What the options do not use is left out.

        Raises:
            ValueError: a value that is used is missing, or no option.
        """
        point: Point = {}
        for name, domain in self.used(values).items():
            if name not in values:
                raise ValueError(
                    f"hyperparameter {name!r} is missing: got {list(values)}"
                )
            value = values[name]
            point[name] = (
                domain.plain(value) if isinstance(domain, Choice) else float(value)
            )
        return point

    def hparams(
        self,
        point: Mapping[str, Any],
        *,
        dtype: torch.dtype | None = None,
        device: torch.device | str = "cpu",
    ) -> Hparams:
        """λ at a point, or at anything that `parse` takes.

        Args:
            point: plain scalars by flat name.
            dtype: dtype of the tensors; torch's default if None.
            device: see `BilevelProblem.device`.

        Raises:
            ValueError: see `parse`; a name that the space does not have.
        """
        dtype, known = dtype or torch.get_default_dtype(), self.flat_domains()
        for name in point:
            if name not in known:
                raise unknown_name("hyperparameter", name, known)
        point, hparams = self.parse(point), {}
        for name in self.active(point):
            domain = self[name]
            if isinstance(domain, Choice):
                hparams[name] = domain.option(point[name])
            else:
                values = [point[element] for element in _flat_names(name, domain)]
                value = torch.tensor(values, dtype=dtype, device=device)
                hparams[name] = value.reshape(domain.shape)
        return hparams

    def _walked(self, coordinates: Tensors) -> Iterator[tuple[str, Continuous]]:
        """The continuous hyperparameters; without those unused that are not given."""
        for name, domain in self.continuous.items():
            if name in coordinates or name not in self._when:
                yield name, domain


def _check_tensor(name: str, value: Any, shape: tuple[int, ...]) -> None:
    if not isinstance(value, Tensor):
        raise ValueError(
            f"hyperparameter {name!r} needs a tensor of shape {shape}, but got "
            f"{said(value)}"
        )
    if tuple(value.shape) != shape:
        raise ValueError(
            f"hyperparameter {name!r} needs shape {shape}, but got {tuple(value.shape)}"
        )
    if not value.is_floating_point():
        raise ValueError(
            f"hyperparameter {name!r} needs a floating-point tensor, but got one of "
            f"{value.dtype}: whole numbers have no derivative"
        )


def _remedy(name: str, entry: Any) -> str:
    if isinstance(entry, type) and issubclass(entry, Continuous | Choice):
        return f"give it a start, {name}={entry.__name__}(…)"
    if isinstance(entry, bool | str) or entry is None:
        return f"write {name}=Choice(({entry!r}, …))"
    if isinstance(entry, list | tuple):
        return f"write {name}=Choice({said(entry)}), or a domain with shape="
    return f"write {name}=Positive({said(entry)}), or another of the four"


def _flat_names(name: str, domain: Domain) -> list[str]:
    if isinstance(domain, Choice) or domain.shape == ():
        return [name]
    return _element_names(name, domain.shape)


@lru_cache(maxsize=64)
def _element_names(name: str, shape: tuple[int, ...]) -> list[str]:
    indices = product(*map(range, shape))
    return [f"{name}[{','.join(map(str, index))}]" for index in indices]
