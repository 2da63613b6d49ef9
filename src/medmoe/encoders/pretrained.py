"""Start from saved weights: load every tensor that fits, say which did not, and freeze what should stay.

Files name the same weights differently: wrappers put `module.` or `bert.` in front, timm's feature extractors
turn `layers.0` into `layers_0`. Names are compared with such differences removed; shapes must be equal.
Only safetensors files are read, so loading never runs code from the file.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors import SafetensorError, safe_open
from torch import nn

from medmoe.errors import ConfigError, ModelError

M = TypeVar("M", bound=nn.Module)

Shape = tuple[int, ...]

WEIGHTS = "model.safetensors"

# Components that only wrap a network and may stand in front of its names, in any chain.
_WRAPPERS = {
    *("module", "model", "net", "backbone", "trunk", "encoder", "transformer"),
    *("bert", "roberta", "distilbert", "electra", "mpnet"),
    *("visual", "vision", "vision_model", "image_encoder", "text", "text_model", "text_encoder"),
}
_PICKLED = (".bin", ".pt", ".pth", ".ckpt", ".pkl")
_CONVERT = (
    "only safetensors is read, because other formats can run code: convert it once, where you trust it, "
    "with transformers' save_pretrained or safetensors.torch.save_file"
)


@dataclass(frozen=True, slots=True)
class LoadReport:
    """What became of every tensor of a module and of the file it was loaded from.

    Attributes:
        used: Names in the module of the tensors that were loaded.
        missing: Names in the module that the file lacks; they keep their initial values.
        unexpected: Names in the file that the module has no place for.
        mismatched: Name in the module, shape in the file and shape in the module, where the shapes differ; such tensors
            keep their initial values too.
    """

    used: tuple[str, ...]
    missing: tuple[str, ...]
    unexpected: tuple[str, ...]
    mismatched: tuple[tuple[str, Shape, Shape], ...]

    @property
    def complete(self) -> bool:
        """Whether the file filled the whole module."""
        return not self.missing and not self.mismatched

    def __str__(self) -> str:
        """Say it in one line."""
        in_file = len(self.used) + len(self.unexpected) + len(self.mismatched)
        in_model = len(self.used) + len(self.missing) + len(self.mismatched)
        parts = [f"used {len(self.used)} of {in_file} tensors (the model has {in_model})"]
        if self.unexpected:
            parts.append(f"not used: {_some(self.unexpected)}")
        if self.missing:
            parts.append(f"not in the file: {_some(self.missing)}")
        if self.mismatched:
            parts.append(
                "other shape: " + _some([f"{n} ({list(got)}, not {list(want)})" for n, got, want in self.mismatched])
            )
        return "; ".join(parts)


def load_matching(module: nn.Module, source: Path | str, *, prefix: str = "") -> LoadReport:
    """Copy into a module every tensor of a file whose name and shape fit.

    Args:
        module: The module to fill, in place; dtypes and devices stay the module's.
        source: A safetensors file, or a folder that holds `model.safetensors` (a saved model of this library, or a
            Hugging Face folder).
        prefix: Look only at the file's tensors whose names begin with this, for example `vision.`.

    Returns:
        Which tensors were used and which were not, on both sides.

    Raises:
        ModelError: If the file can't be read, is not safetensors, or nothing in it fits.
    """
    path = weight_file(source)
    state = module.state_dict()
    want = {name: tuple(tensor.shape) for name, tensor in state.items()}
    with _opened(path) as file:
        inside = list(file.keys())
        have = {name: tuple(file.get_slice(name).get_shape()) for name in inside if name.startswith(prefix)}
        if not have:
            raise ModelError(f"no tensor begins with {prefix!r}; the file has {_tops(inside)}", where=str(path))
        pairs = _match(want, have, prefix)
        fits = {name: key for name, key in pairs.items() if want[name] == have[key]}
        if not fits:
            raise ModelError(
                f"nothing in it fits the model: the file has {_some(list(have))}; the model wants {_some(list(want))}",
                where=str(path),
                remedy="give the weights of the same architecture",
            )
        with torch.no_grad():
            for name, key in fits.items():
                state[name].copy_(file.get_tensor(key))
    taken = set(pairs.values())
    return LoadReport(
        used=tuple(fits),
        missing=tuple(name for name in want if name not in pairs),
        unexpected=tuple(key for key in have if key not in taken),
        mismatched=tuple((name, have[key], want[name]) for name, key in pairs.items() if name not in fits),
    )


def weight_file(source: Path | str) -> Path:
    """Find the safetensors file that a path means.

    Args:
        source: A safetensors file, or a folder that holds `model.safetensors`.

    Raises:
        ModelError: If there is none; the message says what was found and how to convert it.
    """
    path = Path(source)
    if not path.exists():
        raise ModelError(
            "no such file or folder",
            where=str(path),
            remedy=f"give a .safetensors file or a folder that holds {WEIGHTS}",
        )
    if path.is_dir():
        return _weights_in(path)
    if path.suffix in _PICKLED:
        raise ModelError(f"weights in the {path.suffix} format are not loaded", where=str(path), remedy=_CONVERT)
    return path


def training(module: M) -> M:
    """Put a module into training mode, save for batch norms whose own parameters are frozen: their statistics stay."""
    module.train()
    for part in module.modules():
        if isinstance(part, nn.modules.batchnorm._BatchNorm):
            own = list(part.parameters(recurse=False))
            if own and not any(parameter.requires_grad for parameter in own):
                part.eval()
    return module


def freeze(module: nn.Module, patterns: Sequence[str]) -> int:
    """Exclude parameters from training.

    Args:
        module: The module whose parameters are meant.
        patterns: Dotted names (`text`, `vision.stages.0`: the parameter itself or all below it) or glob patterns
            (`vision.*.bias`).

    Returns:
        How many parameter tensors were frozen. Normalisation statistics are buffers: `training` keeps those of
        frozen norms.

    Raises:
        ConfigError: If a pattern matches no parameter; nothing is frozen then.
    """
    names = [name for name, _ in module.named_parameters()]
    chosen: set[str] = set()
    for pattern in patterns:
        matched = {name for name in names if _matches(name, pattern)}
        if not matched:
            near = difflib.get_close_matches(pattern, {name.rsplit(".", 1)[0] for name in names}, n=1)
            hint = f" (did you mean {near[0]!r}?)" if near else ""
            raise ConfigError(f"no parameter to freeze matches {pattern!r}{hint}; the model has {_tops(names)}")
        chosen |= matched
    for name in chosen:
        module.get_parameter(name).requires_grad_(False)
    return len(chosen)


def _matches(name: str, pattern: str) -> bool:
    return name == pattern or name.startswith(pattern.rstrip(".") + ".") or fnmatchcase(name, pattern)


def _weights_in(folder: Path) -> Path:
    """Find the weights of a folder, or say what stands in their place."""
    if (folder / WEIGHTS).is_file():
        return folder / WEIGHTS
    if (folder / f"{WEIGHTS}.index.json").is_file():
        raise ModelError(
            "the weights are split over several files", where=str(folder), remedy=f"save them again as one {WEIGHTS}"
        )
    pickled = sorted(file.name for file in folder.iterdir() if file.suffix in _PICKLED)
    if pickled:
        raise ModelError(f"the folder has {pickled[0]} but no {WEIGHTS}", where=str(folder), remedy=_CONVERT)
    raise ModelError(f"the folder has no {WEIGHTS}", where=str(folder), remedy="give the folder of a saved model")


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    """Open a safetensors file; a broken one is the user's to replace."""
    try:
        with safe_open(path, framework="pt") as file:
            yield file
    except (SafetensorError, OSError) as error:
        raise ModelError(
            f"not a readable safetensors file ({error})", where=str(path), remedy="copy or download it again"
        ) from error


