"""Families of tasks, by name."""

from collections.abc import Callable
from functools import partial
from inspect import signature
from pathlib import Path
from typing import Protocol

from raymeta.data.classifiers import LinearClassifiers
from raymeta.data.episodes import Episode, SplitName
from raymeta.data.few_shot import few_shot_digits
from raymeta.data.images import DigitFunctions, PhotographFunctions
from raymeta.data.omniglot import LAYOUT, omniglot
from raymeta.data.real_images import DigitBatches
from raymeta.data.sinusoid import Sinusoid
from raymeta.errors import said, unknown_name


class Family(Protocol):
    """A distribution of tasks to meta-learn on."""

    @property
    def name(self) -> str:
        """As the frame and the command line say it."""
        ...

    def episodes(
        self,
        step: int,
        count: int,
        start: int,
        stop: int,
        *,
        seed: int,
        split: SplitName,
    ) -> Episode:
        """Tasks start … stop - 1 of an outer step.

        Each is a function of (seed, split, step, its number) alone: the tasks of a step
        are the same however many workers share them.

        Args:
            step: the outer step.
            count: tasks of the step.
            start: the number of the first task wanted.
            stop: the number after the last one's, start < stop <= count.
            seed: seed of the run.
            split: which part of the family; each has tasks of its own.

        Returns:
            On the CPU, floats in torch's default dtype; every tensor has a leading
            dimension stop - start.
        """
        ...


#: Name -> a family of data that ships in packages, with its defaults.
FAMILIES: dict[str, Callable[..., Family]] = {
    "classifiers": LinearClassifiers,
    "digit-batches": DigitBatches,
    "digit-functions": DigitFunctions,
    "few-shot-digits": few_shot_digits,
    "photograph-functions": PhotographFunctions,
    "sinusoid": Sinusoid,
    "sinusoid-grid": partial(Sinusoid, grid=100),
}

#: Name -> path -> a family of the user's own data.
FOLDERS: dict[str, Callable[..., Family]] = {"omniglot": omniglot}


def family(name: str, data: str | Path | None = None, **sizes: int) -> Family:
    """The family of this name, with its defaults unless sizes are given.

    Args:
        name: one of `FAMILIES` or `FOLDERS`.
        data: where the user's own data is, for `FOLDERS`.
        **sizes: the family's own, as `shots` and `queries`.

    Raises:
        ValueError: there is none, and which one may be meant; data without need, or
            needed but not given; data that cannot be used; a size that it does not
            have, or that it cannot have.
    """
    if name not in FAMILIES | FOLDERS:
        raise unknown_name("family", name, FAMILIES | FOLDERS)
    has = signature((FAMILIES | FOLDERS)[name]).parameters
    if foreign := sorted(set(sizes) - set(has)):
        raise ValueError(
            f"tasks of family {name!r} have no {foreign[0]}, but got "
            f"{foreign[0]}={said(sizes[foreign[0]])}: leave it out"
        )
    if name in FOLDERS:
        if data is None:
            raise ValueError(
                f"family {name!r} reads images of your own, but got no data: give the "
                f"path of a folder with {LAYOUT} inside"
            )
        return FOLDERS[name](data, **sizes)
    if data is not None:
        raise ValueError(
            f"family {name!r} brings its own data, but got data={said(data)}: leave "
            f"it out, or choose one that reads it: {', '.join(sorted(FOLDERS))}"
        )
    return FAMILIES[name](**sizes)


def check_family(family: object) -> None:
    """Raise ValueError unless an object has what a family needs."""
    if isinstance(family, type):
        raise ValueError(
            f"a family must be an object, but got the class {family.__name__}: pass "
            f"{family.__name__}()"
        )
    for name in ("name", "episodes"):
        if not hasattr(family, name):
            raise ValueError(
                f"a family needs name and episodes(step, count, start, stop, *, seed, "
                f"split), but {said(family)} has no {name}: add it"
            )
    taken = signature(family.episodes)  # type: ignore[attr-defined]  # seen above
    try:
        taken.bind(0, 1, 0, 1, seed=0, split="train")
    except TypeError as error:
        raise ValueError(
            "a family needs episodes(step, count, start, stop, *, seed, split), but "
            f"that of {type(family).__name__} is episodes{taken}: {error}"
        ) from error


def share(count: int, rank: int, world: int) -> tuple[int, int]:
    """The (start, stop) of a worker's tasks: all sizes are equal, or differ by one.

    Args:
        count: tasks of a step.
        rank: the worker, 0 … world - 1.
        world: workers.

    Raises:
        ValueError: more workers than tasks.
    """
    assert 0 <= rank < world, (rank, world)
    if count < world:
        raise ValueError(
            f"each worker needs a task, but got {count} for {world} workers: give more "
            "tasks or fewer workers"
        )
    return count * rank // world, count * (rank + 1) // world
