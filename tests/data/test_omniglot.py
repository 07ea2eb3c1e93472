"""Folders of characters: what is read, and what is said when it cannot be."""

import os
import shutil
from pathlib import Path

import pytest
import torch
from PIL import Image

from raymeta.data import omniglot, read_folders
from raymeta.data.episodes import SPLITS

ALPHABETS, CHARACTERS, DRAWINGS = 3, 5, 4


def draw(file, number, size=(105, 105)):
    """Dark strokes on white: a bar whose height and place say which character."""
    image = Image.new("1", size, 1)
    image.paste(0, (0, 0, 30, 5 + 5 * number))
    file.parent.mkdir(parents=True, exist_ok=True)
    image.save(file)


@pytest.fixture
def folder(tmp_path):
    for alphabet in range(ALPHABETS):
        for character in range(CHARACTERS):
            for drawing in range(DRAWINGS):
                draw(
                    tmp_path / f"omni/A{alphabet}/c{character:02}/{drawing}.png",
                    CHARACTERS * alphabet + character,
                )
    return tmp_path / "omni"


def sizes(**knobs):
    return {"ways": 2, "shots": 1, "queries": 3} | knobs


def test_folders_become_one_tensor_of_bright_strokes(folder):
    data = read_folders(folder)
    assert data.images.shape == (60, 1, 28, 28)
    assert data.images.dtype == torch.uint8
    assert data.names[:2] == ("A0/c00", "A0/c01")
    assert data.labels.bincount().tolist() == [4] * 15
    assert data.source == str(folder)
    # The bar covers 30 x (5 + 5 number) of 105 x 105 pixels, by whichever scale.
    ink = data.images.double().mean((1, 2, 3)) / 255
    share = 30 * (5 + 5 * data.labels) / 105**2
    torch.testing.assert_close(ink, share.double(), atol=0.004, rtol=0)
    # White paper is 0, strokes near 255, and up is up.
    assert (data.images[:, 0, 0, 0] > 245).all()
    assert (data.images[:, 0, :, -1] == 0).all()


def test_zip_archives_are_read_as_folders(folder, tmp_path):
    (folder / "A0/c00/._0.png").write_bytes(b"of the operating system")
    (folder / "A0/notes.txt").write_text("not an image")
    archive = shutil.make_archive(str(tmp_path / "omni"), "zip", tmp_path, "omni")
    unpacked, packed = read_folders(folder), read_folders(archive)
    assert packed.images.equal(unpacked.images)
    assert packed.labels.equal(unpacked.labels)
    assert packed.names == tuple(f"omni/{name}" for name in unpacked.names)


def test_splits_share_no_character_turned_or_not(folder):
    plain = omniglot(folder, **sizes(rotations=False))
    turned = omniglot(folder, **sizes())
    assert {s: len(plain.classes[s]) for s in SPLITS} == {
        "train": 9,
        "val": 3,
        "test": 3,
    }
    assert sorted(c for s in SPLITS for c in plain.classes[s]) == list(range(15))
    for split in SPLITS:
        assert {c % 15 for c in turned.classes[split]} == set(plain.classes[split])
        assert len(turned.classes[split]) == 4 * len(plain.classes[split])
    assert omniglot(folder, **sizes(seed=1)).classes != turned.classes
    assert omniglot(folder, **sizes(fractions=(0.4, 0.4))).classes["val"] != []


def test_turned_characters_are_classes_of_their_own(folder):
    plain = omniglot(folder, **sizes(rotations=False)).data
    turned = omniglot(folder, **sizes()).data
    assert len(turned.names) == len(set(turned.names)) == 60
    assert turned.names[16] == "A0/c01 at 90°"
    assert turned.labels.bincount().tolist() == [4] * 60
    for quarters in range(4):
        mine = turned.images[turned.labels == 15 * quarters + 7]
        upright = plain.images[plain.labels == 7]
        assert mine.equal(upright.rot90(quarters, (2, 3)))


