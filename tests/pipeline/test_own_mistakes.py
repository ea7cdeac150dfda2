"""Mistakes in a class of the user's own are answered in one line, before anything is trained."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from stages.core.settings import ConfigError, Train, check_methods
from stages.core.weights import check_savable
from stages.networks.mobile import MobileStudent
from stages.pair.stage import PairStage
from stages.pair.translator import Translator
from stages.pipeline.compose import _check_device
from stages.pipeline.targets import find_class, source_files


class Bare(nn.Module):
    """A network that does not note its arguments."""


def test_a_translator_without_its_methods_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"translator: object lacks files, batches, task, network, painter\. Add"):
        PairStage(translator=object(), train=Train(images=8, batch=4, lr=0.1))  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="Translator in stages.pair.translator"):
        check_methods("translator", object(), Translator)


def test_a_network_that_could_not_be_loaded_again_is_refused() -> None:
    network = Bare()
    with pytest.raises(ConfigError, match="pair.translator: Bare has no `arguments`"):
        check_savable(network, "pair.translator")
    network.arguments = {}  # type: ignore[assignment]
    with pytest.raises(ConfigError, match=r"Bare cannot be loaded again\. Say allow=\[tests\]"):
        check_savable(network, "pair.translator")
    Bare.__module__ = "stages.pair.mine"
    with pytest.raises(ConfigError, match="Move the class to stages/networks/"):
        check_savable(network, "pair.translator")
    check_savable(MobileStudent("nano"), "student.model")


def test_a_module_that_fails_on_import_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "brokenpkg").mkdir()
    (tmp_path / "brokenpkg" / "mine.py").write_text("\nunknown_name\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ConfigError, match=r"pair\._target_: .*NameError: name 'unknown_name'.*, mine.py line 2"):
        find_class("brokenpkg.mine.Mine", "pair._target_", ["brokenpkg"])


def test_an_edit_of_ones_own_module_enters_the_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "ownpkg").mkdir()
    (tmp_path / "ownpkg" / "mine.py").write_text("class Mine: pass\n")
    monkeypatch.syspath_prepend(tmp_path)
    node = {"_target_": "stages.pair.stage.PairStage", "translator": {"_target_": "ownpkg.mine.Mine"}, "list": [1]}
    assert source_files(node) == {"code:ownpkg.mine": tmp_path / "ownpkg" / "mine.py"}
    sys.modules.pop("ownpkg.mine")


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has what is refused")
@pytest.mark.parametrize("name", ["cuda", "cuda:9"])
def test_an_accelerator_that_is_not_there_is_refused(name: str) -> None:
    with pytest.raises(ConfigError, match=f"device: {name} is not on this machine. Choose auto or cpu"):
        _check_device(name)
    _check_device("cpu")
