import numpy as np
import pytest
import torch

from gan_core import paging
from gan_core.datatypes import ImageDataset
from gan_core.paging import Pages


def resident_bytes(file):
    """Of this process's maps of the file (proc(5), smaps)."""
    found, mine = 0, False
    with open("/proc/self/smaps") as lines:
        for line in lines:
            if "-" in line.split()[0]:
                mine = line.rstrip().endswith(str(file))
            elif mine and line.startswith("Rss:"):
                found += int(line.split()[1]) * 1024
    return found


IMAGE_BYTES, COUNT, BATCH = 3 * 64 * 64, 2048, 2


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "images.bin"
    block = np.random.default_rng(0).integers(0, 256, (COUNT // 64, IMAGE_BYTES), dtype=np.uint8)
    with path.open("wb") as stream:
        for shift in range(64):
            (block + np.uint8(shift)).tofile(stream)
    return path


def read_all(file):
    """Every image once, in a random order, by batches; returns the most that was resident after any of them."""
    pages = Pages(file)
    dataset = ImageDataset("", torch.from_numpy(pages.array().reshape(COUNT, 3, 64, 64)), None, "", pages=pages)
    most = 0
    order = torch.randperm(COUNT, generator=torch.Generator().manual_seed(0))
    with file.open("rb") as stream:
        for number, chosen in enumerate(order.split(BATCH)):
            batch = dataset.batch(chosen, torch.device("cpu"), torch.float32, labelled=False).inputs
            if number % 64 == 63:
                most = max(most, resident_bytes(file))
                stream.seek(int(chosen[1]) * IMAGE_BYTES)
                expected = torch.frombuffer(bytearray(stream.read(IMAGE_BYTES)), dtype=torch.uint8).view(3, 64, 64)
                assert torch.equal(batch[1], expected * (1 / 127.5) - 1)
    return most


@pytest.mark.skipif(not paging.STATISTICS.exists(), reason="needs Linux")
def test_pages_are_let_go_and_what_is_read_stays_the_same(file, monkeypatch):
    """A map of 24 MiB. Linux may map 2 MiB for each of a batch's 2 images."""
    assert read_all(file) > 0.9 * COUNT * IMAGE_BYTES
    monkeypatch.setattr(paging, "SMALL_BYTES", 2**23)
    monkeypatch.setattr(paging, "RESIDENT_BYTES", 2**22)
    assert 0 < read_all(file) < 2**22 + BATCH * 2**21 + 2**20
