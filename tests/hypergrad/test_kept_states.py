"""States in files: every kind of tensor comes back as it was, and damage is told."""

import errno
import os

import pytest
import torch

from raymeta.hypergrad.kept_states import SLOTS, SpilledStates

DTYPES = [
    *(torch.float32, torch.float64, torch.bfloat16, torch.float16),
    *(torch.int64, torch.uint8, torch.bool, torch.complex64, torch.complex128),
]


def states():
    draw = torch.randn(3, 5, generator=torch.Generator().manual_seed(0))
    made = {
        str(dtype): (draw > 0 if dtype is torch.bool else 9 * draw.abs()).to(dtype)
        for dtype in DTYPES
    }
    turned = torch.complex(draw, draw.square())
    made |= {
        **{"of no dimension": torch.tensor(1.5), "empty": torch.zeros(0, 3)},
        **{"transposed": draw.T, "part": draw[1], "conjugate": turned.conj()},
        "parameter": torch.nn.Parameter(draw),
    }
    return {"tensors": made, "none": None, "number": 3, "pair": (draw[0, 0], "word")}


def assert_same(found, state):
    assert found["number"] == 3
    assert found["none"] is None
    assert found["pair"][1] == "word"
    for name, x in state["tensors"].items():
        back = found["tensors"][name]
        assert (back.dtype, back.shape, back.device) == (x.dtype, x.shape, x.device)
        assert torch.equal(back, x), name


def test_ordinary_tensors_come_back_as_they_were(tmp_path):
    kept, state = SpilledStates(tmp_path, states()), states()
    kept[7] = state
    state["tensors"]["part"] += 1  # what is kept is a copy
    assert_same(kept[7], states() | {"pair": state["pair"]})
    assert list(kept) == [7]
    # Another process finds what was written.
    assert_same(SpilledStates(tmp_path, states())[7], states())
    del kept[7]
    assert list(kept) == list(SpilledStates(tmp_path, states())) == []


def test_others_do_too(tmp_path):
    dense = torch.eye(4)
    kept = SpilledStates(tmp_path, {"w": dense.to_sparse(), "v": dense})
    kept[0] = {"w": 2 * dense.to_sparse(), "v": 3 * dense}
    assert torch.equal(kept[0]["w"].to_dense(), 2 * dense)
    assert torch.equal(kept[0]["v"], 3 * dense)


def test_a_state_may_change_its_size(tmp_path):
    kept = SpilledStates(tmp_path, {"w": torch.zeros(5)})
    for size in (5, 7, 5, 5, 9):
        kept[0] = {"w": torch.full((size,), float(size))}
        assert torch.equal(kept[0]["w"], torch.full((size,), float(size)))
        assert len(kept) == 1
    del kept[0]
    assert list(kept) == []


def test_a_state_without_tensors_is_one(tmp_path):
    kept = SpilledStates(tmp_path, {"n": 1})
    kept[0] = {"n": 5}
    assert kept[0] == {"n": 5}


DAMAGE = {
    "cut": lambda b: b[:-1],
    "emptied": lambda b: b"",
    "altered": lambda b: b[:-3] + b"\xff" + b[-2:],
    "another step": lambda b: b"\x05" + b[1:],
}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)
def test_what_is_damaged_is_told_and_not_there_when_it_is_opened_again(
    damage, tmp_path
):
    like = {"w": torch.zeros(5)}
    kept = SpilledStates(tmp_path, like)
    kept[1], kept[2] = {"w": torch.ones(5)}, {"w": 2 * torch.ones(5)}
    file = tmp_path / SLOTS
    whole = file.read_bytes()
    first, second = whole[: len(whole) // 2], whole[len(whole) // 2 :]
    file.write_bytes(first + damage(second))
    with pytest.raises(ValueError, match=r"slots' is damaged: remove .*, and the est"):
        kept[2]
    kept.close()
    again = SpilledStates(tmp_path, like)
    assert list(again) == [1]
    again[3] = {"w": 3 * torch.ones(5)}
    assert [float(again[k]["w"][0]) for k in (1, 3)] == [1, 3]
    assert len(file.read_bytes()) == len(whole)  # in the slot that is free


def test_slots_are_used_again_and_a_state_replaced_is_whole_at_any_time(tmp_path):
    kept = SpilledStates(tmp_path, {"w": torch.zeros(5)})
    for step in range(4):
        kept[step] = {"w": torch.full((5,), float(step))}
    size = (tmp_path / SLOTS).stat().st_size
    del kept[1]
    kept[9] = {"w": torch.full((5,), 9.0)}
    assert (tmp_path / SLOTS).stat().st_size == size
    before = kept._slots.places[2]
    kept[2] = {"w": torch.full((5,), 2.5)}
    assert kept._slots.places[2] != before
    found = {k: float(x["w"][0]) for k, x in SpilledStates(tmp_path, kept[0]).items()}
    assert found == {0: 0.0, 2: 2.5, 3: 3.0, 9: 9.0}


def test_a_full_disk_is_one_line(tmp_path, monkeypatch):
    kept, write = SpilledStates(tmp_path, {"w": torch.zeros(5)}), os.pwrite
    kept[0] = {"w": torch.zeros(5)}

    def full(file, record, at):
        if len(record) < 32:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return write(file, record[:20], at)

    monkeypatch.setattr(os, "pwrite", full)
    with pytest.raises(ValueError, match=r"cannot write a state .*No space left on"):
        kept[1] = {"w": torch.ones(5)}
    monkeypatch.undo()
    assert list(SpilledStates(tmp_path, kept[0])) == [0]
    kept[1] = {"w": torch.ones(5)}
    assert list(SpilledStates(tmp_path, kept[0])) == [0, 1]
