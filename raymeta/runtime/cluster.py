"""Capacity of a Ray cluster, and whether all of its nodes see a folder."""

import math
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from raymeta.errors import one_line, said
from raymeta.runtime.ray_session import ray

#: Seconds that a node gets to look for a file; it may have to start a process first.
PROBE_S = 120.0
#: What `ray up` gives the autoscaler.
BOOTSTRAP = "~/ray_bootstrap_config.yaml"


class Group(NamedTuple):
    """Nodes of a kind that the autoscaler may launch.

    Attributes:
        name: name in the cluster's configuration.
        resources: what each node has, by name.
        most: nodes at once.
    """

    name: str
    resources: Mapping[str, float]
    most: int


def groups() -> list[Group]:
    """The groups of an autoscaling cluster; none where they are not known.

    `ray up` leaves them on the head, where jobs run; Ray itself does not tell.
    """
    path = Path(BOOTSTRAP).expanduser()
    if not path.exists():
        return []
    try:
        config = yaml.safe_load(path.read_text())
        return [
            _group(name, kind, config.get("max_workers"))
            for name, kind in config["available_node_types"].items()
            if name != config["head_node_type"]
        ]
    except (
        *(OSError, ValueError, yaml.YAMLError, RecursionError),
        *(AttributeError, KeyError, TypeError),
    ) as error:
        raise ValueError(
            f"{path} has the cluster's configuration as `ray up` leaves it, but this "
            f"one cannot be used ({one_line(error)}): run `ray up` again, or remove it"
        ) from None


def _group(name: Any, kind: Mapping[str, Any], most: Any) -> Group:
    """A group of nodes, if its numbers are some."""
    most = kind.get("max_workers", most)
    resources = dict(kind["resources"].items())
    numbers = {"max_workers": most, **resources}
    for what, value in numbers.items():
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise ValueError(f"{what} of {name} is {said(value)}, not a number")
        if not 0 <= value < math.inf:
            raise ValueError(f"{what} of {name} is {value}")
    return Group(str(name), resources, int(most))


def require_possible(
    bundle: Mapping[str, float], count: int, what: str, *, growing: bool = True
) -> None:
    """Raise if a cluster never has room, however long one waits.

    Args:
        bundle: resources of one process, which must fit on a node.
        count: processes at once.
        what: their name, in plural.
        growing: whether nodes may join a cluster that launches none itself.

    Raises:
        ValueError: no group has such nodes, or all of them have too few.
    """
    kinds = groups()
    if not kinds and growing:
        return
    launchable, here = _launchable(kinds, bundle), _here(bundle)
    if max(here, sum(launchable.values())) >= count:
        return
    each = " and ".join(f"{value:g} {name}" for name, value in bundle.items())
    if not kinds and here:
        raise ValueError(
            f"{count} {what} need {each} each, but the cluster has room for {here} of "
            "them at most: ask for fewer, or add a node"
        )
    if not kinds:
        raise ValueError(
            f"each of the {what} needs {each} on one node, but no node has that: ask "
            "for less, or add a node"
        )
    have = "; ".join(_words(group, bundle) for group in kinds)
    if not any(launchable.values()):
        raise ValueError(
            f"each of the {what} needs {each} on one node, but no group of nodes has "
            f"that ({have}): ask for less, or add a group to the cluster"
        )
    named = ", ".join(f"{name} {room}" for name, room in launchable.items() if room)
    raise ValueError(
        f"{count} {what} need {each} each, but the cluster has room for "
        f"{sum(launchable.values())} of them at most ({named}): ask for fewer, or "
        "raise max_workers of these groups"
    )


def room(bundle: Mapping[str, float]) -> int:
    """How many processes with these resources the cluster has room for, once grown."""
    return max(_here(bundle), sum(_launchable(groups(), bundle).values()))


def _here(bundle: Mapping[str, float]) -> int:
    return sum(_fit(bundle, node["Resources"]) for node in ray.nodes() if node["Alive"])


def _launchable(kinds: list[Group], bundle: Mapping[str, float]) -> dict[str, int]:
    return {kind.name: kind.most * _fit(bundle, kind.resources) for kind in kinds}


def _fit(bundle: Mapping[str, float], resources: Mapping[str, float]) -> int:
    """How many bundles a node has room for."""
    return min(
        math.floor(resources.get(name, 0.0) / value)
        for name, value in bundle.items()
        if value > 0
    )


def _words(group: Group, bundle: Mapping[str, float]) -> str:
    has = " and ".join(f"{group.resources.get(name, 0):g} {name}" for name in bundle)
    return f"{group.name}: {has}"


def require_shared(folder: Path) -> None:
    """Raise if a node of the cluster does not see what is written in a folder here.

    Raises:
        ValueError: a node reads something else there.
    """
    folder = folder.resolve()  # a worker's own folder may be another
    probe, token = folder / f".probe-{secrets.token_hex(4)}", secrets.token_hex(16)
    probe.write_text(token)
    look = ray.remote(num_cpus=0, max_retries=0)(_reads)
    nodes = {
        node["NodeID"]: node["NodeManagerAddress"]
        for node in ray.nodes()
        if node["Alive"] and node["Resources"].get("CPU", 0) > 0
    }
    affinity = ray.util.scheduling_strategies.NodeAffinitySchedulingStrategy
    try:
        looking = {
            node: look.options(scheduling_strategy=affinity(node, soft=False)).remote(
                str(probe), token
            )
            for node in nodes
        }
        for node, answer in looking.items():
            try:
                sees = ray.get(answer, timeout=PROBE_S)
            except ray.exceptions.RayError:
                continue  # the node left
            if not sees:
                raise ValueError(
                    f"all nodes must see the folder of results, but {nodes[node]} does "
                    f"not see {folder}: pass a storage that they share, or the address "
                    "of one on an object store (s3://…)"
                )
    finally:
        probe.unlink(missing_ok=True)


def _reads(path: str, token: str) -> bool:
    """Whether a file is there, with this in it."""
    file = Path(path)
    return file.exists() and file.read_text() == token
