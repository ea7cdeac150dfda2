"""U-GAT-IT's training iteration as published: the oracle of the golden tests and of the cost bench.

Kim et al. (arXiv 1907.10830, eq. 3-7) with the order and the details of the authors' PyTorch code: the yardstick for
the task that is trained here (`stages/pair/ugatit.py`), in numbers and in cost, and no more than that. A is the photo,
B the style; G, L are the global and the local discriminator of a domain:

  * the discriminators step first. They look at real pictures, then at fakes of their own, in two passes (each pass
    moves the spectral norm's estimates by one power iteration). The gradient runs on into the generators, where it is
    thrown away: `detach=True` spares that and changes no number;
  * the generators step on fresh fakes; then every rho is clipped to [0, 1];
  * Adam with 1e-4, betas (0.5, 0.999) and a weight decay of 1e-4 for both.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import chain

import torch
from torch import Tensor, nn

from stages.networks.ugatit import clip_rho
from stages.pair.ugatit_checkpoints import DISCRIMINATORS, GENERATORS
from stages.training.losses import cam_classification, lsgan

GENERATOR_WEIGHTS = {"ad": 1.0, "cam": 1.0, "cyc": 10.0, "idt": 10.0, "camcls": 1000.0}


class Reference(nn.Module):
    """The six networks under their published names and their two optimisers.

    Args:
        networks: `GENERATORS` and `DISCRIMINATORS` by name, e.g. of `published` or `read_reference`.
        detach: cut the discriminators' fakes off from the generators; the same numbers for less work.
    """

    def __init__(self, networks: Mapping[str, nn.Module], detach: bool = False) -> None:
        super().__init__()
        self.networks = nn.ModuleDict(dict(networks))
        self.detach = detach
        self.optimizers = [
            torch.optim.Adam(
                chain.from_iterable(self.networks[name].parameters() for name in names),
                lr=1e-4,
                betas=(0.5, 0.999),
                weight_decay=1e-4,
            )
            for names in (DISCRIMINATORS, GENERATORS)
        ]

    def iteration(self, photo: Tensor, style: Tensor) -> dict[str, Tensor]:
        """One step of the discriminators, one of the generators.

        Args:
            photo, style: [N, 3, H, W] in [-1, 1], of the type of the networks.

        Returns:
            The unweighted terms, scalars: `D_ad_*` and `D_cam_*` of each discriminator (GA, LA, GB, LB) and `D_total`;
            `G_ad_*`, `G_cam_*`, `G_cyc_*`, `G_idt_*`, `G_camcls_*` and the weighted `G_total`.
        """
        discriminators, generators = self.optimizers
        terms = self._discriminator_terms(photo, style)
        terms["D_total"] = torch.stack(list(terms.values())).sum()
        _step(discriminators, terms["D_total"])
        more = self._generator_terms(photo, style)
        more["G_total"] = torch.stack([GENERATOR_WEIGHTS[key.split("_")[1]] * more[key] for key in more]).sum()
        _step(generators, more["G_total"])
        for name in GENERATORS:
            clip_rho(self.networks[name])
        return {key: value.detach() for key, value in {**terms, **more}.items()}

    def _discriminator_terms(self, photo: Tensor, style: Tensor) -> dict[str, Tensor]:
        fake_style, fake_photo = self.networks["genA2B"](photo).image, self.networks["genB2A"](style).image
        if self.detach:
            fake_style, fake_photo = fake_style.detach(), fake_photo.detach()
        terms = {}
        for name in DISCRIMINATORS:
            discriminator, (real, fake) = (
                self.networks[name],
                (photo, fake_photo) if name[-1] == "A" else (style, fake_style),
            )
            of_real, of_fake = discriminator(real), discriminator(fake)
            terms[f"D_ad_{name[3:]}"] = lsgan(of_real.logit, 1.0) + lsgan(of_fake.logit, 0.0)
            terms[f"D_cam_{name[3:]}"] = lsgan(of_real.cam_logit, 1.0) + lsgan(of_fake.cam_logit, 0.0)
        return terms

    def _generator_terms(self, photo: Tensor, style: Tensor) -> dict[str, Tensor]:
        to_style, to_photo = self.networks["genA2B"], self.networks["genB2A"]
        fake_style, fake_photo = to_style(photo), to_photo(style)
        again_photo, again_style = to_photo(fake_style.image).image, to_style(fake_photo.image).image
        same_photo, same_style = to_photo(photo), to_style(style)
        terms = {}
        for name in DISCRIMINATORS:
            verdict = self.networks[name]((fake_photo if name[-1] == "A" else fake_style).image)
            terms[f"G_ad_{name[3:]}"] = lsgan(verdict.logit, 1.0)
            terms[f"G_cam_{name[3:]}"] = lsgan(verdict.cam_logit, 1.0)
        terms["G_cyc_A"], terms["G_cyc_B"] = (again_photo - photo).abs().mean(), (again_style - style).abs().mean()
        terms["G_idt_A"] = (same_photo.image - photo).abs().mean()
        terms["G_idt_B"] = (same_style.image - style).abs().mean()
        for domain, source, target in (("A", fake_photo, same_photo), ("B", fake_style, same_style)):
            terms[f"G_camcls_{domain}"] = cam_classification(source.cam_logit, True) + cam_classification(
                target.cam_logit, False
            )
        return terms


def _step(optimizer: torch.optim.Optimizer, loss: Tensor) -> None:
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    optimizer.step()
