"""The translator's networks and losses: what must hold exactly, whatever the weights are."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from stages.core.settings import ConfigError, Train
from stages.datasets.pictures import edge_blurred
from stages.networks.ugatit import (
    AdaILN,
    CamDiscriminator,
    InstanceNorm,
    ResnetGenerator,
    clip_rho,
    discriminator_layers,
)
from stages.pair.ugatit import TranslationTask, Translator, TranslatorWeights, unpaired_batches
from stages.training import losses
from stages.training.fit import Update
from tests.tools.pair_toys import heads

MASK = Translator(
    width=4,
    blocks=1,
    discriminator_width=4,
    precision="float32",
    weights=TranslatorWeights(cam=10.0, mask=1.0, mask_tv=0.2),
)
PLAIN = Translator(width=4, blocks=1, discriminator_width=4, mask_head=False, composite=False, precision="float32")
TRAIN = Train(images=8, batch=4, lr=1e-3)


def batch(count: int = 4) -> dict[str, torch.Tensor]:
    photo, style = heads(16, 0, False), heads(16, 1, True)
    return unpaired_batches(*photo, *style, seed=0, blurred=edge_blurred(style[0]))(0, count)


def losses_of(task: TranslationTask, data: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Both phases in their order."""
    update = Update()
    found = {f"generator/{name}": value for name, value in task.losses("generator", data, update).items()}
    return found | {
        f"discriminator/{name}": value for name, value in task.losses("discriminator", data, update).items()
    }


# ----------------------------------------------------------------------------------------------- networks


def generator(bias: float) -> ResnetGenerator:
    torch.manual_seed(0)
    net = ResnetGenerator(4, 1, 32, mask=True).eval()
    assert net.mask is not None
    nn.init.zeros_(net.mask[1].weight)
    nn.init.constant_(net.mask[1].bias, bias)
    return net


def test_an_empty_mask_lets_the_photo_through_bit_for_bit() -> None:
    photo = torch.rand(2, 3, 32, 32) * 2 - 1
    out = generator(-1e4)(photo)
    assert torch.equal(out.image, photo) and not out.mask.any()


def test_a_full_mask_shows_the_painted_content_alone() -> None:
    out = generator(1e4)(torch.rand(2, 3, 32, 32) * 2 - 1)
    assert torch.equal(out.image, out.content) and (out.mask == 1).all()


def test_instance_norm_equals_torchs() -> None:
    x = torch.randn(2, 5, 9, 7, dtype=torch.float64) * 3 + 1
    torch.testing.assert_close(InstanceNorm()(x), nn.InstanceNorm2d(5)(x), rtol=1e-9, atol=1e-9)


def test_adailn_has_exact_gradients_and_equals_torch_var() -> None:
    torch.manual_seed(1)
    x, gamma, beta = (torch.randn(s, dtype=torch.float64, requires_grad=True) for s in ((2, 3, 4, 5), (2, 3), (2, 3)))
    norm = AdaILN(3).double()
    assert torch.autograd.gradcheck(norm, (x, gamma, beta))
    within = (x - x.mean((2, 3), keepdim=True)) / (x.var((2, 3), keepdim=True) + 1e-5).sqrt()
    across = (x - x.mean((1, 2, 3), keepdim=True)) / (x.var((1, 2, 3), keepdim=True) + 1e-5).sqrt()
    expected = (0.9 * within + 0.1 * across) * gamma[..., None, None] + beta[..., None, None]
    torch.testing.assert_close(norm(x, gamma, beta), expected, rtol=1e-6, atol=1e-6)


def test_memory_format_does_not_change_the_numbers() -> None:
    torch.manual_seed(2)
    net, x = ResnetGenerator(4, 1, 32, mask=True).eval(), torch.rand(2, 3, 32, 32)
    plain = net(x).image
    last = net.to(memory_format=torch.channels_last)(x.contiguous(memory_format=torch.channels_last)).image
    torch.testing.assert_close(plain, last, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("size", "layers"), [(32, 5), (48, 6), (64, 6), (96, 7), (128, 7), (256, 7), (512, 7)])
def test_depth_follows_the_image_size(size: int, layers: int) -> None:
    assert discriminator_layers(size) == layers
    verdict = CamDiscriminator(2, layers, 16)(torch.zeros(1, 3, size, size))
    assert min(verdict.logit.shape[2:]) >= 1
    if layers < 7:  # one layer more does not run: the depth chosen is the greatest
        with pytest.raises(RuntimeError):
            CamDiscriminator(2, layers + 1, 16)(torch.zeros(1, 3, size, size))


