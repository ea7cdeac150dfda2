"""The StyleGAN2 networks and their augmentation, beyond parity with the reference."""

from __future__ import annotations

import pytest
import torch

from stages.core.weights import load_network, save_network
from stages.networks.augment import PIPES, AugmentPipe
from stages.networks.ops import conv_derivatives as convolution
from stages.networks.ops.conv_derivatives import convolve
from stages.networks.ops.resample import grid_sample, setup_filter, upfirdn2d
from stages.networks.stylegan2 import Discriminator, Generator, resolutions
from stages.style.stylegan2_ada import Ada, Recipe, StyleGAN2, lazy_adam
from stages.training.fit import Update, only
from stages.training.precision import compute_dtype


def tiny(size: int = 16) -> tuple[Generator, Discriminator]:
    torch.manual_seed(0)
    channels = {"channel_base": 128, "channel_max": 8}
    return Generator(8, 8, size, **channels), Discriminator(size, **channels)


def tiny_task(**changes) -> StyleGAN2:
    recipe = {"noise": True, "ema_images": 5000, "ema_ramp": 0.05, "precision": "float32", **changes}
    ada = recipe.pop("ada", None)
    return StyleGAN2(*tiny(), lr=0.002, recipe=Recipe(**recipe), ada=ada).train()


def test_every_parameter_gets_a_gradient() -> None:
    """Over the phases of one update; each phase reaches its own network alone."""
    task = tiny_task(mixing=1.0)
    images = torch.randn(8, 3, 16, 16)
    everything, update = list(task.parameters()), Update()
    for phase in task.phases:
        with only(phase.params, everything):
            sum(v for k, v in task.losses(phase.name, {"images": images}, update).items() if k[0] != "_").backward()
    for net in (task.generator, task.discriminator):
        silent = [name for name, p in net.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
        assert silent == []
    assert all(p.grad is None for p in task.ema.parameters())


@pytest.mark.parametrize("size", [0, 4, 24, 63, -8])
def test_sizes_that_are_no_power_of_two_are_refused(size: int) -> None:
    with pytest.raises(ValueError, match="power of two"):
        resolutions(size)


def test_networks_survive_saving(tmp_path) -> None:
    """Half precision on disk; the loaded networks draw and discriminate nearly the same."""
    generator, discriminator = (net.eval() for net in tiny())
    save_network(tmp_path / "g.safetensors", generator, half=True)
    save_network(tmp_path / "d.safetensors", discriminator, half=True)
    z = torch.randn(4, 8)
    with torch.no_grad():
        images = generator(z, 0.7, noise_mode="const")
        again = load_network(tmp_path / "g.safetensors")(z, 0.7, noise_mode="const")
        torch.testing.assert_close(again, images, rtol=0.02, atol=0.02)
        logits = load_network(tmp_path / "d.safetensors")(images)
        torch.testing.assert_close(logits, discriminator(images), rtol=0.02, atol=0.02)


def test_bfloat16_stays_close_to_float32() -> None:
    generator, discriminator = (net.eval() for net in tiny())
    z = torch.randn(4, 8)
    with torch.no_grad():
        exact = generator(z, noise_mode="const")
        logits = discriminator(exact)
        generator.synthesis.compute_dtype = discriminator.compute_dtype = torch.bfloat16
        assert (generator(z, noise_mode="const") - exact).abs().max() < 0.05 * exact.abs().max()
        assert (discriminator(exact) - logits).abs().max() < 0.05 * logits.abs().max() + 0.05


@pytest.mark.parametrize(("size", "num_fp16_res"), [(32, 0), (32, 3), (64, 3), (128, 3), (256, 3)])
def test_reduced_precision_at_every_size(size: int, num_fp16_res: int) -> None:
    """Which layers compute in it; forward and backward, every gradient finite, clamped as the official setting."""
    torch.manual_seed(0)
    shared = {"channel_base": 2 * size, "channel_max": 8, "conv_clamp": 256.0, "num_fp16_res": num_fp16_res}
    generator, discriminator = Generator(8, 8, size, num_layers=8, **shared), Discriminator(size, **shared)
    generator.synthesis.compute_dtype = discriminator.compute_dtype = torch.bfloat16
    seen: dict[tuple[str, int], torch.dtype] = {}
    for part, net in (("generator", generator.synthesis), ("discriminator", discriminator)):
        for r in net.block_resolutions:
            convolution1 = getattr(net, f"b{r}").conv1
            convolution1.register_forward_hook(lambda m, i, out, key=(part, r): seen.update({key: out.dtype}))
    images = generator(torch.randn(1, 8))
    assert images.shape == (1, 3, size, size) and images.dtype == torch.float32
    logits = discriminator(images)
    assert logits.dtype == torch.float32
    logits.sum().backward()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in generator.parameters())
    assert len(seen) == 2 * len(discriminator.block_resolutions) + 1
    for (_, resolution), dtype in seen.items():
        reduced = num_fp16_res == 0 or resolution > size // 2**num_fp16_res
        assert dtype is (torch.bfloat16 if reduced else torch.float32)


