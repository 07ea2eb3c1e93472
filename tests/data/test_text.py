import pytest
import torch

from raymeta.data.text import passages, text


def test_the_packages_text_is_english():
    words = text().lower().split()
    assert len(words) > 4000
    assert words.count("the") > 150


def test_passages_continue_one_another():
    inputs, targets, characters = passages("abcabcabd!", 3)
    assert characters == "!abcd"
    assert inputs.tolist() == [[1, 2, 3], [1, 2, 3], [1, 2, 4]]
    assert torch.equal(targets.flatten()[:-1], inputs.flatten()[1:])
    assert targets[-1, -1] == 0


def test_what_cannot_be_read_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"missing\.txt cannot be read as UTF-8 text"):
        text(tmp_path / "missing.txt")
    (tmp_path / "bytes").write_bytes(b"\xff\xfe\xff")
    with pytest.raises(ValueError, match="bytes cannot be read as UTF-8 text"):
        text(tmp_path / "bytes")


def test_a_short_text_has_no_passage():
    with pytest.raises(ValueError, match="need a text of 9, but got one of 8"):
        passages("12345678", 8)
