"""Scenes of any size for measuring time: a rippled wall of Gaussians with random codes.

Codes of a codebook are random, the hard case: in a real scene neighbours share their codewords.
Latents change smoothly.
"""

import functools
import itertools
import math
import zlib
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from langsplat.codec import Autoencoder, AutoencoderConfig, Codebook, fit_autoencoder
from langsplat.scene import Camera, Gaussians, LanguageField, Scene

LEVELS, CODEWORDS, KEPT, EMBEDDING = 3, 64, 4, 512


class AnyWords:
    """Gives every text a unit vector of its own; what words mean is not measured here."""

    name = "synthetic"
    dim = EMBEDDING
    image_size = 1

    def __init__(self) -> None:
        self.known: dict[str, Tensor] = {}

    def encode_images(self, images: np.ndarray | Tensor) -> Tensor:
        raise NotImplementedError

    def encode_texts(self, texts: Sequence[str]) -> Tensor:
        for text in texts:
            if text not in self.known:
                generator = torch.Generator().manual_seed(zlib.crc32(text.encode()))
                self.known[text] = F.normalize(torch.randn(EMBEDDING, generator=generator), dim=0)
        return torch.stack([self.known[text] for text in texts])


def scene(count: int, codec: str, *, device: str = "cpu", seed: int = 0) -> Scene:
    """`count` Gaussians on three rippled sheets, smaller if there are more; 60 cameras before them.

    Args:
        codec: "codebook" (64 codewords per level, 4 kept) or "autoencoder" (of the paper's size).
    """
    generator = torch.Generator().manual_seed(seed)
    x, y = 4.4 * torch.rand(2, count, generator=generator) - 2.2
    z = 0.2 * (3 * x).sin() * (3 * y).cos() + 0.3 * torch.randint(3, (count,), generator=generator)
    spacing = 4.4 * math.sqrt(3 / count)
    scales = spacing * (0.3 + 0.4 * torch.rand(count, 3, generator=generator))
    gaussians = Gaussians(
        torch.stack([x, y, z], dim=1),
        torch.randn(count, 4, generator=generator),
        scales,
        0.3 + 0.65 * torch.rand(count, generator=generator),
        torch.rand(count, 1, 3, generator=generator) - 0.5,
    )
    mass = torch.ones(LEVELS, count)
    if codec == Codebook.kind:
        shape = (LEVELS, count, KEPT)
        words = F.normalize(torch.randn(LEVELS, CODEWORDS, EMBEDDING, generator=generator), dim=2)
        # From different quarters of the codebook, so that no Gaussian has a codeword twice.
        rows = torch.randint(CODEWORDS // KEPT, shape, generator=generator)
        rows = rows + torch.arange(KEPT) * (CODEWORDS // KEPT)
        codes = F.normalize(torch.rand(shape, generator=generator), p=1, dim=2)
        field = LanguageField(rows, codes, mass, Codebook(words), AnyWords.name)
    else:
        phases = torch.arange(LEVELS)[:, None]
        waves = (2 * x + phases).sin(), (2 * y - phases).cos(), (x + y + phases).sin()
        latents = F.normalize(torch.stack(waves, dim=2), dim=2)
        field = LanguageField(None, latents, mass, autoencoder(), AnyWords.name)
    center = torch.tensor([0.0, 0, 0.3])
    views = tuple(_camera(0.004 * k) for k in range(60))
    up = torch.tensor([0.0, -1, 0])
    return Scene(gaussians, views, up, center, 3.0, field, f"{count:,}").to(device)


@functools.cache
def autoencoder() -> Autoencoder:
    """One of the paper's size, trained a little on random clusters."""
    generator = torch.Generator().manual_seed(0)
    centres = torch.randn(200, EMBEDDING, generator=generator).repeat(4, 1)
    rows = F.normalize(centres + 0.3 * torch.randn(centres.shape, generator=generator), dim=1)
    return fit_autoencoder(rows, AutoencoderConfig(rounds=8))[0]


def _camera(shift: float) -> Camera:
    """A camera of 640 x 480 pixels, three units in front of the wall."""
    view = torch.eye(4)
    view[0, 3], view[2, 3] = shift, 3.0
    return Camera(view, torch.tensor([[500.0, 0, 320], [0, 500, 240], [0, 0, 1]]), 640, 480)


_steps = itertools.count(1)


def moved(camera: Camera) -> Camera:
    """A view new to any engine, and to the rasterizer, which remembers the last one."""
    viewmat = camera.viewmat.clone()
    viewmat[1, 3] += 1e-5 * next(_steps)
    return replace(camera, viewmat=viewmat)
