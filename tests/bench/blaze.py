"""The phone's face generator in numbers, arm by arm: `python -m tests.bench.blaze DATA --out FOLDER [--arms cost,...]`.

DATA is a data artifact with two styles, for instance of
`tristyle experiment=blaze-128 stage=data 'data.styles=[comic,anime]'`. Every arm writes FOLDER/<arm>.json and is left
out where that file is there; a training that was stopped goes on. FOLDER/table.md sets all of them beside what is
wanted. `--images` and `--shots` shorten the trainings, to see that they work.

page           the same networks' milliseconds in Chromium, one thread; the mapping network is in ours
cost           parameters, GFLOP and milliseconds, beside the paper, MobileStyleGAN's structure and the tier `mid`
distil         the student against its teacher: KID and FID to held-out photos, perceptual distance at equal w
faults-real    a blot planted into a tenth of the teacher's pictures: how many of the student's show it
faults-teacher the same with an adversary on the teacher's pictures
encoder        held-out people: identity of one pass of the encoder, of W+ optimisation of the teacher
few-N-STYLE    N pictures teach a style: minutes, KID to held-out pictures over the start's, diversity, identity
original-1-STYLE  the same by the recipe of the FaceStylizer task, which takes the first picture only
photos         real portraits (--portraits DIR) through the encoder: identity, landmarks, a sheet to look at
"""

from __future__ import annotations

import argparse
import json
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from stages.apply import serve
from stages.core.artifact import Artifact, open_artifact
from stages.core.files import write_json
from stages.core.images import LazyImages, grid, load_images, write_image
from stages.core.runtime import Runtime
from stages.core.settings import Train, TristyleError
from stages.core.tensors import to_tensor, to_uint8
from stages.core.tracking import Tracker
from stages.core.weights import save_network
from stages.export.onnx import export_onnx
from stages.metrics.fid import frechet_distance
from stages.metrics.kid import polynomial_kid
from stages.networks.augment import softened
from stages.networks.blaze import BlazeFaces, BlazeGenerator, inference
from stages.networks.face_reader import Reader, load_reader
from stages.networks.mobile import MobileStudent, count_parameters
from stages.student.batches import photo_batches
from stages.student.blaze import Blaze, BlazeTask, stylizer_of
from stages.student.blaze_fewshot import (
    PSI,
    BlazeFewShot,
    FewShotTask,
    FewShotWeights,
    finish_few_shot,
    open_start,
    statistics,
)
from stages.student.blaze_finish import diversity, drawn, finish, fixed_latents
from stages.student.teacher import open_teacher, real_photos
from stages.style.inversion.optimise import Project, project
from stages.training.checkpoint import load_checkpoint
from stages.training.fit import Phase, Update, fit
from stages.training.losses import perceptual_distance
from stages.web import Model
from tests.bench.peers import MobileStyleGAN
from tests.bench.student import exported, open_session
from tests.tools.chromium import Chromium

PAPER = {256: (2.01, 1.28), 512: (2.05, 1.57), 1024: (2.07, 4.70)}  # px -> M parameters, GFLOP
SAMPLES = 1000  # pictures behind KID and FID
SHOTS = (1, 3, 10)
BLOT = (0.2, 0.9, -0.8)  # colour of the planted fault, in [-1, 1]
WANTED = {
    "distil": "KID and FID at most 1.5 x the teacher's; distance at most a third",
    "faults-real": "at most half as often as faults-teacher",
    "encoder": "identity at least 0.6 of W+ optimisation's",
    "few": "at most 10 minutes; KID at most half; diversity at least 0.7; identity above the original's",
}