@torch.no_grad()
def test_the_largest_size_draws_and_discriminates() -> None:
    torch.manual_seed(0)
    shared = {"channel_base": 2048, "channel_max": 4, "conv_clamp": 256.0, "num_fp16_res": 4}
    generator, discriminator = Generator(4, 4, 1024, **shared), Discriminator(1024, **shared)
    assert generator.num_ws == 18
    images = generator(torch.randn(1, 4), noise_mode="const")
    assert images.shape == (1, 3, 1024, 1024) and torch.isfinite(images).all()
    assert discriminator(images).shape == (1, 1)


def test_files_from_before_the_argument_load(tmp_path) -> None:
    """A header without `num_fp16_res` means its default; a negative one is refused by name."""
    generator = tiny()[0].eval()
    assert generator.arguments.pop("num_fp16_res") == 0
    save_network(tmp_path / "g.safetensors", generator)
    again = load_network(tmp_path / "g.safetensors")
    assert again.arguments["num_fp16_res"] == 0
    z = torch.randn(2, 8)
    assert torch.equal(again(z, noise_mode="const"), generator(z, noise_mode="const"))
    with pytest.raises(ValueError, match="num_fp16_res"):
        Discriminator(16, num_fp16_res=-1)


# Convolutions


CONVOLUTIONS = [
    pytest.param({"padding": (1, 1)}, (4, 3, 3, 3), id="same"),
    pytest.param({"stride": (2, 2)}, (4, 3, 3, 3), id="down"),  # on 8 pixels: the last row and column go unread
    pytest.param({"stride": (2, 2), "transposed": True}, (3, 4, 3, 3), id="up"),
    pytest.param({}, (4, 3, 1, 1), id="1x1"),
]


@pytest.mark.parametrize(("arguments", "shape"), CONVOLUTIONS)
def test_convolution_derivatives(arguments: dict, shape: tuple[int, ...]) -> None:
    """First and second ones, for input, weight and bias, against finite differences."""
    torch.manual_seed(0)
    x = torch.randn(2, 3, 6, 8, dtype=torch.float64, requires_grad=True)
    w = torch.randn(shape, dtype=torch.float64, requires_grad=True)
    bias = torch.randn(4, dtype=torch.float64, requires_grad=True)

    def function(x, w, bias):
        return convolve(x, w, bias, **arguments)

    assert torch.autograd.gradcheck(function, (x, w, bias), fast_mode=True)
    assert torch.autograd.gradgradcheck(function, (x, w, bias), fast_mode=True)


@pytest.mark.parametrize(("arguments", "shape"), [CONVOLUTIONS[0].values, CONVOLUTIONS[1].values, ({}, (4, 3, 1, 1))])
@pytest.mark.parametrize("block", [100, 4096])
def test_weight_gradients_as_products(arguments: dict, shape: tuple[int, ...], block: int, monkeypatch) -> None:
    """The formulations for CPUs without AVX-512 equal torch's, whatever CPU runs the test."""
    monkeypatch.setattr(convolution, "_BLOCK", block)
    torch.manual_seed(0)
    x = torch.randn(2, 3, 10, 12).contiguous(memory_format=torch.channels_last)
    w = torch.randn(shape).requires_grad_()
    y = torch.convolution(
        x, w, None, arguments.get("stride", (1, 1)), arguments.get("padding", (0, 0)), (1, 1), False, (0, 0), 1
    )
    cotangent = torch.randn_like(y)
    (expected,) = torch.autograd.grad(y, w, cotangent)
    stride, padding = arguments.get("stride", (1, 1))[0], arguments.get("padding", (0, 0))
    actual = convolution._unfolded_weight_gradient(x, cotangent, shape[-1], stride, padding)
    torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-4)
    if shape[-1] == 3 and stride == 1:
        actual = convolution._minimal_weight_gradient(x, cotangent, padding)
        torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-4)


