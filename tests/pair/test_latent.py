"""`pair=latent`: pairs straight from two generators, as an artifact like any other."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from stages.core.artifact import Artifact, hash_path, seal
from stages.core.files import data_file, read_jsonl, write_jsonl
from stages.core.images import load_images, load_masks, write_image
from stages.core.runtime import Runtime
from stages.core.settings import ConfigError, TristyleError
from stages.core.tensors import to_tensor
from stages.core.tracking import Tracker
from stages.core.weights import save_network
from stages.networks import latents as shared
from stages.networks.encoder import Encoder
from stages.networks.face_reader import Reader, read_masks
from stages.networks.latents import decode, generator_id, latents, load_editor, load_encoder, load_generator
from stages.networks.stylegan2 import Generator
from stages.pair import latent as module
from stages.pair.curate import Curate, Limit, composite, feathered
from stages.pair.latent import LatentPairs
from stages.pair.write import Write
from tests.tools.pair_toys import heads, small_reader

SIZE, SET, PEOPLE, HELD, PSI = 32, 6, 5, 4, 0.7


@pytest.fixture(autouse=True)
def reader(monkeypatch: pytest.MonkeyPatch) -> Reader:
    """A small untrained reader in place of the shipped one."""
    small = small_reader()
    monkeypatch.setattr(module, "load_reader", lambda device: small)
    return small


def generators(folder: Path) -> tuple[Generator, Generator]:
    """Source and fused, saved as a style artifact has them."""
    made = []
    for seed, name in enumerate(("source", "generator")):
        torch.manual_seed(seed)
        network = Generator(z_dim=8, w_dim=8, img_resolution=SIZE, channel_base=128, channel_max=8).eval()
        save_network(folder / f"{name}.safetensors", network)
        made.append(network)
    return made[0], made[1]


@pytest.fixture
def encoder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Encoder:
    """An encoder for the source of `inputs`, in the shipped one's place."""
    source, _ = generators(tmp_path / "for_encoder")
    torch.manual_seed(2)
    arguments = {"size": SIZE, "widths": (4, 4, 4, 4), "hidden": 8}
    made = Encoder(source.num_ws, source.w_dim, generator=generator_id(source), **arguments).eval()
    path = tmp_path / "encoder.safetensors"
    save_network(path, made)
    monkeypatch.setattr(shared, "SHIPPED_ENCODER", str(path))  # data_file joins paths: an absolute one stays
    return made


def data_set(folder: Path, size: int = SIZE) -> Artifact:
    records = []
    for split, place, count, seed in (("train", "", PEOPLE, 0), ("heldout", "heldout/", HELD, 1)):
        images, masks = heads(count, seed, False, size)
        for i in range(count):
            name = f"{i:06d}"
            write_image(folder / place / f"photo/{name}.png", images[i])
            write_image(folder / place / f"mask/{name}.png", masks[i])
            records.append({"id": name, "split": split, "person": f"{split}{i}", "photo": f"{place}photo/{name}.png"})
    images, masks = heads(4, 2, True, size)
    for i in range(4):
        write_image(folder / f"heldout/style/comic/{i:06d}.png", images[i])
        write_image(folder / f"heldout/style_mask/comic/{i:06d}.png", masks[i])
    write_jsonl(folder / "records.jsonl", records)
    return seal(folder, "data", config={}, inputs={}, metrics={})


def style_set(folder: Path, photos: bool = False, config: dict | None = None, source_pictures: bool = True) -> Artifact:
    """Six pictures of seeds 3..8 (seed 9 was rejected), or of three photos, the second one mirrored."""
    source, fused = generators(folder)
    rows = []
    for i in range(3 if photos else SET):
        name, z = f"{i:06d}", latents(8, [3 + i])
        flip = -1 if photos and i == 1 else 1
        for kind, network in (("images", fused), ("source", source)):
            if kind == "images" or source_pictures:
                with torch.no_grad():
                    image = decode(network, network.mapping(z, PSI))[0]
                write_image(folder / f"{kind}/{name}.png", image[:, ::flip])
        origin = {"photo": f"{2 * i:06d}"} if photos else {"seed": 3 + i, "psi": PSI}
        mirrored = {"mirrored": True} if flip < 0 else {}
        rows.append({"id": name, "image": f"images/{name}.png", **origin, "style": "comic", **mirrored})
    write_jsonl(folder / "records.jsonl", rows)
    write_jsonl(folder / "rejects.jsonl", [{"seed": 9, "psi": PSI, "reason": "quality", "score": 1.0}])
    return seal(folder, "style", config=config or {}, inputs={}, metrics={})