class Bench:
    """What all arms share.

    Args:
        options: of the command line.
    """

    def __init__(self, options: argparse.Namespace) -> None:
        self.options, self.out = options, Path(options.out)
        self.data: Artifact = open_artifact(options.data, "data", verify=False)
        self.photos = real_photos(self.data, 1)
        self.size = self.photos.shape[1]
        self.reader: Reader = load_reader()

    def heldout(self, folder: str) -> Tensor:
        """Held-out pictures of the data set, [N, 3, R, R] in [-1, 1]."""
        return to_tensor(load_images(sorted((self.data.path / "heldout" / folder).glob("*.png"))[:SAMPLES]))

    def features(self, images: Tensor) -> Tensor:
        """The face reader's features [N, 272]."""
        with torch.no_grad():
            return torch.cat([self.reader.features(part) for part in images.split(64)])

    def kid(self, real: Tensor, fake: Tensor) -> float:
        """KID of pictures in the reader's features."""
        return polynomial_kid(self.features(real), self.features(fake))[0]

    def identity(self, first: Tensor, second: Tensor) -> float:
        """Mean cosine of the reader's embeddings of pictures in pairs."""
        with torch.no_grad():
            pairs = zip(first.split(64), second.split(64), strict=True)
            rows = [(self.reader.identity(a) * self.reader.identity(b)).sum(1) for a, b in pairs]
        return float(torch.cat(rows).mean())

    def train(self, task: BlazeTask | FewShotTask, pictures: Any, train: Train, name: str) -> float:
        """Train, going on where an earlier run stopped; the minutes of this run."""
        scratch = self.out / name / ".scratch"
        scratch.mkdir(parents=True, exist_ok=True)
        begun = time.monotonic()
        runtime = Runtime("cpu", self.options.workers, Tracker(self.out / name))
        fit(task, photo_batches(pictures, 0), train=train, scratch=scratch, runtime=runtime, label="student")
        return (time.monotonic() - begun) / 60

    def start(self) -> Path:
        """The folder of the distilled student, which the arms after it need."""
        place = self.out / "distil"
        if not (place / "student.safetensors").exists():
            raise SystemExit(f"{place}: not distilled yet. Run the arm distil first.")
        return place


# ---------------------------------------------------------------------------------------------------------------------
# Cost


def cost(bench: Bench) -> dict[str, Any]:
    """Parameters and GFLOP (two a multiply-accumulate, as the paper counts); CPU milliseconds on one thread."""
    torch.manual_seed(0)
    arms: dict[str, tuple[nn.Module, Tensor]] = {"mid, 256 px": (MobileStudent("mid"), torch.zeros(1, 3, 256, 256))}
    counts: dict[str, Any] = {}
    for side, (parameters, gigaflops) in PAPER.items():
        network = inference(BlazeGenerator(512, side))
        counts[f"blaze, {side} px"] = _count(network, torch.zeros(1, network.num_ws, 512))
        counts[f"blaze, {side} px"] |= {"paper": {"parameters": parameters, "gigaflops": gigaflops}}
        if side < 1024:
            arms[f"blaze, {side} px"] = network, torch.randn(1, network.num_ws, 512)
    for side in (256, 1024):
        peer = MobileStyleGAN(side)
        counts[f"MobileStyleGAN's structure, {side} px"] = _count(peer, torch.zeros(1, 512))
    arms["MobileStyleGAN's structure, 256 px"] = MobileStyleGAN(256), torch.randn(1, 512)

    # Every arm in turn, the least of many runs: other work on the machine can only add.
    folder = bench.out / "cost"
    folder.mkdir(parents=True, exist_ok=True)
    sessions, least = {}, dict.fromkeys(arms, float("inf"))
    for index, (name, (network, given)) in enumerate(arms.items()):
        sessions[name] = open_session(_written(network, given, folder / f"{index}.onnx"), 1)
    for _ in range(bench.options.rounds):
        for name, session in sessions.items():
            feed = {session.get_inputs()[0].name: arms[name][1].numpy()}
            for _ in range(3):
                begun = time.process_time()
                session.run(None, feed)
                least[name] = min(least[name], 1000 * (time.process_time() - begun))
    return {"counts": counts, "milliseconds": {name: round(value, 2) for name, value in least.items()}}


def _count(network: nn.Module, given: Tensor) -> dict[str, float]:
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network.eval().requires_grad_(False)(given)
    return {
        "parameters": round(count_parameters(network) / 1e6, 3),
        "gigaflops": round(counter.get_total_flops() / 1e9, 3),
    }


def _written(network: nn.Module, given: Tensor, path: Path) -> Path:
    """A network as ONNX of one size."""
    if isinstance(network, MobileStudent):
        return exported(network, path)
    torch.onnx.export(network.eval(), (given,), str(path), dynamo=True, opset_version=18, external_data=False)
    return path


