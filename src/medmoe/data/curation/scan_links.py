"""What lies beside an image: its mask and its report, found by the names of files and folders."""

from __future__ import annotations

import posixpath
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from medmoe.data.curation.label_rules import rules, stem_of, tokens
from medmoe.data.curation.scan_file import TEXT, Record
from medmoe.data.dicom.facts import REPORT

# Text files that are about a folder's data, not about a patient.
_ABOUT = ("readme", "license", "licence", "licenses", "notice", "citation", "changelog", "requirements", "labels",
          "classes", "index", "copying", "authors", "version", "train", "val", "valid", "test", "split", "dataset",
          "dataset description", "participants", "metadata", "info", "config")  # fmt: skip
_NAMES = ("report", "reports", "findings", "radiology report")

Key = tuple[tuple[str, ...], str]


def mask_paths(paths: Iterable[str]) -> dict[str, str | None]:
    """Tell masks from images: by a folder's name (`masks/ct/7.png` of `images/ct/7.jpg`) or a file's (`7_mask.png`).

    A path counts as a mask's if it has such a word and there is exactly one image whose path is the same without it;
    `images` and the like count as no folder. If there is none, a folder's word is enough only where most files of that
    folder have their image, a file's word always (`7_mask.png`, but not `mask-7.png` or `seg-7.png`).

    Args:
        paths: Of all images and masks.

    Returns:
        Path of each mask → its image's path; None where that isn't found.
    """
    marks = {path: _marks(path) for path in sorted(paths)}
    images: defaultdict[Key, list[str]] = defaultdict(list)
    for path, mark in marks.items():
        if not mark.in_folder:
            images[_key(path.split("/"), ())].append(path)
    found: dict[str, str | None] = {}
    for path, mark in marks.items():
        for key in mark.keys:
            matches = [image for image in images.get(key, ()) if image != path]
            if matches:
                found[path] = matches[0] if len(matches) == 1 else None
                break
        else:
            if mark.named:
                found[path] = None
    _add_neighbours(found, marks)
    return {path: found.get(image, image) if image else None for path, image in found.items() if image != path}


@dataclass(frozen=True, slots=True)
class _Marks:
    """What of a path says that it is a mask's.

    Attributes:
        keys: What its image is found by, the likeliest first.
        in_folder: Whether a folder's name says so.
        named: Whether the file's name says so by itself.
    """

    keys: tuple[Key, ...]
    in_folder: bool
    named: bool


def _marks(path: str) -> _Marks:
    words = rules()["masks"]
    *folders, name = path.split("/")
    kept = [folder for folder in folders if " ".join(tokens(folder)) not in words["folders"]]
    in_folder, stem = len(kept) < len(folders), tokens(stem_of(name))
    ending = next((n for n in (2, 1) if len(stem) > n and " ".join(stem[-n:]) in words["endings"]), 0)
    numbered = len(stem) > 2 and stem[-1].isdigit() and stem[-2] in words["endings"]  # 7_mask_1
    cut = ending or (2 if numbered else 0)
    keys = [_key([*kept, name], ())] if in_folder else []
    if cut:
        keys.append(_key([*kept, name], stem[:-cut]))
    return _Marks(tuple(keys), in_folder, bool(ending))


def _add_neighbours(found: dict[str, str | None], marks: Mapping[str, _Marks]) -> None:
    """Add the masks of a folder in which most others have an image: those whose image isn't there."""
    matched: defaultdict[str, int] = defaultdict(int)
    total: defaultdict[str, int] = defaultdict(int)
    for path, mark in marks.items():
        if mark.in_folder:
            total[posixpath.dirname(path)] += 1
            matched[posixpath.dirname(path)] += found.get(path) is not None
    for path, mark in marks.items():
        folder = posixpath.dirname(path)
        if mark.in_folder and path not in found and 2 * matched[folder] > total[folder]:
            found[path] = None


def _key(parts: Sequence[str], stem: Sequence[str]) -> Key:
    """Give what an image and its mask have in common: folders but `images`, and the file's name without its ending."""
    words = rules()["masks"]["images"]
    *folders, name = parts
    kept = tuple(folder for folder in folders if " ".join(tokens(folder)) not in words)
    return kept, " ".join(stem or tokens(stem_of(name)))


class Reports:
    """The texts of a tree, to be asked for an image's.

    Args:
        records: Path → record of every file.
    """

    def __init__(self, records: Mapping[str, Record]) -> None:
        self._of_stem: dict[str, str] = {}  # path without its ending → path of the text
        self._of_folder: defaultdict[str, list[str]] = defaultdict(list)
        self._of_study: defaultdict[str, list[str]] = defaultdict(list)
        self._text: dict[str, str] = {}
        for path, record in sorted(records.items()):
            if not record.text:
                continue
            self._text[path] = record.text
            folder, name = posixpath.split(path)
            if record.kind == REPORT and record.header is not None and record.header.study is not None:
                self._of_study[record.header.study].append(path)
            elif record.kind == TEXT and " ".join(tokens(stem_of(name))) not in _ABOUT:
                self._of_stem.setdefault(posixpath.join(folder, stem_of(name)), path)
                if " ".join(tokens(stem_of(name))) in _NAMES:
                    self._of_folder[folder].append(path)

    def of(self, path: str, study: str | None) -> tuple[str | None, list[str]]:
        """Find an image's report.

        In this order: a text file of the image's own name; the structured reports of its study; `report.txt` in its
        folder or the one above; a text file beside its folder with the folder's name (`s501/1.jpg`, `s501.txt`).

        Args:
            path: The image's.
            study: Its study's UID.

        Returns:
            The text, None where there is none, and the paths of the files that it is from.
        """
        folder, name = posixpath.split(path)
        above = posixpath.dirname(folder)
        own = self._of_stem.get(posixpath.join(folder, stem_of(name)))
        if own is None:
            own = self._of_stem.get(path)  # 7.jpg.txt
        places = [[own] if own else [], self._of_study.get(study or "", []), self._of_folder.get(folder, [])]
        if folder:
            places.append(self._of_folder.get(above, []))
            places.append([beside] if (beside := self._of_stem.get(folder)) else [])
        files = next((files for files in places if files), [])
        return "\n\n".join(self._text[file] for file in files) or None, files