def run(folder: Path, inputs: dict[str, Artifact], **settings: object) -> tuple[Path, dict, list[dict]]:
    folder.mkdir()
    metrics = LatentPairs(**settings).run(inputs, folder, Runtime("cpu", 1, Tracker(folder)))  # type: ignore[arg-type]
    return folder, metrics, read_jsonl(folder / "records.jsonl")


def inputs(folder: Path, **style: object) -> dict[str, Artifact]:
    return {"data": data_set(folder / "data"), "style": style_set(folder / "style", **style)}  # type: ignore[arg-type]


def picture(path: Path) -> np.ndarray:
    return load_images([path])[0]


def test_random_pairs_are_two_pictures_of_one_latent(tmp_path: Path, encoder: Encoder, reader: Reader) -> None:
    given = inputs(tmp_path)
    out, metrics, rows = run(tmp_path / "pair", given, curate=Curate(clarity=Limit(worst=0.2)))
    kept = [row for row in rows if row["kept"]]
    assert [row["id"] for row in rows] == [f"{i:06d}" for i in range(SET)] and len(kept) == metrics["pairs"] < SET
    for row in rows:
        name = f"{row['id']}.png"
        assert (out / "style" / name).exists() == row["kept"] == (row["reason"] is None)
        assert row["seed"] == 3 + int(row["id"])
        source, raw = picture(given["style"].path / "source" / name), picture(given["style"].path / "images" / name)
        assert np.array_equal(picture(out / row["raw"]), raw)
        if row["kept"]:
            mask = load_masks([out / "mask" / name])[0]
            assert np.array_equal(mask, read_masks(reader, source[None], "cpu")[0])
            assert np.array_equal(picture(out / "photo" / name), source)
            assert np.array_equal(picture(out / "style" / name), composite(raw, source, mask, Curate()))
    assert metrics["reader"] == "reader-test" and metrics["size"] == SIZE
    assert all(np.isfinite(metrics[name]) for name in ("pairs_kid", "pairs_kid_sd", "identity", "kid"))
    again, _, _ = run(tmp_path / "again", given, curate=Curate(clarity=Limit(worst=0.2)))
    for kind in ("photo", "style", "mask", "raw", "rejects", "heldout"):
        assert hash_path(out / kind) == hash_path(again / kind)
    assert (out / "records.jsonl").read_bytes() == (again / "records.jsonl").read_bytes()


def test_more_pairs_than_the_set_holds_come_of_seeds_it_was_not_chosen_from(tmp_path: Path) -> None:
    given = inputs(tmp_path)
    out, _, rows = run(tmp_path / "pair", given, count=SET + 3)
    assert [row["seed"] for row in rows] == [*range(3, 9), 10, 11, 12]
    networks = {name: load_generator(given["style"].path / f"{name}.safetensors") for name in ("source", "generator")}
    for i, seed in enumerate((10, 11, 12)):  # 3..8 are in the set, 9 was rejected
        for kind, name in (("photo", "source"), ("raw", "generator")):
            with torch.no_grad():
                drawn = decode(networks[name], networks[name].mapping(latents(8, [seed]), PSI))[0]
            made = picture(out / kind / f"{SET + i:06d}.png")
            assert np.abs(made.astype(int) - drawn).max() <= 1
    _, _, fewer = run(tmp_path / "fewer", given, count=2)
    assert [row["id"] for row in fewer] == ["000000", "000001"]