def test_second_derivatives_ask_for_no_more_than_they_need(monkeypatch) -> None:
    """R1 differentiates by the images: its first pass takes no weight gradient, its second one per layer and use."""
    calls: list[int] = []
    forward = convolution._WeightGradient.forward

    def counted(ctx, *arguments):
        calls.append(1)
        return forward(ctx, *arguments)

    monkeypatch.setattr(convolution._WeightGradient, "forward", staticmethod(counted))
    discriminator = tiny()[1]
    images = torch.randn(4, 3, 16, 16, requires_grad=True)
    (grad,) = torch.autograd.grad(discriminator(images).sum(), images, create_graph=True)
    assert calls == []
    grad.square().sum().backward()
    assert len(calls) > 0
    assert all(p.grad is not None for n, p in discriminator.named_parameters() if n.endswith("conv0.weight"))


def test_strided_filters_in_bfloat16_keep_their_type() -> None:
    x = torch.randn(2, 3, 8, 8)
    f = setup_filter((1, 3, 3, 1))
    low = upfirdn2d(x.bfloat16(), f, down=2, padding=1)
    assert low.dtype == torch.bfloat16
    torch.testing.assert_close(low.float(), upfirdn2d(x, f, down=2, padding=1), rtol=0.02, atol=0.02)


def test_truncation_goes_to_the_mean() -> None:
    generator = tiny()[0].eval()
    generator.mapping.w_avg.normal_()
    z = torch.randn(3, 8)
    with torch.no_grad():
        ws = generator.mapping(z, 0.0, truncation_cutoff=2)
        assert torch.allclose(ws[:, :2], generator.mapping.w_avg.expand(3, 2, -1))
        assert torch.equal(ws[:, 2:], generator.mapping(z)[:, 2:])


# Training


@pytest.mark.parametrize("flag", ["amx_bf16", "avx512_bf16", "avx512_f", None])
def test_bfloat16_is_chosen_where_the_cpu_multiplies_it(flag: str | None, monkeypatch) -> None:
    flags = dict.fromkeys(["avx2", "avx512_f", "avx512_bf16", "amx_bf16"], False) | ({flag: True} if flag else {})
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: flags)
    cpu = torch.device("cpu")
    hardware = flag in ("amx_bf16", "avx512_bf16")
    assert compute_dtype("auto", cpu) is (torch.bfloat16 if hardware else torch.float32)
    assert compute_dtype("float32", cpu) is torch.float32
    assert compute_dtype("bfloat16", cpu) is torch.bfloat16


def test_freeze_d_counts_from_the_image() -> None:
    task = tiny_task(freeze_d=4)
    trained = {id(p) for phase in task.phases if phase.name == "Dmain" for p in phase.params}
    frozen = {n.rsplit(".", 1)[0] for n, p in task.discriminator.named_parameters() if id(p) not in trained}
    assert frozen == {"b16.fromrgb", "b16.conv0", "b16.conv1", "b16.skip"}


def test_lazy_adam_is_corrected() -> None:
    group = lazy_adam([torch.nn.Parameter(torch.zeros(1))], 0.002, 16).param_groups[0]
    assert group["lr"] == pytest.approx(0.002 * 16 / 17)
    assert group["betas"] == (0.0, pytest.approx(0.99 ** (16 / 17)))


def test_phases_without_regularisers() -> None:
    assert [p.name for p in tiny_task(r1_gamma=0.0, pl_weight=0.0).phases] == ["Gmain", "Dmain"]
    assert [(p.name, p.every) for p in tiny_task().phases] == [("Gmain", 1), ("Greg", 4), ("Dmain", 1), ("Dreg", 16)]


