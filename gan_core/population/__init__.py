"""Many small GANs trained together on one device: `Population`; `why_not_batched` says why a member has to train by itself within it."""

from gan_core.population.pack import why_not_batched
from gan_core.population.seats import Population

__all__ = ["Population", "why_not_batched"]