def test_photos_are_inverted_and_decoded_and_held_out_ones_only_measured(tmp_path: Path, encoder: Encoder) -> None:
    given = inputs(tmp_path)
    out, metrics, rows = run(tmp_path / "pair", given, source="photos")
    data = given["data"].path
    assert [row["id"] for row in rows] == [f"{i:06d}" for i in range(PEOPLE)]
    fused = load_generator(given["style"].path / "generator.safetensors")
    for place, pairs in (("raw", "photo"), ("heldout", "heldout/photo")):
        for file in (data / pairs).glob("*.png"):
            with torch.no_grad():
                drawn = decode(fused, encoder(to_tensor(picture(file))))[0]
            assert np.abs(picture(out / place / file.name).astype(int) - drawn).max() <= 1
    for row in rows:
        photo = picture(data / row["photo"])
        mask = load_masks([data / "mask" / f"{row['id']}.png"])[0]
        assert np.array_equal(picture(out / row["photo"]), photo)
        far = feathered(mask, 0.015, 0.015) == 0
        assert np.array_equal(picture(out / row["style"])[far], photo[far])
    held = {file.read_bytes() for file in (data / "heldout/photo").glob("*.png")}
    assert not held & {file.read_bytes() for file in (out / "photo").glob("*.png")}
    assert len(list((out / "heldout").glob("*.png"))) == HELD and "pairs_kid" not in metrics
    assert all(np.isfinite(metrics[name]) for name in ("identity", "background_error", "kid"))


def test_a_set_of_inverted_photos_already_holds_the_pairs(tmp_path: Path) -> None:
    given = inputs(tmp_path, photos=True)
    out, metrics, rows = run(tmp_path / "pair", given, source="photos")
    assert [row["id"] for row in rows] == ["000000", "000002", "000004"] and "identity" not in metrics
    for i, row in enumerate(rows):
        flip = -1 if i == 1 else 1  # the set's second picture is mirrored, so its photo and mask are, too
        name = f"{row['id']}.png"
        assert np.array_equal(picture(out / "raw" / name), picture(given["style"].path / f"images/{i:06d}.png"))
        assert np.array_equal(picture(out / "photo" / name), picture(given["data"].path / "photo" / name)[:, ::flip])
        mask = load_masks([given["data"].path / "mask" / name])[0]
        assert np.array_equal(load_masks([out / "mask" / name])[0], mask[:, ::flip])


def test_without_an_encoder_of_its_source_random_pairs_are_measured_themselves(tmp_path: Path) -> None:
    given = inputs(tmp_path)
    out, metrics, _ = run(tmp_path / "pair", given)
    assert np.isfinite(metrics["pairs_kid"]) and not {"identity", "kid"} & set(metrics)
    assert not (out / "heldout").exists()
    with pytest.raises(TristyleError, match=r"style: its source is not the generator .*pair\.source=random"):
        run(tmp_path / "photos", given, source="photos")


def refusal(folder: Path, given: dict[str, Artifact], **settings: object) -> str:
    with pytest.raises(TristyleError) as caught:
        run(folder / "refused", given, **settings)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_set_without_source_pictures_is_refused(tmp_path: Path) -> None:
    said = refusal(tmp_path, inputs(tmp_path, source_pictures=False))
    assert "no source/ pictures" in said and "style.start" in said


def test_photos_of_another_size_are_refused(tmp_path: Path) -> None:
    given = {"data": data_set(tmp_path / "data", 48), "style": style_set(tmp_path / "style")}
    assert "style pictures of 32 px and photos of 48 px" in refusal(tmp_path, given)


@pytest.mark.parametrize("config", [{"edit": {"smile": {}}}, {"recolour": {"hair": [1, 2, 3], "strength": 1.0}}])
def test_more_than_an_altered_set_holds_is_refused(tmp_path: Path, config: dict) -> None:
    given = inputs(tmp_path, config=config)
    assert "pair.count=7" in refusal(tmp_path, given, count=SET + 1)
    assert len(run(tmp_path / "all", given, count=SET)[2]) == SET