def test_pictures_below_32_px_are_refused_in_words() -> None:
    with pytest.raises(ValueError, match="too small"):
        discriminator_layers(31)


def test_the_width_of_a_discriminator_is_capped() -> None:
    capped, full = (sum(p.numel() for p in CamDiscriminator(8, 7, limit).parameters()) for limit in (32, None))
    assert capped < full / 10


def test_spectral_norm_is_one_and_stands_still_in_eval_mode() -> None:
    torch.manual_seed(3)
    net = CamDiscriminator(4, 4)
    for _ in range(30):
        net(torch.rand(1, 3, 32, 32))
    conv = net.model[4]
    net.eval()
    before = conv.weight_u.clone()
    assert torch.linalg.matrix_norm(conv.normalised().flatten(1), 2).item() == pytest.approx(1, abs=1e-2)
    assert torch.equal(before, conv.weight_u)


# ------------------------------------------------------------------------------------------------- losses


def test_regional_l1_is_normalised_by_area() -> None:
    image, target = torch.ones(1, 3, 8, 8), torch.zeros(1, 3, 8, 8)
    for share in (1, 4):
        weight = torch.zeros(1, 1, 8, 8)
        weight[..., :share] = 1
        assert losses.regional_l1(image, target, weight).item() == pytest.approx(1)


def test_adversarial_gradient_stays_on_the_head() -> None:
    task = MASK.task(32, TRAIN)
    data = batch()
    fake = data["photo"].clone().requires_grad_()
    seen = task._discriminator_inputs(data, fake, data["style"], Update().draws)
    task._adversarial("style", seen["style"][1]).backward()
    outside = (data["photo_mask"] == 0).expand_as(fake)
    assert fake.grad[outside].abs().max() == 0 and fake.grad[~outside].abs().max() > 0


def test_generated_pictures_carry_their_sources_mask() -> None:
    task = MASK.task(32, TRAIN)
    data = batch()
    left, right = torch.zeros(4, 1, 32, 32), torch.zeros(4, 1, 32, 32)
    left[..., :16], right[..., 16:] = 1, 1
    data |= {"photo_mask": left, "style_mask": right}
    white = torch.full_like(data["photo"], 5.0)  # outside the range of every colour
    seen = task._discriminator_inputs(data, white, white, Update().draws)
    for domain, real_side, fake_side in (("style", right, left), ("photo", left, right)):
        real, fake = seen[domain]
        assert torch.equal((fake == 5).float(), fake_side.expand_as(fake))
        inside = real_side.expand_as(real) == 1
        assert torch.equal(real[inside], data[domain][inside])
        wall_real, wall_fake = real[~inside], fake[fake != 5]
        assert set(wall_real.unique().tolist()) == set(wall_fake.unique().tolist())  # one colour for both


@pytest.mark.parametrize("translator", [MASK, PLAIN, replace(PLAIN, light=False)], ids=["mask", "plain", "full"])
def test_every_parameter_gets_a_gradient_from_its_own_phase(translator: Translator) -> None:
    task = translator.task(32, TRAIN)
    data, update = batch(), Update()
    for phase in task.phases:
        terms = task.losses(phase.name, data, update)
        sum(value for name, value in terms.items() if not name.startswith("_")).backward()
        silent = [p.shape for p in phase.params if p.grad is None or not p.grad.abs().sum() > 0]
        assert not silent, f"{phase.name}: {silent}"
        task.zero_grad(set_to_none=True)
    named = {id(p) for phase in task.phases for p in phase.params}
    assert named == {id(p) for p in task.parameters() if p.requires_grad}


def test_discriminators_do_not_pull_on_the_generators() -> None:
    task, update = MASK.task(32, TRAIN), Update()
    task.losses("generator", batch(), update)
    sum(task.losses("discriminator", batch(), update).values()).backward()
    assert all(p.grad is None for p in (*task.to_style.parameters(), *task.to_photo.parameters()))


