"""The claims of `pair=tps`, arm by arm: `python -m tests.bench.tps GROUP --out FOLDER [options]`.

    python -m tests.bench.tps cost speed --out FOLDER                # minutes: no training
    python -m tests.bench.tps landmarks --size 128 --mesh facemesh.pth --out FOLDER    # a minute: who reads them best
    python -m tests.bench.tps alignment --out FOLDER                 # a group of arms; see GROUPS
    python -m tests.bench.tps table --out FOLDER                     # table.md, table.json, curves.html of all there is

Rendered people (or `--data`) at `--size` px in the style `--style`; arms of a group see as many images, from the same
seeds. `photographs` are the arms for a data artifact of photographs of people. An arm leaves
FOLDER/<arm>-<size>-<seed>/result.json and is not run again; a stopped one goes on from its last state. At 64 px a light
arm of 12,000 images takes 16 CPU minutes of one AVX-512 core. CycleGAN's generator takes 2 CPU seconds an image: on a
CPU run `size` with `--images 500`, else with `--device cuda`.

Scores are those of the pair stage on held-out people (`stages.pair.score`); intervals are 95 % over people.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from markupsafe import Markup
from torch import Tensor, nn

from stages.core.artifact import Artifact, open_artifact, seal
from stages.core.files import write_json
from stages.core.images import grid, load_images, write_image
from stages.core.runtime import Runtime
from stages.core.settings import Train
from stages.core.tensors import to_tensor, to_uint8
from stages.core.tracking import Tracker
from stages.core.weights import save_network
from stages.datasets.rendered.stage import RenderedData
from stages.faces.landmarks import MeshLandmarks
from stages.metrics.backbones import Lpips, load_perceptual
from stages.metrics.fid import art_fid, frechet_distance
from stages.metrics.geometry import OUTER_EYES, landmark_error
from stages.metrics.heldout import read_style
from stages.metrics.kid import composite_grey
from stages.networks import tps
from stages.networks.aligned import GENERATORS, translator_network
from stages.networks.face_reader import load_reader
from stages.networks.mobile import count_macs, count_parameters
from stages.networks.stylegan2 import Generator
from stages.pair.batches import unpaired_batches
from stages.pair.score import compare, measure_heldout
from stages.pair.tps.batches import REGIONS, FaceSet, aligned_batches, bank_patches, region, region_grid
from stages.pair.tps.landmarks import FaceLandmarks, face_photos, face_styles, spline_points
from stages.pair.tps.translator import TpsTranslator, TpsWeights
from stages.pair.translator import TrainingInputs
from stages.pair.ugatit import TranslatorWeights, UgatitTranslator
from stages.report.charts import Dot, scatter
from stages.report.markup import page
from stages.training import fit as engine
from stages.training.loading import Allowance, read_ahead

CYCLEGAN = TpsWeights(warped=0, local=0, deformation=0, perceptual=0, cycle=10, mask=0, mask_tv=0, grid=0)
PUBLISHED = TranslatorWeights(
    adversarial=1, cycle=10, identity_mapping=10, cam=1000, mask=0, mask_tv=0, latent=0, face_identity=0
)
SHOWN = (
    "kid", "fid", "art_fid", "mld", "identity", "identity_low", "identity_high", "face_ratio", "background_error",
    "jitter_mld",
)  # fmt: skip


@dataclass(frozen=True)
class Arm:
    """One training.

    Attributes:
        settings: of the translator.
        styles: how many style pictures it sees.
        jitter: how far the style pictures lie off the portraits after alignment, in widths of the face.
        lr: learning rate; the default is what suits masked heads, whole pictures are also learnt at the published one.
    """

    settings: TpsTranslator | UgatitTranslator
    styles: int = 400
    jitter: float = 0.0
    lr: float = 1e-3


def aligned(**changes: Any) -> TpsTranslator:
    """The default, but for `changes`; weights by their names."""
    known = set(asdict(TpsWeights()))
    weights = {name: value for name, value in changes.items() if name in known}
    others = {name: value for name, value in changes.items() if name not in known}
    return TpsTranslator(weights=TpsWeights(**weights), **others)


def cyclegan(generator: str) -> TpsTranslator:
    """CycleGAN's generator, widths and loss; length and averaging are those of the other arms.

    Not as published: spectral norm instead of instance norm and 34 px instead of 70 in the discriminators, no pool of
    past pictures, and upsampling by nearest neighbours in the generator.
    """
    whole: dict[str, Any] = {"align": False, "mask_head": False, "composite": False, "weights": CYCLEGAN}
    return TpsTranslator(generator=generator, discriminator_width=64, discriminator_max_width=512, **whole)


def unaligned(**changes: Any) -> TpsTranslator:
    """The default without splines."""
    return aligned(align=False, warped=0, local=0, deformation=0, **changes)


KINDS = ("comic", "anime", "figurine", "watercolour")
# The five points by which Face Mesh is placed: eyes, nose, corners of the mouth.
FIVE = (slice(36, 42), slice(42, 48), slice(30, 31), slice(48, 49), slice(54, 55))
PLAIN = UgatitTranslator(
    mask_head=False, composite=False, background_cycle=1, warm_up=0, face_identity_from=0, weights=PUBLISHED
)
ARMS: dict[str, Arm] = {
    "aligned": Arm(aligned()),
    "jitter5": Arm(aligned(), jitter=0.05),
    "jitter10": Arm(aligned(), jitter=0.10),
    "jitter20": Arm(aligned(), jitter=0.20),
    "unaligned": Arm(unaligned()),
    "cyclegan_large": Arm(cyclegan("resnet")),
    "cyclegan_light": Arm(TpsTranslator(align=False, mask_head=False, composite=False, weights=CYCLEGAN)),
    "cyclegan_light_slow": Arm(TpsTranslator(align=False, mask_head=False, composite=False, weights=CYCLEGAN), lr=2e-4),
    "aligned_whole": Arm(aligned(mask_head=False, composite=False, mask=0, mask_tv=0)),
    "aligned34": Arm(aligned(), 34),
    "aligned64": Arm(aligned(), 64),
    "aligned300": Arm(aligned(), 300),
    "aligned800": Arm(aligned(), 800),
    "unaligned34": Arm(unaligned(), 34),
    "unaligned64": Arm(unaligned(), 64),
    "unaligned300": Arm(unaligned(), 300),
    "unaligned800": Arm(unaligned(), 800),
    "plain": Arm(PLAIN),
    "plain_slow": Arm(PLAIN, lr=1e-4),
    "mask": Arm(UgatitTranslator()),  # without latent pairs: nobody knows these pictures' faces before a transfer
    "no_warped": Arm(aligned(warped=0)),
    "no_invariant": Arm(aligned(invariant=0)),
    "no_local": Arm(aligned(local=0)),
    "no_perceptual": Arm(aligned(perceptual=0)),
    "no_deformation": Arm(aligned(deformation=0)),
    "no_grid": Arm(aligned(grid=0)),
    **{name: Arm(aligned(generator=name)) for name in GENERATORS if name not in ("resnet", "light")},
}
GROUPS: dict[str, tuple[str, ...]] = {
    "alignment": ("aligned", "jitter5", "jitter10", "jitter20", "unaligned"),
    "size": ("aligned_whole", "cyclegan_large"),
    "few": ("aligned", "unaligned800", "aligned34", "aligned64", "aligned300", "aligned800", "unaligned34",
            "unaligned64", "unaligned300", "unaligned"),
    "identity": ("aligned", "aligned_whole", "plain", "plain_slow", "cyclegan_light", "cyclegan_light_slow"),
    "ablation": ("aligned", "no_warped", "no_invariant", "no_local", "no_perceptual", "no_deformation", "no_grid",
                 "unaligned"),
    "photographs": ("aligned", "unaligned", "mask"),
    "tiers": ("aligned", "nano", "low", "mid", "high"),
}  # fmt: skip


# ------------------------------------------------------------------------------------------------------------- arms


def people(options: argparse.Namespace) -> Artifact:
    """The data of `--data`; else the rendered ones of a size and style, made once in FOLDER/data-..."""
    if options.data is not None:
        return open_artifact(options.data, "data", verify=False)
    place = options.out / f"data-{options.style}-{options.size}-{options.styles}"
    if (place / "manifest.json").exists():
        return open_artifact(place, "data", verify=False)
    place.mkdir(parents=True, exist_ok=True)
    counts = {"count": options.photos, "heldout": options.heldout}
    counts |= {"style_count": options.styles, "heldout_style": options.styles // 2}
    data = RenderedData(size=options.size, styles=[options.style], **counts)
    metrics = data.run({}, place, Runtime("cpu", options.workers, Tracker(place)))
    return seal(place, "data", config={"size": options.size, "style": options.style}, inputs={}, metrics=metrics)


def jittered(points: np.ndarray, share: float, seed: int = 0) -> np.ndarray:
    """Landmarks [N, 68, 2] that lie off by `share` of the face's width on the mean: a similarity and a smooth bend."""
    if not share:
        return points
    random, out = np.random.default_rng(seed), points.copy()
    for face in out:
        middle, width = face.mean(0), float(np.ptp(face[:, 0]))
        turn, zoom = random.normal(0, 1), random.normal(0, 1)
        local = (face - middle) / width
        moved = np.stack([-turn * local[:, 1] + zoom * local[:, 0], turn * local[:, 0] + zoom * local[:, 1]], 1)
        moved += random.normal(0, 0.5, 2)
        for _ in range(3):  # a smooth bend
            wave, phase = random.normal(0, 4, 2), random.uniform(0, 2 * np.pi)
            moved += 0.5 * random.normal(0, 1, 2) * np.sin(local @ wave + phase)[:, None]
        face += moved * share * width / np.linalg.norm(moved, axis=1).mean()
    return out


