"""A generator with a w space, as StyleGAN2 has one, but with numbers that a test can follow: stands in for it here."""

import torch
from torch import nn

from gan_core import keyed_noise


class Mapped(nn.Module):
    """W = A z + b[label]; images are tanh of a linear map of w, one pixel of which is noise that belongs to z."""

    def __init__(self, z_dim=4, w_dim=6, num_classes=0, side=4):
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.to_w = nn.Linear(z_dim, w_dim)
            self.embedding = nn.Embedding(num_classes, w_dim) if num_classes else None
            self.to_image = nn.Linear(w_dim, side * side)
        self.side = side

    def forward(self, z, labels=None):
        return self.synthesise(self.map(z, labels), keyed_noise.keys(z)).clamp(-1.0, 1.0)

    def map(self, z, labels=None):
        w = self.to_w(z)
        return w if self.embedding is None else w + 3.0 * self.embedding(labels)

    def synthesise(self, w, keys=None):
        w = w if w.ndim == 2 else w.mean(1)
        images = self.to_image(w).view(-1, 1, self.side, self.side)
        if keys is None:
            keys = torch.zeros(len(w), dtype=torch.int64, device=w.device)
        noise = torch.zeros_like(images)
        noise[:, 0, 0, 0] = keyed_noise.normals(keys, 0, 1)[:, 0]
        return images + noise
