"""How a file that holds more than one picture (DICOM, NIfTI) becomes the one that is looked at."""

from __future__ import annotations

from dataclasses import dataclass

HEADER = "header"  # the window that the file gives


@dataclass(frozen=True, slots=True)
class Reading:
    """What of a file is read, and how its values become grey levels; picture files (JPEG, PNG) have no use for it.

    Attributes:
        window: `header` for the window that the file gives, else the modality's usual one; `usual` for the usual one
            whatever the file says; `full` for minimum to maximum; or names of `medmoe.data.windows.WINDOWS`, one
            (`lung`) or three for the three channels (`lung+soft_tissue+bone`), which are in Hounsfield units and
            count for CT: other images are read as with `header`.
        frame: Number of the frame, or of the slice along `plane`, from 0; None takes the middle one.
        plane: Of a volume: `axial`, `coronal` or `sagittal`; None takes the plane it was acquired in.
    """

    window: str = HEADER
    frame: int | None = None
    plane: str | None = None


USUAL = Reading()
