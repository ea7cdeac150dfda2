"""The public project's checkpoints: read, written, refused; the published iteration's switches change no number."""

from __future__ import annotations

import pickle
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from stages.core.settings import TristyleError
from stages.core.weights import load_network, save_network
from stages.networks.ugatit import CamDiscriminator, ResnetGenerator, discriminator_layers
from stages.pair.ugatit_checkpoints import (
    DISCRIMINATORS,
    GENERATORS,
    convert,
    main,
    published,
    read_reference,
    write_reference,
)


def networks(light: bool = True) -> dict[str, nn.Module]:
    torch.manual_seed(3)
    return published(ngf=4, n_blocks=2, img_size=32, light=light, n_layers=(4, 3))


def saved(path: Path) -> dict[str, dict[str, Tensor]]:
    torch.save({name: net.state_dict() for name, net in networks().items()}, path)
    return torch.load(path, weights_only=True)


def refusal(path: Path) -> str:
    with pytest.raises(TristyleError) as error:
        read_reference(path)
    assert "\n" not in str(error.value) and path.name in str(error.value)
    return str(error.value)


@pytest.mark.parametrize("light", [True, False])
def test_a_file_comes_back_as_it_was_with_sizes_off_the_tensors(tmp_path: Path, light: bool) -> None:
    before = networks(light)
    write_reference(tmp_path / "p.pt", before)
    after = read_reference(tmp_path / "p.pt")
    assert set(after) == set(before)
    sizes = {"ngf": 4, "n_blocks": 2, "light": light} | ({} if light else {"img_size": 32})
    assert sizes.items() <= after["genA2B"].arguments.items()
    assert after["disGB"].arguments == {"ndf": 4, "n_layers": 4, "max_width": None}
    assert after["disLA"].arguments["n_layers"] == 3
    x = torch.rand(1, 3, 32, 32) * 2 - 1
    for name in before:
        old, new = before[name].eval()(x), after[name](x)
        assert all(torch.equal(a, b) for a, b in zip(old, new, strict=True) if a is not None), name


def test_the_layout_is_the_hook_based_spectral_norm_of_torch(tmp_path: Path) -> None:
    write_reference(tmp_path / "p.pt", networks())
    state = torch.load(tmp_path / "p.pt", weights_only=True)["disGA"]
    hooked = nn.utils.spectral_norm(nn.Conv2d(3, 4, 4, stride=2))
    prefix = "model.1."
    own = {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}
    hooked.load_state_dict(own, strict=True)
    assert set(own) == {"bias", "weight_orig", "weight_u", "weight_v"}


def test_a_half_precision_file_with_metadata_is_read(tmp_path: Path) -> None:
    halves = {name: net.half().state_dict() for name, net in networks().items()}
    torch.save(halves, tmp_path / "p.pt")
    assert all(p.dtype == torch.float32 for net in read_reference(tmp_path / "p.pt").values() for p in net.parameters())


def test_code_in_a_file_does_not_run(tmp_path: Path) -> None:
    class Payload:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return exec, (f"open({str(tmp_path / 'ran')!r}, 'w').close()",)

    torch.save({"genA2B": Payload()}, tmp_path / "new.pt")
    (tmp_path / "old.pt").write_bytes(pickle.dumps({"genA2B": Payload()}, protocol=2))
    for name in ("new.pt", "old.pt"):
        assert "never executed" in refusal(tmp_path / name)
    assert not (tmp_path / "ran").exists()
    pickle.loads((tmp_path / "old.pt").read_bytes())
    assert (tmp_path / "ran").exists(), "the payload is no payload"


@pytest.mark.parametrize("share", [0.0, 0.3, 0.999])
def test_a_truncated_file_is_refused(tmp_path: Path, share: float) -> None:
    write_reference(tmp_path / "p.pt", networks())
    data = (tmp_path / "p.pt").read_bytes()
    (tmp_path / "half.pt").write_bytes(data[: int(share * len(data))])
    assert "damaged" in refusal(tmp_path / "half.pt")


def _drop(name: str, key: str):
    return lambda file: file[name].pop(key)


