"""Whether planted identifiers survive de-identification: every text of pydicom's test files replaced, then searched for.

    python benchmarks/deidentify_planted.py --json FILE

Into every file go a made-up patient's names, ids, dates and addresses, and in every other element of text a token of its own,
in private elements, nested sequences, the preamble, behind the pixels and in comments of coded pictures too. The cleaned file,
its new name and its record in the log are then searched in lower and upper case, in one- and two-byte encodings, and with
anything between the letters.
"""

# ruff: noqa: E501 - rows of examples stay on one line
from __future__ import annotations

import argparse
import json
import tempfile
import warnings
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
from pydicom import Dataset
from pydicom.encaps import encapsulate, generate_frames

from medmoe.data.curation.deidentify_key import Key
from medmoe.data.curation.deidentify_one import Way, clean_file
from medmoe.data.curation.deidentify_rules import Options, further, table

TOKEN = "zqplant"
NAMES = ("QUILLFEATHER", "OTTOLINE", "WOLFENBARGER", "PERPETUA", "SKRZYPCZAK", "DELPHINE")
IDS = ("7741093", "ACC8830217", "HX55120946")
DATES = ("19470312", "20230917")
TIMES = ("031415.926535",)
PLACES = ("Vellichor Infirmary", "88 Gossamer Avenue", "Thistledown")
CONTACTS = ("ottoline@vellichor.example", "555-867-5309")
ACCENTED = "Müllerová"
REPORT = (
    "CT of Mrs. Ottoline Quillfeather (MRN 7741093) of 17 September 2023, compared with 2023-09-17. Seen at Vellichor Infirmary by "
    "Dr. Perpetua Wolfenbarger, phone 555-867-5309, ottoline@vellichor.example. Accession ACC8830217. 12/5 mm nodule, C5-6."
)
OLD_UID = "1.3.6.1.4.1.77410.93"
_TEXT = ("LO", "SH", "LT", "ST", "UT", "UC", "AE", "UR", "CS")
_NEEDED = ("PhotometricInterpretation", "SpecificCharacterSet", "PixelPresentation", "TextValue")


@dataclass
class Pass:
    """One way through all files.

    Args:
        name: What it is called.
        options: Of the profile.
        unknown: Whether texts that the options clean by rule hold tokens nobody could know.
    """

    name: str
    options: Options
    free: tuple[str, ...]
    tally: Counter[str] = field(default_factory=Counter)
    refused: Counter[str] = field(default_factory=Counter)
    survivors: list[str] = field(default_factory=list)
    unequal: list[str] = field(default_factory=list)
    uids: dict[str, set[str]] = field(default_factory=lambda: defaultdict(set))


DESCRIPTIONS = (
    *(keyword for keyword, _, instead in table().values() if instead.get("descriptions") == "C"),
    *further("descriptions"),
)
PASSES = (
    ("strict", Options(), ()),
    ("reports cleaned", Options(reports="clean"), ("TextValue",)),
    ("dates shifted, descriptions cleaned", Options("shift", frozenset({"descriptions"})), DESCRIPTIONS),
)


def test_files() -> list[Path]:
    """List pydicom's test files that are on this disk, those of pydicom-data too; asks no network."""
    import data_store

    folders = (Path(pydicom.__file__).parent / "data" / "test_files", Path(data_store.__file__).parent)
    return sorted(
        path
        for folder in folders
        for path in folder.rglob("*")
        if path.is_file() and path.suffix in (".dcm", "") and path.stat().st_size < 4e6
    )