PAGE = """(async () => {
    const { Runner } = await import('./runner.js');
    const { models } = await (await fetch('models.json')).json();
    const [runner, times] = [new Runner(1), {}];
    await runner.load(models[0].file);
    const arms = {
        'mid, 256 px': async () => runner.run(new ImageData(256, 256)),
        'blaze, 256 px': async () => (await first.draw(models[0].faces)),
        'blaze, 512 px': async () => (await second.draw(models[1].faces)),
    };
    const [first, second] = [new Runner(1), new Runner(1)];
    for (let turn = 0; turn < RUNS; turn++)
        for (const [name, draw] of Object.entries(arms)) (times[name] ??= []).push((await draw()).milliseconds);
    return Object.fromEntries(Object.entries(times).map(([name, all]) => [name, all.sort((a, b) => a - b)[RUNS >> 1]]));
})()"""


def page(bench: Bench) -> dict[str, Any]:
    """Median milliseconds of the networks in Chromium's WebAssembly, one thread, every arm in turn."""
    folder, models = bench.out / "page", []
    folder.mkdir(parents=True, exist_ok=True)
    export_onnx(MobileStudent("mid").eval(), folder / "mid.onnx", {})
    for side in (256, 512):
        torch.manual_seed(0)
        faces = BlazeFaces(resolution=side).eval()
        export_onnx(faces, folder / f"faces{side}.onnx", {})  # type: ignore[arg-type]
        models.append(Model(folder / "mid.onnx", f"mid {side}", 256, faces=folder / f"faces{side}.onnx"))
    server = serve.open_server(0, models)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    with Chromium(timeout=600) as browser:
        browser.open(f"http://127.0.0.1:{server.server_address[1]}/")
        browser.until("message.hidden && numbers.textContent.includes('network')")
        found = browser.run(PAGE.replace("RUNS", str(10 * bench.options.rounds)))
        version = browser.send("Browser.getVersion")["product"]
    server.shutdown()
    return {"milliseconds": found, "browser": version}


# ---------------------------------------------------------------------------------------------------------------------
# Distillation


class Blotted(BlazeTask):
    """A teacher with a fault: a blot in the tenth of its pictures whose w lies farthest along one direction.

    It is the direction in which w varies most, so that one kind of face has the fault, as faults of generators do.
    """

    def prepare(self) -> Blotted:
        ws = fixed_latents(self.teacher.mapping, self.teacher.z_dim, 2000)[:, 0]
        self.direction = torch.linalg.svd(ws - ws.mean(0), full_matrices=False).Vh[0]
        self.threshold = float((ws @ self.direction).quantile(0.9))
        return self

    def place(self) -> Tensor:
        """Where the blot lies, [1, 1, R, R]."""
        size = self.teacher.img_resolution
        y, x = torch.meshgrid(torch.arange(size), torch.arange(size), indexing="ij")
        return (((x - 0.8 * size) ** 2 + (y - 0.2 * size) ** 2) < (0.15 * size) ** 2).float()[None, None]

    def drawn(self, ws: Tensor) -> Tensor:
        picture, colour = super().drawn(ws), torch.tensor(BLOT).view(1, 3, 1, 1)
        bad = self.bad(ws)[:, None, None, None] * self.place()
        return picture * (1 - bad) + colour * bad

    def bad(self, ws: Tensor) -> Tensor:
        """Whose pictures have the blot, 1 or 0: [N]."""
        return ((ws[:, 0] @ self.direction) > self.threshold).float()

    @torch.no_grad()
    def strength(self, ws: Tensor, own: Tensor) -> float:
        """How far the student's pictures `own` [N, 3, R, R] go from the faultless to the blot, where there is one."""
        chosen = self.bad(ws) > 0
        place, colour = self.place(), torch.tensor(BLOT)
        means, clean = (
            (images * place).sum((2, 3)) / place.sum()
            for images in (own[chosen], torch.cat([super(Blotted, self).drawn(part) for part in ws[chosen].split(16)]))
        )
        return float((((means - clean) * (colour - clean)).sum(1) / (colour - clean).square().sum(1)).mean())

    @torch.no_grad()
    def blots(self, images: Tensor) -> float:
        """Share of pictures [N, 3, R, R] that show a blot: its place is nearer to its colour than to any other."""
        place = self.place()
        means = (images * place).sum((2, 3)) / place.sum()
        return float(((means - torch.tensor(BLOT)).abs().mean(1) < 0.35).float().mean())


class BlottedAndCopied(Blotted):
    """The same, with an adversary on the teacher's pictures."""

    def real(self, pictures: Tensor, update: Update) -> Tensor:
        return softened(update.memory["target"], self.settings.soften)


