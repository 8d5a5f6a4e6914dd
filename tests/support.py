"""Small configs and data that several tests use; plain functions, so that spawned processes can use them too."""

import io
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from gan_core import Trainer
from gan_core.config import GanConfig
from gan_core.overrides import merge, validate
from gan_core.provenance import Provenance


def tiny_tree(**overrides):
    """An MLP on the digits: 10 steps of 16 images, then a checkpoint. Overrides have double underscores for dots."""
    tree = {
        "data": {"name": "digits"},
        "network": {
            "name": "mlp",
            "z_dim": 8,
            "generator": {"hidden_width": 16, "hidden_layers": 1},
            "discriminator": {"hidden_width": 16, "hidden_layers": 1},
        },
        "batch_size": 16,
        "total_kimg": 0.16,
        "schedule": {
            "report_kimg": 0.032,
            "sample_kimg": 0.16,
            "evaluate_kimg": 0.16,
            "checkpoint_kimg": 0.16,
            "sample_count": 4,
        },
        "evaluation": {"real_count": 32, "fake_count": 32},
    }
    return merge(tree, {key.replace("__", "."): value for key, value in overrides.items()})


def tiny_config(**overrides):
    return validate(tiny_tree(**overrides), GanConfig)


def tiny_trainer(**overrides):
    return Trainer(tiny_config(**overrides), device="cpu")


def provenance(**changes):
    """Where a score comes from, made up."""
    given = {
        "extractor": "lenet",
        "weights_hash": "a" * 64,
        "resize": "none",
        "dtype": "float32",
        "real_count": 10_000,
        "fake_count": 10_000,
        "split": "test",
        "seed": 0,
        "content_hash": "b" * 64,
    }
    return Provenance(**{**given, **changes})


def png(size=(28, 28), mode="L", value=0):
    """An encoded picture of one colour."""
    buffer = io.BytesIO()
    Image.new(mode, size, value).save(buffer, "PNG")
    return buffer.getvalue()


def write_parquet(path: Path, encoded, labels=None, *, nested=False, image="image", label="label"):
    """A Parquet file of images; `nested` writes struct<bytes, path>, as Hugging Face does."""
    cells = [{"bytes": item, "path": None} for item in encoded] if nested else encoded
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())]) if nested else pa.binary()
    columns = {image: pa.array(cells, kind)}
    if labels is not None:
        columns[label] = pa.array(labels, pa.int64())
    pq.write_table(pa.table(columns), path)
    return path


def noise_images(count, size=28, channels=1, seed=0):
    """Encoded pictures of noise, and their pixels [count, channels, size, size]."""
    pixels = np.random.default_rng(seed).integers(0, 256, (count, channels, size, size), dtype=np.uint8)
    encoded = []
    for image in pixels:
        buffer = io.BytesIO()
        Image.fromarray(image[0] if channels == 1 else image.transpose(1, 2, 0)).save(buffer, "PNG")
        encoded.append(buffer.getvalue())
    return encoded, pixels


def prepared_digits(folder: Path) -> str:
    """The digits as `raygan prepare` leaves them, in three shards below `folder`; made once."""
    from gan_core.data import digits
    from pipelines import prepare

    if not (folder / "prepared" / "dataset.json").is_file():
        dataset = digits.load()
        folder.mkdir(parents=True, exist_ok=True)
        encoded = []
        for image in dataset.images.numpy():
            buffer = io.BytesIO()
            Image.fromarray(image[0]).save(buffer, "PNG")
            encoded.append(buffer.getvalue())
        path = write_parquet(folder / "digits.parquet", encoded, dataset.labels.tolist())
        words = [str(path), str(folder / "prepared"), "--resolution", "8", "--workers", "1", "--shard-megabytes", "0.04"]
        assert prepare.main(words) == 0
    return str(folder / "prepared")
