"""StyleGAN2 and ADA against vectors of the reference implementation (facts/stylegan.md 5).

Sizes, depths and names all come from the files in $TRISTYLE_SHARED/golden/stylegan: a file that is absent is no case,
an absent folder skips.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch

from stages.networks import augment
from stages.networks import stylegan2 as sg
from stages.networks.ops import resample
from stages.style.stylegan2_ada import Recipe, StyleGAN2
from stages.training import losses
from stages.training.fit import Update, only

SHARED = Path(os.environ.get("TRISTYLE_SHARED", Path(__file__).resolve().parents[2] / "../shared"))
FOLDER = SHARED / "golden" / "stylegan"
if not FOLDER.is_dir():
    pytest.skip(f"no golden vectors at {FOLDER}", allow_module_level=True)
CONFIG = json.loads((FOLDER / "config.json").read_text())


def arrays(name: str) -> dict[str, np.ndarray]:
    """All arrays of one file, or none where it is absent."""
    path = FOLDER / name
    if not path.is_file():
        return {}
    with np.load(path, allow_pickle=False) as file:
        return {key: file[key] for key in file.files}


def tensors(name: str) -> dict[str, torch.Tensor]:
    return {k: torch.from_numpy(np.asarray(v)) for k, v in arrays(name).items() if v.dtype.kind in "fi"}


def keys(name: str, prefix: str = "", suffix: str = "") -> list[str]:
    path = FOLDER / name
    if not path.is_file():
        return []
    with np.load(path, allow_pickle=False) as file:
        return [k for k in file.files if k.startswith(prefix) and k.endswith(suffix)]


def close(actual, expected, rtol: float = 1e-4, atol: float = 5e-5) -> None:
    torch.testing.assert_close(torch.as_tensor(actual), torch.as_tensor(expected), rtol=rtol, atol=atol)


def generator() -> sg.Generator:
    init = CONFIG["G_init_kwargs"]
    size = {k: init[k] for k in ("z_dim", "w_dim", "img_resolution", "img_channels")}
    net = sg.Generator(**size, **init["mapping_kwargs"], **init["synthesis_kwargs"]).eval()
    net.load_state_dict(tensors("g_ema_state.npz"), strict=True)
    return net


def discriminator() -> sg.Discriminator:
    init = CONFIG["D_init_kwargs"]
    size = {
        k: init[k]
        for k in ("img_resolution", "img_channels", "channel_base", "channel_max", "conv_clamp", "num_fp16_res")
    }
    net = sg.Discriminator(**size, **init["epilogue_kwargs"]).eval()
    net.load_state_dict(tensors("d_state.npz"), strict=True)
    return net


@pytest.fixture(scope="module")
def g_io() -> dict[str, torch.Tensor]:
    return tensors("g_io.npz")


@pytest.fixture(scope="module")
def d_io() -> dict[str, torch.Tensor]:
    return tensors("d_io.npz")


# Operators


OPS = tensors("ops.npz")


@pytest.mark.parametrize("case", CONFIG["ops_cases"] if OPS else [], ids=lambda c: c["key"])
def test_operator(case) -> None:
    case = dict(case)
    key, op = case.pop("key"), case.pop("op")
    case.pop("fused_modconv", None)
    f = case.pop("filter", None)
    filters = {} if op in ("bias_act", "minibatch_std") else {"f": None if f in (None, "none") else OPS[f"filter/{f}"]}
    for name in ("x", "w", "styles", "noise", "b"):
        if isinstance(case.get(name), str):
            case[name] = OPS[case[name]]
    if op == "modulated_conv2d":
        filters = {"resample_filter": filters["f"]}
        case["weight"] = case.pop("w")
    if op in ("upsample2d", "downsample2d", "filter2d"):
        factor = case.pop("factor")
        case |= {} if op == "filter2d" else {"up" if op == "upsample2d" else "down": factor}
    function = getattr(resample, op, None) or getattr(sg, op)
    close(function(**case, **filters), OPS[key])


@pytest.mark.parametrize("key", keys("ops.npz", "norm2/0"))
def test_second_moment(key: str) -> None:
    close(sg.normalize_2nd_moment(OPS["norm2/x"]), OPS[key])


# Generator


def latents(net: sg.Generator, g_io, name: str) -> torch.Tensor:
    """ws for a name such as psi1, psi0.7, psi0.7_cutoff4, wplus, psi1_nonfused."""
    if name == "wplus":
        return g_io["wplus"]
    parts = dict(psi=1.0, cutoff=None)
    for part in name.split("_"):
        if part.startswith("psi"):
            parts["psi"] = float(part[3:])
        elif part.startswith("cutoff"):
            parts["cutoff"] = int(part[6:])
    return net.mapping(g_io["z"], parts["psi"], parts["cutoff"])


@torch.no_grad()
@pytest.mark.parametrize("key", [k for k in keys("g_io.npz") if k == "w" or k.startswith("ws_")])
def test_mapping(key: str, g_io) -> None:
    net = generator()
    ws = latents(net, g_io, "psi1" if key == "w" else key.removeprefix("ws_").removesuffix("_full"))
    close(ws if g_io[key].ndim == 3 else ws[:, 0], g_io[key])


@torch.no_grad()
@pytest.mark.parametrize("key", keys("g_io.npz", "w_avg_after_one_train_forward"))
def test_w_avg_moves_in_training(key: str, g_io) -> None:
    net = generator().train()
    net.mapping(g_io["z"])
    close(net.mapping.w_avg, g_io[key])


@torch.no_grad()
@pytest.mark.parametrize("key", keys("g_io.npz", "style/"))
def test_styles(key: str, g_io) -> None:
    net = generator()
    layer = net.synthesis.get_submodule(key.removeprefix("style/"))
    close(layer.affine(net.mapping(g_io["z"])[:, 0]), g_io[key])


SYNTHESIS = sorted({k.split("/")[0] for k in keys("g_io.npz") if k.startswith(("const_", "none_"))})


@torch.no_grad()
@pytest.mark.parametrize("run", SYNTHESIS)
def test_synthesis(run: str, g_io) -> None:
    """Final images, and per block the toRGB output, the running image and the features."""
    net = generator()
    seen: dict[str, torch.Tensor] = {}
    for r in net.synthesis.block_resolutions:
        block = getattr(net.synthesis, f"b{r}")
        block.torgb.register_forward_hook(lambda m, i, out, r=r: seen.update({f"torgb_b{r}": out.clone()}))
        block.register_forward_hook(
            lambda m, i, out, r=r: seen.update({f"x_b{r}": out[0].clone(), f"img_b{r}": out[1].clone()})
        )
    noise_mode, name = run.split("_", 1)
    seen["img"] = net.synthesis(latents(net, g_io, name), noise_mode)
    wanted = keys("g_io.npz", run + "/")
    assert wanted
    for key in wanted:
        close(seen[key.split("/")[1]][: len(g_io[key])], g_io[key], atol=2e-4)


# Discriminator


@torch.no_grad()
@pytest.mark.parametrize("key", keys("d_io.npz", "logits_"))
def test_logits(key: str, d_io) -> None:
    count = key.removeprefix("logits_first")
    img = d_io["img"] if key == "logits_all" else d_io["img"][: int(count)]
    close(discriminator()(img), d_io[key])


@torch.no_grad()
@pytest.mark.parametrize("key", [k for k in keys("d_io.npz") if k.startswith(("mbstd_channel", "x_b8_out"))])
def test_epilogue_input(key: str, d_io) -> None:
    net, seen = discriminator(), {}
    net.b4.register_forward_hook(lambda m, i, o: seen.update(x=i[0].clone()))
    net(d_io["img"][: len(d_io[key])])
    x = seen["x"]
    if key.startswith("mbstd_channel"):
        x = sg.minibatch_std(x, net.b4.mbstd_group_size)[:, -1, 0, 0]
    close(x, d_io[key])


@pytest.mark.parametrize("names", [arrays("d_io.npz")["r1_param_names"]] if keys("d_io.npz", "r1_param_names") else [])
def test_r1(names, d_io) -> None:
    net = discriminator()
    img = d_io["img"].clone().requires_grad_()
    logits = net(img)
    (grad,) = torch.autograd.grad(logits.sum(), img, retain_graph=True)
    close(grad, d_io["r1_grad_img"])
    penalty = losses.r1_penalty(logits, img)
    close(penalty, d_io["r1_penalty"])
    loss = (penalty * d_io["r1_gamma"] / 2).mean()
    close(loss, d_io["r1_loss_mean"])
    loss.backward()
    params = dict(net.named_parameters())
    norms = [0.0 if params[n].grad is None else params[n].grad.double().norm().item() for n in names]
    close(torch.tensor(norms, dtype=torch.float64), d_io["r1_param_grad_norm"], rtol=1e-3, atol=1e-6)
    for key in keys("d_io.npz", "r1_param_grad/"):
        close(params[key.split("/")[1]].grad, d_io[key], rtol=1e-3, atol=1e-4)


# Path length


PATH = tensors("path_length.npz")


@pytest.mark.parametrize("mean", sorted({k.split("/")[0] for k in PATH if k.startswith("mean")}))
def test_path_length(mean: str) -> None:
    net = generator()
    ws = net.mapping(PATH["z"])
    images = net.synthesis(ws, "const")
    lengths = losses.path_lengths(images, ws, PATH["unit_noise"])
    close(lengths, PATH["pl_lengths"])
    penalty, after = losses.path_length_penalty(lengths, PATH[f"{mean}/pl_mean_before"])
    close(after, PATH[f"{mean}/pl_mean_after"])
    close(penalty, PATH[f"{mean}/pl_penalty"])
    loss = (2 * penalty).mean()
    close(loss, PATH[f"{mean}/pl_loss_mean"])
    if f"{mean}/param_grad_norm" not in PATH:
        return
    loss.backward()
    params = dict(net.named_parameters())
    names = arrays("path_length.npz")["param_names"]
    norms = [0.0 if params[n].grad is None else params[n].grad.double().norm().item() for n in names]
    close(torch.tensor(norms, dtype=torch.float64), PATH[f"{mean}/param_grad_norm"], rtol=1e-3, atol=1e-6)
    for key in (k for k in PATH if k.startswith(f"{mean}/param_grad/")):
        name = key.split("/", 2)[2]
        grad = params["synthesis.b4.const"].grad[0] if name == "synthesis.b4.const_ch0" else params[name].grad
        close(grad, PATH[key], rtol=1e-3, atol=1e-4)


def test_path_gradients() -> None:
    if not PATH:
        return
    net = generator()
    ws = net.mapping(PATH["z"])
    images = net.synthesis(ws, "const")
    noise = PATH["unit_noise"] / (images.shape[2] * images.shape[3]) ** 0.5
    close(torch.autograd.grad((images * noise).sum(), ws)[0], PATH["pl_grads_wrt_ws"])


# Augmentation


AUGMENT = tensors("augment.npz")
AUGMENT_CASES = CONFIG["augment_cases"] if AUGMENT else []


def augment_images(case) -> torch.Tensor:
    out = AUGMENT[f"{case['key']}/out"]
    return AUGMENT["images"][: len(out), : out.shape[1]]


def pipe_of(case) -> augment.AugmentPipe:
    pipe = augment.AugmentPipe(case["pipe"])
    pipe.p.fill_(case["p"])
    assert pipe.operations == set(case["spec"])
    return pipe


@pytest.mark.parametrize("case", AUGMENT_CASES, ids=lambda c: c["key"])
def test_augment_applied(case) -> None:
    """The executor with the stored matrices, and the padding it chooses."""
    if {"imgfilter", "cutout"} & set(case["spec"]):
        images = pipe_of(case)(augment_images(case), percentile=case["debug_percentile"])
    else:
        pipe, images, key = pipe_of(case), augment_images(case), case["key"]
        if AUGMENT[f"{key}/G_inv"].ndim == 3:
            inverse = AUGMENT[f"{key}/G_inv"]
            assert pipe.margins(images.shape, inverse) == AUGMENT[f"{key}/pad_x0x1y0y1"].tolist()
            images = pipe.apply_geometry(images, inverse)
        if AUGMENT[f"{key}/C"].ndim == 3:
            images = augment.apply_colour(images, AUGMENT[f"{key}/C"])
    close(images, AUGMENT[f"{case['key']}/out"], atol=2e-4)


@pytest.mark.parametrize(
    "case", [c for c in AUGMENT_CASES if c["debug_percentile"] is not None], ids=lambda c: c["key"]
)
def test_augment_drawn(case) -> None:
    """At a fixed percentile the drawn matrices are the reference's, and so is the whole."""
    pipe, images, key = pipe_of(case), augment_images(case), case["key"]
    for name, drawn in (
        ("G_inv", pipe.sample_geometry(images, case["debug_percentile"])),
        ("C", pipe.sample_colour(images, case["debug_percentile"])),
    ):
        stored = AUGMENT[f"{key}/{name}"]
        if drawn is None:
            close(stored, torch.eye(len(stored)))
        else:
            close(drawn, stored)
    close(pipe(images, percentile=case["debug_percentile"]), AUGMENT[f"{key}/out"], atol=2e-4)