def test_ada_rises_when_the_discriminator_overfits_and_stops_at_its_cap() -> None:
    task = tiny_task(ada=Ada(target=0.6, p_max=0.1, images=100, every=1))
    for step in range(1, 5):
        task.sign_sum.fill_(8)  # every logit of real images positive
        task.sign_count.fill_(8)
        task.after_update(8 * step, 8)
    assert float(task.augment.p) == pytest.approx(0.1)
    for step in range(5, 9):
        task.sign_sum.fill_(0)
        task.sign_count.fill_(8)
        task.after_update(8 * step, 8)
    assert float(task.augment.p) == 0


def test_averaged_generator_trails() -> None:
    task = tiny_task(ema_images=8.0, ema_ramp=None)
    before = task.ema.synthesis.b4.const.clone()
    with torch.no_grad():
        task.generator.synthesis.b4.const += 1
    task.after_update(8, 8)  # one half-life
    torch.testing.assert_close(task.ema.synthesis.b4.const.data, before.data + 0.5)


def test_soft_training_blurs_real_pictures_alone() -> None:
    """A point of light spreads by the deviation asked for; samples reach the discriminator as they are."""
    task = tiny_task(soften=1.0)
    seen: list[torch.Tensor] = []
    task.discriminator.register_forward_pre_hook(lambda _, given: seen.append(given[0].detach()))
    real, fakes = torch.zeros(8, 3, 16, 16), torch.randn(8, 3, 16, 16)
    real[..., 8, 8] = 1.0
    task.losses("Dmain", {"images": real}, update := Update(memory={"fakes": fakes}))
    task.losses("Dreg", {"images": real}, update)
    torch.testing.assert_close(seen[0], fakes)
    for soft in seen[1:]:
        torch.testing.assert_close(soft.sum(dim=(2, 3)), torch.ones(8, 3))
        assert float(soft[0, 0].max()) == pytest.approx(1 / (2 * torch.pi), rel=0.05)


# Augmentation


@pytest.mark.parametrize("pipe", PIPES)
def test_augmentation_keeps_shape_and_passes_gradients(pipe: str) -> None:
    augment = AugmentPipe(pipe)
    augment.p.fill_(1.0)
    torch.manual_seed(1)
    images = torch.rand(4, 3, 64, 64).requires_grad_()
    out = augment(images)
    assert out.shape == images.shape and torch.isfinite(out).all()
    assert not torch.equal(out, images)
    out.sum().backward()
    assert images.grad.abs().sum() > 0


NEUTRAL = torch.eye(3).repeat(2, 1, 1)


@pytest.mark.parametrize(("height", "width"), [(24, 32), (32, 24), (64, 64), (8, 40)])
def test_resampling_at_rest_changes_little(height: int, width: int) -> None:
    """The identity transform through both filters: smooth images come back, each side at its own length."""
    y, x = torch.linspace(-2, 2, height)[:, None], torch.linspace(-2, 2, width)
    images = torch.stack([torch.sin(x + y), torch.cos(x * y), x * y / 4]).repeat(2, 1, 1, 1)
    out = AugmentPipe("geom").apply_geometry(images, NEUTRAL)
    torch.testing.assert_close(out, images, rtol=0, atol=0.02)


@pytest.mark.parametrize(("height", "width"), [(24, 32), (32, 24), (64, 64)])
@pytest.mark.parametrize(("dx", "dy"), [(3, 0), (0, -5), (-4, 2)])
def test_whole_pixels_shift_by_reflection(height: int, width: int, dx: int, dy: int) -> None:
    """A shift by whole pixels reads what reflection beyond the border gives, along the right axis of either side."""
    y, x = torch.linspace(-2, 2, height)[:, None], torch.linspace(-2, 2, width)
    images = torch.sin(x + 2 * y).expand(1, 3, -1, -1)
    inverse = torch.eye(3)[None].clone()
    inverse[0, :2, 2] = torch.tensor([float(dx), float(dy)])
    pads = (max(-dx, 0), max(dx, 0), max(-dy, 0), max(dy, 0))
    padded = torch.nn.functional.pad(images, pads, mode="reflect")
    top, left = max(dy, 0), max(dx, 0)
    expected = padded[:, :, top : top + height, left : left + width]
    out = AugmentPipe("geom").apply_geometry(images, inverse)
    torch.testing.assert_close(out, expected, rtol=0, atol=0.05)


