"""Refusals of an object store, as one line for people."""

import re
from collections.abc import Iterator
from contextlib import contextmanager

from raymeta.results.lease import LockedError

_USER = re.compile(r"(?<=://)[^/?#@:\s]*:[^?#@\s]*@")
_PARAMETER = re.compile(
    r"([?&][^=&#\s]*(?:key|secret|token|password|signature)[^=&#\s]*=)[^&#\s]+", re.I
)


def without_keys(text: str) -> str:
    """A text in which addresses have no keys any more, so that it can be kept."""
    return _PARAMETER.sub(r"\1…", _USER.sub("…@", text))


def require_no_keys(address: str) -> None:
    """Raise ValueError for an address that has keys in it, without saying them.

    It would stand in records, reports, logs and lists of processes.
    """
    if (shown := without_keys(address)) != address:
        raise ValueError(
            f"an address of results has no keys in it, but got {shown}: give the keys "
            "by AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, a profile, or the role of "
            "the machine"
        )


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
        said = without_keys(" ".join(str(error).split()))
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
