"""Feature extractors by path: LPIPS against a plain reimplementation, refusals in one line."""

import os
import pickle
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
import torchvision
from safetensors.torch import save_file

from stages.core.files import sha256_file
from stages.core.settings import ConfigError, TristyleError
from stages.metrics import backbones, features, richness
from stages.networks.face_reader import load_reader

SHARED = Path(os.environ.get("TRISTYLE_SHARED", Path(__file__).parents[3] / "shared"))
WIDTHS = {"alexnet": (64, 192, 384, 256, 256), "squeezenet1_1": (64, 128, 256, 384, 384, 512, 512)}


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


def pictures(count: int, size: int = 64) -> torch.Tensor:
    return F.interpolate(torch.rand(count, 3, 8, 8), (size, size), mode="bilinear") * 2 - 1


def heads_file(folder: Path, kind: str) -> Path:
    path = folder / f"{kind}_heads.safetensors"
    save_file({f"lin{i}.model.1.weight": torch.rand(1, c, 1, 1) for i, c in enumerate(WIDTHS[kind])}, path)
    return path


def backbone_file(folder: Path, kind: str) -> tuple[Path, torch.nn.Module]:
    with torch.device("meta"):  # AlexNet's classifier alone has 58 million weights
        network = getattr(torchvision.models, kind)(weights=None).eval()
    network.features.to_empty(device="cpu")
    for weight in network.features.parameters():
        torch.nn.init.normal_(weight, 0, (2 / weight[0].numel()) ** 0.5 if weight.ndim > 1 else 0.1)
    path = folder / f"{kind}.pth"
    torch.save({f"features.{name}": value for name, value in network.features.state_dict().items()}, path)
    return path, network


def alexnet_activations(network: torch.nn.Module, x: torch.Tensor) -> list[torch.Tensor]:
    layers = network.features
    first = F.relu(layers[0](x))
    second = F.relu(layers[3](F.max_pool2d(first, 3, 2)))
    third = F.relu(layers[6](F.max_pool2d(second, 3, 2)))
    fourth = F.relu(layers[8](third))
    return [first, second, third, fourth, F.relu(layers[10](fourth))]


def squeezenet_activations(network: torch.nn.Module, x: torch.Tensor) -> list[torch.Tensor]:
    layers = network.features

    def pool(y: torch.Tensor) -> torch.Tensor:
        return F.max_pool2d(y, 3, 2, ceil_mode=True)

    out = [F.relu(layers[0](x))]
    out.append(layers[4](layers[3](pool(out[-1]))))
    out.append(layers[7](layers[6](pool(out[-1]))))
    out.append(layers[9](pool(out[-1])))
    for place in (10, 11, 12):
        out.append(layers[place](out[-1]))
    return out


@pytest.mark.parametrize(
    ("kind", "activations"), [("alexnet", alexnet_activations), ("squeezenet1_1", squeezenet_activations)]
)
@torch.no_grad()
def test_lpips_is_the_formula(
    tmp_path: Path, kind: str, activations: Callable[[torch.nn.Module, torch.Tensor], list[torch.Tensor]]
) -> None:
    heads, (backbone, network) = heads_file(tmp_path, kind), backbone_file(tmp_path, kind)
    lpips = backbones.load_lpips(heads, backbone)
    first, second = pictures(3), pictures(3)

    shift, scale = torch.tensor([-0.030, -0.088, -0.188]), torch.tensor([0.458, 0.448, 0.450])
    expected = torch.zeros(3)
    given = backbones.read_state(heads)
    one, two = (activations(network, (x - shift[:, None, None]) / scale[:, None, None]) for x in (first, second))
    for layer, (a, b) in enumerate(zip(one, two, strict=True)):
        a, b = (y / (y.norm(dim=1, keepdim=True) + 1e-10) for y in (a, b))
        expected += F.conv2d((a - b) ** 2, given[f"lin{layer}.model.1.weight"]).mean(dim=(1, 2, 3))

    assert torch.allclose(lpips.distance(first, second), expected, rtol=1e-4)
    pairs = lpips.pairwise(first, second)
    assert torch.allclose(pairs.diagonal(), expected, rtol=1e-4)
    assert torch.allclose(pairs, lpips.pairwise(second, first).T, rtol=1e-5)
    assert lpips.pairwise(first, first).diagonal().tolist() == [0, 0, 0]
    assert lpips.id == f"lpips-{kind}-{sha256_file(heads)[:8]}-{sha256_file(backbone)[:8]}"


def test_lpips_of_many_pictures_does_not_depend_on_the_chunks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lpips = backbones.load_lpips(heads_file(tmp_path, "alexnet"), backbone_file(tmp_path, "alexnet")[0])
    first, second = pictures(5), pictures(4)
    whole = lpips.pairwise(first, second)
    monkeypatch.setattr(backbones, "EMBEDDED", 2 * lpips.embed(first[:1]).shape[1])
    assert whole.shape == (5, 4) and torch.allclose(lpips.pairwise(first, second), whole, rtol=1e-5)
    picture = first[:1].requires_grad_()
    lpips.distance(picture, second[:1]).sum().backward()
    assert picture.grad is not None and picture.grad.abs().sum() > 0


