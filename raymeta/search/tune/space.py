"""The space as Ray Tune and the journal see it.

Searchers see all hyperparameters, used or not: what the options that they suggest do
not use is left out of the trial (`Space.used`).
"""

from collections.abc import Mapping
from typing import Any

import torch
from ray import tune
from ray.tune.search.sample import Domain as TuneDomain

from raymeta.space import Choice, Domain, Positive, Space

#: Hyperparameters by flat name as plain numbers: a choice is the index of its option,
#: since options may be anything and the journal is JSON.
Coded = dict[str, float | int]

#: Stands for a slash.
SLASH = "\N{DIVISION SLASH}"


def to_tune(space: Space) -> dict[str, TuneDomain]:
    """Tune's domains by flat name.

    They sample uniformly in the coordinates of `Space`: log λ for `Positive`.

    Raises:
        ValueError: a continuous hyperparameter is not bounded.
    """
    for name, domain in space.continuous.items():
        domain.require_bounds(f"black-box search over hyperparameter {name!r}")
    return {flat: _to_tune(domain) for flat, domain in space.flat_domains().items()}


def tune_names(space: Space) -> dict[str, str]:
    """What Tune and its searchers call a hyperparameter, by flat name.

    The same, but for a slash: Tune would take that for a dictionary within another.
    """
    names: dict[str, str] = {}
    for name in space.flat_domains():
        known = name.replace("/", SLASH)
        while known != name and (known in names.values() or known in space):
            known += SLASH
        names[name] = known
    return names


def _to_tune(domain: Domain) -> TuneDomain:
    if isinstance(domain, Choice):
        return tune.choice(list(domain.options))
    if isinstance(domain, Positive):
        return tune.loguniform(domain.low, domain.high)
    return tune.uniform(domain.low, domain.high)


def initial_point(space: Space) -> dict[str, Any]:
    """The space's initial values by flat name, used or not, in double precision."""
    whole = Space(**dict(space), when={})
    return whole.flatten(space.initial(torch.float64))


def encode(space: Space, flat: Mapping[str, Any]) -> Coded:
    """Plain numbers from natural values by flat name, of what is used."""
    return {
        name: domain.index(flat[name])
        if isinstance(domain, Choice)
        else float(flat[name])
        for name, domain in space.used(flat).items()
    }


def decode(space: Space, coded: Coded) -> dict[str, Any]:
    """Natural values by flat name; the inverse of `encode`."""
    return {
        name: domain.options[int(coded[name])]
        if isinstance(domain, Choice)
        else coded[name]
        for name, domain in space.flat_domains().items()
        if name in coded
    }
