"""Data sets, one file each: `load(...)`, whose keyword arguments are the config schema of `data`."""
