"""Imaging modalities as rows of data: names, aliases, prompt words and DICOM codes.

Adding a modality is adding a row. Order matters: it is the order of the experts.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from medmoe.errors import DataError, unknown


@dataclass(frozen=True, slots=True)
class Modality:
    """One imaging modality.

    Attributes:
        name: The name used everywhere in the library.
        phrase: How a report would say it; prompts use it.
        aliases: Other spellings found in data sets, lower case.
        dicom: Values of the DICOM attribute Modality (0008,0060) that mean it.
        window: The usual display window (centre, width) in Hounsfield units, where there is one.
    """

    name: str
    phrase: str
    aliases: tuple[str, ...] = ()
    dicom: tuple[str, ...] = ()
    window: tuple[float, float] | None = None


MODALITIES: dict[str, Modality] = {
    row.name: row
    for row in (
        Modality("xray", "X-ray", ("x-ray", "cxr", "radiograph", "x_ray", "xr"), ("CR", "DX", "RG", "XA", "RF", "MG")),
        Modality("ct", "CT scan", ("computed tomography", "ct scan"), ("CT",), (40.0, 400.0)),
        Modality("mri", "MRI scan", ("mr", "magnetic resonance", "magnetic resonance imaging"), ("MR",)),
        Modality("ultrasound", "ultrasound image", ("us", "sonography", "echo", "echocardiography"), ("US", "IVUS")),
        Modality("pathology", "histopathology slide", ("histopathology", "histology", "h&e", "wsi"), ("SM",)),
        Modality("fundus", "fundus photograph", ("retina", "retinal", "cfp", "color fundus"), ("OP",)),
        Modality("endoscopy", "endoscopy image", ("colonoscopy", "gastroscopy"), ("ES",)),
        Modality("dermoscopy", "dermoscopy image", ("dermatoscopy", "skin"), ("DMS",)),
        Modality("microscopy", "light microscopy image", ("cytology", "blood smear"), ("GM",)),
        Modality("oct", "optical coherence tomography scan", ("optical coherence tomography",), ("OPT",)),
        Modality("pet", "PET scan", ("positron emission tomography",), ("PT",)),
    )
}

# The six of the MedMoE paper (Chopra et al., 2025, https://arxiv.org/abs/2506.08356), in its order.
SIX = ("xray", "ct", "mri", "ultrasound", "pathology", "fundus")

_ALIASES = {alias: row.name for row in MODALITIES.values() for alias in (row.name, *row.aliases)}


def resolve(name: str, *, where: str | None = None) -> str:
    """Give the library's name for a modality written in any known way.

    Args:
        name: A name or alias, in any case.
        where: `file:row`, for the error.

    Raises:
        DataError: If no row has that name or alias.

    >>> resolve("CXR")
    'xray'
    """
    found = _ALIASES.get(name.strip().lower())
    if found is None:
        raise DataError(
            unknown("modality", name, MODALITIES),
            where=where,
            remedy="correct the value, or add a row to medmoe/modalities.py",
        )
    return found


def in_order(names: Iterable[str]) -> tuple[str, ...]:
    """Sort modality names into the table's order, dropping repeats."""
    present = set(names)
    return tuple(name for name in MODALITIES if name in present)
