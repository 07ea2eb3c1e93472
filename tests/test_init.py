"""The names of the package itself."""

import ast
import tomllib
from importlib.metadata import version
from pathlib import Path

from packaging.requirements import Requirement

import raymeta


def test_the_package_lists_its_public_names_and_no_others():
    listed = {name for name in dir(raymeta) if not name.startswith("__")}
    assert listed == set(raymeta.__all__)
    assert "__version__" in dir(raymeta)


def test_every_public_name_is_there_and_type_checkers_see_it():
    for name in raymeta.__all__:
        getattr(raymeta, name)
    tree = ast.parse(Path(raymeta.__file__).read_text())
    checked = next(node for node in tree.body if isinstance(node, ast.If))
    names = {a.name for n in checked.body for a in n.names}
    assert names == set(raymeta.__all__)


def test_every_room_that_a_user_imports_is_a_public_name():
    inner = {"autograd", "cli", "compile", "outer", "results", "runtime", "space"}
    inner.add("workers")  # by `optimize(workers=…)`
    inner.add("testing")  # which needs pytest: `from raymeta import *` does not
    root = Path(raymeta.__file__).parent
    rooms = {path.parent.name for path in root.glob("*/__init__.py")}
    assert rooms - inner == rooms & set(raymeta.__all__)


def test_files_that_are_no_modules_are_shipped():
    root = Path(raymeta.__file__).parent
    settings = tomllib.loads((root.parent / "pyproject.toml").read_text())
    shipped = {
        path
        for package, patterns in settings["tool"]["setuptools"]["package-data"].items()
        for pattern in patterns
        for path in root.parent.glob(f"{package.replace('.', '/')}/{pattern}")
    }
    others = {p for p in root.rglob("*") if p.is_file() and ".py" not in p.suffix}
    assert others <= shipped
    assert root / "py.typed" in shipped


def test_pins_and_what_is_installed_are_within_the_bounds():
    root = Path(raymeta.__file__).parents[1]
    project = tomllib.loads((root / "pyproject.toml").read_text())["project"]
    named = [*project["dependencies"], *project["optional-dependencies"]["cluster"]]
    files = ("requirements.txt", "requirements-cluster.txt")
    lines = [line for file in files for line in (root / file).read_text().splitlines()]
    pins = dict(line.lower().split("==") for line in lines if "==" in line)
    bounds = [Requirement(text) for text in named]
    for bound in bounds:
        assert bound.specifier.contains(pins[bound.name.lower()]), bound
        assert bound.specifier.contains(version(bound.name)), bound
    assert len({str(bound.specifier) for bound in bounds if bound.name == "ray"}) == 1


def test_the_root_has_the_vocabulary_alone():
    root = Path(raymeta.__file__).parent
    found = {path.stem for path in root.glob("*.py")}
    words = {"__init__", "_tree", "errors", "problem", "types"}
    assert words <= found <= words | {"display", "process", "tune"}