class Planter:
    """Replaces texts of one file, counting tokens."""

    def __init__(self, free: tuple[str, ...]) -> None:
        self.count, self.free = 0, free

    def token(self) -> str:
        """Give a new token."""
        self.count += 1
        return f"{TOKEN}{self.count:05d}"

    def value(self, element: Any) -> Any:
        """Give what goes into an element; None to leave it."""
        if element.keyword in _NEEDED and element.keyword not in self.free:
            return None if element.keyword != "TextValue" else self.token()
        if element.keyword in self.free and element.VR in _TEXT:
            return REPORT if element.VR in ("LT", "ST", "UT") else "CT QUILLFEATHER 7741093"
        if element.VR == "PN":
            return f"{NAMES[self.count % 6]}^{NAMES[(self.count + 1) % 6]}^{self.token()}"
        if element.VR in _TEXT:
            return self.token().upper() if element.VR == "CS" else self.token()
        if element.VR == "DA":
            return DATES[0]
        if element.VR == "TM":
            return TIMES[0]
        if element.VR == "DT":
            return f"{DATES[1]}031415.926535"
        if element.VR == "UI" and "Class" not in element.keyword and "TransferSyntax" not in element.keyword:
            return f"{OLD_UID}.{element.value}"[:64] if element.value and isinstance(element.value, str) else None
        return None

    def fill(self, item: Any) -> None:
        """Replace a data set's texts, and those of its sequences."""
        for tag in list(item.keys()):
            try:
                element = item[tag]
            except Exception:
                del item[tag]
                continue
            if element.VR == "SQ":
                for inner in element.value:
                    self.fill(inner)
            elif (value := self.value(element)) is not None:
                item[tag] = pydicom.DataElement(tag, element.VR, value)

    def add(self, old: Any) -> None:
        """Add what most files lack: known identifiers, private and nested elements, bytes where nobody looks."""
        old.PatientName, old.PatientID = f"{NAMES[0]}^{NAMES[1]}^^{ACCENTED}", IDS[0]
        old.SpecificCharacterSet = "ISO_IR 192"
        old.AccessionNumber, old.StudyID, old.PatientBirthDate = IDS[1], IDS[2], DATES[0]
        old.ReferringPhysicianName, old.InstitutionName = f"{NAMES[2]}^{NAMES[3]}", PLACES[0]
        old.PatientAddress, old.PatientTelephoneNumbers = f"{PLACES[1]} {PLACES[2]}", CONTACTS[1]
        old.InstanceNumber, old.Manufacturer = IDS[0], f"{NAMES[0]} {self.token()}"
        for group in (0x0029, 0x7FE1):
            block = old.private_block(group, f"MAKER {self.token()}", create=True)
            block.add_new(1, "LO", f"{NAMES[0]}^{NAMES[1]}")
            block.add_new(2, "OB", f"{NAMES[1]} {self.token()} ".encode("utf-16-le"))
            inner = Dataset()
            inner.PatientName, inner.PatientComments = f"{NAMES[4]}^{NAMES[5]}", self.token()
            block.add_new(3, "SQ", [inner])
        other, deep = Dataset(), Dataset()
        deep.PatientName, deep.TextString = f"{NAMES[2]}^{self.token()}", self.token()
        deep.private_block(0x0011, self.token(), create=True).add_new(1, "UT", self.token())
        other.PatientID, other.ReferencedPatientSequence = f"{IDS[0]}-{self.token()}", [deep]
        old.OtherPatientIDsSequence = [other]
        old.ReferencedImageSequence = [other]
        old.IconImageSequence = [deep]
        old.ICCProfile = f"desc {self.token()} ".encode()
        old.add_new(0x60000010, "US", 8)
        old.add_new(0x60004000, "LT", self.token())
        old.add_new(0x50000040, "LO", self.token())
        old.add_new(0xFFFCFFFC, "OB", f"{NAMES[0]} {self.token()} ".encode())
        old.add_new(0x00081234, "UN", f"{NAMES[0]} {self.token()} ".encode())
        old.preamble = f"{NAMES[0]} {self.token()}".encode().ljust(128, b"\0")[:128]
        old.file_meta.SourceApplicationEntityTitle = self.token()
        self.behind_pixels(old)

    def behind_pixels(self, old: Any) -> None:
        """Write into the pixels' element what isn't pixels."""
        if "PixelData" not in old or not old.file_meta.get("TransferSyntaxUID"):
            return
        hidden = f"{NAMES[0]} {self.token()} ".encode()
        syntax = old.file_meta.TransferSyntaxUID
        if not syntax.is_encapsulated:
            old.PixelData = bytes(old.PixelData) + hidden + bytes(len(hidden) % 2)
            return
        try:
            frames = list(generate_frames(old.PixelData, number_of_frames=int(old.get("NumberOfFrames") or 1)))
        except Exception:
            return
        old.PixelData = encapsulate([commented(frame, hidden) for frame in frames])
        old["PixelData"].is_undefined_length = True


def commented(frame: bytes, hidden: bytes) -> bytes:
    """Put a comment into a JPEG or JPEG 2000 stream, and the same text behind its end; others stay."""
    length = len(hidden) + 2
    if frame[:3] == b"\xff\xd8\xff":
        return frame[:2] + b"\xff\xfe" + length.to_bytes(2, "big") + hidden + frame[2:] + hidden
    if frame[:4] == b"\xff\x4f\xff\x51":
        at = 4 + int.from_bytes(frame[4:6], "big")
        return frame[:at] + b"\xff\x64" + (length + 2).to_bytes(2, "big") + b"\0\1" + hidden + frame[at:] + hidden
    return frame


