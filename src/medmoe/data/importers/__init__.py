"""Importers: the layouts in which public data sets lie on people's disks, each to the rows of a manifest."""

from __future__ import annotations

from medmoe.data.importers import (
    chexpert,
    fundus,
    llava_med,
    medimeta,
    medmnist,
    mimic_cxr,
    mrnet,
    nih,
    openi,
    papers,
    quilt,
    radimagenet,
    rsna,
    ultrasound,
)
from medmoe.data.importers.common import Importer
from medmoe.errors import ConfigError, unknown

IMPORTERS: dict[str, Importer] = {
    row.name: row
    for rows in (
        mimic_cxr.ROWS,
        chexpert.ROWS,
        openi.ROWS,
        nih.ROWS,
        rsna.ROWS,
        papers.ROWS,
        radimagenet.ROWS,
        quilt.ROWS,
        llava_med.ROWS,
        fundus.ROWS,
        medmnist.ROWS,
        mrnet.ROWS,
        ultrasound.ROWS,
        medimeta.ROWS,
    )
    for row in rows
}


def importer(name: str) -> Importer:
    """Find an importer.

    Raises:
        ConfigError: If there is none of that name.
    """
    if name not in IMPORTERS:
        raise ConfigError(unknown("data set", name, IMPORTERS), remedy="see: medmoe data import --list")
    return IMPORTERS[name]