def _distilled(
    bench: Bench, name: str, kind: type[BlazeTask], model: Blaze, images: int, begun: dict[str, Tensor] | None = None
) -> tuple[BlazeTask, float]:
    """Train a student, from the state `begun` of its task's tensors or from nothing; the task and the minutes."""
    train = Train(images=images, batch=16, lr=2e-3, checkpoint_images=800, preview_images=4000)
    torch.manual_seed(0)
    teacher, discriminator = open_teacher(bench.options.teacher, bench.size, {})
    examples = to_tensor(bench.photos[np.arange(6)])
    task = kind(model, train, teacher, discriminator, bench.reader, examples)
    if begun:
        task.load_state_dict(begun)
    if isinstance(task, Blotted):
        task.prepare()
    minutes = bench.train(task, bench.photos, train, name)
    return task, minutes


def distil(bench: Bench) -> dict[str, Any]:
    """The student of the experiment, encoder included, against its teacher."""
    model = Blaze(teacher=bench.options.teacher)
    task, minutes = _distilled(bench, "distil", BlazeTask, model, bench.options.images)
    found = finish(task, bench.out / "distil")
    save_network(bench.out / "distil" / "student.safetensors", stylizer_of(task.ema, task.encoder_ema))

    ws = fixed_latents(task.teacher.mapping, task.teacher.z_dim, SAMPLES)
    real = bench.heldout("photo")
    own, wanted = drawn(task.ema, ws), drawn(task.teacher, ws)
    measures = {
        "kid": bench.kid(real, own), "teacher_kid": bench.kid(real, wanted),
        "fid": frechet_distance(bench.features(real), bench.features(own)),
        "teacher_fid": frechet_distance(bench.features(real), bench.features(wanted)),
    }  # fmt: skip
    ratios = {f"{name}_ratio": measures[name] / measures[f"teacher_{name}"] for name in ("kid", "fid")}
    return found | measures | ratios | {"minutes": minutes, "images": bench.options.images}


def faults(bench: Bench, name: str, kind: type[Blotted]) -> dict[str, Any]:
    """How often the student draws what only a tenth of the teacher's pictures have.

    The distilled student learns on from the teacher whose pictures have the fault: it draws well enough for an
    adversary to look at more than its blur.
    """
    model = Blaze(teacher=bench.options.teacher, encoder_share=0.0, warm_up=0.0)
    begun = load_checkpoint(bench.start() / ".scratch" / "student.ckpt")
    assert begun, "the arm distil has left no training state"
    task, minutes = _distilled(bench, name, kind, model, bench.options.faults, begun["task"])
    assert isinstance(task, Blotted)
    ws = fixed_latents(task.teacher.mapping, task.teacher.z_dim, SAMPLES)
    with torch.no_grad():
        taught = torch.cat([task.drawn(part) for part in ws.split(16)])
    own = drawn(task.ema, ws)
    write_image(bench.out / name / "sheet.png", grid(to_uint8(torch.cat([taught[:40], own[:40]])), columns=40))
    return {
        "student": task.blots(own), "teacher": task.blots(taught), "strength": task.strength(ws, own),
        "minutes": minutes, "images": bench.options.faults,
    }  # fmt: skip


# ---------------------------------------------------------------------------------------------------------------------
# Encoder


def encoder(bench: Bench) -> dict[str, Any]:
    """Held-out people: one pass against W+ optimisation of the teacher; in the teacher's pictures and the student's."""
    stylizer, _, _ = open_start(bench.start())
    teacher, _ = open_teacher(bench.options.teacher, bench.size, {})
    photos = bench.heldout("photo")[: bench.options.people]
    with torch.no_grad():
        one_pass = drawn(stylizer.generator, stylizer.encoder(photos))
    found = project(teacher, photos, Project(steps=bench.options.steps), features=bench.reader.encode)
    optimised, same = drawn(teacher, found), drawn(stylizer.generator, found)
    write_image(bench.out / "encoder.png", grid(to_uint8(torch.cat([photos[:8], one_pass[:8], optimised[:8]])), 8))
    identity = bench.identity(photos, one_pass)
    best = bench.identity(photos, optimised)
    return {
        "identity": identity, "optimised": best, "ratio": identity / best,
        "student_at_the_optimised": bench.identity(photos, same), "people": len(photos), "steps": bench.options.steps,
    }  # fmt: skip