def found_in(content: bytes) -> list[str]:
    """Search bytes for everything planted: as they are, and without anything between letters and digits."""
    lowered = content.lower()
    letters = bytes(range(48, 58)) + bytes(range(97, 123))
    plain = lowered.translate(None, bytes(set(range(256)) - set(letters)))
    wanted = [TOKEN, *NAMES, *IDS, *DATES, *TIMES, *PLACES, *CONTACTS, OLD_UID]
    hits = [word for word in wanted if "".join(c for c in word.lower() if c.isalnum()).encode() in plain]
    accented = [ACCENTED, ACCENTED.upper(), ACCENTED.lower()]
    return hits + [
        word
        for word in accented
        for code in ("utf-8", "iso8859-2", "utf-16-le", "utf-16-be")
        if word.encode(code) in content
    ]


def uids(item: Any) -> list[str]:
    """Collect instance UIDs in a fixed order, of the elements that both data sets have."""
    return [
        str(item.get(name) or "")
        for name in ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID", "FrameOfReferenceUID")
    ]


def gdcm_reads(path: Path) -> bool:
    """Tell whether gdcm reads a file's data set."""
    import gdcm

    reader = gdcm.Reader()
    reader.SetFileName(str(path))
    return bool(reader.Read())


def one(path: Path, folder: Path, run: Pass, key: Key) -> None:
    """Plant into a file, clean it, and look at what came out."""
    try:
        old = pydicom.dcmread(path, force=True)
        if not len(old) or not hasattr(old, "file_meta"):
            raise ValueError
        planter = Planter(run.free)
        planter.fill(old)
        planter.add(old)
        target = folder / f"{NAMES[0]}-{path.stem}.dcm"
        implicit, little = old.original_encoding
        pydicom.dcmwrite(target, old, implicit_vr=implicit, little_endian=little)
        before = pydicom.dcmread(target, force=True)
    except Exception:
        run.tally["could not be planted"] += 1
        return
    run.tally["planted files"] += 1
    run.tally["planted tokens"] += planter.count
    run.tally["files in which the search finds them before"] += int(len(found_in(target.read_bytes())) > 8)
    record, _ = clean_file(target, target.name, folder / "out", Way(SECRET, run.options), look=False)
    log = json.dumps(record.row())
    if hits := found_in(log.encode()):
        run.survivors.append(f"log of {path.name}: {hits}")
    if record.file is None:
        run.refused[str(record.reason)] += 1
        return
    written = folder / "out" / record.file
    if hits := found_in(written.read_bytes() + record.file.encode()):
        run.survivors.append(f"{path.name}: {hits}")
    run.tally["cleaned"] += 1
    after = pydicom.dcmread(written)
    run.tally["reopened by pydicom"] += int(sum(1 for _ in after.iterall()) > 0)
    run.tally["reopened by gdcm"] += int(gdcm_reads(written))
    for was, now in zip(uids(before), uids(after), strict=True):
        if was:
            run.uids[was].add(now)
    compare(pydicom.dcmread(path, force=True), after, path, run)


def compare(before: Any, after: Any, path: Path, run: Pass) -> None:
    """Compare decoded pixels."""
    if "PixelData" not in before:
        return
    try:
        was = before.pixel_array  # of the file before anything was planted behind its pixels
    except Exception:
        run.tally["pixels that pydicom can't decode before"] += 1
        return
    same = np.array_equal(was, after.pixel_array)
    run.tally["pixels equal"] += int(same)
    if not same:
        run.unequal.append(path.name)


SECRET = bytes(range(32))


def main() -> None:
    """Run every pass and print what survived."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    report = {}
    for name, options, free in PASSES:
        run = Pass(name, options, free)
        for path in test_files():
            with tempfile.TemporaryDirectory() as folder:
                one(path, Path(folder), run, Key(SECRET))
        news = [new for values in run.uids.values() for new in values]
        grouped = all(len(values) == 1 for values in run.uids.values()) and len(set(news)) == len(news)
        report[name] = {
            **run.tally, "survivors": len(run.survivors), "where": run.survivors, "pixels unequal": run.unequal,
            "uids": len(run.uids), "uids map one to one": grouped, "left out": dict(run.refused),
        }  # fmt: skip
        print(name, json.dumps(report[name], indent=1))
    if arguments.json:
        arguments.json.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
