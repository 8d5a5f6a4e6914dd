"""Differentiable augmentations, one file each: `augmentation(...)`, whose keyword arguments are the config schema of `augment`."""
