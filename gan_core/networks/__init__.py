"""Network pairs, one file each: `generator(...)` and `discriminator(...)`, whose keyword arguments are the config schema."""