@pytest.mark.parametrize("key", [k for k in AUGMENT if k.startswith("grad/") and k.endswith("_dx")])
def test_augment_gradient(key: str) -> None:
    case = next(c for c in AUGMENT_CASES if c["key"] == key[len("grad/") : -len("_dx")])
    images = AUGMENT["images"].clone().requires_grad_()
    out = pipe_of(case)(images, percentile=case["debug_percentile"])
    (grad,) = torch.autograd.grad((out * AUGMENT["grad/cotangent"]).sum(), images)
    close(grad, AUGMENT[key], atol=2e-4)


@pytest.mark.parametrize("key", [k for k in AUGMENT if k.startswith("Hz_")])
def test_augment_filters(key: str) -> None:
    pipe = augment.AugmentPipe("bgcf")
    close({"Hz_geom": pipe.geometry_taps, "Hz_fbank": pipe.bank}[key], AUGMENT[key], atol=1e-6)


# One training step


STEP = tensors("train_step.npz")


def task_of(d_io) -> StyleGAN2:
    """The training task on the stored networks, with the file's latents in place of draws and all noise off."""
    g = generator()
    for name, p in g.named_parameters():
        if name.endswith("noise_strength"):
            p.data.zero_()
    recipe = Recipe(r1_gamma=float(d_io["r1_gamma"]), mixing=0.0, noise=True, precision="float32")
    task = StyleGAN2(g, discriminator(), lr=0.001, recipe=recipe, ada=None)
    task.latents = lambda n, draws: STEP["z"][:n]
    task.unit_noise = lambda images, draws: STEP["pl_unit_noise"]
    return task


