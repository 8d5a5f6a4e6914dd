import numpy as np
import pytest

from gan_core.data import folder
from tests.support import noise_images, png


def write(root, names, encoded):
    for name, content in zip(names, encoded, strict=True):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content)


def test_images_come_in_the_order_of_their_paths_without_labels(tmp_path):
    encoded, pixels = noise_images(4, size=8)
    write(tmp_path / "set", ["c.png", "a.PNG", "sub/d.png", "b.png"], encoded)
    (tmp_path / "set" / "notes.txt").write_text("not an image")
    dataset = folder.load(path=str(tmp_path / "set"))
    np.testing.assert_array_equal(dataset.images.numpy(), pixels[[1, 3, 0, 2]])
    assert dataset.labels is None
    assert (dataset.name, dataset.num_classes) == ("set", 0)


def test_sub_folders_are_classes_in_sorted_order(tmp_path):
    encoded, pixels = noise_images(4, size=8, channels=3)
    write(tmp_path, ["dog/1.png", "cat/2.png", "dog/deep/3.png", "ant/4.png"], encoded)
    dataset = folder.load(path=str(tmp_path))
    assert dataset.labels.tolist() == [0, 1, 2, 2]
    assert dataset.num_classes == 3
    np.testing.assert_array_equal(dataset.images.numpy(), pixels[[3, 1, 0, 2]])


def test_one_sub_folder_is_no_class(tmp_path):
    write(tmp_path, ["images/1.png", "images/2.png"], [png(), png()])
    assert folder.load(path=str(tmp_path)).labels is None


def test_a_renamed_class_is_read_again(tmp_path):
    write(tmp_path, ["a/1.png", "b/2.png"], [png(value=1), png(value=2)])
    assert folder.load(path=str(tmp_path)).labels.tolist() == [0, 1]
    (tmp_path / "a").rename(tmp_path / "c")
    dataset = folder.load(path=str(tmp_path))
    assert dataset.labels.tolist() == [0, 1]
    assert dataset.images[:, 0, 0, 0].tolist() == [2, 1]


def test_what_cannot_be_read_is_said(tmp_path):
    with pytest.raises(ValueError, match="no folder at"):
        folder.load(path=str(tmp_path / "nowhere"))
    with pytest.raises(ValueError, match="holds no image files"):
        folder.load(path=str(tmp_path))
    write(tmp_path, ["1.png", "2.png"], [png(), b"broken"])
    with pytest.raises(ValueError, match=r"(?s)1 of 2 rows.*2.png.*max_corrupt_fraction=0.0"):
        folder.load(path=str(tmp_path))
    with pytest.warns(UserWarning, match="1 of 2 rows"):
        assert len(folder.load(path=str(tmp_path), max_corrupt_fraction=0.5)) == 1