@torch.no_grad()
def photos(bench: Bench) -> dict[str, Any]:
    """Real portraits through the encoder."""
    stylizer, _, _ = open_start(bench.start())
    paths = sorted(path for path in Path(bench.options.portraits).rglob("*") if path.suffix in (".png", ".jpg"))
    assert paths, "--portraits: names no folder of portraits"
    given = F.interpolate(to_tensor(load_any(paths[: bench.options.people])), (bench.size, bench.size), mode="area")
    own = torch.cat([stylizer(part) for part in given.split(16)])
    write_image(bench.out / "photos.png", grid(to_uint8(torch.cat([given[:24], own[:24]])), columns=24))
    before, after = bench.reader.read(given), bench.reader.read(own)
    error = (before.landmarks - after.landmarks).norm(dim=2).mean()
    return {"identity": bench.identity(given, own), "landmarks": float(error), "photos": len(given)}


def load_any(paths: list[Path]) -> np.ndarray:
    """Square pictures of any size and format at 256 px: uint8 [N, 256, 256, 3]."""
    import cv2

    from stages.core import decode

    return np.stack([cv2.resize(decode.read(path).pixels, (256, 256), interpolation=cv2.INTER_AREA) for path in paths])


# ---------------------------------------------------------------------------------------------------------------------
# Few-shot


class Original(FewShotTask):
    """The FaceStylizer task's own recipe: the first picture only, the last layer's style, a fixed discriminator.

    L1 0.5, content 4, style 1, and 0.2 times the L1 between the discriminator's outputs; layers 4, 5, 10 and 11 are
    mixed, with a tenth of the picture's code. No identity, no check.
    """

    def _phases(self, lr: float) -> list[Phase]:
        own = list(self.generator.parameters())
        return [Phase("generator", own, torch.optim.Adam(own, lr=8e-4, betas=(0.0, 0.99)))]

    def losses(self, phase: str, batch: dict[str, Tensor], update: Update) -> dict[str, Tensor]:
        picture = self.pictures[:1].expand(len(batch["images"]), -1, -1, -1)
        with torch.no_grad():
            codes = self.encoder(picture)
            wanted, maps = self.discriminator(picture), self.reader.encode(picture)
            z = torch.randn(len(codes), self.z_dim)
            other = self.mapping(z, update_w_avg=False)
        ws = codes.clone()
        for layer in (layer for layer in (4, 5, 10, 11) if layer < ws.shape[1]):
            ws[:, layer] = 0.1 * codes[:, layer] + 0.9 * other[:, layer]
        images = self.generator(ws).colour
        own = self.reader.encode(images)
        return {
            "l1": 0.5 * F.l1_loss(images, picture),
            "content": 4 * perceptual_distance(own, maps).mean(),
            "style": self.style_loss(statistics(own)[-1:], statistics(maps)[-1:]),
            "adversarial": 0.2 * F.l1_loss(self.discriminator(images), wanted),
        }

    def after_update(self, images: int, batch: int) -> dict[str, float]:
        self.kept.load_state_dict(self.generator.state_dict())
        return {}

    def lr_factor(self, images: int, total: int) -> float:
        return 1.0


def few(bench: Bench, name: str, kind: type[FewShotTask], count: int, style: str) -> dict[str, Any]:
    """A style from `count` pictures, and what it does to faces from scratch and to held-out people."""
    stylizer, faces, discriminator = open_start(bench.start())
    paths = sorted((bench.data.path / "style" / style).glob("*.png"))[:count]
    pictures = LazyImages(paths)[np.arange(len(paths))]
    images = 400 if kind is Original else bench.options.shots
    train = Train(images=images, batch=4, lr=1e-3, checkpoint_images=400, preview_images=400)
    torch.manual_seed(0)
    model = BlazeFewShot(weights=FewShotWeights())
    task = kind(model, train, stylizer, faces, discriminator, bench.reader, to_tensor(pictures))
    minutes = bench.train(task, pictures, train, name)
    try:
        found = finish_few_shot(task, bench.out / name)
    except TristyleError:  # what the original recipe may end with: it has no check
        found = {"style_distance": task.style_of(drawn(task.kept, task.checked))}

    # Faces from scratch against held-out pictures of the style, without truncation, as KID is by custom, and with what
    # `stylize` draws; held-out people through the encoder.
    measures: dict[str, float] = {}
    real = bench.heldout(f"style/{style}")
    for measure, psi in (("kid", 1.0), ("truncated_kid", PSI)):
        ws = fixed_latents(task.mapping, task.z_dim, 400, psi)
        before, after = drawn(task.start, ws), drawn(task.kept, ws)
        measures |= {measure: bench.kid(real, after), f"start_{measure}": bench.kid(real, before)}
        measures[f"{measure}_ratio"] = measures[measure] / measures[f"start_{measure}"]
    ws = fixed_latents(task.mapping, task.z_dim, 400, PSI)
    apart, kept_apart = (diversity(bench.reader, drawn(network, ws)) for network in (task.start, task.kept))
    people = bench.heldout("photo")[: bench.options.people]
    with torch.no_grad():
        codes = task.encoder(people)
    shown = torch.cat([people[:12], drawn(task.start, codes[:12]), drawn(task.kept, codes[:12])])
    write_image(bench.out / name / "people.png", grid(to_uint8(shown), columns=12))
    return found | measures | {
        "diversity": kept_apart / apart,
        "identity": bench.identity(people, drawn(task.kept, codes)),
        "start_identity": bench.identity(people, drawn(task.start, codes)),
        "minutes": minutes,
    }  # fmt: skip


