"""A card says what lies beside it, in one order for every recipe."""

import json
from pathlib import Path

from stages.core.files import data_file, sha256_file
from stages.core.weights import save_network
from stages.networks.patchgan import PatchGAN
from stages.recipes.card import write_card


def test_a_card_names_its_weights(tmp_path: Path) -> None:
    path, network = tmp_path / "w.safetensors", PatchGAN()
    save_network(path, network, half=True)
    given = {"input": "pictures", "licence": "Apache-2.0"}
    card = write_card(path, network, kind="net", command="make it", about=given, recipe={"seed": 1}, heldout={"iou": 1})
    assert card == json.loads(path.with_suffix(".json").read_text())
    assert list(card) == ["id", "sha256", "bytes", "parameters", "input", "licence", "recipe", "heldout"]
    assert card["sha256"] == sha256_file(path) and card["id"] == f"net-{card['sha256'][:8]}"
    assert card["bytes"] == path.stat().st_size and card["recipe"] == {"command": "make it", "seed": 1}
    assert card["parameters"] == sum(value.numel() for value in network.parameters())
    assert "heldout" not in write_card(path, network, kind="n", command="", about={}, recipe={}, heldout=None)


def test_shipped_cards_name_commands_that_exist() -> None:
    for name in ("reader", "parser", "encoder64", "perceptual"):
        command = json.loads(data_file(f"{name}.json").read_text())["recipe"]["command"]
        module = command.removeprefix("python -m ").split()[0]
        assert Path(*module.split(".")).with_suffix(".py").is_file(), command
