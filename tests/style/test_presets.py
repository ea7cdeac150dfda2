"""The published training settings: the table against the reference's numbers, and the yaml files against the table."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import OmegaConf
from torch import nn

from stages.core.settings import ConfigError, Train
from stages.networks.stylegan2 import Discriminator, Generator
from stages.style import presets as published
from stages.style.stage import Network
from stages.style.stylegan2_ada import Ada, Recipe, StyleGAN2, lazy_adam
from stages.training.ema import half_life_decay

RECIPES = Path(__file__).resolve().parents[2] / "conf" / "style" / "recipe"
SETTINGS = {"train": Train, "recipe": Recipe, "ada": Ada, "network": Network}


@pytest.fixture(scope="module")
def schedule(shared: Path) -> dict[str, Any]:
    path = shared / "golden" / "stylegan" / "config.json"
    if not path.is_file():
        pytest.skip(f"no golden settings at {path}")
    return dict(json.loads(path.read_text())["schedule"])


@pytest.fixture(scope="module", autouse=True)
def resolver():
    """What the program registers when it starts."""
    OmegaConf.register_new_resolver("published", published.value, replace=True)


def recipe(name: str, preset: str = "auto", size: int = 64, start: str = "base") -> dict[str, Any]:
    """The values of one file, as they resolve for data of `size` px."""
    config = OmegaConf.merge(OmegaConf.load(RECIPES / f"{name}.yaml"), {"data": {"size": size}})
    given = {key: config[key] for key in ("train", "recipe", "ada", "network") if key in config}
    config = OmegaConf.merge(config, {"style": {"start": start, "preset": preset}})
    resolved = OmegaConf.to_container(config, resolve=True)
    assert isinstance(resolved, dict)
    return {group: resolved[group] for group in given}


def test_auto_is_the_references(schedule) -> None:
    assert schedule["auto"]
    for row in schedule["auto"]:
        setting = published.auto(row["res"], row["gpus"])
        found = {
            "mb": setting.batch,
            "mbstd": setting.mbstd_group,
            "fmaps": setting.fmaps,
            "lrate": setting.lr,
            "gamma": setting.r1_gamma,
            "ema_kimg": setting.ema_images / 1000,
        }
        assert found == pytest.approx({key: row[key] for key in found}), row


def test_lazy_regularisation_corrects_adam_as_the_reference(schedule) -> None:
    assert schedule["lazy"]
    for row in schedule["lazy"]:
        group = lazy_adam([nn.Parameter(torch.zeros(1))], row["lr"], row["interval"]).param_groups[0]
        assert [group["lr"], *group["betas"]] == pytest.approx([row["lr_eff"], *row["betas_eff"]], rel=1e-12)


def test_averaging_decays_as_the_reference(schedule) -> None:
    assert schedule["ema"]
    for row in schedule["ema"]:
        decay = half_life_decay(row["batch"], row["cur_nimg"], row["ema_kimg"] * 1000, row["ramp"])
        assert decay == pytest.approx(row["beta"], rel=1e-12, abs=1e-300)


def test_p_moves_as_the_reference(schedule) -> None:
    row = schedule["ada"]
    batch, every = row["batch"], row["ada_interval"]
    small = {"channel_base": 64, "channel_max": 4}
    ada = Ada(target=row["target"], images=row["ada_kimg"] * 1000, every=every, p_max=1.0)
    task = StyleGAN2(Generator(4, 4, 8, **small), Discriminator(8, **small), 0.002, Recipe(r1_gamma=1.0), ada)
    assert row["signs"]
    for index, (sign, expected) in enumerate(zip(row["signs"], row["p_after"], strict=True)):
        for update in range(index * every, (index + 1) * every):  # four updates a move, each with the same mean sign
            task.sign_sum += sign * batch
            task.sign_count += batch
            state = task.after_update((update + 1) * batch, batch)
        assert state["p"] == pytest.approx(expected, abs=1e-6)


def test_p_stays_between_nothing_and_its_cap() -> None:
    small = {"channel_base": 64, "channel_max": 4}
    ada = Ada(target=0.6, images=16, every=1, p_max=0.3)
    task = StyleGAN2(Generator(4, 4, 8, **small), Discriminator(8, **small), 0.002, Recipe(r1_gamma=1.0), ada)
    seen = []
    for sign in (-1, 1, 1, -1, -1):
        task.sign_sum += 8.0 * sign
        task.sign_count += 8
        seen.append(task.after_update(8, 8)["p"])
    assert seen == pytest.approx([0, 0.3, 0.3, 0, 0])


@pytest.mark.parametrize("name", published.TABLE)
def test_the_file_holds_each_row(name: str) -> None:
    setting, values = published.TABLE[name], recipe("published", name)
    assert (values["train"]["batch"], values["train"]["lr"]) == (setting.batch, setting.lr)
    assert values["recipe"]["r1_gamma"] == setting.r1_gamma
    assert (values["recipe"]["ema_images"], values["recipe"]["ema_ramp"]) == (setting.ema_images, None)
    network = values["network"]
    assert (network["mbstd_group"], network["mapping_layers"]) == (setting.mbstd_group, setting.mapping_layers)
    assert (network["channel_base"], network["channel_max"]) == (setting.channel_base, published.CHANNEL_MAX)


@pytest.mark.parametrize("size", [64, 256, 1024])
def test_auto_follows_the_data(size: int) -> None:
    setting, values = published.auto(size), recipe("published", size=size)
    assert (values["train"]["batch"], values["train"]["lr"]) == (setting.batch, setting.lr)
    assert (values["recipe"]["r1_gamma"], values["recipe"]["ema_images"]) == (setting.r1_gamma, setting.ema_images)
    assert values["network"]["channel_base"] == setting.channel_base
    assert values["network"]["mapping_layers"] == 2


@pytest.mark.parametrize("name", published.PRESETS)
def test_a_transfer_moves_p_faster_and_has_no_ramp(name: str) -> None:
    scratch, transfer = (recipe("published", name, start=start) for start in ("scratch", "runs/style/0123"))
    assert (scratch["ada"]["images"], transfer["ada"]["images"]) == (500_000, 100_000)
    assert transfer["recipe"]["ema_ramp"] is None
    assert scratch["recipe"]["ema_ramp"] == (0.05 if name == "auto" else None)
    ada = Ada(**scratch["ada"])
    assert (ada.target, ada.every) == (published.ADA_TARGET, published.ADA_EVERY)


@pytest.mark.parametrize("path", sorted(RECIPES.glob("*.yaml")), ids=lambda path: path.stem)
def test_every_recipe_sets_what_exists_and_is_accepted(path: Path) -> None:
    values = recipe(path.stem)
    assert set(OmegaConf.load(path)) <= {*SETTINGS, "target", "preset"}
    made = {group: settings(**values.get(group, {})) for group, settings in SETTINGS.items()}
    assert made["train"].batch % made["network"].mbstd_group == 0


@pytest.mark.parametrize("path", sorted(RECIPES.glob("*.yaml")), ids=lambda path: path.stem)
def test_no_recipe_repeats_a_default(path: Path) -> None:
    if path.stem == "published":  # it follows a table, whose numbers are what they are
        return
    for group, given in recipe(path.stem).items():
        defaults = SETTINGS[group].__dataclass_fields__
        assert not {key for key, value in given.items() if value == defaults[key].default}


@pytest.mark.parametrize(
    ("key", "preset", "size"), [("batch", "auto", 100), ("speed", "auto", 64), ("lr", "paper64", 64)]
)
def test_nonsense_is_refused(key: str, preset: str, size: int) -> None:
    with pytest.raises(ConfigError):
        published.value(key, preset, size)