@pytest.mark.parametrize(("height", "width"), [(24, 32), (32, 24), (64, 64)])
def test_margins_cover_what_is_read(height: int, width: int) -> None:
    """Drawn transforms read nothing beyond the padding, so that ones stay ones; none exceeds what mirrors fill."""
    augment = AugmentPipe("bg")
    augment.p.fill_(0.8)
    torch.manual_seed(3)
    whole = 0
    for _ in range(40):
        images = torch.ones(1, 3, height, width)
        inverse = augment.sample_geometry(images)
        margins = augment.margins(images.shape, inverse)
        limits = [width - 1, width - 1, height - 1, height - 1]
        assert all(0 <= m <= limit for m, limit in zip(margins, limits, strict=True))
        if all(m < limit for m, limit in zip(margins, limits, strict=True)):
            whole += 1
            torch.testing.assert_close(augment.apply_geometry(images, inverse), images, rtol=0, atol=0.02)
    assert whole >= 10


@pytest.mark.parametrize("pipe", ["bgcfnc", "portrait"])
def test_augmentation_of_images_that_are_not_square(pipe: str) -> None:
    augment = AugmentPipe(pipe)
    augment.p.fill_(1.0)
    torch.manual_seed(1)
    images = torch.rand(4, 3, 24, 32).requires_grad_()
    out = augment(images)
    assert out.shape == images.shape and torch.isfinite(out).all()
    out.square().sum().backward()
    assert (images.grad.flatten(1).abs().sum(dim=1) > 0).all()


def test_augmentation_at_zero_is_the_identity() -> None:
    images = torch.rand(2, 3, 16, 16)
    assert AugmentPipe("bgcfnc")(images) is images


def test_augmentation_happens_with_probability_p() -> None:
    augment = AugmentPipe("color")
    augment.p.fill_(0.3)
    torch.manual_seed(0)
    images = torch.rand(1500, 3, 2, 2)
    changed = (augment.sample_colour(images) - torch.eye(4)).abs().amax(dim=(1, 2)) > 1e-6
    # Five operations, the luma flip being none half of the time.
    assert float(changed.float().mean()) == pytest.approx(1 - 0.7**4 * 0.85, abs=0.04)


def test_portraits_are_never_turned_round() -> None:
    """The portrait pipe keeps up up: its transforms are scalings and shifts."""
    augment = AugmentPipe("portrait")
    augment.p.fill_(1.0)
    inverse = augment.sample_geometry(torch.rand(64, 3, 16, 16))
    assert (inverse[:, 0, 1] == 0).all() and (inverse[:, 1, 0] == 0).all()
    assert (inverse[:, 0, 0] > 0).all() and (inverse[:, 1, 1] > 0).all()


def test_training_without_noise_keeps_its_strengths_at_zero() -> None:
    task = tiny_task(noise=False)
    images, update = torch.randn(8, 3, 16, 16), Update()
    for phase in task.phases:
        with only(phase.params, list(task.parameters())):
            sum(v for k, v in task.losses(phase.name, {"images": images}, update).items() if k[0] != "_").backward()
        phase.optimizer.step()
    strengths = [p for name, p in task.generator.named_parameters() if name.endswith("noise_strength")]
    assert strengths and all(float(p.detach()) == 0 for p in strengths)


def test_sampling_has_second_derivatives_of_its_own_that_agree_with_finite_differences() -> None:
    torch.manual_seed(0)
    images = torch.randn(2, 3, 5, 6, dtype=torch.float64, requires_grad=True)
    grid = torch.rand(2, 4, 7, 2, dtype=torch.float64) * 2.6 - 1.3  # some of it outside
    assert torch.equal(grid_sample(images, grid), torch.nn.functional.grid_sample(images, grid, align_corners=False))
    weights = torch.randn(2, 3, 4, 7, dtype=torch.float64)

    def smooth(x: torch.Tensor) -> torch.Tensor:  # so that there is a curvature to find
        return (grid_sample(x, grid).tanh() * weights).sum()

    assert torch.autograd.gradcheck(smooth, images)
    assert torch.autograd.gradgradcheck(smooth, images)
