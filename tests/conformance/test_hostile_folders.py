"""Folders from elsewhere: nothing that is in one is run, whatever it is made of."""

import io
import json
import marshal
import pickle
import pickletools
import shutil
import zipfile
from functools import partial

import joblib
import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from ray import cloudpickle

from jobs.experiments.damaged_folders import KINDS, ended
from raymeta.cli.report import summarize
from raymeta.results.integrity import SEAL, json_bytes
from raymeta.results.jsonlines import HEADER, line_of
from raymeta.results.tensors import load_tensors

SCRIPT = "open({!r}, 'w').close()"


class Trap:
    """What runs code when it is unpickled."""

    def __init__(self, ran):
        self.ran = str(ran)

    def __reduce__(self):
        return (exec, (SCRIPT.format(self.ran),))


class StateTrap:
    def __init__(self, ran):
        self.ran = str(ran)

    def __reduce__(self):
        return (dict, (), None, None, iter([("x", Trap(self.ran))]))


def _bytes(write):
    file = io.BytesIO()
    write(file)
    return file.getvalue()


def _archive(ran):
    """What torch writes, with another pickle in the place of its own."""
    inner = zipfile.ZipFile(io.BytesIO(_bytes(lambda f: torch.save([1], f))))
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as outer:
        for name in inner.namelist():
            own = pickle.dumps(Trap(ran)) if name.endswith("data.pkl") else None
            outer.writestr(name, own or inner.read(name))
        outer.comment = SEAL
    return file.getvalue()


def _snapshot(ran):
    """A state whose structure names a class, and what it is to be given."""
    structure = json.dumps(["namedtuple", "subprocess:Popen", [None]])
    saved = {"signature": "x", "structure": structure, "carry": [f"touch {ran}"]}
    saved |= {"segments": (), "length": 0, "rollout": [], "best": None}
    return _bytes(lambda file: torch.save(saved, file))


def _text(ran):
    return pickle.dumps(Trap(ran), protocol=0)


#: 20 kinds of files that run code where somebody trusts them.
HOSTILE = {
    "pickle": lambda ran: pickle.dumps(Trap(ran)),
    "pickle as text": _text,
    "optimized pickle": lambda ran: pickletools.optimize(pickle.dumps(Trap(ran))),
    "pickle of items": lambda ran: pickle.dumps(StateTrap(ran)),
    "cloudpickle": lambda ran: cloudpickle.dumps(Trap(ran)),
    "joblib": lambda ran: _bytes(lambda file: joblib.dump(Trap(ran), file)),
    "torch": lambda ran: _bytes(lambda file: torch.save({"x": Trap(ran)}, file)),
    "torch of before": lambda ran: _bytes(
        lambda file: torch.save(
            {"x": Trap(ran)}, file, _use_new_zipfile_serialization=False
        )
    ),
    "torch with another pickle": _archive,
    "a class for a state": _snapshot,
    "arrays": lambda ran: _bytes(
        lambda file: np.savez(file, kind=np.array([Trap(ran)], dtype=object))
    ),
    "an array": lambda ran: _bytes(
        lambda file: np.save(file, np.array([Trap(ran)], dtype=object))
    ),
    "pandas": lambda ran: _bytes(lambda file: pd.to_pickle(Trap(ran), file)),
    "yaml": lambda ran: (
        f"!!python/object/apply:builtins.exec [{SCRIPT.format(str(ran))!r}]".encode()
    ),
    "marshal": lambda ran: marshal.dumps(compile(SCRIPT.format(str(ran)), "x", "exec")),
    "Python": lambda ran: SCRIPT.format(str(ran)).encode(),
    "JSON with a pickle in it": lambda ran: json_bytes(
        {
            "tasks": {"x": _text(ran).decode()},
            "runs": [],
            "py/reduce": [_text(ran).decode()],
        }
    ),
    "JSON that names a file": lambda ran: json_bytes(
        {"runs": [{"task_files": {"quadratic": f"{ran}.py:make"}}], "tasks": {}}
    ),
    "a journal with a pickle in it": lambda ran: (
        line_of(HEADER) + line_of({"event": "start", "state": _text(ran).decode()})
    ),
    "a parquet file with a pickle in it": lambda ran: _bytes(
        lambda file: pd.DataFrame({"x": [pickle.dumps(Trap(ran))]}).to_parquet(file)
    ),
}


@pytest.fixture(scope="module", params=["interrupted", "optimization", "unfinished"])
def made(request, tmp_path_factory):
    storage = tmp_path_factory.mktemp("made")
    KINDS[request.param].make(storage)
    return request.param, storage


def test_each_of_them_would_run_where_it_is_trusted(tmp_path):
    ran = tmp_path / "ran"
    for kind, load in (
        ("pickle", pickle.loads),
        ("pickle as text", pickle.loads),
        ("torch", lambda data: torch.load(io.BytesIO(data), weights_only=False)),
        ("yaml", lambda data: yaml.load(data, yaml.UnsafeLoader)),
        ("Python", lambda data: exec(data.decode())),
    ):
        load(HOSTILE[kind](ran))
        assert ran.exists(), kind
        ran.unlink()


def test_nothing_of_a_hostile_folder_is_run(made, tmp_path):
    name, original = made
    ran = tmp_path / "ran"
    ran.with_suffix(".py").write_text(SCRIPT.format(str(ran)))
    some = list(HOSTILE.items())[:: 5 if name == "unfinished" else 1]  # trains anew
    for place, (kind, content) in enumerate(some):
        storage = tmp_path / str(place)
        shutil.copytree(original, storage)
        for pattern in KINDS[name].files:
            for file in (storage / "x").glob(pattern):
                file.write_bytes(content(ran))
        code, said = ended(partial(KINDS[name].resume, storage))
        assert code == 2, (kind, said)
        code, said = ended(partial(summarize, str(storage / "x")))
        assert code == 2, (kind, said)
        assert not ran.exists(), kind


def test_each_file_alone_runs_nothing(made, tmp_path):
    """Where the others are whole, each file is read as far as it ever is."""
    name, original = made
    ran = tmp_path / "ran"
    kinds = list(HOSTILE.values())
    for place, pattern in enumerate(KINDS[name].files):
        storage = tmp_path / str(place)
        shutil.copytree(original, storage)
        for at, file in enumerate((storage / "x").glob(pattern)):
            file.write_bytes(kinds[(5 * place + at) % len(kinds)](ran))
        code, said = ended(partial(KINDS[name].resume, storage))
        assert code is not None, said
        assert not ran.exists(), pattern


@pytest.mark.parametrize("kind", HOSTILE)
def test_a_saved_state_is_no_way_in(kind, tmp_path):
    ran, file = tmp_path / "ran", tmp_path / "x.pt"
    file.write_bytes(HOSTILE[kind](ran))
    if kind == "a class for a state":  # whose structure is looked at later
        assert load_tensors(file)["carry"] == [f"touch {ran}"]
    else:
        with pytest.raises(ValueError, match=r"x\.pt cannot be used"):
            load_tensors(file)
    assert not ran.exists()


def test_a_page_is_not_written_through_a_link(made, tmp_path):
    _, original = made
    storage, precious = tmp_path / "results", tmp_path / "precious"
    shutil.copytree(original, storage)
    precious.write_text("mine")
    names = ("report.html", "ranks.png", "meta_loss.svg", "anytime_wall_s.svg")
    for link in names:
        (storage / "x" / link).symlink_to(precious)
    code, said = ended(partial(summarize, str(storage / "x")))
    assert code == 0, said
    assert precious.read_text() == "mine"
    assert not (storage / "x" / "report.html").is_symlink()
