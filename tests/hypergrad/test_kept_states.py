"""States in files: every kind of tensor comes back as it was, and damage is told."""

import pytest
import torch

from raymeta.hypergrad.kept_states import SUFFIX, SpilledStates

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
    assert not list(tmp_path.iterdir())


def test_others_do_too(tmp_path):
    dense = torch.eye(4)
    kept = SpilledStates(tmp_path, {"w": dense.to_sparse(), "v": dense})
    kept[0] = {"w": 2 * dense.to_sparse(), "v": 3 * dense}
    assert torch.equal(kept[0]["w"].to_dense(), 2 * dense)
    assert torch.equal(kept[0]["v"], 3 * dense)


def test_a_state_without_tensors_is_one(tmp_path):
    kept = SpilledStates(tmp_path, {"n": 1})
    kept[0] = {"n": 5}
    assert kept[0] == {"n": 5}


@pytest.mark.parametrize(
    "damage",
    [lambda b: b[:-1], lambda b: b"", lambda b: b[:3] + b"\xff" + b[4:]],
    ids=["cut", "emptied", "altered"],
)
def test_a_damaged_file_is_told(damage, tmp_path):
    kept = SpilledStates(tmp_path, {"w": torch.zeros(5)})
    kept[2] = {"w": torch.ones(5)}
    file = tmp_path / f"2{SUFFIX}"
    file.write_bytes(damage(file.read_bytes()))
    with pytest.raises(ValueError, match=r"2\.state' is damaged: remove .*, and the"):
        kept[2]
