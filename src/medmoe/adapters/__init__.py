"""Adapters: other people's models, from local folders, judged by the same tasks as our own."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from medmoe.adapters import biovil, gloria, hf, openclip
from medmoe.adapters.base import Adapter, Features, Towers
from medmoe.adapters.folders import PICKLED, Folder, some
from medmoe.adapters.gathering import gather, loader_of, untrained
from medmoe.errors import ConfigError, ModelError, unknown
from medmoe.folder import CONFIG, PREPROCESS

__all__ = [
    "KINDS",
    "Adapter",
    "Features",
    "Kind",
    "Towers",
    "gather",
    "is_foreign",
    "kind_of",
    "loader_of",
    "open_adapter",
    "untrained",
]


@dataclass(frozen=True)
class Kind:
    """A kind of model.

    Attributes:
        needs: What its folder holds.
        matches: Whether a folder is of this kind, by what is in it.
        load: Makes the adapter.
    """

    needs: str
    matches: Callable[[Folder], bool]
    load: Callable[[Folder], Adapter]


KINDS: dict[str, Kind] = {
    openclip.KIND: Kind(openclip.NEEDS, openclip.matches, openclip.load),
    hf.CLIP: Kind(hf.needs("clip"), partial(hf.matches, model_type="clip"), hf.load_clip),
    hf.SIGLIP: Kind(hf.needs("siglip"), partial(hf.matches, model_type="siglip"), hf.load_siglip),
    gloria.KIND: Kind(gloria.NEEDS, gloria.matches, gloria.load),
    biovil.KIND: Kind(biovil.NEEDS, biovil.matches, biovil.load),
}


def is_foreign(path: Path | str) -> bool:
    """Tell whether a folder holds weights, but not as our own models do: if so, its model is another library's."""
    path = Path(path)
    names = {file.name for file in path.iterdir()} if path.is_dir() else set()
    weights = any(Path(name).suffix in (".safetensors", *PICKLED) for name in names)
    return weights and not names >= {CONFIG, PREPROCESS}


def kind_of(path: Path | str) -> str | None:
    """Tell the kind of another library's model from its folder; None for our own, and for what isn't known.

    Raises:
        ModelError: If a file that would tell can't be read.
    """
    path = Path(path)
    if not path.is_dir() or {file.name for file in path.iterdir()} >= {CONFIG, PREPROCESS}:
        return None
    folder = Folder(path)
    return next((name for name, kind in KINDS.items() if kind.matches(folder)), None)


def open_adapter(path: Path | str, kind: str | None = None) -> Adapter:
    """Open another library's model from a local folder; nothing is fetched, and no code of the folder is run.

    Args:
        path: The folder.
        kind: A name of `KINDS`; None finds out by what is in the folder.

    Raises:
        ModelError: If the folder is of no known kind, or the model can't be loaded.
        ConfigError: If the kind is unknown.
        MissingDependencyError: If the kind's library isn't installed.
    """
    if kind is not None and kind not in KINDS:
        raise ConfigError(unknown("kind of model", kind, KINDS), where="kind")
    folder = Folder(Path(path))
    found = kind or kind_of(folder.path)
    if found is None:
        raise _nothing_known(folder)
    return KINDS[found].load(folder)


def _nothing_known(folder: Folder) -> ModelError:
    if folder.pickled and not folder.shapes:
        return folder.without_weights()
    said = folder.config.get("model_type")
    there = f"files {some(folder.names, 6)}" if folder.names else "no file"
    what = f"no model of a known kind: {there}" + (f"; model_type is {said!r}" if said else "")
    wanted = "; ".join(f"{name}: {kind.needs}" for name, kind in KINDS.items())
    return ModelError(what, where=str(folder.path), remedy=f"give a folder of one of these kinds – {wanted}")
