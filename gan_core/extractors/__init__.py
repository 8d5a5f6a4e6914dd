"""Feature extractors, one file each: `build(dataset, *, device, cache_dir, ...)`, whose other keyword arguments are their config schema."""

from gan_core.extractors._extractor import Extractor, Features

__all__ = ["Extractor", "Features"]