def face_sets(data: Artifact, arm: Arm, options: argparse.Namespace) -> tuple[FaceSet, FaceSet]:
    """Photos and the arm's style pictures, whose landmarks are off by its jitter."""
    runtime = Runtime(options.device, options.workers, Tracker(options.out))
    reader = load_reader(options.device)
    inputs = TrainingInputs(data, None, reader, options.out / "scratch", runtime, options.style)
    finder, memory = FaceLandmarks(reader, options.device), Allowance()
    photos, styles = (
        FaceSet.of(data, find(inputs, finder), options.workers, memory) for find in (face_photos, face_styles)
    )
    known = jittered(styles.points[: arm.styles], arm.jitter)
    return photos, FaceSet(styles.images, styles.masks, known)


def run_arm(name: str, seed: int, data: Artifact, options: argparse.Namespace) -> None:
    """Train and score one arm, unless it is there."""
    folder = options.out / f"{name}-{options.size}-{seed}"
    if (folder / "result.json").exists():
        return
    folder.mkdir(parents=True, exist_ok=True)
    begun, arm = time.process_time(), ARMS[name]
    runtime = Runtime(options.device, options.workers, Tracker(folder))
    train = Train(images=options.images, batch=4, lr=arm.lr, seed=seed, checkpoint_images=400, preview_images=2000)
    photos, styles = face_sets(data, arm, options)
    if isinstance(arm.settings, TpsTranslator) and arm.settings.align:
        patch = options.size // 4 if arm.settings.weights.local else 0
        batches = aligned_batches(photos, styles, seed, arm.settings.most_folded, patch)
    else:
        chosen = np.arange(len(styles.points))  # as many as the arm sees
        shown = (photos.images, photos.masks, styles.images[chosen], styles.masks[chosen])
        batches = unpaired_batches(*shown, seed)
    task = arm.settings.task(options.size, train, options.device)
    engine.fit(task, read_ahead(batches), train=train, scratch=folder, runtime=runtime, label="pair")

    network = arm.settings.network(task)
    save_network(folder / "translator.safetensors", network)
    painter = arm.settings.painter(network, options.device)
    reader = load_reader(options.device)
    metrics = measure_heldout(data, options.style, painter, reader, folder, runtime)
    known = (data.path / "heldout" / "landmarks.npz").exists()
    true = read_landmarks_error(data, folder, FaceLandmarks(reader, options.device)) if known else {}
    unmoved = face_sets(data, replace(arm, jitter=0.0), options)[1].points if arm.jitter else styles.points
    off = landmark_error(torch.from_numpy(styles.points), torch.from_numpy(unmoved))
    seconds = time.process_time() - begun
    about = {"arm": name, "seed": seed, "size": options.size, "images": options.images, "styles": len(styles.points)}
    measured = metrics | true | {"jitter_mld": float(off.mean()) if arm.jitter else 0.0}
    write_json(folder / "result.json", about | {"cpu_minutes": round(seconds / 60, 2), "metrics": measured})
    (folder / "pair.ckpt").unlink(missing_ok=True)
    print(f"{folder.name}: {seconds / 60:.1f} CPU min, " + ", ".join(f"{k} {measured[k]:.3g}" for k in SHOWN[:5]))


