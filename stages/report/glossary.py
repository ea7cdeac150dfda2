"""How the report reads a metric: unit, direction, meaning; and the numbers that the project promises."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass

from stages.core.artifact import Artifact


@dataclass(frozen=True)
class Measure:
    """How to read a metric: a pattern its name matches whole, unit, which direction is better, what it says."""

    pattern: str
    unit: str
    better: str  # "lower", "higher" or ""
    meaning: str


MEASURES = (
    # An editor of real faces.
    Measure(r"moved_.*", "sd", "higher", "change of an edited attribute at strength 1, by the classifier trained here"),
    Measure(r"leak", "sd", "lower", "change of the other attributes in the same edits, by the same classifier"),
    Measure(r"edit_background_error", "L1, 0–1", "lower", "edited photo to photo, mask under 0.02"),
    Measure(r"edit_error.*", "×", "lower", "edit to the true one over photo to the true one; 1 is no edit"),
    Measure(r"classifier_.*", "", "higher", "how the classifier reads held-out photos: correlation, or AUC of a kind"),
    Measure(r"directions_used", "0–1", "", "numbers of the editing directions that are not zero"),
    Measure(r"(editor|encoder)_psnr", "dB", "higher", "photo to the editor's, or the encoder's, reconstruction"),
    Measure(r"(editor|encoder)_ssim", "0–1", "higher", "photo to the editor's, or the encoder's, reconstruction"),
    Measure(r"editor_cpu_ms", "ms", "lower", "one edit on one core"),
    Measure(r"photo_same_person_auc", "0.5–1", "", "the untouched photos' same-person AUC: the ceiling"),
    Measure(r".*auc.*", "0.5–1", "higher", "the same person recognised among others across photo and stylised photo"),
    Measure(r"face_ratio|.*face_error_ratio", "×", "lower", "face error over the untouched photo's"),
    Measure(r"teacher_distance", "0–4", "lower", "perceptual distance of student and teacher at equal latents"),
    Measure(r"sample_distance", "0–4", "", "perceptual distance between two samples of the teacher"),
    Measure(r"distance_ratio", "×", "lower", "student to teacher over sample to sample of the teacher"),
    Measure(r"diversity", "×", "higher", "perceptual distance between drawn faces over that before the few pictures"),
    Measure(r"style_distance", "", "lower", "features' means and deviations of drawn faces to the style pictures'"),
    Measure(r"start_style_distance", "", "", "the same before the few pictures"),
    Measure(r"face_to_teacher", "×", "lower", "face error over the translator's on the same people"),
    Measure(
        r".*flicker.*", "L1, 0–1", "lower", "change of the head beyond the warped photo's, painted motion of known flow"
    ),
    Measure(r"photo_face_error", "L1, 0–1", "", "the untouched photo's face error: what doing nothing gives"),
    Measure(r".*face_error.*", "L1, 0–1", "lower", "raw output to the true twin, mask over 0.5"),
    Measure(r"photo_frame_error", "L1, 0–1", "", "the untouched photo's whole-frame error: what doing nothing gives"),
    Measure(r".*frame_error.*", "L1, 0–1", "lower", "raw output to the true twin, the whole frame"),
    Measure(r".*background.*", "L1, 0–1", "lower", "raw output to the photo, mask under 0.02"),
    Measure(r"(kid|identity)_(low|high)", "", "", "95 % interval over the held-out people (bootstrap)"),
    Measure(r"kid_source", "MMD²", "", "KID of the source generator's pictures of the same latents, for scale"),
    Measure(r".*kid_ratio.*", "×", "lower", "KID over the untouched photos' KID"),
    Measure(r".*kid.*sd", "MMD²", "", "standard deviation of KID over subsets"),
    Measure(r".*kid.*(images|count|real)", "", "", "real style pictures behind KID; under 100 it decides nothing"),
    Measure(r"twin_kid(_sd)?", "MMD²", "", "the true twins' KID to the style: what a perfect translation has"),
    Measure(r"photo_kid", "MMD²", "", "the untouched photos' KID to the style"),
    Measure(r".*kid.*", "MMD²", "lower", "held-out real style pictures, heads on one grey, degree 3, unbiased"),
    Measure(r".*_extractor|.*_landmarks", "", "", "the network behind the number, by its weights' hash; or truth"),
    Measure(r"mld", "×", "lower", "mean landmark distance of photo and output over that of the outer eye corners"),
    Measure(r"art_fid", "", "lower", "(1 + perceptual distance to the photo) (1 + FID)"),
    Measure(r"(photo|style)s_(aligned|left_out)", "", "", "pictures with landmarks that took part, or could not"),
    Measure(r".*fid.*", "", "lower", "Fréchet distance to held-out style pictures; stands beside KID"),
    Measure(r"reader|extractor", "", "", "the face reader behind KID, identity and pose, by its weights' hash"),
    Measure(r"unreadable", "", "lower", "photos that could not be read"),
    Measure(r"shards", "", "", "shards written"),
    Measure(r"train_.*", "", "", "mean over all photos to train on, before curation"),
    Measure(
        r"twin_identity", "cosine", "", "the reader's embeddings of photo and true twin: what is left in the style"
    ),
    Measure(r".*identity.*", "cosine", "higher", "the reader's embeddings of photo and output"),
    Measure(r"photo_(edge_clarity|flat_energy)_ratio", "×", "", "as the entry without photo_, over the photo's"),
    Measure(r".*edge_clarity.*", "×", "higher", "RMS Laplacian on edges, noise taken off, over the target's"),
    Measure(r".*flat_energy.*", "×", "", "RMS Laplacian away from edges over the target's: noise, ringing"),
    Measure(r".*edge_slope.*", "×", "higher", "edge acuity over the target's"),
    Measure(r".*checker.*", "×", "lower", "signal at the Nyquist frequency over the target's"),
    Measure(r".*clarity.*", "×", "", "Laplacian gradient over the target's, as in the article"),
    Measure(r".*ssim.*", "0–1", "higher", "structural similarity"),
    Measure(r".*lpips.*|.*perceptual.*", "", "lower", "perceptual distance"),
    Measure(r"filled_share", "0–1", "higher", "the base's bins of pose and expression that are still filled"),
    Measure(r"attribute_coverage", "×", "higher", "variety of glasses, hat, beard and hair over the base's"),
    Measure(r".*_correspondence", "-1–1", "higher", "does pose (expression) follow the base's picture of the latent"),
    Measure(r"memorised_share", "0–1", "lower", "nearer to a training picture than 1 % of real pictures are"),
    Measure(r"broken_share", "0–1", "lower", "heads fallen apart, by a gate fitted to real pictures"),
    Measure(r"background_clusters", "", "higher", "effective number of colours behind the heads"),
    Measure(r"background_spread", "Lab", "higher", "deviation over the set of a place behind the head"),
    Measure(r"leak_.*", "0–1", "lower", "the augmentation shows in samples; 1: as often as the discriminator sees it"),
    Measure(r".*coverage.*", "×", "higher", "variety of poses and expressions over the base generator's"),
    Measure(r"distribution_distance", "0–1", "lower", "total variation of the worst attribute from its target"),
    Measure(r"candidates|readmitted|shortfall|rejected_.*", "", "", "samples: drawn, let in again, missing, left out"),
    Measure(r"passed", "0–1", "higher", "share of the candidates that nothing speaks against"),
    Measure(
        r"(yaw|pitch|smile|mouth_open|eye_open)_kept",
        "−1–1",
        "higher",
        "correlation of photo and raw output over people",
    ),
    Measure(r"twin_.*_kept", "−1–1", "", "the same of photo and true twin: as much as the face reader can see"),
    Measure(r"landmark_error", "eyes", "lower", "photo to raw output, over the distance of the outer eye corners"),
    Measure(r".*mask_iou|.*agreement.*", "0–1", "higher", "where the translator paints and the head, cut at one half"),
    Measure(r".*kept.*", "", "higher", "pairs that passed curation"),
    Measure(r".*reject.*", "", "lower", "left out, listed with the reason"),
    Measure(r"(.*_)?ms(_.*)?|.*latency.*", "ms", "lower", "CPU time for one picture, one core"),
    Measure(r"(.*_)?psnr", "dB", "higher", "the file's pictures to the network's in PyTorch, range 2"),
    Measure(r".*bytes.*", "bytes", "lower", "size of the file"),
    Measure(r".*macs.*", "MACs", "lower", "multiply-accumulates for one picture"),
    Measure(r".*param.*", "", "lower", "weights in the network"),
    Measure(
        r".*max_error.*|.*parity.*", "", "lower", "largest difference to the network in PyTorch, outputs in [-1, 1]"
    ),
    Measure(r".*precision.*", "0–1", "higher", "share of outputs inside the style pictures' manifold"),
    Measure(r".*recall.*", "0–1", "higher", "share of style pictures inside the outputs' manifold"),
    Measure(r"intra", "", "higher", "distance among outputs nearest one training picture; low: copies"),
    Measure(r"ada_p", "0–1", "", "probability of the discriminator's augmentations at the end"),
    Measure(r"distance", "", "", "relative distance of the fused weights from the source generator's"),
    Measure(r"count|heldout|pictures|images|pairs|.*_count|heldout_.*", "", "", "how many"),
    Measure(r"size", "px", "", "side of the pictures"),
)


@dataclass(frozen=True)
class Target:
    """A number the project promises: found as `kind.name`, shown times `scale`, reached when at most `limit`."""

    kind: str
    names: tuple[str, ...]
    label: str
    unit: str
    limit: float
    scale: float = 1.0


TARGETS = (
    Target("student", ("face_ratio",), "Face error, share of the photo's own", "×", 0.65),
    Target("student", ("background_error",), "Background error", "L1", 0.03),
    Target("student", ("kid_ratio",), "KID to the style, share of the photos' own", "×", 0.5),
    Target("export", ("bytes", "onnx_bytes"), "Size of the exported student", "MB", 1.5, 1e-6),
    Target(
        "export",
        ("cpu_ms_256", "ms_256", "cpu_ms", "ms", "latency_ms"),
        "CPU time for a 256 px picture, one core",
        "ms",
        8.0,
    ),
)


def measure(name: str) -> Measure:
    """How to read the metric called `name`."""
    found = next((entry for entry in MEASURES if re.fullmatch(entry.pattern, name)), None)
    return found or Measure(name, "", "", "")


def find(artifacts: Mapping[str, Artifact], target: Target) -> float | None:
    """The value of a promised number, in its unit; None when the run did not measure it."""
    metrics = artifacts[target.kind].metrics if target.kind in artifacts else {}
    for name in target.names:
        if isinstance(metrics.get(name), (int, float)) and math.isfinite(metrics[name]):
            return float(metrics[name]) * target.scale
    return None
