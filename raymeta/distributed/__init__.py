"""One training over several ranks: torch's process groups, and nothing of Ray."""

from raymeta.distributed.agreement import LostRank
from raymeta.distributed.conjugate import replicated, summed
from raymeta.distributed.data_parallel import data_parallel

__all__ = ["LostRank", "data_parallel", "replicated", "summed"]
