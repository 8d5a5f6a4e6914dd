"""The trainings that the benchmarks of steps and memory look at: a config for each network, on made-up images in a Parquet file.

Sizes are such that a round takes a fraction of a second on two cores. The three with a target (CASES' first) are also those of the
peers; `-64`, `-256` and the paper's widths are for a GPU.
"""

import io
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from gan_core.config import GanConfig
from gan_core.overrides import merge, parse, validate

IMAGES = 1024

# name: (channels, resolution, config)
CASES = {
    "mlp": (1, 28, {"network": {"name": "mlp", "z_dim": 64}}),
    "dcgan-32": (3, 32, {"network": {"name": "dcgan", "z_dim": 128}}),
    "sngan-32": (
        3,
        32,
        {
            "network": {"name": "sngan", "z_dim": 128, "generator": {"width": 16}, "discriminator": {"width": 16}},
            "variant": "sngan_hinge",
        },
    ),
    "r3gan-32": (
        3,
        32,
        {
            "network": {"name": "r3gan", "z_dim": 64, "generator": {"width": 8, "blocks": 1}, "discriminator": {"width": 8, "blocks": 1}},
            "variant": "r3gan",
            "batch_size": 16,
        },
    ),
    "stylegan2-32": (
        3,
        32,
        {
            "network": {
                "name": "stylegan2",
                "z_dim": 64,
                "generator": {"capacity": 1024, "max_width": 64, "w_dim": 64, "mapping_layers": 2},
                "discriminator": {"capacity": 1024, "max_width": 64},
            },
            "variant": "r1",
            "regularizers": {"r1_interval": 16},
            "batch_size": 16,
        },
    ),
    "dcgan-64": (3, 64, {"network": {"name": "dcgan", "z_dim": 128}}),
    "sngan-32-paper": (3, 32, {"network": {"name": "sngan", "z_dim": 128}, "variant": "sngan_hinge"}),
    "stylegan2-256": (
        3,
        256,
        {
            "network": {"name": "stylegan2", "z_dim": 512},
            "variant": "r1",
            "regularizers": {"r1_interval": 16},
            "batch_size": 16,
        },
    ),
}
ON_CPU = ("mlp", "dcgan-32", "sngan-32", "r3gan-32", "stylegan2-32")


def tree(case: str, folder: str | Path, words: list[str] | tuple[str, ...] = ()) -> dict:
    """The config's tree; `folder` is where the images are made, unless they lie there. `words` are key=value."""
    channels, resolution, own = CASES[case]
    base = {
        "data": {"name": "parquet", "path": make_images(Path(folder), channels, resolution), "cache_dir": str(Path(folder, "cache"))},
        "batch_size": 64,
        "total_kimg": 1e9,
    }
    return merge(base | own, dict(parse(word) for word in words))


def config(case: str, folder: str | Path, words: list[str] | tuple[str, ...] = ()) -> GanConfig:
    """The config itself."""
    return validate(tree(case, folder, words), GanConfig)


def make_images(folder: Path, channels: int, resolution: int, count: int = IMAGES) -> str:
    """Images of noise as BMP in a Parquet file; its path. What they show has no bearing on speed."""
    path = folder / f"{channels}x{resolution}.parquet"
    if not path.is_file():
        noise = np.random.default_rng(0).integers(0, 256, (64, resolution, resolution, channels), dtype=np.uint8)
        encoded = []
        for number in range(count):
            buffer = io.BytesIO()
            Image.fromarray(np.roll(noise[number % 64], number // 64, 1).squeeze()).save(buffer, "BMP")
            encoded.append(buffer.getvalue())
        pq.write_table(pa.table({"image": pa.array(encoded, pa.binary())}), path)
    return str(path)
