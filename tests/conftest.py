"""Shared fixtures: double precision, one thread, one cluster, no leftovers."""

import functools
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch


@functools.cache
def group(path: str) -> str:
    """With `-n`, the tests of one process: of all files that start Ray, or of one.

    They share a cluster, or fixtures.
    """
    file = Path(path)
    starts_ray = file.parent.name == "cluster" or "mark.ray" in file.read_text()
    return "ray" if starts_ray else path


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest come first."""
    items.sort(key=lambda item: group(str(item.path)) != "ray")


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Groups of tests go to one process each."""
    from xdist.scheduler import LoadScopeScheduling

    class Scheduling(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return group(str(config.rootpath / nodeid.partition("::")[0]))

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
def cluster():
    """The address of a Ray with two CPUs; the driver is connected."""
    # Which takes seconds, so only where it is needed.
    from raymeta.runtime.ray_session import own_token, prepared, ray

    options = {"num_cpus": 2, "include_dashboard": False, "log_to_driver": False}
    with own_token():  # for programs that join it, too
        with prepared():
            try:
                context = ray.init("local", object_store_memory=80 << 20, **options)
            except Exception:  # Ray's own start limit, on a busy machine
                ray.shutdown()
                context = ray.init("local", object_store_memory=80 << 20, **options)
        yield context.address_info["gcs_address"]
        ray.shutdown()
