"""DCGAN's size: how wide each player is, the discriminator's normalisation, and how many latents the generator has."""

from ray import tune

SPACE = {
    "network.name": tune.choice(["dcgan"]),
    "network.z_dim": tune.choice([16, 32, 64, 128]),
    "network.generator.width": tune.choice([16, 32, 64, 128]),
    "network.discriminator.width": tune.choice([16, 32, 64, 128]),
    "network.discriminator.norm": tune.choice(["none", "layer"]),
}
