"""Shared fixtures: double precision, one thread, one cluster, no leftovers."""

import functools
import gc
import os
import re
import signal
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

#: Groups of tests that start Ray: on clusters of their own, on one that those of
#: comparisons share, on one that all others share. They mostly wait.
RAY = ("simulated clusters", "comparisons", "cluster")


@functools.cache
def group(nodeid: str) -> str:
    """With `-n`, the tests of one process: of a group of `RAY`, of ranks, of one file.

    They share a cluster, processes, or fixtures.
    """
    path, _, test = nodeid.partition("::")
    if path.startswith("tests/cluster/"):
        return RAY[0]
    name = re.escape(test.rpartition("::")[2].partition("[")[0])
    marked = rf"^(pytestmark = .*mark\.ray|@pytest\.mark\.ray\n(@.*\n)*def {name}\()"
    if re.search(marked, _source(path), re.MULTILINE):
        return RAY[1 if path.startswith("tests/search/") else 2]
    return "ranks" if "three_ranks" in _source(path) else path


@functools.cache
def _source(path: str) -> str:
    return (Path(__file__).parents[1] / path).read_text()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest groups come first: Ray's, those with a slow test, and large ones.

    So that all processes end at the same time. What starts Ray is in its groups.
    """
    sizes, slow = Counter(group(item.nodeid) for item in items), set()
    for item in items:
        alone = item.get_closest_marker("ray") is None
        assert alone or group(item.nodeid) in RAY, f"{item.nodeid} starts Ray"
        if item.get_closest_marker("slow"):
            slow.add(group(item.nodeid))

    def place(item: pytest.Item) -> tuple[int, bool, int, str]:
        its = group(item.nodeid)
        return (*RAY, its).index(its), its not in slow, -sizes[its], its

    items.sort(key=place)


def pytest_collection_finish() -> None:
    """What is imported stays: garbage is looked for beside it, half a second faster."""
    gc.collect()
    gc.freeze()


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """Two processes more than cores for `-n auto`: those with Ray mostly wait."""
    return len(os.sched_getaffinity(0)) + 2


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Groups of tests go to one process each."""
    from xdist.scheduler import LoadScopeScheduling

    class Scheduling(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return group(nodeid)

    return Scheduling(config, log)


@pytest.fixture
def float64() -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(before)


@pytest.fixture(autouse=True)
def _own_tasks(monkeypatch: pytest.MonkeyPatch) -> None:
    """A task that one test read from a file is unknown to the next."""
    from raymeta.tasks import loading

    for name, empty in (("_files", {}), ("_beside", []), ("_sources", {})):
        monkeypatch.setattr(loading, name, empty)


@pytest.fixture(autouse=True, scope="session")
def _interruptible() -> None:
    """Shells start background jobs deaf to Ctrl-C, and so would their children be."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True, scope="session")
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def three_ranks():
    """Three processes of one group, which import torch once."""
    from raymeta.testing.ranks import Ranks

    ranks = Ranks(3)
    yield ranks
    ranks.close()


@pytest.fixture(scope="session")
def cluster_environment() -> dict[str, str]:
    """What the workers of `cluster` find in their environment besides."""
    return {}


@pytest.fixture(scope="session")
def cluster(cluster_environment):
    """The address of a Ray with two CPUs; the driver is connected."""
    # Which takes seconds, so only where it is needed.
    from raymeta.runtime.ray_session import own_token, prepared, ray

    options = {"num_cpus": 2, "include_dashboard": False, "log_to_driver": False}
    with own_token():  # for programs that join it, too
        with prepared():
            os.environ.update(cluster_environment)
            try:
                context = ray.init("local", object_store_memory=80 << 20, **options)
            except Exception:  # Ray's own start limit, on a busy machine
                ray.shutdown()
                context = ray.init("local", object_store_memory=80 << 20, **options)
        yield context.address_info["gcs_address"]
        ray.shutdown()
