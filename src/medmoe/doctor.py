"""What works on this machine, what is missing, and how to get it; nothing is printed, downloaded or changed."""

from __future__ import annotations

import os
import platform
import re
import shutil
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Literal

Status = Literal["ok", "missing", "problem"]

_GIB = 2**30
_PYTHON = (3, 10)
_LEAST_DISK, _LEAST_MEMORY = 5.0, 4.0  # GiB: a tiny run, its data and checkpoints need about half of this


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that was looked at.

    Attributes:
        name: What it is.
        status: `ok`; `missing` where something optional isn't installed; `problem` where something that
            medmoe needs is absent or broken.
        detail: What was found.
        remedy: What to do about it; empty where nothing needs doing.
    """

    name: str
    status: Status
    detail: str
    remedy: str = ""


# distribution → what needs it
REQUIRED = {
    "torchvision": "transforms and 16-bit PNG",
    "timm": "pretrained vision backbones",
    "transformers": "pretrained text encoders",
    "tokenizers": "word pieces",
    "safetensors": "weights",
    "pydantic": "configuration",
    "pyarrow": "Parquet manifests",
    "numpy": "arrays",
    "pillow": "images",
    "scikit-learn": "probes",
    "pydicom": "DICOM",
}
# distribution → what must be installed with it
_WITH = {"pylibjpeg-openjpeg": "pylibjpeg pylibjpeg-openjpeg"}
OPTIONAL = {
    "huggingface_hub": "pretrained parts from the Hugging Face Hub",
    "faiss-cpu": "search in millions of images",
    "nibabel": "NIfTI volumes",
    "onnxruntime": "running exported models",
    "fastapi": "the service",
}
# DICOM transfer syntaxes → distributions of which any one decodes them beside pydicom; the first is the remedy
DECODERS = {
    "uncompressed, deflated, RLE": ("pydicom",),
    "JPEG baseline, JPEG 2000": ("pillow", "python-gdcm"),
    "JPEG lossless": ("python-gdcm",),
    "JPEG-LS": ("pyjpegls", "python-gdcm"),
    "high-throughput JPEG 2000": ("pylibjpeg-openjpeg",),
}


def diagnose(folder: Path | str = ".") -> list[Check]:
    """Look at the machine; takes a second or two, of which importing torch is most.

    Args:
        folder: Where runs will be written; its disk is looked at.
    """
    least = minimums()
    return [
        check_python(sys.version_info[:3]),
        *check_torch(),
        *(check_required(name, use, least.get(name)) for name, use in REQUIRED.items()),
        check_pair(),
        *(check_decoder(syntaxes, any_of) for syntaxes, any_of in DECODERS.items()),
        *(check_optional(name, use) for name, use in OPTIONAL.items()),
        check_disk(Path(folder)),
        check_cache(cache_folder(os.environ)),
        check_memory(memory()),
    ]


def version_of(distribution: str) -> str | None:
    """Give an installed distribution's version without importing it, or None."""
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None


def minimums(distribution: str = "medmoe") -> dict[str, str]:
    """Read the least versions that an installed distribution asks for."""
    try:
        asked = metadata.requires(distribution) or []
    except metadata.PackageNotFoundError:
        return {}
    found = (re.match(r"([\w.-]+)\s*>=\s*([\d.]+)", line) for line in asked if "extra ==" not in line)
    return {match[1].lower(): match[2] for match in found if match}


def at_least(version: str, least: str) -> bool:
    """Compare release numbers; what follows them (`+cpu`, `rc1`) doesn't count.

    >>> at_least("2.14.1+cpu", "2.6"), at_least("1.0.9", "1.0.15")
    (True, False)
    """
    return _release(version) >= _release(least)


def check_python(version: tuple[int, ...]) -> Check:
    """Check the interpreter."""
    found = ".".join(str(part) for part in version)
    if version < _PYTHON:
        return Check("Python", "problem", found, "install Python 3.10 or newer")
    return Check("Python", "ok", f"{found} on {platform.system()} {platform.machine()}")


def check_torch() -> list[Check]:
    """Import torch and look at the devices it can use."""
    name = "torch"
    try:
        import torch
    except (ImportError, OSError) as error:
        return [Check(name, "problem", f"can't be imported: {error}", "pip install --force-reinstall torch")]
    least = minimums().get(name)
    if least and not at_least(torch.__version__, least):
        return [Check(name, "problem", f"{torch.__version__}, older than {least}", _upgrade(name, least))]
    threads = f"{torch.get_num_threads()} threads of {_cores()} cores"
    checks = [Check(name, "ok", f"{torch.__version__}, {threads}")]
    if not torch.cuda.is_available():
        detail = "no CUDA device; training runs on the processor, with --precision fp32"
        built = torch.version.cuda is not None and shutil.which("nvidia-smi") is not None
        remedy = "update the NVIDIA driver: torch has CUDA and doesn't reach the device" if built else ""
        return [*checks, Check("GPU", "problem" if built else "missing", detail, remedy)]
    for index in range(torch.cuda.device_count()):
        device = torch.cuda.get_device_properties(index)
        precision = "bf16" if torch.cuda.is_bf16_supported() else "no bf16: use --precision fp32"
        checks.append(Check(f"GPU {index}", "ok", f"{device.name}, {device.total_memory / _GIB:.0f} GiB, {precision}"))
    return checks


