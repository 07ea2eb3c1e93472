"""Private names of Ray stand in search/tune/ and runtime/, and Ray still has them."""

import ast
import inspect
import pkgutil
import textwrap
from functools import cache
from importlib import import_module
from importlib.util import find_spec

import pytest
import ray
from ray.tune.execution.tune_controller import TuneController
from ray.tune.schedulers import HyperBandScheduler, PopulationBasedTraining
from ray.tune.schedulers.pb2 import PB2

from tests.test_fences import ROOT, Names

FENCES = ("search/tune/", "runtime/")
PBT = PopulationBasedTraining
AWS = "ray.autoscaler._private.aws.node_provider.AWSNodeProvider"
#: Private name -> what has it, and what uses it.
USED = {
    "ray._private.ray_logging.stdout_deduplicator.skip_re": "runtime/ray_session.py",
    "ray._raylet.Config.initialize": "runtime/ray_session.py",
    "ray._raylet.AuthenticationTokenLoader.instance": "runtime/ray_session.py",
    "ray._raylet.AuthenticationTokenLoader.reset_cache": "runtime/ray_session.py",
    "ray.tune.schedulers.HyperBandScheduler._unpause_trial": "search/tune/hyperband.py",
    "ray.tune.registry._global_registry": "search/tune/registry.py",
    f"{AWS}._create_node": "runtime/aws_provider.py",
    **{
        f"ray.tune.schedulers.{name}": "search/tune/population.py"
        for name in (
            "PopulationBasedTraining._exploit",
            "PopulationBasedTraining._get_new_config",
        )
    },
    **{
        f"ray.tune.schedulers.pb2.PB2.{name}": "search/tune/bandits.py"
        for name in ("_get_new_config", "_save_trial_state")
    },
}
#: What Tune's schedulers set themselves, or ask of trials and controllers: adapters of
#: ours have it. Each stands in the source of what is named here.
ASKED = {
    "_hyperparam_mutations": (PBT.__init__, "search/tune/population.py"),
    "_latest_checkpoint_result": (PBT._exploit, "search/tune/controller.py"),
    "_schedule_trial_save": (PBT._checkpoint_or_exploit, "search/tune/controller.py"),
    "_trials_to_cache": (
        TuneController._get_trial_checkpoints,
        "search/tune/bridge.py",
    ),
}


class RayNames(Names):
    """The private names of Ray that a file takes."""

    def _path(self, path):
        if path.startswith("ray.") and any(p.startswith("_") for p in path.split(".")):
            self.paths.add(path)


@cache
def files():
    """The names of every file of the package that imports Ray."""
    found = {
        file.relative_to(ROOT).as_posix(): RayNames(file.read_text())
        for file in sorted(ROOT.rglob("*.py"))
    }
    return {file: names for file, names in found.items() if names.of_ray}


def own_attributes(cls):
    """Private names that a class defines, or sets or reads on itself."""
    tree = ast.parse(textwrap.dedent(inspect.getsource(cls)))
    selves = {
        node.attr
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute)
        and isinstance(node.value, ast.Name)
        and node.value.id in ("self", "cls")
    }
    names = selves | set(vars(cls))
    return {n for n in names if n.startswith("_") and not n.startswith(("__", "_abc"))}


def inherited(file):
    """Private names of Ray's classes that those of a file override or use."""
    module = import_module("raymeta." + file.removesuffix(".py").replace("/", "."))
    for cls in vars(module).values():
        if inspect.isclass(cls) and cls.__module__ == module.__name__:
            of_ray = [b for b in cls.__mro__ if b.__module__.startswith("ray.")]
            for base in of_ray:
                yield from own_attributes(cls) & own_attributes(base)


def modules():
    lacks = {"search/tune/bohb.py": "hpbandster", "runtime/aws_provider.py": "boto3"}
    for file in files():
        if file not in lacks or find_spec(lacks[file]):
            yield file


def test_what_a_file_takes_of_ray_is_public_or_in_the_table_behind_a_fence():
    assert len(list(modules())) > 20
    for file in modules():
        found = files()[file]
        known = set() if not file.startswith(FENCES) else {*USED, *ASKED}
        paths = {p for p in found.paths if not any(k.startswith(p) for k in known)}
        last = {name.rpartition(".")[2] for name in known}
        names = (found.attributes | set(inherited(file))) - last
        assert not paths | names, f"{file} uses {paths | names}"


@pytest.mark.parametrize(("path", "file"), USED.items(), ids=USED)
def test_ray_has_the_private_name(path, file):
    if path.startswith(AWS):
        pytest.importorskip("boto3")
    try:
        pkgutil.resolve_name(path)
    except (ImportError, AttributeError):
        pytest.fail(f"Ray {ray.__version__} no longer has {path}; used by {file}")
    name = path.rpartition(".")[2]
    assert name in (ROOT / file).read_text(), f"{file} does not use {path} any more"


@pytest.mark.parametrize("name", ASKED)
def test_tunes_schedulers_ask_for_the_private_name(name):
    function, file = ASKED[name]
    says = f"Ray {ray.__version__} no longer has {name} in {function.__qualname__}"
    assert name in inspect.getsource(function), f"{says}; used by {file}"
    assert name in (ROOT / file).read_text()


def test_tunes_schedulers_call_what_is_overridden_with_the_same_arguments():
    for function, names in (
        (HyperBandScheduler._unpause_trial, ["tune_controller", "trial"]),
        (PBT._exploit, ["tune_controller", "trial", "trial_to_clone"]),
        (PBT._get_new_config, ["trial", "trial_to_clone"]),
        (PB2._get_new_config, ["trial", "trial_to_clone"]),
        (PB2._save_trial_state, ["state", "time", "result", "trial"]),
    ):
        found = list(inspect.signature(function).parameters)
        assert found == ["self", *names], function.__qualname__
