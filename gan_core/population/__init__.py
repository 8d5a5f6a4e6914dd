"""Many small GANs trained together on one device: `Population`."""

from gan_core.population.seats import Population

__all__ = ["Population"]
