"""Tiny blaze networks with random weights, and the artifact of a student made of them."""

from __future__ import annotations

from pathlib import Path

import torch

from stages.core.artifact import Artifact, seal
from stages.core.weights import save_network
from stages.networks.blaze import BlazeFaces, BlazeGenerator, BlazeStylizer
from stages.networks.face_reader import Reader
from stages.networks.latents import generator_id
from stages.networks.stylegan2 import Discriminator, Generator

SIZE, W_DIM = 64, 16


def teacher(size: int = SIZE) -> tuple[Generator, Discriminator]:
    """A StyleGAN2 and its discriminator of few channels."""
    torch.manual_seed(3)
    channels = {"channel_base": 256, "channel_max": 16}
    generator = Generator(z_dim=8, w_dim=W_DIM, img_resolution=size, **channels)
    return generator.eval().requires_grad_(False), Discriminator(size, **channels)


def reader() -> Reader:
    """A reader of few channels."""
    torch.manual_seed(5)
    return Reader((4, 4, 8, 8, 8), 4).eval().requires_grad_(False)


def networks(size: int = SIZE) -> tuple[BlazeStylizer, BlazeFaces]:
    """Encoder and generator, and mapping and the same generator."""
    source, _ = teacher(size)
    torch.manual_seed(4)
    generator = BlazeGenerator(W_DIM, size, 256, auxiliary=False)
    shape = {"w_dim": W_DIM, "resolution": size, "channel_base": 256}
    stylizer = BlazeStylizer(**shape, encoder_width=0.1, encoder_of=generator_id(generator))  # type: ignore[arg-type]
    faces = BlazeFaces(z_dim=8, **shape)  # type: ignore[arg-type]
    for both in (stylizer, faces):
        both.generator.load_state_dict(generator.state_dict())
    faces.mapping.load_state_dict(source.mapping.state_dict())
    return stylizer.eval(), faces.eval()


def student(folder: Path, size: int = SIZE, target: str = "toy") -> Artifact:
    """The artifact of a distilled student."""
    stylizer, faces = networks(size)
    for name, network in (("student", stylizer), ("faces", faces), ("discriminator", teacher(size)[1])):
        save_network(folder / f"{name}.safetensors", network)
    return seal(folder, "student", config={"target": target}, inputs={}, metrics={"size": size})