def test_episodes_of_characters(folder):
    family = omniglot(folder, **sizes(ways=3, shots=(1, 2), queries=2))
    support, query = family.episodes(0, 8, 0, 8, seed=0, split="test")
    assert support.inputs.shape == (8, 6, 1, 28, 28)
    assert query.inputs.shape == (8, 6, 1, 28, 28)
    assert query.inputs.min() == 0
    assert query.inputs.max() == 1


def test_what_cannot_be_used_is_named(folder, tmp_path):
    def said(path=folder, **knobs):
        with pytest.raises(ValueError, match=r"give|lower") as error:
            omniglot(path, **sizes(**knobs))
        return str(error.value)

    assert said(tmp_path / "none") == (
        f"omniglot needs a folder or a zip archive of one, but {tmp_path / 'none'} "
        "does not exist: give the path of images laid out as "
        "alphabet/character/drawing.png"
    )
    (tmp_path / "file").write_text("no archive")
    assert f"but {tmp_path / 'file'} is neither: give the path" in said(
        tmp_path / "file"
    )
    (tmp_path / "empty").mkdir()
    assert said(tmp_path / "empty") == (
        f"{tmp_path / 'empty'} has no PNG files: give the folder that holds "
        "alphabet/character/drawing.png"
    )
    assert said(ways=4, rotations=False) == (
        f"4-way tasks need 4 classes in each split, but {folder} has 9 + 3 + 3 for "
        "train + val + test: lower ways or give more classes"
    )
    assert said(queries=4, rotations=False).startswith(
        f"each class needs shots + queries = 5 examples, but 15 of 15 in {folder} have "
        "fewer: A0/c00 (4), A0/c01 (4), A0/c02 (4), …; lower shots or queries"
    )


def test_unreadable_files_are_named_with_their_reasons(folder):
    whole = (folder / "A1/c02/3.png").read_bytes()
    (folder / "A0/c01/2.png").write_bytes(b"<html>not found</html>")
    (folder / "A1/c02/3.png").write_bytes(whole[: len(whole) // 2])
    (folder / "A2/c00/0.png").write_bytes(b"")
    with pytest.raises(ValueError, match="unreadable") as error:
        read_folders(folder)
    said = str(error.value)
    assert said.startswith(f"3 of 60 images in {folder} are unreadable: ")
    assert said.endswith(": restore or remove them")
    assert "A0/c01/2.png (not an image)" in said
    assert "A1/c02/3.png (" in said
    assert "A2/c00/0.png (not an image)" in said
    for drawing in range(DRAWINGS):
        for character in range(CHARACTERS):
            (folder / f"A0/c{character:02}/{drawing}.png").write_bytes(b"")
    with pytest.raises(
        ValueError, match=r"^22 of 60 .*A0/c02/1.png \(not an image\); …"
    ):
        read_folders(folder)


def test_images_of_different_sizes_are_named(folder):
    draw(folder / "A1/c03/2.png", 3, size=(105, 90))
    with pytest.raises(ValueError, match="different sizes") as error:
        read_folders(folder)
    assert str(error.value) == (
        f"the images in {folder} have different sizes: 105x105 (A0/c00/0.png); 105x90 "
        "(A1/c03/2.png): bring them to one"
    )


OMNIGLOT = os.environ.get("RAYMETA_OMNIGLOT")


@pytest.mark.skipif(
    OMNIGLOT is None, reason="RAYMETA_OMNIGLOT names no folder or archive of Omniglot"
)
def test_the_real_omniglot():
    assert OMNIGLOT is not None
    data = read_folders(Path(OMNIGLOT))
    # Twenty people drew each character.
    assert set(data.labels.bincount().tolist()) == {20}
    # Thin strokes: most of the paper is empty.
    assert 0.02 < data.images.double().mean() / 255 < 0.15
    family = omniglot(OMNIGLOT, ways=5, shots=5)
    support, _ = family.episodes(0, 25, 0, 25, seed=0, split="test")
    assert support.inputs.shape == (25, 25, 1, 28, 28)