def read_landmarks_error(data: Artifact, folder: Path, reader: FaceLandmarks) -> dict[str, Any]:
    """Landmark error of the paintings against the data's truth, with the reader's own error on the photos beside it."""
    with np.load(data.path / "heldout" / "landmarks.npz") as stored:
        truth = torch.from_numpy(stored["photo"] + 0.5)
    names = sorted((folder / "heldout").glob("*.png"))
    made = load_images(names)
    photos = load_images([data.path / "heldout" / "photo" / name.name for name in names])
    size = made.shape[1]
    errors = {
        key: landmark_error(torch.from_numpy(reader(images)[0] * size), truth.float())
        for key, images in (("true_mld", made), ("photo_true_mld", photos))
    }
    return {key: float(value.mean()) for key, value in errors.items()} | {"true_mld_extractor": reader.id}


# ------------------------------------------------------------------------------------------------------ cost and speed


def iteration(task: engine.Task, make: Callable[[int], dict[str, Tensor]]) -> Callable[[], None]:
    """An update of a task as `fit` makes it, past every warm-up."""
    places = iter(range(0, 10**9, 4))

    def update() -> None:
        batch, seen = make(next(places)), engine.Update(10**6)
        for phase in task.phases:
            engine.step(task, phase, [(batch, seen)])
        task.after_update(10**6, 4)

    return update


