"""Which hyperparameters are used at which options: the conditions of a space."""

from collections.abc import Mapping
from typing import Any

from raymeta.errors import said, unknown_name
from raymeta.space.choice import Choice, same

#: Name -> choice -> the options at which the hyperparameter is used, all together.
Conditions = dict[str, dict[str, tuple[Any, ...]]]


def parse(when: Any, domains: Mapping[str, Any]) -> Conditions:
    """The conditions as they were given, checked.

    Raises:
        ValueError: a name, a choice or an option that does not exist; a condition on
            what is no choice, or, by way of others, on itself; no condition at all.
    """
    if not isinstance(when, Mapping):
        raise ValueError(
            "Space(when=…) says which hyperparameters are used at which options, as in "
            f'when={{"momentum": {{"opt": "sgd"}}}}, but got {said(when)}: a '
            "hyperparameter needs another name than 'when'"
        )
    found: Conditions = {}
    for name, conditions in when.items():
        if name not in domains:
            raise unknown_name("hyperparameter", str(name), domains)
        if not isinstance(conditions, Mapping) or not conditions:
            raise ValueError(
                f"when[{name!r}] needs choices and their options, as in "
                f'{{"opt": "sgd"}}, but got {said(conditions)}'
            )
        found[name] = {
            choice: _options(name, choice, options, domains)
            for choice, options in conditions.items()
        }
    for name in found:
        _require_no_circle(name, found, ())
    return found


def _options(
    name: str, choice: str, options: Any, domains: Mapping[str, Any]
) -> tuple[Any, ...]:
    """The options of a condition; one that is given alone may be a tuple itself."""
    if choice not in domains:
        raise unknown_name(f"choice in when[{name!r}]", str(choice), domains)
    domain = domains[choice]
    if not isinstance(domain, Choice):
        raise ValueError(
            f"when[{name!r}] needs a Choice to depend on, but {choice!r} is "
            f"{type(domain).__name__}: only options say what is used"
        )
    if any(same(option, options) for option in domain.options):
        return (options,)
    several = options if isinstance(options, list | tuple) else (options,)
    for option in several:
        if not any(same(option, other) for other in domain.options):
            raise ValueError(
                f"when[{name!r}] needs options of {choice!r}, which has "
                f"{said(list(domain.options))}, but got {said(option)}"
            )
    if not several:
        raise ValueError(
            f"when[{name!r}] needs an option of {choice!r}, but got none: leave a "
            "hyperparameter out that is never used"
        )
    return tuple(several)


def _require_no_circle(name: str, when: Conditions, way: tuple[str, ...]) -> None:
    if name in way:
        circle = " -> ".join(map(repr, (*way[way.index(name) :], name)))
        raise ValueError(
            f"conditions must not lead in a circle, but when= says {circle}: leave one "
            "of them out"
        )
    for choice in when.get(name, {}):
        _require_no_circle(choice, when, (*way, name))


def is_active(
    name: str, when: Conditions, domains: Mapping[str, Any], options: Mapping[str, Any]
) -> bool:
    """Whether a hyperparameter is used at the options of λ.

    Raises:
        ValueError: λ lacks a choice on which this depends, or has what is no option.
    """
    return all(
        is_active(choice, when, domains, options)
        and _has(domains[choice], choice, allowed, options)
        for choice, allowed in when.get(name, {}).items()
    )


def _has(
    domain: Choice, name: str, allowed: tuple[Any, ...], options: Mapping[str, Any]
) -> bool:
    if name not in options:
        raise ValueError(f"hyperparameter {name!r} is missing: got {sorted(options)}")
    present = domain.option(options[name])
    return any(same(present, option) for option in allowed)


def in_order(names: list[str], when: Conditions) -> list[str]:
    """The names, each after those on which it depends."""
    ordered: list[str] = []

    def add(name: str) -> None:
        for choice in when.get(name, {}):
            add(choice)
        if name not in ordered:
            ordered.append(name)

    for name in names:
        add(name)
    return ordered
