"""From a node of the composed config to an object: which class it names, what may be set, and every default.

A yaml may name classes of this package, and those of packages that the command line allows. What it leaves out takes
the class's own default, so that each default is written in one place.
"""

from __future__ import annotations

import dataclasses
import inspect
import traceback
from collections.abc import Sequence
from difflib import get_close_matches
from functools import lru_cache
from importlib import import_module
from pathlib import Path
from types import UnionType
from typing import Any, NoReturn, Union, get_args, get_origin, get_type_hints

from stages.core.settings import ConfigError, TristyleError
from stages.pipeline.renamed import RENAMED_KEYS

TARGET = "_target_"
# Every class of this package that a yaml may name: what conf/ names, and what those classes hold. A prefix would not
# do: a module also has what it imports, which may write files. `tests/faults/test_targets.py` compares.
OWN_TARGETS = frozenset(f"stages.{name}" for name in (
    "core.settings.Train", "core.tracking.Tracker", "core.tracking.WandbTracker",
    "datasets.folders.photo_quality.Limits", "datasets.folders.stage.FolderData",
    "datasets.rendered.stage.RenderedData", "export.coreml.Coreml", "export.editor.EditorExport",
    "export.litert.Litert", "export.mnn.Mnn", "export.ncnn.Ncnn", "export.onnx.Onnx", "export.stage.ExportStage",
    "export.web.Web", "pair.cartoon_filter.CartoonPairs", "pair.cartoon_filter.Rule", "pair.curate.Curate",
    "pair.curate.Limit", "pair.given.GivenPairs", "pair.latent.LatentPairs", "pair.stage.PairStage",
    "pair.mobile.MobileTranslator", "pair.mobile.MobileWeights",
    "pair.tps.stage.AlignedPairs", "pair.tps.translator.TpsTranslator", "pair.tps.translator.TpsWeights",
    "pair.twins.TwinPairs", "pair.ugatit.TranslatorWeights", "pair.ugatit.UgatitTranslator", "pair.write.Write",
    "student.adopted.AdoptedTranslator", "student.augment.Augment", "student.blaze.Blaze",
    "student.blaze.BlazeWeights", "student.blaze_fewshot.BlazeFewShot", "student.blaze_fewshot.FewShotWeights",
    "student.photographs.Photographs", "student.pix2pix.Pix2Pix", "student.pix2pix.Pix2PixWeights",
    "student.stage.StudentStage", "style.editing.directions.Edit", "style.editing.recolour.Recolour",
    "style.expanded.classifier.Classify", "style.expanded.stage.ExpandedStage", "style.expanded.training.Expand",
    "style.few_pictures.FewPictures", "style.fused.FusedStyle", "style.fusion.fuse.Fusion", "style.fusion.fuse.Part",
    "style.fusion.sweep.Sweep", "style.inversion.e4e.Encode", "style.inversion.encoder.Invert",
    "style.inversion.modes.ModeSettings", "style.sampling.candidates.Sampling",
    "style.sampling.distribution.Distribution", "style.sampling.filters.Filters", "style.stage.Network",
    "style.stage.StyleStage", "style.stylegan2_ada.Ada", "style.stylegan2_ada.Recipe",
))  # fmt: skip
MISSING = "???"  # OmegaConf's mark of a setting without a value


def completed(node: Any, key: str, allow: Sequence[str] = ()) -> Any:
    """The settings of `node` and below with every default spelled out, after checking their names.

    A node of settings without `_target_` takes the class of the field that it fills, and what it leaves out that
    field's default.

    Args:
        node: resolved config: dicts, lists and scalars.
        key: dotted name of the node, for messages.
        allow: packages beside this one whose classes may be named.

    Raises:
        ConfigError: a class that is not allowed or not there, an unknown setting, or one without a value.
    """
    if isinstance(node, list):
        return [completed(item, f"{key}.{index}", allow) for index, item in enumerate(node)]
    if not isinstance(node, dict):
        if node == MISSING:
            raise ConfigError(key, "has no value", f"Give it one: {key}=<value>")
        return node
    if TARGET not in node:
        return {name: completed(item, f"{key}.{name}", allow) for name, item in node.items()}

    target = find_class(node[TARGET], f"{key}.{TARGET}", allow)
    given = {name: value for name, value in node.items() if name != TARGET}
    check_names(given, target, key)
    found: dict[str, Any] = {TARGET: node[TARGET]}
    for name, default in _fields(target).items():
        if name in given:
            found[name] = completed(_typed(given[name], target, name, default), f"{key}.{name}", allow)
        elif default is inspect.Parameter.empty:
            raise ConfigError(f"{key}.{name}", "has no value", f"Give it one: {key}.{name}=<value>")
        else:
            found[name] = _plain(default)
    return found


def build(node: Any, key: str, allow: Sequence[str] = ()) -> Any:
    """The object that a `completed` node describes.

    Raises:
        ConfigError: a class refused its settings; the message begins with the full key.
    """
    if isinstance(node, list):
        return [build(item, f"{key}.{index}", allow) for index, item in enumerate(node)]
    if not isinstance(node, dict):
        return node
    settings = {name: build(item, f"{key}.{name}", allow) for name, item in node.items() if name != TARGET}
    if TARGET not in node:
        return settings

    # A class knows its own field's name; the user needs the key from the config's root.
    try:
        return find_class(node[TARGET], key, allow)(**settings)
    except ConfigError as error:
        raise ConfigError(f"{key}.{error.key}", error.problem, error.remedy) from error
    except TristyleError:
        raise
    except Exception as error:
        problem = (str(error).splitlines() or [type(error).__name__])[0]
        raise ConfigError(key, problem, "Check this part of the configuration") from error


