"""The editor's training: directions and content branch, with generator, encoder, classifier and reader frozen.

Source: arXiv 2204.12530 (facts of its losses and weights: one attribute a photo and a sign against what the photo
shows; classification of both branches' edits; identity, perceptual and squared error to the photo; alignment of what
both edits change, with the style branch's side held fixed; sparsity of the directions; total variation). What differs:
edits have a truth. Where the data know it (`data.edits=true`), it is the same person rendered again with one attribute
changed; to it the flow alone is held, too, and what an edit moves is no part of the change that is aligned. Elsewhere
the generator's own samples are shown beside the photos: their latents are known, and with them their edits. Patches of
other pictures are pasted into picture and true edit alike, which stand for what a generator cannot draw. An edit is to
show on heads alone, those before it and those after it; the wanted attributes are the classifier's reading of the photo
plus the strength; sparsity is a shrinkage after each step (the proximal map of the L1 norm), which makes zeros; and the
directions begin where a linear model of the classifier's readings puts them.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from math import cos, pi
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stages.core.images import LazyImages, grid
from stages.core.settings import number
from stages.core.tensors import to_tensor, to_uint8
from stages.networks.encoder import Encoder
from stages.networks.expanded import STRONGEST, AttributeClassifier, EditOutput, ExpandedEditor
from stages.networks.face_reader import Reader
from stages.networks.latents import w_statistics
from stages.networks.stylegan2 import Generator
from stages.style.expanded.classifier import attribute_error
from stages.style.expanded.labels import Edits
from stages.style.inversion.optimise import decode
from stages.training.ema import early_decay, ema_update
from stages.training.fit import Phase, Task, Update, epoch_order, mirrored
from stages.training.losses import mask_supervision, perceptual_distance, total_variation

EMA = 0.995  # decay an update of the editor for use
WARMUP = 0.02  # share of the training over which the learning rate rises
WEAKEST, STRONG = 0.4, 1.6  # range of the strengths in training
IDLE = 0.15  # share of the photos without an edit
AGAINST = 0.75  # share of the edits that go against what the photo shows
FOREIGN = 0.5  # share of the pictures with a true edit into which a patch is pasted
TYPICAL, LEAST = 0.1, 0.005  # L1 in [-1, 1] of a true edit against its photo
CERTAIN = 0.03  # nearest that a wanted probability comes to 0 and 1
SAMPLES = 1000  # of the generator, behind the first directions
RIDGE = 0.1  # of the linear model, in mean variances of w
FARTHEST = 3.0  # length of a first direction at most, in deviations of w along it
OF_GENERATOR = (  # arguments that an editor takes over
    "z_dim", "w_dim", "img_resolution", "num_layers", "lr_multiplier", "channel_base", "channel_max", "conv_clamp",
)  # fmt: skip
OF_ENCODER = ("size", "widths", "hidden", "generator")  # likewise
ROOM = 0.03  # around a head, as a share of the picture's side, in which an edit may show
PREVIEWED = 6  # photos on the preview


@dataclass(kw_only=True)
class Expand:
    """What the editor is trained for, and what its content branch is.

    Args:
        direction_lr: learning rate of the directions, in deviations of a number of w.
        step: what a strength of 1 moves: a number, in standard deviations of the data. A kind goes all the way.
        attribute: weight of the classifier's error on edits.
        kept: weight of the other attributes in it, against the edited one.
        identity, perceptual, pixel: weights of 1 - cosine, of the distance of the reader's maps, of squared error: how
            near the edit stays to the photo, or to the true edit where there is one.
        alignment: weight of the L1 of what the full edit changes against what the style branch's changes in the head,
            both of a face that the flow has moved.
        shown: weight of the cross-entropy of where an edit shows against the heads; part of the alignment.
        truth: weight of the distance to the true edit, on photos in shares of how much the true edit changes: a smile
            counts as much as a turn of the head. 0: no samples are shown, and true edits count for nothing.
        motion: weight of the L1, from 8 px on, of the moved photo alone against the true edit: what turns a head is
            the flow, which corrections would else outrun.
        sparsity: shrinkage of the directions in a step, as a share of their learning rate.
        variation: weight of the total variation.
        content: False: no content branch.
        gated: False: its gates stay open.
        warp: False: it moves nothing of the photo.
        width, widest: channels of the content branch.
        mirror: show mirrored photos too.
    """

    direction_lr: float = 2e-3
    step: float = 1.5
    attribute: float = 1.0
    kept: float = 1.0
    identity: float = 0.3
    perceptual: float = 0.3
    pixel: float = 0.1
    alignment: float = 10.0
    shown: float = 0.2
    truth: float = 5.0
    motion: float = 10.0
    sparsity: float = 0.2
    variation: float = 1e-3
    content: bool = True
    gated: bool = True
    warp: bool = True
    width: int = 16
    widest: int = 64
    mirror: bool = True

    def __post_init__(self) -> None:
        number("direction_lr", self.direction_lr, 0, 1, open_low=True)
        number("step", self.step, 0.1, 4)
        terms = ("attribute", "kept", "identity", "perceptual", "pixel", "alignment", "shown", "truth", "motion")
        for key in (*terms, "variation"):
            number(key, getattr(self, key), 0, 1e4)
        number("sparsity", self.sparsity, 0, 1)
        number("width", self.width, 1, 256, integer=True)
        number("widest", self.widest, self.width, 1024, integer=True)


def new_editor(
    generator: Generator, encoder: Encoder, classifier: AttributeClassifier, settings: Expand
) -> ExpandedEditor:
    """An editor around a generator and its encoder, with first directions (see `first_directions`)."""
    _, spread = w_statistics(generator)
    given: dict[str, Any] = {name: generator.arguments[name] for name in OF_GENERATOR}
    given |= {name: encoder.arguments[name] for name in OF_ENCODER}
    given |= {name: getattr(settings, name) for name in ("width", "widest", "gated", "warp", "content")}
    editor = ExpandedEditor(classifier.names, **given, unit=spread / generator.w_dim**0.5)
    editor.generator.load_state_dict(generator.state_dict())
    editor.encoder.load_state_dict(encoder.state_dict())
    with torch.no_grad():
        found = first_directions(generator, classifier, settings.step)
        editor.directions.copy_((found / editor.unit)[:, None].expand_as(editor.directions))
    return editor


@torch.no_grad()
def first_directions(generator: Generator, classifier: AttributeClassifier, step: float) -> Tensor:
    """The shortest moves of w that change one reading each by a step and, to first order, no other.

    A ridge regression of the classifier's readings of samples on w gives slopes W [w_dim, K]; with D = W (W^T W)^-1,
    W^T D is the identity.

    Args:
        generator: draws the samples.
        classifier: reads them.
        step: what a number should move by, in the data's deviations; a kind's logit moves by as many of its own.

    Returns:
        [K, w_dim].
    """
    z = torch.randn(SAMPLES, generator.z_dim, generator=torch.Generator().manual_seed(0))
    ws = generator.mapping(z, update_w_avg=False)
    seen = torch.cat([classifier(decode(generator, part)) for part in ws.split(50)]).double()
    w = ws[:, 0].double()

    # Slopes, kinds in deviations of their own logits.
    centred = w - w.mean(dim=0)
    covariance = centred.t() @ centred / len(w)
    scale = torch.where(classifier.is_binary, seen.std(dim=0), 1.0).clamp(min=1e-6)
    seen = (seen - seen.mean(dim=0)) / scale
    ridge = RIDGE * covariance.trace() / len(w) * torch.eye(len(covariance)).double()
    slopes = torch.linalg.solve(covariance + ridge, centred.t() @ seen / len(w))  # [w_dim, K]

    # Moves that change one reading each, none of them absurdly long.
    moves = step * (slopes @ torch.linalg.pinv(slopes.t() @ slopes)).t()
    along = (centred @ F.normalize(moves, dim=1).t()).std(dim=0)
    longest = FARTHEST * along / moves.norm(dim=1).clamp(min=1e-12)
    out: Tensor = (moves * longest.clamp(max=1)[:, None]).float()
    return out


class EditBatches:
    """Batches of `images` and their true edits `edited` [rows, 3, R, R] in [-1, 1], and `strengths` [rows, K].

    Args:
        photos: uint8 [N, R, R, 3], in memory or on disk.
        edited: their true edits, alike.
        edits: by what.
        seed: of the order and of what is mirrored.
        mirror: mirror half of them, at random; strengths of what has a side change their sign.
    """

    def __init__(
        self, photos: np.ndarray | LazyImages, edited: np.ndarray | LazyImages, edits: Edits, seed: int, mirror: bool
    ) -> None:
        self.photos, self.edited, self.edits = photos, edited, edits
        self.seed, self.mirror = seed, mirror

    def __call__(self, start: int, count: int, rows: slice = slice(None)) -> dict[str, Tensor]:
        """A function of (seed, start, count, rows) alone."""
        chosen = epoch_order(len(self.photos), self.seed, start, count)[rows]
        photos, edited, strengths = self.photos[chosen], self.edited[chosen], self.edits.strengths[chosen]
        if self.mirror:
            flip = mirrored(self.seed, start, count, rows)
            photos[flip], edited[flip] = photos[flip, :, ::-1], edited[flip, :, ::-1]
            strengths = np.where(flip[:, None], strengths * self.edits.signs, strengths)
        return {"images": to_tensor(photos), "edited": to_tensor(edited), "strengths": torch.from_numpy(strengths)}


class Editing(Task):
    """Training of an editor; `ema` holds the weights for use.

    Args:
        editor: see `new_editor`.
        classifier: of its attributes.
        reader: the face reader.
        settings: weights.
        lr: learning rate of the content branch.
        examples: photos [N, 3, R, R] in [-1, 1] for the preview.
    """

    def __init__(
        self,
        editor: ExpandedEditor,
        classifier: AttributeClassifier,
        reader: Reader,
        settings: Expand,
        lr: float,
        examples: Tensor,
    ) -> None:
        super().__init__()
        self.settings, self.examples = settings, examples[:PREVIEWED]
        self.editor = editor
        self.classifier = copy.deepcopy(classifier).requires_grad_(False)
        self.reader = copy.deepcopy(reader).requires_grad_(False)
        self.ema = copy.deepcopy(editor)

        # Two rates: the directions are in deviations of w, the content branch's weights are small.
        content: list[nn.Parameter] = list(editor.content.parameters())
        groups = [
            {"params": [editor.directions], "lr": settings.direction_lr},
            {"params": content, "lr": lr},
        ]
        optimizer = torch.optim.Adam(groups, betas=(0.9, 0.99))
        self.phases = [Phase("editor", [editor.directions, *content], optimizer)]

    def train(self, mode: bool = True) -> Editing:
        """Set the mode of what is trained; the fixed networks stay in eval mode."""
        super().train(mode)
        for fixed in (self.editor.generator, self.editor.encoder, self.classifier, self.reader, self.ema):
            fixed.eval()
        return self

    # Losses

    def losses(self, phase: str, batch: dict[str, Tensor], update: Update) -> dict[str, Tensor]:
        """Terms on photos batch["images"], with their true edits batch["edited"] by batch["strengths"] if it has them.

        Else half as many samples of the generator are shown beside the photos, and their edits are the true ones.
        """
        if self.settings.truth and "edited" in batch:
            return self._with_true_photos(batch, update)
        photos = batch["images"]
        known = self._known(len(photos) // 2, update) if self.settings.truth else None
        images = photos if known is None else torch.cat([photos, decode(self.editor.generator, known).detach()])
        strengths = self._strengths(images, update)
        truth = None
        if known is not None:
            images, truth = self._with_truth(images, known, strengths, update)

        out = self.editor.edit(images, strengths)
        terms = self._attributes(images, out, strengths)
        terms |= self._nearness(photos, photos, out)
        if truth is not None:
            n = len(photos)
            terms["truth"] = self.settings.truth * self._distance(out.edited[n:], truth).mean()
            terms |= self._motion(out.warped[n:], truth)
        return terms

    def _with_true_photos(self, batch: dict[str, Tensor], update: Update) -> dict[str, Tensor]:
        """Terms on photos whose edits are known; some get no edit and stay as they are."""
        photos, strengths = batch["images"], batch["strengths"]
        drawn = update.draws.own(lambda rows: torch.rand(rows, device=photos.device), len(photos))
        still = (drawn < IDLE) | (strengths == 0).all(dim=1)
        size = (batch["edited"] - photos).abs().mean(dim=(1, 2, 3))
        share = TYPICAL / (torch.where(still, TYPICAL / 2, size) + LEAST)
        strengths = strengths * ~still[:, None]
        truth = torch.where(still[:, None, None, None], photos, batch["edited"])
        photos, truth = self._pasted(photos, truth, photos.flip(2, 3), update)

        out = self.editor.edit(photos, strengths)
        terms = self._attributes(photos, out, strengths)
        terms |= self._nearness(photos, truth, out)
        terms |= self._motion(out.warped, truth)
        return terms | {"truth": self.settings.truth * (share * self._distance(out.edited, truth)).mean()}

    def _attributes(self, images: Tensor, out: EditOutput, strengths: Tensor) -> dict[str, Tensor]:
        """What the classifier sees in both edits, against what it sees before them and the strengths."""
        s, binary = self.settings, self.classifier.is_binary
        with torch.no_grad():
            before = {"styled": self.classifier(out.inverted), "edited": self.classifier(images)}
        terms = {}
        for name, seen in before.items():
            wanted = shifted(self.classifier.values(seen), strengths, binary, s.step)
            error = attribute_error(self.classifier(getattr(out, name)), wanted, binary)
            touched = (strengths != 0).float()
            others = (error * (1 - touched)).sum(dim=1) / (1 - touched).sum(dim=1).clamp(min=1)
            terms[f"attribute_{name}"] = s.attribute * ((error * touched).sum(dim=1) + s.kept * others).mean()
        return terms

    def _nearness(self, photos: Tensor, wanted: Tensor, out: EditOutput) -> dict[str, Tensor]:
        """How near the photos' edits come to what is wanted, and how far they follow what the style branch changes."""
        s, n, terms = self.settings, len(photos), {}
        edited = out.edited[:n]
        if s.alignment:
            heads = self._heads(photos, out.styled[:n].detach())
            aligned = (out.warped[:n] + heads * out.change[:n]).detach()
            terms["alignment"] = s.alignment * (edited - aligned).abs().mean()
            if out.shown is not None and s.gated:
                terms["shown"] = s.shown * mask_supervision(out.shown[:n], heads)
        if s.pixel:
            terms["pixel"] = s.pixel * (edited - wanted).square().mean()
        if s.variation:
            terms["variation"] = s.variation * total_variation(edited)

        if s.perceptual:
            with torch.no_grad():
                maps = self.reader.encode(wanted)
            terms["perceptual"] = s.perceptual * perceptual_distance(self.reader.encode(edited), maps).mean()
        if s.identity:
            same = self.reader.identity(edited) * self.reader.identity(wanted).detach()
            terms["identity"] = s.identity * (1 - same.sum(dim=1)).mean()
        return terms

    def _motion(self, moved: Tensor, truth: Tensor) -> dict[str, Tensor]:
        """How near the flow alone brings pictures to their true edits; nothing where there is no flow."""
        weight = self.settings.motion
        return {"motion": weight * _multiscale_l1(moved - truth)} if weight and moved.requires_grad else {}

    @torch.no_grad()
    def _heads(self, before: Tensor, after: Tensor) -> Tensor:
        """Where the head is before or after an edit, with some room around: [N, 1, R, R] in [0, 1]."""
        heads = torch.maximum(self.reader(before).mask, self.reader(after).mask)
        room = max(1, round(ROOM * heads.shape[-1]))
        return F.max_pool2d(heads, 2 * room + 1, stride=1, padding=room)

    def _distance(self, images: Tensor, truth: Tensor) -> Tensor:
        """L1 and perceptual distance of edits to the true ones, [N]."""
        with torch.no_grad():
            maps = self.reader.encode(truth)
        return (images - truth).abs().mean(dim=(1, 2, 3)) + perceptual_distance(self.reader.encode(images), maps)

    # Draws

    def _known(self, count: int, update: Update) -> Tensor:
        """Draw ws [count, num_ws, w_dim] of random latents."""
        generator, device = self.editor.generator, self.editor.directions.device
        z = update.draws.own(lambda rows: torch.randn(rows, generator.z_dim, device=device), count)
        with torch.no_grad():
            ws: Tensor = generator.mapping(z)
        return ws

    def _strengths(self, images: Tensor, update: Update) -> Tensor:
        """Draw one strength each [N, K]: of one attribute, mostly against what the classifier sees of it."""
        count = len(self.editor.attributes)
        n, device = len(images), images.device
        draws = update.draws.own(lambda rows: torch.rand(rows, 5, device=device), n)
        with torch.no_grad():
            seen = self.classifier.values(self.classifier(images))
        side = torch.where(self.classifier.is_binary, seen - 0.5, seen)

        chosen = (draws[:, 0] * count).long().clamp(max=count - 1)
        shown = side.gather(1, chosen[:, None])[:, 0]
        random = torch.where(draws[:, 1] < 0.5, -1.0, 1.0)
        sign = torch.where(draws[:, 2] < AGAINST, torch.where(shown > 0, -1.0, 1.0), random)
        size = torch.where(draws[:, 3] < IDLE, 0.0, WEAKEST + (STRONG - WEAKEST) * draws[:, 4])
        return F.one_hot(chosen, count) * (sign * size)[:, None]

    @torch.no_grad()
    def _with_truth(self, images: Tensor, known: Tensor, strengths: Tensor, update: Update) -> tuple[Tensor, Tensor]:
        """Photos and samples, with patches pasted into some samples; and the samples' true edits, pasted alike."""
        n = len(images) - len(known)
        truth = decode(self.editor.generator, self.editor.moved(known, strengths[n:]))
        truth = torch.lerp(images[n:], truth, self._heads(images[n:], truth))
        pasted, truth = self._pasted(images[n:], truth, images[: len(known)].flip(3), update)
        return torch.cat([images[:n], pasted]), truth

    @staticmethod
    def _pasted(images: Tensor, truth: Tensor, others: Tensor, update: Update) -> tuple[Tensor, Tensor]:
        """Images and their true edits, into some of which a rectangle of another picture is pasted.

        Its sides are 15 to 40 % of the picture's.
        """
        draws = update.draws.own(lambda rows: torch.rand(rows, 5, device=images.device), len(images))
        side = images.shape[-1]
        at = torch.arange(side, device=images.device) / side
        width, height = (0.15 + 0.25 * draws[:, i, None] for i in (0, 1))
        x, y = (draws[:, i + 2, None] * (1 - size) for i, size in enumerate((width, height)))
        within = ((at >= x) & (at < x + width))[:, None] & ((at >= y) & (at < y + height))[:, :, None]
        paste = (within & (draws[:, 4] < FOREIGN)[:, None, None])[:, None]
        return torch.where(paste, others, images), torch.where(paste, others, truth)

    # Between updates

    @torch.no_grad()
    def after_update(self, images: int, batch: int) -> dict[str, float]:
        """Shrink the directions, then move the averaged editor."""
        rate = float(self.phases[0].optimizer.param_groups[0]["lr"])
        directions = self.editor.directions
        directions.copy_(F.softshrink(directions, self.settings.sparsity * rate))
        decay = early_decay(images / batch, EMA)
        ema_update(self.ema.content, self.editor.content, decay)
        self.ema.directions.lerp_(directions, 1 - decay)
        used = float((directions != 0).float().mean())
        return {"directions_used": used, "directions_l1": float(directions.abs().mean())}

    def lr_factor(self, images: int, total: int) -> float:
        """Warm-up, then half a cosine to zero."""
        done = images / total
        return min(done / WARMUP + WARMUP, 0.5 + 0.5 * cos(pi * done), 1.0)

    def finished(self) -> ExpandedEditor:
        """The averaged editor on the CPU, its directions zero wherever the trained ones are."""
        with torch.no_grad():
            self.ema.directions.mul_(self.editor.directions != 0)
        return self.ema.cpu().eval()

    def preview(self) -> dict[str, np.ndarray]:
        """Photos over each attribute's edit at a strength of 1, against what the photo shows."""
        photos = self.examples.to(self.editor.directions.device)
        seen = self.classifier.values(self.classifier(photos))
        side = torch.where(self.classifier.is_binary, seen - 0.5, seen)
        rows = [to_uint8(photos)]
        for k in range(len(self.editor.attributes)):
            strengths = torch.zeros_like(side)
            strengths[:, k] = torch.where(side[:, k] > 0, -1.0, 1.0)
            rows.append(to_uint8(self.ema(photos, strengths)))
        return {"edits": grid(np.concatenate(rows), columns=len(photos))}


def _multiscale_l1(error: Tensor) -> Tensor:
    """Mean absolute error [N, C, R, R] of pictures at R px and of their halvings down to 8 px: a scalar.

    Halved pictures that lie apart by a few pixels still overlap, so that the error says which way to move.
    """
    scales = [error.abs().mean()]
    while error.shape[-1] > 8:
        error = F.avg_pool2d(error, 2)
        scales.append(error.abs().mean())
    return torch.stack(scales).mean()


def shifted(seen: Tensor, strengths: Tensor, binary: Tensor, step: float) -> Tensor:
    """The attributes that an edit should end with.

    Args:
        seen: [N, K] before it: probabilities of kinds, standardised numbers.
        strengths: [N, K], at most `STRONGEST` either way.
        binary: bool [K], which are of two kinds.
        step: what a strength of 1 adds to a number.

    Returns:
        [N, K]; an attribute of strength 0 stays as it is, bit for bit.
    """
    strengths = strengths.clamp(-STRONGEST, STRONGEST)
    moved = torch.where(binary, (seen + strengths).clamp(CERTAIN, 1 - CERTAIN), seen + step * strengths)
    return torch.where(strengths == 0, seen, moved)