def _match(want: Mapping[str, Shape], have: Mapping[str, Shape], prefix: str) -> dict[str, str]:
    """Pair the module's names with the file's, by the wrappers whose removal makes most shapes agree."""
    best: dict[str, str] = {}
    most = -1
    stripped = {key: key[len(prefix) :] for key in have}
    for ahead in _wrappers(stripped.values()):
        exact = {name[len(ahead) :]: key for key, name in stripped.items() if name.startswith(ahead)}
        plain = _unambiguous(exact)
        for before in _wrappers(want):
            pairs: dict[str, str] = {}
            for name in want:
                inner = name[len(before) :] if name.startswith(before) else None
                key = None if inner is None else exact.get(inner) or plain.get(_plain(inner))
                if key is not None:
                    pairs[name] = key
            agree = sum(want[name] == have[key] for name, key in pairs.items())
            if agree > most:
                best, most = pairs, agree
    return best


def _wrappers(names: Iterable[str]) -> list[str]:
    """List the chains of wrappers that names begin with, the empty chain first, then the shorter ones."""
    found = {""}
    for name in names:
        chain = ""
        for part in name.split(".")[:-1]:
            if part not in _WRAPPERS:
                break
            chain += part + "."
            found.add(chain)
    return sorted(found, key=lambda chain: (len(chain), chain))


def _plain(name: str) -> str:
    """Spell a name so that timm's and BERT's older spellings of it agree."""
    name = name.replace("LayerNorm.gamma", "LayerNorm.weight").replace("LayerNorm.beta", "LayerNorm.bias")
    return name.replace(".", "_")


def _unambiguous(names: Mapping[str, str]) -> dict[str, str]:
    """Index by plain spelling, leaving out spellings that two names share."""
    index: dict[str, str] = {}
    doubled: set[str] = set()
    for name, key in names.items():
        spelling = _plain(name)
        if spelling in index:
            doubled.add(spelling)
        index[spelling] = key
    return {spelling: key for spelling, key in index.items() if spelling not in doubled}


def _some(names: Sequence[str], limit: int = 4) -> str:
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(names[:limit]) + more


def _tops(names: Iterable[str]) -> str:
    return ", ".join(dict.fromkeys(name.split(".")[0] for name in names))