def check_required(distribution: str, use: str, least: str | None) -> Check:
    """Check a distribution that the library can't do without."""
    version = version_of(distribution)
    if version is None:
        return Check(distribution, "problem", f"not installed; needed for {use}", f"pip install {distribution}")
    if least and not at_least(version, least):
        return Check(distribution, "problem", f"{version}, older than {least}", _upgrade(distribution, least))
    return Check(distribution, "ok", version)


def check_pair() -> Check:
    """Check that torchvision was built for the torch that is installed."""
    name = "torch and torchvision"
    torch, vision = version_of("torch"), version_of("torchvision")
    if torch is None or vision is None:
        return Check(name, "problem", "not both installed", "pip install torch torchvision")
    wanted = pinned(metadata.requires("torchvision") or [], "torch")
    if wanted is not None and _release(wanted) != _release(torch):
        detail = f"torchvision {vision} is made for torch {wanted}, found {torch}"
        return Check(name, "problem", detail, f"pip install torch=={wanted}, or the torchvision of torch {torch}")
    return Check(name, "ok", "made for each other")


def check_decoder(syntaxes: str, any_of: Iterable[str]) -> Check:
    """Check that some installed distribution decodes these DICOM transfer syntaxes."""
    names = list(any_of)
    found = [name for name in names if version_of(name) is not None]
    if found and version_of("pydicom") is not None:
        return Check(f"DICOM {syntaxes}", "ok", f"by {', '.join(found)}")
    return Check(f"DICOM {syntaxes}", "missing", "no decoder installed", f"pip install {_WITH.get(names[0], names[0])}")


def check_optional(distribution: str, use: str) -> Check:
    """Check a distribution that only some features need."""
    version = version_of(distribution)
    if version is None:
        return Check(distribution, "missing", f"only needed for {use}", f"pip install {distribution}")
    return Check(distribution, "ok", f"{version}, for {use}")


def check_disk(folder: Path) -> Check:
    """Check the free space where runs are written, and that one may write there."""
    place = existing(folder)
    free = shutil.disk_usage(place).free / _GIB
    if not os.access(place, os.W_OK):
        return Check("disk", "problem", f"{place} can't be written", "work in a folder of your own")
    if free < _LEAST_DISK:
        return Check("disk", "problem", f"{free:.1f} GiB free at {place}", f"free at least {_LEAST_DISK:.0f} GiB")
    return Check("disk", "ok", f"{free:.0f} GiB free at {place}")


def check_cache(folder: Path) -> Check:
    """Check that pretrained parts can be kept."""
    if os.access(existing(folder), os.W_OK | os.X_OK):
        return Check("cache", "ok", str(folder))
    return Check("cache", "problem", f"{folder} can't be written", "set HF_HOME to a folder that can")


def check_memory(total: float | None) -> Check:
    """Check the memory, in GiB, that the process may use."""
    if total is None:
        return Check("memory", "ok", "size not known on this system")
    if total < _LEAST_MEMORY:
        return Check("memory", "problem", f"{total:.1f} GiB", "train with a smaller --batch-size and --workers 0")
    return Check("memory", "ok", f"{total:.0f} GiB")


def cache_folder(environment: os._Environ[str] | dict[str, str]) -> Path:
    """Give the folder pretrained parts are kept in, as the Hugging Face libraries find it."""
    if environment.get("HF_HOME"):
        return Path(environment["HF_HOME"]).expanduser()
    above = environment.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(above).expanduser() / "huggingface"


def memory(limit: Path = Path("/sys/fs/cgroup/memory.max")) -> float | None:
    """Give the machine's memory in GiB, or the container's limit where that is less; None where unknown."""
    try:
        total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return None
    try:
        allowed = limit.read_text(encoding="ascii").strip()
    except OSError:
        allowed = "max"
    return min(total, int(allowed) if allowed.isdigit() else total) / _GIB


def existing(folder: Path) -> Path:
    """Give the folder, or the nearest one above it that exists."""
    place = folder.absolute()
    return next(path for path in (place, *place.parents) if path.exists())


def pinned(requirements: Iterable[str], distribution: str) -> str | None:
    """Find the one version of a distribution that requirements allow, if they name one.

    >>> pinned(["numpy", "torch (==2.14.1)"], "torch")
    '2.14.1'
    """
    found = (re.match(rf"{re.escape(distribution)}\s*\(?==\s*([\w.+]+)", line) for line in requirements)
    return next((match[1] for match in found if match), None)


def _release(version: str) -> tuple[int, ...]:
    numbers = re.match(r"\d+(\.\d+)*", version)
    return tuple(int(part) for part in numbers[0].split(".")) if numbers else ()


def _upgrade(distribution: str, least: str) -> str:
    return f"pip install --upgrade '{distribution}>={least}'"


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