def cost(options: argparse.Namespace) -> dict[str, Any]:
    """CPU seconds of an update of 4 images, light against `pair=mask` at its width; and what the splines take of it."""
    from tests.tools.aligned_toys import faces

    torch.set_num_threads(1)
    size, train = 64, Train(images=10**6, batch=4, lr=1e-3)
    sets = faces(40, False, size), faces(40, True, size)
    batches = aligned_batches(*sets, 0, 0.02, size // 4)
    fixed = batches(0, 4)
    fixed = {name: fixed[name] for name in ("photo", "style", "photo_mask", "style_mask")} | {"source": fixed["photo"]}
    arms = {
        "tps": iteration(TpsTranslator(precision="float32").task(size, train).train(), lambda n: batches(n, 4)),
        "mask": iteration(UgatitTranslator(precision="float32").task(size, train).train(), lambda n: fixed),
        "splines": lambda: spline_work(sets),
    }
    times: dict[str, list[float]] = {arm: [] for arm in arms}
    for _ in range(options.repeats + 1):
        for arm, update in arms.items():
            begun = time.process_time()
            update()
            times[arm].append(time.process_time() - begun)
    best = {arm: min(values[1:]) for arm, values in times.items()}
    return {
        "tps_s": best["tps"], "mask_s": best["mask"], "splines_s": best["splines"],
        "ratio": best["tps"] / best["mask"], "splines_share": best["splines"] / best["tps"],
    }  # fmt: skip


def spline_work(sets: tuple[FaceSet, FaceSet]) -> None:
    """All splines of an update, with their forward and backward sampling.

    The grids of four new couples, none kept; then the bank's 16 patches and the regions beside them.
    """
    points = [spline_points(faces.points[:4]) for faces in sets]
    query = tps.cell_centres(64, 64, 4, points[0]).flatten(0, 1)
    grids = [(tps.basis(a, query, 1e-3) @ b).unflatten(1, (18, 18)).float() for a, b in (points, points[::-1])]
    for grid_ in grids:
        tps.fold_fraction(grid_)
        full = {factor: tps.refined(grid_, factor) for factor in (1, 2, 4)}
        for channels, factor in ((32, 1), (16, 2), (3, 4), (3, 4), (3, 4), (1, 4)):
            maps = torch.zeros(4, channels, 16 * factor, 16 * factor, requires_grad=True)
            tps.sample(maps, full[factor]).sum().backward()
    random = np.random.default_rng(0)
    for face in sets[0].points[:4]:
        bank_patches(sets[1], face, random, 16)
        grids = region_grid(torch.stack([region(face, name) for name in REGIONS]).float(), 16)
        image = torch.zeros(1, 3, 64, 64, requires_grad=True)
        tps.sample(image.expand(4, -1, -1, -1), grids).sum().backward()


def landmarks(options: argparse.Namespace) -> dict[str, Any]:
    """Errors of 51 inner landmarks and of the jaw by who reads them, against the renderer's, in distances of the eyes.

    `settled` is that of the inner ones less each point's own mean error in the face's axes: readers mean slightly other
    points by a name, and a spline between two faces that one has read does not see that.
    """
    place = options.out / f"landmarks-{options.size}"
    if not (place / "landmarks.npz").exists():
        counts = {"count": 40, "style_count": 40, "heldout": 1, "heldout_style": 1}
        data = RenderedData(size=options.size, styles=list(KINDS), **counts, seed=77)  # other people than the reader's
        data.run({}, place, Runtime("cpu", options.workers, Tracker(place)))
    reader, mesh = FaceLandmarks(load_reader()), None if options.mesh is None else MeshLandmarks(options.mesh)
    found: dict[str, Any] = {}
    with np.load(place / "landmarks.npz") as stored:
        truth = {kind: (stored[kind] + 0.5) / options.size for kind in stored}
    for kind, true in truth.items():
        images = load_images(sorted((place / kind).glob("*.png")))
        points = reader(images)[0]
        seen = {reader.id: points}
        if mesh is not None:
            five = [np.stack([face[part].mean(0) for part in FIVE]) * options.size - 0.5 for face in points]
            seen[mesh.id] = np.concatenate([mesh(image, [one])[0] for image, one in zip(images, five, strict=True)])
            seen[mesh.id] = (seen[mesh.id] + 0.5) / options.size
        found[kind] = {name: landmark_errors(read, true) for name, read in seen.items()}
    return found


def landmark_errors(points: np.ndarray, true: np.ndarray) -> dict[str, float]:
    """Of landmarks [N, 68, 2] against true ones; see `landmarks`."""
    off, eyes = ((shares[..., 0] + 1j * shares[..., 1]) for shares in (points - true, true))
    off = off / (eyes[:, OUTER_EYES[1]] - eyes[:, OUTER_EYES[0]])[:, None]  # in the face's axes, eyes 1 apart
    inner, jaw, settled = np.abs(off[:, 17:]), np.abs(off[:, :17]), np.abs(off - off.mean(0))[:, 17:]
    return {name: float(part.mean()) for name, part in (("inner", inner), ("jaw", jaw), ("settled", settled))}


def speed(options: argparse.Namespace) -> dict[str, Any]:
    """Milliseconds at 512 px in onnxruntime on one thread, and multiply-accumulates against a StyleGAN stylizer."""
    import warnings
    from tempfile import TemporaryDirectory

    import onnxruntime

    found: dict[str, Any] = {}
    for name in ("light", "nano", "low", "mid", "high"):
        network = translator_network(name, mask=True).eval()
        with TemporaryDirectory() as folder, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            file = str(Path(folder) / "net.onnx")
            torch.onnx.export(network, (torch.zeros(1, 3, 512, 512),), file, dynamo=False, opset_version=17)
            settings = onnxruntime.SessionOptions()
            settings.intra_op_num_threads = settings.inter_op_num_threads = 1
            session = onnxruntime.InferenceSession(file, settings, providers=["CPUExecutionProvider"])
        photo = {session.get_inputs()[0].name: np.zeros((1, 3, 512, 512), np.float32)}
        times = []
        for _ in range(options.repeats + 1):
            begun = time.process_time()
            session.run(None, photo)
            times.append(1000 * (time.process_time() - begun))
        found[name] = {
            "ms_512": min(times[1:]), "macs_256": count_macs(network, 256), "parameters": count_parameters(network)
        }  # fmt: skip

    # the stylizer that the generator stands for: StyleGAN2, configuration F, and an encoder
    generator, encoder = stylegan_macs()
    light = found["light"]["macs_256"]
    found["stylegan2_256"] = {"generator": generator, "encoder": encoder, "over_light": (generator + encoder) / light}
    return found


def stylegan_macs() -> tuple[int, int]:
    """Multiply-accumulates at 256 px of StyleGAN2's synthesis as published, and of the encoder that goes with it."""
    from torch.utils.flop_counter import FlopCounterMode

    with torch.device("meta"):
        generator = Generator(img_resolution=256, channel_base=32768, channel_max=512).eval()
        counts = []
        for network, given in ((generator, torch.zeros(1, 512)), (ir50(), torch.zeros(1, 3, 256, 256))):
            with FlopCounterMode(display=False) as counter, torch.no_grad():
                network(given)
            counts.append(counter.get_total_flops() // 2)
    return counts[0], counts[1]


def ir50() -> nn.Module:
    """The convolutions of the body of pSp's, e4e's and VToonify's encoder (IR-50 at 256 px), without shortcuts."""
    layers: list[nn.Module] = [nn.Conv2d(3, 64, 3, 1, 1)]
    for inputs, width, units in ((64, 64, 3), (64, 128, 4), (128, 256, 14), (256, 512, 3)):
        for unit in range(units):
            first = nn.Conv2d(inputs if unit == 0 else width, width, 3, 1, 1)
            layers += [first, nn.Conv2d(width, width, 3, 2 if unit == 0 else 1, 1)]
    return nn.Sequential(*layers)


# ------------------------------------------------------------------------------------------------------ the exemplar


def local_grams(features: list[Tensor], cells: int) -> list[Tensor]:
    """Gram matrices of each of cells x cells windows of each map [N, C, H, W]: [N, windows, C, C]."""
    found = []
    for maps in features:
        # windows are cut where the map divides into them, else the map is one window
        side = cells if maps.shape[-1] % cells == 0 and maps.shape[-1] >= 2 * cells else 1
        n, c, h, w = maps.shape
        cut = maps.view(n, c, side, h // side, side, w // side).permute(0, 2, 4, 1, 3, 5).reshape(n, side * side, c, -1)
        found.append(cut @ cut.mT / cut.shape[-1] / c)
    return found


def layers_of(network: Lpips, pictures: Tensor) -> list[Tensor]:
    """The tapped activations of pictures [N, 3, H, W] in [-1, 1]."""
    x, found = pictures, []
    for place, layer in enumerate(network.layers):
        x = layer(x)
        if place in network.taps:
            found.append(x)
    return found


def exemplar(data: Artifact, options: argparse.Namespace) -> dict[str, Any]:
    """Neural style transfer from one picture: a small and a large stack, with and without alignment.

    Pixels of each held-out portrait are optimised: content by the last tapped layer, style by Gram matrices of 4 x 4
    windows (which a style picture in the portrait's layout should help), of one style picture a portrait.
    """
    count, steps = options.exemplars, options.steps
    photos, styles = face_sets(data, ARMS["aligned"], options)
    batch = aligned_batches(photos, styles, 0, 0.02, 0)(0, count)
    reader, distance, out = load_reader(), load_perceptual(), dict[str, Any]()
    style = read_style(data, options.style, 1)
    assert style is not None
    real = torch.cat([reader.features(part) for part in _grey(style.images, style.mask).split(64)])
    warped = tps.sample(batch["style"], tps.refined(batch["to_photo"], 4))
    rows = [batch["photo"], batch["style"], warped]
    for stack, taps in (("small", 2), ("large", None)):
        network = load_perceptual(taps=taps)
        for kind, given in (("unaligned", batch["style"]), ("aligned", warped)):
            picture = batch["photo"].clone().requires_grad_(True)
            optimizer = torch.optim.Adam([picture], lr=0.03)
            with torch.no_grad():
                content, grams = layers_of(network, batch["photo"])[-1], local_grams(layers_of(network, given), 4)
            for _ in range(steps):
                maps = layers_of(network, picture)
                loss = (maps[-1] - content).square().mean() / content.square().mean()
                for own, wanted in zip(local_grams(maps, 4), grams, strict=True):
                    loss = loss + 10 * (own - wanted).square().sum() / wanted.square().sum()
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
            made = picture.detach().clamp(-1, 1)
            rows.append(made)
            with torch.no_grad():
                apart = float(distance.distance(batch["photo"], made).mean())
                heads = composite_grey((made + 1) / 2, batch["photo_mask"]) * 2 - 1
                fid = frechet_distance(real, reader.features(heads))
            out[f"{stack}_{kind}"] = {"content": apart, "fid": fid, "art_fid": art_fid(apart, fid)}
    shown = to_uint8(torch.cat([row[:12] for row in rows]))
    write_image(options.out / "exemplar.png", grid(shown, columns=min(12, count)))
    return out | {"extractors": f"{distance.id} {reader.id}", "people": count, "steps": steps}


def _grey(images: np.ndarray, masks: np.ndarray | None) -> Tensor:
    pictures = (to_tensor(images) + 1) / 2
    cover = torch.ones_like(pictures[:, :1]) if masks is None else torch.from_numpy(masks)[:, None] / 255
    return composite_grey(pictures, cover) * 2 - 1


# ------------------------------------------------------------------------------------------------------------ the table


def table(options: argparse.Namespace) -> None:
    """FOLDER/table.json and table.md: a row an arm and size, means over its seeds, and differences from `aligned`."""
    results: dict[tuple[str, int], list[dict[str, Any]]] = {}
    for file in sorted(options.out.glob("*/result.json")):
        found = json.loads(file.read_text()) | {"folder": str(file.parent)}
        results.setdefault((found["arm"], found["size"]), []).append(found)
    rows, lines = [], ["| arm | px | seeds | images | " + " | ".join(SHOWN) + " |", "|---" * (4 + len(SHOWN)) + "|"]
    for (arm, size), runs in sorted(results.items(), key=lambda item: (item[0][1], item[0][0])):
        means = {name: float(np.mean([run["metrics"].get(name, np.nan) for run in runs])) for name in SHOWN}
        row = {"arm": arm, "size": size, "seeds": len(runs), "images": runs[0]["images"], **means}
        row["kid_by_seed"] = [run["metrics"].get("kid") for run in runs]
        row["extractors"] = {k: v for k, v in runs[0]["metrics"].items() if k.endswith("_extractor")}
        rows.append(row | {"against_aligned": _against(runs, results.get(("aligned", size), []))})
        numbers = " | ".join(f"{means[name]:.3g}" for name in SHOWN)
        lines.append(f"| {arm} | {size} | {len(runs)} | {runs[0]['images']} | {numbers} |")
    extra = {name: json.loads((options.out / f"{name}.json").read_text())
             for name in (*MEASURES, "exemplar") if (options.out / f"{name}.json").exists()}  # fmt: skip
    write_json(options.out / "table.json", {"arms": rows, **extra})
    text = "\n".join(lines) + "\n\n" + "".join(f"{k}: {json.dumps(v)}\n\n" for k, v in extra.items())
    (options.out / "table.md").write_text(text)
    (options.out / "curves.html").write_text(curves(results))
    print(text)


def curves(results: dict[tuple[str, int], list[dict[str, Any]]]) -> Markup:
    """Quality against misalignment, and against the number of style pictures; a dot a seed."""
    parts = []
    for size in sorted({px for _, px in results}):
        runs = [run for (_, px), some in results.items() if px == size for run in some]
        jitters = [run for run in runs if run["arm"] in GROUPS["alignment"] and run["arm"] != "unaligned"]
        jitters.sort(key=lambda run: run["metrics"]["jitter_mld"])
        for name in ("fid", "art_fid"):
            dots = [_dot(run, run["metrics"]["jitter_mld"], name, f"seed {run['seed']}") for run in jitters]
            parts.append(scatter(dots, "landmarks off, in distances of the eyes", f"{name} at {size} px", trails=True))
        ladder = sorted((run for run in runs if run["arm"] in GROUPS["few"]), key=lambda run: run["styles"])
        dots = [_dot(run, float(np.log2(run["styles"])), "kid", run["arm"].rstrip("0123456789")) for run in ladder]
        parts.append(scatter(dots, "style pictures, powers of 2", f"kid at {size} px"))
    return page("pair=tps", *parts)


def _dot(run: dict[str, Any], x: float, name: str, kind: str) -> Dot:
    return Dot(x, run["metrics"].get(name, np.nan), f"{run['arm']}, seed {run['seed']}", kind)


def _against(runs: list[dict[str, Any]], base: list[dict[str, Any]]) -> dict[str, Any]:
    """How much each measure lies above the `aligned` arm's of the same seed: value and 95 % interval over people."""
    found: dict[str, Any] = {}
    for run in runs:
        for other in base:
            if run["seed"] == other["seed"] and run["arm"] != other["arm"]:
                pair = [Artifact(Path(one["folder"]), {"inputs": {"data": {"digest": "one"}}}) for one in (other, run)]
                change = compare(*pair)
                found[str(run["seed"])] = {
                    name: [round(part, 4) for part in (value.value, value.low, value.high)]
                    for name, value in change.items()
                    if name in ("identity", "landmark_error", "kid", "face_error")
                }
    return found


MEASURES: dict[str, Callable[[argparse.Namespace], dict[str, Any]]] = {
    "cost": cost, "speed": speed, "landmarks": landmarks,
}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    known = [*GROUPS, *ARMS, *MEASURES, "exemplar", "table"]
    parser.add_argument("what", nargs="+", choices=known, metavar="WHAT", help=f"groups {', '.join(GROUPS)}; or arms")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--size", type=int, default=64)
    parser.add_argument("--style", default="comic")
    parser.add_argument("--images", type=int, default=12000)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--photos", type=int, default=1200)
    parser.add_argument("--styles", type=int, default=800, help="style pictures there are; most arms see 400")
    parser.add_argument("--heldout", type=int, default=128)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--exemplars", type=int, default=48)
    parser.add_argument("--steps", type=int, default=120)
    parser.add_argument("--data", type=Path, help="a data artifact, instead of rendered people")
    parser.add_argument("--mesh", type=Path, help="Face Mesh's weights, for `landmarks`")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--workers", type=int, default=1)
    options = parser.parse_args()
    if options.data is not None:  # its arms lie in a folder of their own
        given = people(options)
        options.size, options.out = int(given.metrics["size"]), options.out / given.digest[:8]
    options.out.mkdir(parents=True, exist_ok=True)
    for what in options.what:
        if what in MEASURES:
            found = MEASURES[what](options)
        elif what == "exemplar":
            found = exemplar(people(options), options)
        else:
            if what == "table":
                table(options)
            for seed in options.seeds if what != "table" else ():
                for name in GROUPS.get(what, (what,)):
                    run_arm(name, seed, people(options), options)
            continue
        write_json(options.out / f"{what}.json", found)
        print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
