"""The recipe's values stand in one place: what conf/ repeats of them is what the classes have by themselves."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate

from stages.pair.cartoon_filter import Rule
from stages.pair.curate import Curate, Limit
from stages.pair.mobile import MobileTranslator
from stages.pair.ugatit import TranslatorWeights, UgatitTranslator
from stages.pair.write import Write
from stages.student.pix2pix import Pix2Pix
from tests.tools.pair_toys import OFF, PUBLISHED

CONF = Path(__file__).resolve().parents[2] / "conf"


def composed(kind: str, *overrides: str) -> Any:
    """The stage that `tristyle <overrides>` would run."""
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return instantiate(compose("config", list(overrides))[kind], _convert_="object")


def test_the_default_recipes_are_the_classes_own() -> None:
    stage = composed("pair")
    assert stage.translator == UgatitTranslator(balance="even") and stage.write == Write()
    assert composed("pair", "pair=mobile").translator == MobileTranslator()
    assert composed("student").model == Pix2Pix()
    assert composed("pair", "pair=cartoon").rule == Rule()
    assert composed("pair", "pair=given", "style.target=ink").curate == Curate()


def test_plain_is_as_published() -> None:
    translator = composed("pair", "pair=plain").translator
    assert translator.weights == TranslatorWeights(**PUBLISHED | OFF)
    assert (translator.mask_head, translator.composite, translator.background_cycle, translator.warm_up) == (
        False, False, 1.0, 0.0,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("pair", "identity", "background", "grow"),
    [
        ("mask", 0.05, Limit(worst=0.02, value=0.1), 0.015),
        ("region", 0.05, Limit(worst=0.02, value=0.2), 0.015),
        ("plain", 0.05, Limit(worst=0.02), 0.015),
        ("latent", 0.05, Limit(worst=0.02), 0.0),
        ("cartoon", 0.02, Limit(), 0.01),
    ],
)
def test_variants_curate_as_they_did(pair: str, identity: float, background: Limit, grow: float) -> None:
    curate = composed("pair", f"pair={pair}").curate
    assert (curate.identity, curate.background, curate.grow) == (Limit(worst=identity), background, grow)
    assert curate.feather == 0.015


def test_a_balance_changes_what_holds_the_face_alone() -> None:
    even, person, style = (composed("pair", f"pair/balance={name}").translator for name in ("even", "id", "style"))
    assert (person.balance, style.balance) == ("id", "style")
    assert (person.weights.cycle, person.weights.face_identity) == (10.0, 2.0)
    assert (style.weights.adversarial, style.weights.cycle, style.weights.face_identity) == (0.6, 2.0, 0.0)
    for other in (person, style):
        assert (other.weights.latent, other.weights.cam) == (even.weights.latent, even.weights.cam) == (50.0, 1.0)
