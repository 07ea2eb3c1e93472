"""Tune's registry of trainables, which a run asks once."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from ray.tune import registry
from ray.tune.registry import TRAINABLE_CLASS


@contextmanager
def trainables_looked_up_once() -> Iterator[None]:
    """Keep trainables at hand while Tune runs trials of one.

    For each trial it asks the cluster three times for what all of them share, and
    unpickles it: a third of the time in which its loop is at work.
    """
    shared: Any = registry._global_registry
    get, contains = shared.get, shared.contains
    found: dict[str, Any] = {}

    def looked_up(category: str, key: str) -> Any:
        if category != TRAINABLE_CLASS:
            return get(category, key)
        if key not in found:
            found[key] = get(category, key)
        return found[key]

    def known(category: str, key: str) -> bool:
        at_hand = category == TRAINABLE_CLASS and key in found
        return at_hand or contains(category, key)

    shared.get, shared.contains = looked_up, known
    try:
        yield
    finally:
        del shared.get, shared.contains
