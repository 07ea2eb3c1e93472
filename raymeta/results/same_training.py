"""Whether two comparisons trained on the same, as their folders recorded it.

Settings, versions, source code and digests of what was trained on decide; what only one
of the two has is no difference.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

Record = Mapping[str, Any]

#: Packages of which another version may train, suggest or stop otherwise.
PACKAGES = ("raymeta", "torch", "ray", "optuna")

#: What `raymeta.search.fairness.Fingerprint` is of.
DIGESTS = ("weights", "data", "batches")


class Difference(NamedTuple):
    """What is not the same.

    Attributes:
        what: a noun.
        one: in one comparison.
        other: in the other.
    """

    what: str
    one: Any
    other: Any


def difference(one: Record, other: Record) -> Difference | None:
    """The first difference of two records of comparisons; None where there is none.

    Args:
        one: what comparison.json holds.
        other: likewise.
    """
    return next(_differences(one, other), None)


def unlike(one: Record, other: Record) -> tuple[str, list[str]] | None:
    """(task and seed, what differs there) of two evidence.json; None where nothing."""
    for task in [task for task in one if task in other]:
        for seed in [seed for seed in one[task] if seed in other[task]]:
            pair = one[task][seed], other[task][seed]
            kinds = [k for k in DIGESTS if pair[0].get(k) != pair[1].get(k)]
            if kinds:
                return f"{task}, seed {seed}", kinds
    return None


def unqualified(value: Any) -> Any:
    """Settings as text, or a mapping to such, without the modules of classes.

    A class that moved from a script to a module is the same class.
    """
    if isinstance(value, Mapping):
        return {name: unqualified(inner) for name, inner in value.items()}
    if not isinstance(value, str):
        return value
    value = re.sub(r"<(?:[\w<>]+\.)+(\w+ object)", r"<\1", value)
    return re.sub(r"<class '(?:[\w<>]+\.)*(\w+)'>", r"<class '\1'>", value)


def versions_of(runs: Sequence[Record]) -> dict[str, list[str]]:
    """Versions under which runs trained, by package and for Python."""
    found: dict[str, list[str]] = {}
    for run in runs:
        versions = run.get("versions", {})
        named = {name: versions[name] for name in PACKAGES if name in versions}
        if "python" in versions:
            named["Python"] = ".".join(versions["python"].split(".")[:2])
        for name, version in named.items():
            known = found.setdefault(name, [])
            known += [version] * (version not in known)
    return found


def _differences(one: Record, other: Record) -> Iterator[Difference]:
    for kind in ("task", "method"):
        then, now = (record.get(f"{kind}s", {}) for record in (one, other))
        for name in [name for name in then if name in now]:
            yield from _of_settings(f"{kind} {name!r}", then[name], now[name])
    for name in ("budgets",):
        then, now = (record.get(name, {}) for record in (one, other))
        for task in [task for task in then if task in now and then[task] != now[task]]:
            yield Difference(f"budget on task {task!r}", then[task], now[task])
    if one.get("at_once", 1) != other.get("at_once", 1):
        yield Difference("at_once", one.get("at_once", 1), other.get("at_once", 1))
    then, now = (versions_of(record.get("runs", [])) for record in (one, other))
    for package in [package for package in then if package in now]:
        if then[package] != now[package]:
            pair = (", ".join(found[package]) for found in (then, now))
            yield Difference(f"version of {package}", *pair)
    then, now = (record.get("code", {}).get("parts", {}) for record in (one, other))
    for name in [name for name in then if name in now and then[name] != now[name]]:
        yield Difference(f"code of {name}", then[name], now[name])


def _of_settings(whose: str, then: Any, now: Any) -> Iterator[Difference]:
    then, now = unqualified(then), unqualified(now)
    if not isinstance(then, Mapping) or not isinstance(now, Mapping):
        then, now = {"settings": then}, {"settings": now}
    for part in then:
        if then[part] != now.get(part):
            yield Difference(f"{part} of {whose}", then[part], now.get(part))
