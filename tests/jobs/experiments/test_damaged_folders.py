"""Every file of every folder, damaged: some of jobs.experiments.damaged_folders."""

import pytest

from jobs.experiments.damaged_folders import DAMAGES, KINDS, tried

#: By file: what is tried of it here.
SOME = [
    "a bit in the middle",
    "emptied",
    "a newer version",
    "a folder",
    "cut near its end",
]


@pytest.fixture(scope="module", params=["interrupted", "optimization", "unfinished"])
def made(request, tmp_path_factory):
    storage = tmp_path_factory.mktemp("made")
    return request.param, storage, KINDS[request.param].make(storage)


def test_a_damaged_file_is_named_with_the_remedy_or_the_run_ends_as_without(made):
    name, storage, frame = made
    for place, pattern in enumerate(KINDS[name].files):
        for at in (place, place + 1):
            damage = SOME[at % len(SOME)]
            for found in tried(name, storage, frame, pattern, damage, ["resume"]):
                assert not found.verdict.isupper(), found


def test_every_file_that_a_run_keeps_is_damaged(made):
    name, storage, _ = made
    kept = {file for file in (storage / "x").rglob("*") if file.is_file()}
    for pattern in (*KINDS[name].files, "tensorboard/**/*"):
        kept -= set((storage / "x").glob(pattern))
    assert {file.name for file in kept} <= {".lock"}
    assert len(DAMAGES) == 12