@pytest.mark.parametrize(
    "key", ["adversarial", "cycle", "identity_mapping", "cam", "mask", "mask_tv", "background", "face_identity"]
)
def test_a_weight_scales_its_own_term_alone(key: str) -> None:
    base = {name: 1.0 for name in vars(TranslatorWeights())}
    found = []
    for value in (1.0, 3.0):
        torch.manual_seed(0)
        task = replace(MASK, face_identity_from=0.0, weights=TranslatorWeights(**base | {key: value})).task(32, TRAIN)
        found.append({name: float(term.detach()) for name, term in losses_of(task, batch()).items()})
    touched = {
        name for name in found[0] if abs(found[1][name] - 3 * found[0][name]) < 1e-4 * abs(found[0][name]) + 1e-9
    }
    expected = {
        "adversarial": {
            "generator/adversarial_style",
            "generator/adversarial_photo",
            "discriminator/style",
            "discriminator/photo",
        }
    }.get(key, {f"generator/{key}"})
    assert touched == expected
    assert all(found[0][name] == pytest.approx(found[1][name]) for name in found[0] if name not in expected)


def test_the_latent_term_compares_heads_with_their_source() -> None:
    weights = replace(MASK.weights, latent=2.0)
    task = replace(MASK, weights=weights).task(32, TRAIN)
    photo, style, source = heads(8, 0, False), heads(8, 1, True), heads(8, 1, False)
    data = unpaired_batches(*photo, *style, 0, source[0])(0, 4)
    terms = task.losses("generator", data, Update())
    with torch.no_grad():
        painted = task.to_style(data["source"]).image
    expected = 2 * losses.regional_l1(painted, data["style"], data["style_mask"])
    assert terms["latent"].item() == pytest.approx(expected.item(), rel=1e-4)
    del data["source"]  # a style set without sources: the term is left out
    assert "latent" not in task.losses("generator", data, Update())


def test_the_person_counts_once_there_is_a_face_to_recognise() -> None:
    task = replace(MASK, face_identity_from=0.5, weights=replace(MASK.weights, face_identity=1.0)).task(32, TRAIN)
    data = batch()
    assert "face_identity" not in task.losses("generator", data, Update())
    lost = task.losses("generator", data, Update(images=4))["face_identity"]
    assert 0 < lost.item() < 2
    lost.backward()
    assert next(task.to_style.parameters()).grad is not None
    assert all(p.grad is None for p in task._recognisers[0].reader.parameters())
    assert not any("stem" in name for name in task.state_dict())  # the reader is not part of the training state
    same = task._face_identity(data["photo"], data["photo"], data["photo_mask"])
    assert same.item() == pytest.approx(0, abs=1e-5)


def test_the_cycle_counts_what_lies_outside_the_head_less() -> None:
    task = replace(MASK, background_cycle=0.25).task(32, TRAIN)
    mask = torch.zeros(1, 1, 32, 32)
    mask[..., :16] = 1
    counted = task._cycle_weights(mask)
    assert (counted[..., :16] == 1).all() and (counted[..., 16:] == 0.25).all()


def test_the_warm_up_of_a_translator_without_a_mask_keeps_what_lies_outside_the_head() -> None:
    region = replace(PLAIN, composite=True, warm_up=1.0, weights=TranslatorWeights(latent=1.0, background=2.0))
    task = region.task(32, TRAIN)
    photo, style, source = heads(8, 0, False), heads(8, 1, True), heads(8, 1, False)
    data = unpaired_batches(*photo, *style, 0, source[0])(0, 4)
    terms = task.losses("generator", data, Update())
    assert set(terms) == {"latent", "background"} and task.losses("discriminator", data, Update()) == {}
    inputs = torch.cat([data["source"], data["photo"]])
    with torch.no_grad():
        painted = task.to_style(inputs).image
    outside = 1 - torch.cat([data["style_mask"], data["photo_mask"]])
    expected = 2 * losses.regional_l1(painted, inputs, outside)
    assert terms["background"].item() == pytest.approx(expected.item(), rel=1e-4)


def test_edge_blurred_pictures_differ_at_edges_alone() -> None:
    images, _ = heads(4, 1, True, 64)
    images[:, :, 48:] = 128  # a flat part
    soft = edge_blurred(images)
    assert not np.array_equal(soft, images) and np.array_equal(soft[:, :, 56:], images[:, :, 56:])
    steepest = [np.abs(np.diff(stack[:, :, :44].astype(int), axis=2)).max() for stack in (soft, images)]
    assert steepest[0] < 0.8 * steepest[1]