@pytest.mark.parametrize("phase", sorted({k.split("/")[0] for k in STEP if k.endswith("/grad_norm")}))
def test_train_step(phase: str, d_io) -> None:
    task = task_of(d_io)
    spec = next(p for p in task.phases if p.name == phase)
    with only(spec.params, list(task.parameters())):
        terms = task.losses(phase, {"images": d_io["img"]}, Update())
        sum(v for k, v in terms.items() if not k.startswith("_")).backward()
    names = arrays("train_step.npz")[f"{phase[0].lower()}_param_names"]
    net = task.generator if phase[0] == "G" else task.discriminator
    grads = [dict(net.named_parameters())[n].grad for n in names]
    norms = [0.0 if g is None else g.double().norm().item() for g in grads]
    sums = [0.0 if g is None else g.double().sum().item() for g in grads]
    norm, total = STEP[f"{phase}/grad_norm"], STEP[f"{phase}/grad_sum"]
    close(torch.tensor(norms, dtype=torch.float64), norm, rtol=1e-3, atol=1e-6)
    # A sum cancels: its tolerance is relative to the gradient's norm.
    assert ((torch.tensor(sums, dtype=torch.float64) - total).abs() <= 1e-3 * norm * 10 + 1e-5).all()
    if phase == "Greg":
        close(task.pl_mean, STEP["Greg/pl_mean_after"])


def test_train_step_losses(d_io) -> None:
    if not STEP:
        return
    task = task_of(d_io)
    real, update = {"images": d_io["img"]}, Update()
    close(task.losses("Gmain", real, update)["adversarial"], STEP["loss_Gmain"].mean())
    terms = task.losses("Dmain", real, update)
    close(terms["fake"], STEP["loss_Dgen"].mean())
    close(terms["real"], STEP["loss_Dreal"].mean())
    fakes = task.generator.synthesis(task.generator.mapping(STEP["z"]))
    close(task.discriminator(fakes), STEP["fake_logits"])
    close(task.discriminator(d_io["img"]), STEP["real_logits"])