# ---------------------------------------------------------------------------------------------------------------------
# Table


def arms(bench: Bench) -> dict[str, Callable[[], dict[str, Any]]]:
    """Every arm, in the order in which they need each other."""
    found: dict[str, Callable[[], dict[str, Any]]] = {
        "cost": lambda: cost(bench),
        "page": lambda: page(bench),
        "distil": lambda: distil(bench),
        "encoder": lambda: encoder(bench),
    }
    kinds: dict[str, type[FewShotTask]]
    for style in bench.options.styles.split(","):
        for count in SHOTS:
            kinds = {"few": FewShotTask} | ({"original": Original} if count == 1 else {})
            for name, kind in kinds.items():
                arm = f"{name}-{count}-{style}"
                found[arm] = lambda arm=arm, kind=kind, count=count, style=style: few(bench, arm, kind, count, style)  # type: ignore[misc]
    found["faults-real"] = lambda: faults(bench, "faults-real", Blotted)
    found["faults-teacher"] = lambda: faults(bench, "faults-teacher", BlottedAndCopied)
    found["photos"] = lambda: photos(bench)
    return found


def write_table(out: Path) -> str:
    """All results so far as Markdown, also in FOLDER/table.md."""
    lines = ["| arm | measured | wanted |", "|---|---|---|"]
    for path in sorted(out.glob("*.json")):
        wanted = WANTED.get(path.stem, WANTED.get(path.stem.partition("-")[0], ""))
        shown = "; ".join(f"{name} {_short(value)}" for name, value in json.loads(path.read_text()).items())
        lines.append(f"| {path.stem} | {shown} | {wanted} |")
    text = "\n".join(lines) + "\n"
    (out / "table.md").write_text(text)
    return text


def _short(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name}: {_short(item)}" for name, item in value.items())
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def main(arguments: list[str] | None = None) -> None:
    """Command line: see `--help`."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.blaze", description=__doc__)
    parser.add_argument("data", type=Path, help="data artifact with two styles")
    parser.add_argument("--out", required=True, help="folder for results and training states")
    parser.add_argument("--arms", default="", help="comma-separated; default: all but photos")
    parser.add_argument("--styles", default="comic,anime")
    parser.add_argument("--teacher", default="base", help="as student.model.teacher, but for style")
    parser.add_argument("--images", type=int, default=120_000, help="of the distillation, encoder included")
    parser.add_argument("--faults", type=int, default=9_600, help="images of the trainings with a planted fault")
    parser.add_argument("--shots", type=int, default=1200, help="images of a few-shot training")
    parser.add_argument("--people", type=int, default=64, help="held-out people, or portraits")
    parser.add_argument("--steps", type=int, default=200, help="of the W+ optimisation")
    parser.add_argument("--portraits", help="folder of real portraits for the arm photos")
    parser.add_argument("--rounds", type=int, default=12, help="of the timing")
    parser.add_argument("--workers", type=int, default=2, help="threads of the trainings")
    bench = Bench(parser.parse_args(arguments))
    bench.out.mkdir(parents=True, exist_ok=True)
    known = arms(bench)
    for name in bench.options.arms.split(",") if bench.options.arms else [arm for arm in known if arm != "photos"]:
        path = bench.out / f"{name}.json"
        if path.exists():
            continue
        write_json(path, known[name]())
        print(name, path.read_text(), flush=True)
    print(write_table(bench.out))


if __name__ == "__main__":
    main()