def test_edge_promotion_refuses_soft_edges_to_the_weight_given() -> None:
    data, found = batch(), {}
    for edge in (0.0, 1.0, 3.0):
        torch.manual_seed(0)
        found[edge] = losses_of(replace(MASK, weights=replace(MASK.weights, edge_promotion=edge)).task(32, TRAIN), data)
    style, photo = ({e: terms[f"discriminator/{d}"].item() for e, terms in found.items()} for d in ("style", "photo"))
    # Three pictures' spectral norms and logits are those of two: only the third one's refusal is added.
    assert style[3.0] - style[0.0] == pytest.approx(3 * (style[1.0] - style[0.0]), rel=1e-3) and style[1.0] > style[0.0]
    assert photo[3.0] == pytest.approx(photo[0.0])


def test_plain_shows_whole_pictures_to_the_discriminators() -> None:
    task, data, update = PLAIN.task(32, TRAIN), batch(), Update()
    task.losses("generator", data, update)
    assert torch.equal(update.memory["seen"]["style"][0], data["style"])
    assert task.to_style.mask is None


def test_rho_is_clipped_and_the_average_lags() -> None:
    task = MASK.task(32, TRAIN)
    with torch.no_grad():
        for p in task.to_style.parameters():
            p.add_(5.0)
    before = [p.clone() for p in task.ema.parameters()]
    task.after_update(400, 4)
    rhos = [m.rho for m in task.to_style.modules() if hasattr(m, "rho")]
    assert rhos and all(0 <= rho.min() and rho.max() <= 1 for rho in rhos)
    decay = min(MASK.ema, 101 / 110)
    for old, new, live in zip(before, task.ema.parameters(), task.to_style.parameters(), strict=True):
        torch.testing.assert_close(new, decay * old + (1 - decay) * live)


def test_clip_rho_leaves_other_weights_alone() -> None:
    net = ResnetGenerator(4, 1, 32)
    weights = net.UpBlock1_1.conv1.weight.clone()
    with torch.no_grad():
        net.UpBlock1_1.norm1.rho.fill_(7)
    clip_rho(net)
    assert net.UpBlock1_1.norm1.rho.max() == 1 and torch.equal(weights, net.UpBlock1_1.conv1.weight)


# ------------------------------------------------------------------------------------------ data, settings


def test_batches_depend_on_seed_and_place_alone() -> None:
    photo, style = heads(7, 0, False), heads(5, 1, True)
    whole = unpaired_batches(*photo, *style, seed=3)(0, 12)
    again = unpaired_batches(*photo, *style, seed=3)(6, 6)
    assert all(torch.equal(whole[name][6:], again[name]) for name in whole)
    other = unpaired_batches(*photo, *style, seed=4)(0, 12)
    assert not torch.equal(whole["photo"], other["photo"])
    assert {name: tuple(value.shape) for name, value in whole.items()} == {
        "photo": (12, 3, 32, 32), "photo_mask": (12, 1, 32, 32),
        "style": (12, 3, 32, 32), "style_mask": (12, 1, 32, 32),
    }  # fmt: skip


def test_a_mirrored_picture_keeps_its_mask() -> None:
    images, masks = heads(6, 0, False)
    images[:] = masks[..., None]  # a picture that shows its own mask
    data = unpaired_batches(images, masks, images, masks, seed=0)(0, 24)
    for domain in ("photo", "style"):
        torch.testing.assert_close(data[domain][:, :1], data[f"{domain}_mask"] * 2 - 1)
    assert len({value.numpy().tobytes() for value in data["photo"]}) > 6  # some are mirrored


@pytest.mark.parametrize(
    ("change", "key"),
    [
        ({"width": 0}, "width"),
        ({"precision": "half"}, "precision"),
        ({"ema": float("nan")}, "ema"),
        ({"mask_head": False}, "mask"),
    ],
)
def test_bad_settings_name_their_key(change: dict[str, object], key: str) -> None:
    with pytest.raises(ConfigError) as error:
        replace(MASK, **change)
    assert key in error.value.key


def test_a_negative_weight_is_refused() -> None:
    with pytest.raises(ConfigError, match="cycle"):
        TranslatorWeights(cycle=-1)


def test_the_same_seed_gives_the_same_networks() -> None:
    first, second, third = (MASK.task(32, replace(TRAIN, seed=seed)).state_dict() for seed in (1, 1, 2))
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert any(not torch.equal(first[name], third[name]) for name in first)


def test_bfloat16_stays_close_to_float32() -> None:
    found = []
    for precision in ("float32", "bfloat16"):
        torch.manual_seed(0)
        terms = losses_of(replace(MASK, precision=precision).task(32, TRAIN), batch())
        found.append(np.array([float(value.detach()) for value in terms.values()]))
    assert np.abs(found[1] - found[0]).max() < 0.05 * np.abs(found[0]).max()
