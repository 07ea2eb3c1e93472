"""Trees of tensors come back to the last bit, and nothing in a file is run."""

import re
from collections import OrderedDict
from pathlib import Path
from typing import NamedTuple

import pytest
import torch

import raymeta
from raymeta._tree import flatten, unflatten
from raymeta.results.integrity import DamagedFile
from raymeta.results.tensors import (
    load_tensors,
    save_tensors,
    spec_of,
    structure_of,
)


class Pair(NamedTuple):
    one: object
    other: object


TREE = {
    "theta": {"w": torch.tensor([0.1, float("nan"), -0.0]), "n": torch.tensor(3)},
    "groups": [{"lr": 0.1, "betas": (0.9, 0.999), "name": None, "on": True}],
    "half": torch.ones(2, 3, dtype=torch.bfloat16).T,
}


@pytest.mark.parametrize("sync", [False, True])
def test_a_tree_comes_back_to_the_last_bit(tmp_path, sync):
    save_tensors(tmp_path / "x.pt", TREE, sync=sync)
    for found in (
        load_tensors(tmp_path / "x.pt"),
        torch.load(tmp_path / "x.pt", weights_only=True),  # as anyone reads it
    ):
        assert found["groups"] == TREE["groups"]
        for name in ("w", "n"):
            then, now = TREE["theta"][name], found["theta"][name]
            assert (then.dtype, then.numpy().tobytes()) == (
                now.dtype,
                now.numpy().tobytes(),
            )
        assert torch.equal(found["half"], TREE["half"])
    assert [path.name for path in tmp_path.iterdir()] == ["x.pt"]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_tensors_come_back_to_where_they_were_unless_told(tmp_path):
    save_tensors(tmp_path / "x.pt", torch.ones(1, device="cuda"))
    assert load_tensors(tmp_path / "x.pt").is_cuda
    assert not load_tensors(tmp_path / "x.pt", "cpu").is_cuda


@pytest.mark.parametrize("thing", [Pair(1, 2), {"f": print}, [object()]])
def test_what_could_not_be_read_back_is_not_written(tmp_path, thing):
    with pytest.raises(ValueError, match="holds tensors, numbers, words and plain"):
        save_tensors(tmp_path / "x.pt", thing)
    assert not list(tmp_path.iterdir())


class Trap:
    def __reduce__(self):
        return (pytest.fail, ("a file was run",))


def test_nothing_in_a_file_is_run(tmp_path):
    torch.save({"x": Trap()}, tmp_path / "x.pt")
    with pytest.raises(
        DamagedFile, match=r"x\.pt cannot be used, for it holds no tree"
    ):
        load_tensors(tmp_path / "x.pt")


@pytest.mark.parametrize(
    "tree",
    [
        None,
        3.0,
        [1, (2, {"a": 3, 4: []})],
        Pair(OrderedDict(b=1, a=2), [Pair(None, 5)]),
    ],
    ids=str,
)
def test_a_structure_is_json_and_comes_back(tree):
    leaves, _ = flatten(tree)
    again = unflatten(leaves, spec_of(structure_of(tree)))
    assert again == tree
    assert type(again) is type(tree)


def test_classes_are_known_ones_or_those_of_a_tree_at_hand():
    class Local(NamedTuple):
        x: int

    with pytest.raises(ValueError, match="classes that a module has by their name"):
        structure_of([Local(1)])
    known = flatten({"s": Local(2)})[1]
    structure = structure_of([Local(1)], known)
    with pytest.raises(LookupError, match="Local"):
        spec_of(structure)
    assert unflatten([7], spec_of(structure, known)) == [Local(7)]
    for name in ("no.module:Pair", "os:path", "builtins:print", "subprocess:Popen"):
        with pytest.raises(LookupError, match=name):
            spec_of(f'["{name}", null, []]')


def test_a_class_that_is_no_container_is_never_called():
    """A file may name any class, and what it is to be given."""
    for name in ("subprocess:Popen", "pathlib:Path", f"{__name__}:Trap"):
        with pytest.raises(LookupError, match=name):
            spec_of(f'["namedtuple", "{name}", [null]]')
    with pytest.raises(LookupError, match="Pair"):  # which has two
        spec_of(f'["namedtuple", "{__name__}:Pair", [null]]')


def test_a_bit_that_flipped_anywhere_is_noticed(tmp_path):
    file = tmp_path / "x.pt"
    save_tensors(file, {"theta": torch.tensor([0.009])})
    content = file.read_bytes()
    for at in range(0, 8 * len(content), 7):  # each byte
        flipped = bytearray(content)
        flipped[at // 8] ^= 1 << at % 8
        file.write_bytes(flipped)
        with pytest.raises(DamagedFile, match=r"x\.pt cannot be used"):
            load_tensors(file)
    for length in range(0, len(content), 97):
        file.write_bytes(content[:length])
        with pytest.raises(DamagedFile, match=r"x\.pt cannot be used"):
            load_tensors(file)


def test_versions_are_told_apart(tmp_path):
    file = tmp_path / "x.pt"
    torch.save([1], file)  # of a version before there were checksums
    assert load_tensors(file) == [1]
    save_tensors(file, [1])
    newer = file.read_bytes().replace(b'{"schema": 2', b'{"schema": 9')
    file.write_bytes(newer)
    with pytest.raises(DamagedFile, match=r"newer raymeta \(format 9, here 2\)"):
        load_tensors(file)


def test_what_json_cannot_say_is_refused():
    with pytest.raises(ValueError, match="containers that JSON can describe"):
        structure_of({(1, 2): 3})


def test_what_is_read_back_is_read_here_alone():
    """What Ray carries between processes may be pickled; no file of ours may."""
    carried = {"runtime/serialization.py", "search/tune/bridge.py"}
    carried |= {"workers/optimization.py"}
    spilled = {
        "hypergrad/kept_states.py",
        "hypergrad/resumable.py",
    }  # tensors, by the process that wrote them
    unpickle = re.compile(r"\b(cloud)?pickle\.loads?\(|\btorch\.load\(|read_pickle")
    package = Path(raymeta.__file__).parent
    reading = {
        file.relative_to(package).as_posix()
        for folder in package.iterdir()
        if folder.name != "testing"  # whose suites send what they are given
        for file in folder.rglob("*.py")
        if unpickle.search(file.read_text())
    }
    assert reading == {"results/tensors.py", *spilled, *carried}