@pytest.mark.parametrize("name", ["alex", "squeeze", "vgg"])
def test_the_public_heads_name_their_backbone(tmp_path: Path, name: str) -> None:
    path = SHARED / f"data/weights/lpips_heads_v0.1/{name}.pth"
    if not path.is_file():
        pytest.skip(f"no {path}")
    other = backbone_file(tmp_path, "squeezenet1_1" if name != "squeeze" else "alexnet")[0]
    kind = {"alex": "alexnet", "squeeze": "squeezenet1_1", "vgg": "vgg16"}[name]
    with pytest.raises(TristyleError, match=f"does not fit {kind}, the backbone of {name}.pth"):
        backbones.load_lpips(path, other)


def test_intra_cluster_distance_under_any_measure() -> None:
    class Means:
        id = "means"

        def features(self, images: torch.Tensor) -> torch.Tensor:
            return images.mean(dim=(2, 3))

    images, references = pictures(30, 8), pictures(3, 8)
    got = richness.intra_cluster_perceptual(images, references, features.FeatureDistance(Means()), members=5)
    rows, wanted = Means().features(images), Means().features(references)
    assert got == pytest.approx(richness.intra_cluster_distance(rows, wanted, members=5), rel=1e-6)
    repeated = references[torch.arange(30) % 3]
    assert richness.intra_cluster_perceptual(repeated, references, features.FeatureDistance(Means())) == 0


def tiny_inception(monkeypatch: pytest.MonkeyPatch) -> None:
    """The true network has 24 million weights: here it is a few that keep its names."""

    class Tiny(torch.nn.Module):
        def __init__(self, **settings: object) -> None:
            super().__init__()
            assert settings == dict(weights=None, init_weights=False, aux_logits=False, transform_input=False)
            self.Conv = torch.nn.Sequential(torch.nn.Conv2d(3, 6, 1), torch.nn.BatchNorm2d(6))
            self.fc = torch.nn.Linear(6, 1000)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.fc(self.Conv(x).mean(dim=(2, 3)))

    monkeypatch.setattr(torchvision.models, "inception_v3", Tiny)


def test_inception_sees_the_given_range_and_leaves_the_classes_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiny_inception(monkeypatch)
    path = tmp_path / "inception.pth"
    weight, bias = torch.randn(6, 3, 1, 1), torch.randn(6)
    state = {
        "Conv.0.weight": weight,
        "Conv.0.bias": bias,
        "AuxLogits.x": torch.zeros(1),
        "fc.weight": torch.zeros(1000, 6),
    }
    state |= {f"Conv.1.{name}": torch.ones(6) for name in ("weight", "running_var")}
    state |= {f"Conv.1.{name}": torch.zeros(6) for name in ("bias", "running_mean")}
    torch.save(state, path)
    extractor = backbones.load_extractor("inception", path)
    images = pictures(20)
    expected = images.mean(dim=(2, 3)) @ weight[:, :, 0, 0].T + bias
    assert torch.allclose(extractor.features(images), expected, atol=1e-2)  # batch norm's epsilon, the resize's border
    assert extractor.id == f"inception-torchvision-{sha256_file(path)[:8]}"
    torch.save(state | {"fc.weight": torch.zeros(1008, 6)}, path)
    with pytest.raises(TristyleError, match="1008 classes"):
        backbones.load_inception(path)
    torch.save(state | {"Conv.0.weight": torch.zeros(6, 3, 3, 3)}, path)
    with pytest.raises(TristyleError, match="does not fit inception_v3 .*size mismatch"):
        backbones.load_inception(path)


def test_the_reader_is_the_default() -> None:
    images = pictures(2)
    reader = backbones.load_extractor()
    assert reader.id == load_reader().id and torch.equal(reader.features(images), load_reader().features(images))
    with pytest.raises(ConfigError, match="extractor"):
        backbones.load_extractor("vgg19")
    with pytest.raises(TristyleError, match="no weights are shipped"):
        backbones.load_extractor("vgg16")


class Evil:
    def __reduce__(self) -> tuple[Callable[[str], int], tuple[str]]:
        return os.system, ("touch unpickled",)


def test_what_is_no_weights_file_is_refused_in_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty.pth").touch()
    (tmp_path / "text.pth").write_text("hello, this is no network")
    (tmp_path / "text.safetensors").write_text("hello, this is no network")
    (tmp_path / "evil.pth").write_bytes(pickle.dumps(Evil(), protocol=2))
    torch.save({"state_dict": {"a": torch.zeros(1)}}, tmp_path / "nested.pth")
    names = ("absent.pth", "absent.safetensors", "empty.pth", "text.pth", "text.safetensors", "evil.pth", "nested.pth")
    for name in names:
        with pytest.raises(TristyleError, match=name) as caught:
            backbones.load_vgg16(tmp_path / name)
        assert "\n" not in str(caught.value) and str(caught.value).endswith(".")
    assert not (tmp_path / "unpickled").exists()
    torch.save({"features.0.weight": torch.zeros(64, 3, 3, 3)}, tmp_path / "part.pth")
    with pytest.raises(TristyleError, match="does not fit vgg16 .lacks features.0.bias"):
        backbones.load_vgg16(tmp_path / "part.pth")


def test_heads_that_are_none_are_refused(tmp_path: Path) -> None:
    backbone = backbone_file(tmp_path, "squeezenet1_1")[0]
    with pytest.raises(TristyleError, match="no LPIPS heads"):
        backbones.load_lpips(backbone, backbone)
    heads = heads_file(tmp_path, "squeezenet1_1")
    state = backbones.read_state(heads)
    state["lin2.model.1.weight"] -= 2
    save_file(state, heads)
    with pytest.raises(TristyleError, match="below 0"):
        backbones.load_lpips(heads, backbone)
