"""The space as Ray Tune's search space, whose samples are points.

Searchers see all hyperparameters, used or not: what the options that they suggest do
not use is left out of the trial (`Space.used`).
"""

from ray import tune
from ray.tune.search.sample import Domain as TuneDomain

from raymeta.space import Choice, Domain, Positive, Space

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
        return tune.choice([domain.plain(option) for option in domain.options])
    if isinstance(domain, Positive):
        return tune.loguniform(domain.low, domain.high)
    return tune.uniform(domain.low, domain.high)
