"""pydicom's bundled files, decoded by the library and by routes that share no code with it."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import pydicom
import pytest

ROOT = Path(__file__).resolve().parents[3]
FOLDER = Path(pydicom.__file__).parent / "data" / "test_files"
# One file of each kind: what is stored how, and compressed by what.
FILES = [
    "693_J2KI", "CT_small", "ExplVR_BigEnd", "J2K_pixelrep_mismatch", "JPEGLSNearLossless_16", "JPGExtended",
    "MR_small_RLE", "MR_small_bigendian", "MR_small_jp2klossless", "MR_small_jpeg_ls_lossless",
    "SC_rgb_dcmtk_+eb+cy+s2", "SC_rgb_gdcm_KY", "SC_rgb_jpeg_app14_dcmd", "SC_rgb_jpeg_gdcm",
    "SC_rgb_rle_16bit_2frame", "SC_rgb_small_odd_big_endian", "SC_ybr_full_422_uncompressed", "image_dfl",
    "liver_1frame", "rtdose_expb_1frame",
]  # fmt: skip
# GDCM decodes these otherwise than all others do; without DCMTK and FFmpeg nobody contradicts it.
ALONE = not (shutil.which("dcm2pnm") and shutil.which("ffmpeg"))
CONTESTED = {"J2K_pixelrep_mismatch", "SC_rgb_rle_16bit_2frame"} if ALONE else set()
REFUSED = ["JPEG2000-embedded-sequence-delimiter", "MR_truncated", "badVR"]


@pytest.mark.filterwarnings("ignore")
def test_no_bundled_file_is_decoded_to_other_pixels_than_by_independent_routes(monkeypatch):
    pytest.importorskip("gdcm", reason="GDCM isn't installed")
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    decoding = pytest.importorskip("decoding")
    paths = [FOLDER / f"{name}.dcm" for name in (*FILES, *REFUSED, "rtplan", "test-SR")]
    rows, without = decoding.survey(paths)
    assert without == 2
    status = {row.file.removesuffix(".dcm"): row.status for row in rows}
    assert {name for name, what in status.items() if what == "refused"} == set(REFUSED)
    # Without DCMTK nothing independent decodes JPEG-LS and 12-bit or lossless JPEG.
    unchecked = {row.file for row in rows if row.status == "unchecked" and "JPEG" not in row.kind}
    assert unchecked == set()
    assert {name for name in FILES if status[name] == "differing"} <= CONTESTED
    for name in ("decoding", "decoding_routes"):
        sys.modules.pop(name, None)
