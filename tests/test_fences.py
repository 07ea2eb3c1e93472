"""Private names of libraries stand behind fences, and the library still has them."""

import ast
import pkgutil
from functools import cache
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.autograd.function import Function

ROOT = Path(__file__).parents[1] / "raymeta"
#: Where private names of a library may stand; nowhere, of one that is not here. Those
#: of Ray have tests of their own.
FENCES = {
    "torch": (
        "_tree.py",
        "compile/",
        "autograd/",
        "modules/overrides/",
        "modules/functional.py",
    ),
    "higher": ("hypergrad/higher_engine.py",),
    "os": ("runtime/orphans.py",),  # `_exit`, which is documented
}
NAMEDTUPLE = {"_asdict", "_fields", "_make", "_replace"}


class _Square(Function):
    @staticmethod
    def forward(ctx, x):
        return x * x


LEAF = torch.ones(2, requires_grad=True)
#: Private attribute -> something of torch's that must have it.
OWNERS = {
    "_backward_hooks": nn.Module(),
    "_backward_pre_hooks": nn.Module(),
    "_buffers": nn.Module(),
    "_cdata": LEAF.untyped_storage(),
    "_check_input_dim": nn.BatchNorm1d(1),
    "_flat_weight_refs": nn.GRU(1, 1),
    "_flat_weights": nn.GRU(1, 1),
    "_forward_cls": _Square.apply(LEAF).grad_fn,
    "_forward_hooks": nn.Module(),
    "_forward_pre_hooks": nn.Module(),
    "_modules": nn.Module(),
    "_parameters": nn.Module(),
    "_post_accumulate_grad_hooks": LEAF,
    "_schema": torch.ops.aten.add.Tensor,
    "_unsafe_view": torch.ops.aten,
    "_version": LEAF,
}


class Names(ast.NodeVisitor):
    """The private names that a file takes from elsewhere.

    Attributes:
        paths: as `torch._guards.tracing`, of what is imported.
        attributes: of objects that are not the file's own, and what `getattr` is told.
        of_ray: whether the file imports Ray, whose private names have their own tests.
    """

    def __init__(self, source):
        self.paths, self.attributes, self._roots = set(), set(), {}
        tree = ast.parse(source)
        self._own = {
            node.attr
            for node in ast.walk(tree)
            if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store)
        } | {n.name for n in ast.walk(tree) if isinstance(n, ast.FunctionDef)}
        self.visit(tree)
        self.of_ray = any(f"{r}.".startswith("ray.") for r in self._roots.values())

    def visit_Import(self, node):
        for alias in node.names:
            self._path(alias.name)
            first = alias.name.split(".")[0]
            self._roots[alias.asname or first] = alias.name if alias.asname else first

    def visit_ImportFrom(self, node):
        for alias in node.names:
            self._path(f"{node.module}.{alias.name}")
            self._roots[alias.asname or alias.name] = f"{node.module}.{alias.name}"

    def visit_Attribute(self, node):
        path = self._dotted(node)
        if path is not None:
            self._path(path)
            return
        own = isinstance(node.value, ast.Name) and node.value.id in ("self", "cls")
        if _is_private(node.attr) and not own and node.attr not in self._own:
            self.attributes.add(node.attr)
        self.generic_visit(node)

    def visit_Constant(self, node):
        if node.value in OWNERS:
            self.attributes.add(node.value)

    def _dotted(self, node):
        if isinstance(node, ast.Name):
            return self._roots.get(node.id)
        if isinstance(node, ast.Attribute):
            base = self._dotted(node.value)
            return base and f"{base}.{node.attr}"
        return None

    def _path(self, path):
        ours = path.startswith(("raymeta.", "ray."))
        if not ours and any(map(_is_private, path.split("."))):
            self.paths.add(path)


def _is_private(name):
    special = name in NAMEDTUPLE or name.startswith("__")
    return name.startswith("_") and name != "_" and not special


@cache
def names():
    """The names of every file of the package that has some."""
    found = {
        file.relative_to(ROOT).as_posix(): Names(file.read_text())
        for file in sorted(ROOT.rglob("*.py"))
    }
    return {file: n for file, n in found.items() if n.paths or n.attributes}


def paths():
    return sorted({(path, file) for file, n in names().items() for path in n.paths})


def test_private_names_stand_behind_fences_and_their_libraries_have_them():
    assert len(paths()) > 20
    for path, file in paths():
        library = path.split(".")[0]
        assert file.startswith(FENCES.get(library, ())), f"{file} must not use {path}"
        try:
            pkgutil.resolve_name(path)
        except (ImportError, AttributeError):
            version = pkgutil.resolve_name(library).__version__
            pytest.fail(f"{library} {version} no longer has {path}; used by {file}")


@pytest.mark.parametrize("name", sorted(OWNERS))
def test_torch_has_the_private_attributes_that_are_used(name):
    users = [file for file, n in names().items() if name in n.attributes]
    assert users, f"nothing uses {name}: take it out of the table"
    assert hasattr(OWNERS[name], name), (
        f"torch {torch.__version__} no longer has {type(OWNERS[name]).__name__}.{name};"
        f" used by {', '.join(users)}"
    )


def test_private_attributes_of_other_objects_are_read_behind_fences_alone():
    for file, found in names().items():
        known = set(OWNERS) if file.startswith(FENCES["torch"]) else set()
        strange = set() if found.of_ray else found.attributes - known
        assert not strange, f"{file} reads {strange} of something that is not its own"
