"""Refusals of an object store, as one line for people."""

import re
from collections.abc import Iterator
from contextlib import contextmanager

from raymeta.results.lease import LockedError


@contextmanager
def refusals(uri: str) -> Iterator[None]:
    """Raise what the store says in one line, with the remedy.

    Args:
        uri: the address that it answers for.

    Raises:
        ValueError: the store cannot be reached, or refuses.
    """
    try:
        yield
    except LockedError:
        raise
    except (OSError, ValueError) as error:
        said = " ".join(str(error).split())
        if "NoSuchBucket" in said or "NO_SUCH_BUCKET" in said:
            advice = "create it first"
        elif re.search(
            "Expired|ACCESS_DENIED|credentials|InvalidAccessKey", said, re.I
        ):
            advice = "renew the credentials, and let them read and write there"
        else:
            advice = "check the address and the network"
        raise ValueError(
            f"results go to {uri}, but it answers: {said}: {advice}"
        ) from None
