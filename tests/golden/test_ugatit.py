"""U-GAT-IT's networks against numbers produced by the reference code; every name and size comes from the files.

The folder is ``$TRISTYLE_SHARED/golden/ugatit`` (default ``../shared`` beside the repository). A file that is absent is
no case; only an absent folder skips.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from stages.networks.ugatit import ILN, AdaILN, CamDiscriminator, ResnetGenerator, clip_rho
from stages.pair.ugatit_checkpoints import DISCRIMINATORS, GENERATORS, network_of
from tests.golden.ugatit_iteration import Reference

ROOT = Path(__file__).resolve().parents[2]
FOLDER = Path(os.environ.get("TRISTYLE_SHARED", ROOT.parent / "shared"))
FOLDER = (FOLDER if FOLDER.is_absolute() else ROOT / FOLDER) / "golden" / "ugatit"
TOLERANCE = 2e-5

pytestmark = pytest.mark.skipif(not FOLDER.is_dir(), reason=f"no golden vectors at {FOLDER}")


def files(pattern: str) -> list[Path]:
    return sorted(FOLDER.glob(pattern))


def load(path: Path) -> tuple[dict[str, torch.Tensor], dict]:
    with np.load(path) as data:
        meta = json.loads(str(data["meta"])) if "meta" in data.files else {}
        return {key: torch.from_numpy(data[key]) for key in data.files if data[key].dtype.kind == "f"}, meta


def part(data: dict[str, torch.Tensor], prefix: str) -> dict[str, torch.Tensor]:
    return {key.removeprefix(prefix): value for key, value in data.items() if key.startswith(prefix)}


def said(what: str) -> Callable[[str], str]:
    return lambda text: f"{what}: {text}"


def close(actual: torch.Tensor, expected: torch.Tensor, what: str, atol: float = TOLERANCE) -> None:
    assert actual.shape == expected.shape, what
    torch.testing.assert_close(actual, expected, rtol=1e-5, atol=atol, msg=said(what))


@pytest.mark.parametrize("path", files("gen_*.npz"), ids=lambda p: p.stem)
def test_generator_matches_the_reference(path: Path) -> None:
    data, meta = load(path)
    net = ResnetGenerator(meta["ngf"], meta["n_blocks"], meta["img_size"], meta["light"])
    net.load_state_dict(part(data, "sd/"), strict=True)
    net.eval()
    x = data["x"].requires_grad_()
    out = net(x)
    assert out.mask is None
    for name, value in (("out", out.image), ("cam_logit", out.cam_logit), ("heatmap", out.heatmap)):
        close(value, data[name], name)
    loss = (out.image - data["target"]).abs().mean()
    loss = loss + F.binary_cross_entropy_with_logits(out.cam_logit, torch.ones_like(out.cam_logit))
    close(loss, data["loss"], "loss")
    loss.backward()
    close(x.grad, data["grad_x"], "grad_x")
    gradients = part(data, "grad/")
    assert gradients
    parameters = dict(net.named_parameters())
    for key, expected in gradients.items():
        atol = TOLERANCE * max(1.0, float(expected.abs().max()))
        close(parameters[key].grad, expected, f"gradient of {key}", atol)


@pytest.mark.parametrize("path", files("dis_*.npz"), ids=lambda p: p.stem)
def test_discriminator_matches_the_reference(path: Path) -> None:
    data, meta = load(path)
    net = CamDiscriminator(meta["ndf"], meta["n_layers"])
    net.load_state_dict(part(data, "sd_before/"), strict=True)
    for mode in ("train", "eval"):
        net.train(mode == "train")
        verdict = net(data["x"])
        close(verdict.logit, data[f"out_{mode}"], f"out_{mode}")
        close(verdict.cam_logit, data[f"cam_{mode}"], f"cam_{mode}")
        close(verdict.heatmap, data[f"heatmap_{mode}"], f"heatmap_{mode}")
        buffers = dict(net.named_buffers())
        after = part(data, "sd_after/")
        assert set(after) == set(buffers)
        for key, expected in after.items():
            close(buffers[key], expected, f"{key} after {mode}")


@pytest.mark.parametrize("path", files("norms*.npz"), ids=lambda p: p.stem)
def test_normalisations_match_the_reference(path: Path) -> None:
    data, _ = load(path)
    channels = data["x"].shape[1]
    ada, iln = AdaILN(channels), ILN(channels)
    close(ada.rho.data, data["adailn_rho_init"], "initial rho of AdaILN")
    close(iln.rho.data, data["iln_rho_init"], "initial rho of ILN")
    ada.load_state_dict({"rho": data["adailn_rho"]})
    iln.load_state_dict({key: data[f"iln_{key}"] for key in ("rho", "gamma", "beta")})
    close(ada(data["x"], data["gamma"], data["beta"]), data["adailn_out"], "AdaILN", atol=1e-5)
    close(iln(data["x"]), data["iln_out"], "ILN", atol=1e-5)
    ada.load_state_dict({"rho": data["rho_before_clip"]})
    clip_rho(torch.nn.Sequential(ada))
    close(ada.rho.data, data["rho_after_clip"], "clipped rho", atol=0.0)


@pytest.mark.parametrize("path", files("train_step*.npz"), ids=lambda p: p.stem)
@pytest.mark.parametrize("detach", [False, True], ids=["as published", "detached"])
def test_training_iterations_match_the_reference(path: Path, detach: bool) -> None:
    data, meta = load(path)
    names = (*GENERATORS, *DISCRIMINATORS)
    networks = {name: network_of(name, part(data, f"sd/{name}/"), meta["img_size"]).double() for name in names}
    task = Reference(networks, detach=detach).train()
    for i, (photo, style) in enumerate(zip(data["real_A"].double(), data["real_B"].double(), strict=True)):
        for key, source in ((f"fake_B/{i}", photo), (f"fake_A/{i}", style)):  # stored for some iterations only
            if key in data:
                fake = networks["genA2B" if "B" in key else "genB2A"](source).image
                torch.testing.assert_close(fake, data[key].double(), rtol=1e-5, atol=1e-6, msg=said(key))
        terms = task.iteration(photo, style)
        expected = part(data, "loss/")
        assert set(terms) == set(expected)
        for key, values in expected.items():
            torch.testing.assert_close(terms[key], values[i], rtol=1e-9, atol=0.0, msg=said(f"{key} of iteration {i}"))
    after = {f"{name}/{key}": value for name, net in networks.items() for key, value in net.state_dict().items()}
    norms, tensors = part(data, "post_l2/"), part(data, "post/")
    assert set(norms) == set(after) >= set(tensors)
    for key, expected_norm in norms.items():
        torch.testing.assert_close(after[key].norm(), expected_norm, rtol=1e-9, atol=0.0, msg=said(f"norm of {key}"))
    for key, expected_tensor in tensors.items():
        torch.testing.assert_close(after[key], expected_tensor, rtol=1e-9, atol=1e-12, msg=said(key))