@lru_cache
def _imported(target: str) -> Any:
    module, _, name = target.rpartition(".")
    return getattr(import_module(module), name)


def find_class(target: Any, key: str, allow: Sequence[str]) -> Any:
    """The class called `target`, imported only if it is one of OWN_TARGETS or of a package that is allowed.

    Raises:
        ConfigError: another package, no such class, or something else than a class of that package.
    """
    target = str(target)
    package = next((name for name in allow if target.startswith(f"{name}.")), None)
    if target not in OWN_TARGETS and package is None:
        _refuse(target, key)
    try:
        found = _imported(target)
    except (ImportError, AttributeError, ValueError) as error:
        raise ConfigError(key, f"{target!r} cannot be imported ({error})", "Check the name") from error
    except Exception as error:  # whatever a module of the user's own may raise while it is read
        raise ConfigError(key, f"{target!r} fails on import ({_place_of(error)})", "Correct the module") from error
    home = getattr(found, "__module__", "") if isinstance(found, type) else ""
    own = isinstance(found, type) and _name(found) in OWN_TARGETS
    if package is not None and not own and home != package and not home.startswith(f"{package}."):
        raise ConfigError(key, f"{target!r} is not a class of {package}", "Name a class that is written there")
    return found


def _refuse(target: str, key: str) -> NoReturn:
    """Refuse a class that is neither ours nor allowed, with the name that was meant where one is alike."""
    package = target.partition(".")[0]
    if package != "stages":
        problem, remedy = "is outside this package", f"Name a class below stages., or say allow=[{package}]"
    else:
        alike = get_close_matches(target, OWN_TARGETS, n=1)
        problem = "is not a class that a yaml may name"
        remedy = f"Did you mean {alike[0]}?" if alike else "Name one that conf/ names, or one of your own package"
    raise ConfigError(key, f"{target!r} {problem}", remedy)


def _place_of(error: Exception) -> str:
    """An error in one line: its type, what it says, and where."""
    last = traceback.extract_tb(error.__traceback__)[-1:]
    place = f", {Path(last[0].filename).name} line {last[0].lineno}" if last else ""
    return f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else 'no message'}{place}"


def source_files(node: Any) -> dict[str, Path]:
    """The modules of the user's own that settings name: `code:<module>` -> its file, for the artifact's key.

    This package's own code does not enter a key; its version stands in the manifest.
    """
    if isinstance(node, list):
        return {name: path for item in node for name, path in source_files(item).items()}
    if not isinstance(node, dict):
        return {}
    found = {name: path for item in node.values() for name, path in source_files(item).items()}
    module = str(node.get(TARGET, "")).rpartition(".")[0]
    file = getattr(import_module(module), "__file__", None) if module and module.partition(".")[0] != "stages" else None
    return found | ({f"code:{module}": Path(file)} if file else {})


def check_names(given: dict[str, Any], target: Any, key: str) -> None:
    """Refuse a setting that the class does not have.

    Raises:
        ConfigError: names the setting as it is called now, or one that is spelled alike.
    """
    known = list(inspect.signature(target).parameters)
    for name in given:
        if name in known:
            continue
        place = f"{key}.{name}"
        if new := RENAMED_KEYS.get(place):
            raise ConfigError(place, f"is called {new} now", f"Write {new}")
        alike = get_close_matches(str(name), known, n=1)
        hint = f"Did you mean {alike[0]!r}?" if alike else f"Known here: {', '.join(known) or 'nothing'}"
        raise ConfigError(place, "there is no such setting", hint)


def _fields(target: Any) -> dict[str, Any]:
    """Setting -> default; `inspect.Parameter.empty` where it has none."""
    factories = {
        field.name: field.default_factory
        for field in (dataclasses.fields(target) if dataclasses.is_dataclass(target) else ())
        if field.default_factory is not dataclasses.MISSING
    }
    return {
        name: factories[name]() if name in factories else parameter.default
        for name, parameter in inspect.signature(target).parameters.items()
    }


def _typed(node: Any, target: Any, name: str, default: Any) -> Any:
    """A node of settings with the class, and the values it leaves out, of the field that it fills."""
    if not isinstance(node, dict) or TARGET in node:
        return node
    if dataclasses.is_dataclass(default):
        return _merged(_plain(default), node)
    hint = _annotations(target).get(name)
    options = get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)
    classes = [option for option in options if dataclasses.is_dataclass(option)]
    return {TARGET: _name(classes[0]), **node} if len(classes) == 1 else node


def _merged(base: dict[str, Any], node: dict[str, Any]) -> dict[str, Any]:
    """`node` over `base`, settings within settings likewise; a class named anew takes nothing over."""
    found = dict(base)
    for name, value in node.items():
        inner = base.get(name)
        both = isinstance(inner, dict) and TARGET in inner and isinstance(value, dict) and TARGET not in value
        found[name] = _merged(inner, value) if both else value  # type: ignore[arg-type]
    return found


@lru_cache
def _annotations(target: Any) -> dict[str, Any]:
    try:
        return get_type_hints(target)
    except (NameError, TypeError):  # a type that is imported for type checkers alone
        return {}


def _plain(value: Any) -> Any:
    """A default as the config writes it: dicts with `_target_`, lists and scalars."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        settings = {field.name: _plain(getattr(value, field.name)) for field in dataclasses.fields(value) if field.init}
        return {TARGET: _name(type(value)), **settings}
    if isinstance(value, dict):
        return {name: _plain(item) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return str(value) if isinstance(value, Path) else value


def _name(target: Any) -> str:
    return f"{target.__module__}.{target.__qualname__}"