def _set(name: str, key: str, value: Tensor):
    return lambda file: file[name].update({key: value})


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda file: file.pop("disLB"), ["disLB"]),
        (lambda file: file.update(genB2A=torch.zeros(3)), ["genB2A"]),
        (_drop("genA2B", "DownBlock.1.weight"), ["genA2B", "DownBlock.1.weight"]),
        (_drop("genB2A", "UpBlock1_1.conv1.weight"), ["genB2A", "UpBlock1_1.conv1.weight"]),
        (_drop("genB2A", "gamma.weight"), ["genB2A", "gamma.weight"]),
        (_drop("disGA", "model.4.weight_u"), ["disGA", "model.4.weight_u"]),
        (_set("disLA", "stranger", torch.zeros(1)), ["disLA", "stranger"]),
        (
            lambda file: file["disLA"].update(
                {f"model.{3 * i + 1}.weight_orig": torch.zeros(1, 1, 1, 1) for i in range(40)}
            ),
            ["disLA", "model.118.weight_orig"],
        ),
        (_set("genA2B", "conv1x1.weight", torch.zeros(16, 16, 1, 1)), ["genA2B", "conv1x1.weight"]),
        (_set("genA2B", "conv1x1.bias", torch.full((16,), torch.nan)), ["genA2B", "conv1x1.bias"]),
        (_set("genA2B", "FC.0.weight", torch.zeros(16)), ["genA2B", "FC.0.weight"]),
        (_set("genA2B", "FC.0.weight", torch.zeros(16, 0)), ["genA2B", "FC.0.weight"]),
        (_set("genA2B", "DownBlock.1.weight", torch.zeros(0, 3, 7, 7)), ["genA2B", "DownBlock.1.weight"]),
        (_set("disGB", "conv1x1.weight", torch.zeros(0, 32, 1, 1)), ["disGB", "conv1x1.weight"]),
    ],
)
def test_what_does_not_fit_is_refused_by_file_network_and_key(tmp_path: Path, spoil, words: list[str]) -> None:
    file = saved(tmp_path / "p.pt")
    spoil(file)
    torch.save(file, tmp_path / "p.pt")
    line = refusal(tmp_path / "p.pt")
    assert all(word in line for word in words), line


def test_what_the_public_code_cannot_hold_is_not_written(tmp_path: Path) -> None:
    others: list[tuple[str, nn.Module]] = [
        ("genA2B", ResnetGenerator(4, 1, 32, mask=True)),
        ("genB2A", ResnetGenerator(4, 1, 32, light=False, full_pool=4)),
        ("disGA", CamDiscriminator(4, 4, max_width=8)),
    ]
    for name, net in others:
        with pytest.raises(TristyleError, match=name):
            write_reference(tmp_path / "p.pt", {**networks(), name: net})
    assert not list(tmp_path.iterdir())
    write_reference(tmp_path / "p.pt", {**networks(), "disGA": CamDiscriminator(4, 4, max_width=512)})  # caps nothing


@pytest.mark.parametrize("size", [32, 48, 64, 96, 128, 256, 512])
def test_the_depth_follows_from_the_size_and_works(size: int) -> None:
    deep, local = discriminator_layers(size), discriminator_layers(size, 5)
    assert deep == {32: 5, 48: 6, 64: 6}.get(size, 7) and local == 5
    with torch.no_grad():
        verdict = CamDiscriminator(1, deep)(torch.zeros(1, 3, size, size))
    assert verdict.logit.shape[-1] == size // 2 ** (deep - 2) - 2
    if deep < 7:  # one more layer leaves nothing to pad
        with pytest.raises(RuntimeError), torch.no_grad():
            CamDiscriminator(1, deep + 1)(torch.zeros(1, 3, size, size))


def test_below_32_px_there_is_a_clear_refusal() -> None:
    with pytest.raises(ValueError, match="28 px is too small .* use 32 px or more"):
        discriminator_layers(28)


def test_a_pooled_full_generator_takes_any_size_and_is_the_published_one_at_its_own() -> None:
    torch.manual_seed(0)
    bound = ResnetGenerator(2, 1, 32, light=False)
    pooled = ResnetGenerator(2, 1, 64, light=False, full_pool=8)
    pooled.load_state_dict(bound.state_dict(), strict=True)
    x = torch.rand(1, 3, 32, 32) * 2 - 1
    torch.testing.assert_close(pooled(x).image, bound(x).image)
    for height, width in ((64, 64), (36, 48), (128, 128)):
        assert pooled(torch.zeros(1, 3, height, width)).image.shape == (1, 3, height, width)
    with pytest.raises(ValueError, match="32x32 pictures only"):
        bound(torch.zeros(1, 3, 64, 64))
    with pytest.raises(ValueError, match="full_pool"):
        ResnetGenerator(2, 1, 32, light=True, full_pool=8)


def test_the_command_converts_there_and_back(tmp_path: Path) -> None:
    write_reference(tmp_path / "p.pt", networks())
    convert(tmp_path / "p.pt", tmp_path / "translator.safetensors")
    convert(tmp_path / "translator.safetensors", tmp_path / "again.pt")
    again, first = read_reference(tmp_path / "again.pt"), read_reference(tmp_path / "p.pt")
    kept = [torch.equal(a, b) for a, b in zip(*(f["genA2B"].parameters() for f in (first, again)), strict=True)]
    assert all(kept) and set(again) == {*GENERATORS, *DISCRIMINATORS}
    assert isinstance(load_network(tmp_path / "translator.safetensors"), ResnetGenerator)
    save_network(tmp_path / "other.safetensors", CamDiscriminator(4, 3))
    with pytest.raises(TristyleError, match="not a U-GAT-IT generator"):
        convert(tmp_path / "other.safetensors", tmp_path / "x.pt")


def test_the_command_refuses_in_one_line(tmp_path: Path, monkeypatch, capsys) -> None:
    monkeypatch.setattr(sys, "argv", ["reference", str(tmp_path / "absent.pt"), str(tmp_path / "x")])
    with pytest.raises(SystemExit) as left:
        main()
    line = capsys.readouterr().err
    assert left.value.code == 2 and line.count("\n") == 1 and "absent.pt: no such file" in line
