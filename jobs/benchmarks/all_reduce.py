"""A model of the time of an all-reduce, and what it says of many workers."""

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy.optimize import nnls


class AllReduce(NamedTuple):
    r"""The ring's time for n bytes on W workers.

    $$ t(n, W) = 2 (W - 1) \alpha + 2 \frac{W - 1}{W} \beta n $$

    Attributes:
        latency: α, seconds of a message.
        seconds_per_byte: β.

    Source: Thakur, Rabenseifner & Gropp 2005, section 4, without the time of adding up.
    """

    latency: float
    seconds_per_byte: float

    def seconds(self, size: float, workers: int) -> float:
        """T(n, W)."""
        return float(np.dot(_features(size, workers), self))

    def compared(self, transfers: pd.DataFrame) -> pd.DataFrame:
        """Measured medians beside the model's."""
        table = transfers.groupby(["workers", "bytes"], as_index=False)[
            "seconds"
        ].median()
        pairs = zip(table["bytes"], table["workers"], strict=True)
        return table.assign(model=[self.seconds(n, workers) for n, workers in pairs])


def fitted(transfers: pd.DataFrame) -> AllReduce:
    """The model that is nearest to measured medians, relatively.

    Args:
        transfers: columns workers, bytes, seconds.
    """
    medians = transfers.groupby(["workers", "bytes"])["seconds"].median()
    features = np.array([_features(n, workers) for workers, n in medians.index])
    seconds = medians.to_numpy()
    (latency, per_byte), _ = nnls(features / seconds[:, None], np.ones(len(seconds)))
    return AllReduce(float(latency), float(per_byte))


def extrapolated(
    model: AllReduce, size: int, computing: float, workers: Iterable[int]
) -> pd.DataFrame:
    """What communication takes of a step, if nothing of it overlaps with computing.

    Args:
        model: the time of an all-reduce.
        size: bytes of a gradient.
        computing: seconds of a worker's step without it; every worker has its own
            tasks, as many as that takes.
        workers: their numbers.
    """
    rows = []
    for count in workers:
        transfer = model.seconds(size, count)
        rows.append((count, 1e3 * transfer, transfer / (transfer + computing)))
    table = pd.DataFrame(rows, columns=["workers", "all-reduce ms", "share"])
    return table.assign(speedup=table["workers"] * (1 - table["share"]))


def _features(size: float, workers: int) -> tuple[float, float]:
    return 2.0 * (workers - 1), 2.0 * (workers - 1) / workers * size