def test_further_photos_are_inverted_beside_the_datas_own(tmp_path: Path, encoder: Encoder) -> None:
    images, masks = heads(3, 5, False, SIZE)
    for i in range(3):
        write_image(tmp_path / f"more/photo/{i}.png", images[i])
        write_image(tmp_path / f"more/mask/{i}.png", masks[i])
    write = Write(photos=str(tmp_path / "more/photo"))
    _, _, rows = run(tmp_path / "pair", inputs(tmp_path), source="photos", write=write)
    assert len(rows) == PEOPLE + 3 and [row["source"] for row in rows[PEOPLE:]] == ["0.png", "1.png", "2.png"]
    assert set(LatentPairs(source="photos", write=write).files()) == {
        "reader",
        "encoder",
        "write.photos",
        "write.masks",
    }


@pytest.mark.parametrize("settings", [{"count": SET + 1}, {"source": "photos"}])
def test_parts_together_are_the_whole(tmp_path: Path, encoder: Encoder, settings: dict) -> None:
    given, write = inputs(tmp_path), Write(per_shard=3)
    whole, _, _ = run(tmp_path / "whole", given, write=write, **settings)
    stage, out = LatentPairs(write=write, **settings), tmp_path / "parts"
    out.mkdir()
    shards = stage.shards(given)
    for part in ("train", *map(str, reversed(range(shards)))):
        done = stage.run(given, out, Runtime("cpu", 1, Tracker(out), part))
    assert done == {"done": shards, "shards": shards}
    stage.run(given, out, Runtime("cpu", 1, Tracker(out)))
    for kind in ("photo", "style", "mask", "raw", "heldout", "shards", "records.jsonl"):
        assert hash_path(whole / kind) == hash_path(out / kind)


def test_a_set_of_photos_that_the_data_do_not_train_on_is_refused(tmp_path: Path) -> None:
    given = inputs(tmp_path, photos=True)
    rows = given["style"].records()
    rows[0]["photo"] = "000005"
    write_jsonl(given["style"].path / "records.jsonl", rows)
    assert "made of photo 000005" in refusal(tmp_path, given, source="photos")


@pytest.mark.parametrize(
    "change", [{"source": "w"}, {"count": 0}, {"write": Write(photos="x")}, {"count": 9, "source": "photos"}]
)
def test_settings_are_checked(change: dict) -> None:
    with pytest.raises(ConfigError, match=next(iter(change))):
        LatentPairs(**change)


def test_an_encoder_is_known_by_its_generator() -> None:
    base = load_generator(data_file("base64_generator.safetensors"))
    assert isinstance(load_encoder(base), Encoder)
    with torch.no_grad():
        base.mapping.w_avg += 0.01
    assert load_encoder(base) is None
    assert list(LatentPairs().files()) == ["reader", "encoder"] and LatentPairs.reads == ("data", "style")


def test_an_editor_keeps_the_photos_background(tmp_path: Path) -> None:
    from tests.tools import tiny_editor

    given = {"data": data_set(tmp_path / "data"), "style": style_set(tmp_path / "style", config={"target": "comic"})}
    folder = given["style"].path
    made = tiny_editor.editor()
    for name, network in {"editor": made, "source": made.generator, "generator": tiny_editor.generator(5)}.items():
        save_network(folder / f"{name}.safetensors", network)
    (folder / "manifest.json").unlink()
    given["style"] = seal(folder, "style", config={}, inputs={}, metrics={})
    out, metrics, rows = run(tmp_path / "pair", given, source="photos", curate=Curate(clarity=Limit(value=None)))
    assert len(rows) == PEOPLE and np.isfinite(metrics["background_error"])

    # Where the reader sees no head at all, the raw pictures are the photos.
    painter = module.restyling_painter(load_editor(folder), tiny_editor.generator(5), Headless(), "cpu")
    photos = load_images(sorted((given["data"].path / "photo").glob("*.png")))
    assert np.array_equal(painter(photos).raw, photos)


class Headless:
    """Stands for a reader that finds no heads."""

    def read(self, images: torch.Tensor) -> object:
        from types import SimpleNamespace

        return SimpleNamespace(mask=torch.zeros(len(images), 1, *images.shape[-2:]))
