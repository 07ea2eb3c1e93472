"""Shared fixtures: double precision, one thread, one cluster, no leftovers."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

#: Tests that start Ray, or whole clusters of it.
CLUSTERS = Path(__file__).parent / "cluster"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """With `-n`, one process has all tests that start Ray, as they share a cluster.

    They are the longest, so they come first; a file of other tests stays together, as
    its tests share fixtures.
    """
    for item in items:
        starts_ray = item.get_closest_marker("ray") or CLUSTERS in item.path.parents
        group = "ray" if starts_ray else str(item.path)
        item.add_marker(pytest.mark.xdist_group(group))
    items.sort(key=lambda item: item.get_closest_marker("xdist_group").args != ("ray",))


@pytest.fixture
def float64() -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(before)


@pytest.fixture(autouse=True, scope="session")
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def cluster():
    """The address of a Ray with two CPUs; the driver is connected."""
    from raymeta.session import ray  # which takes seconds, so only where it is needed

    options = {"num_cpus": 2, "include_dashboard": False, "log_to_driver": False}
    try:
        context = ray.init("local", object_store_memory=80 << 20, **options)
    except Exception:  # Ray's own start limit, on a busy machine
        ray.shutdown()
        context = ray.init("local", object_store_memory=80 << 20, **options)
    yield context.address_info["gcs_address"]
    ray.shutdown()
