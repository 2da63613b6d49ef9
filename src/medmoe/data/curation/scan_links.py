"""What lies beside an image: its mask and its report, found by the names of files and folders."""

from __future__ import annotations

import posixpath
from collections import defaultdict
from collections.abc import Iterable, Mapping

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
    `images` and the like count as no folder. If there is none, a folder's word alone isn't enough, a file's is.

    Args:
        paths: Of all images and masks.

    Returns:
        Path of each mask → its image's path; None where that isn't found.
    """
    paths = sorted(paths)
    marked = {path: marks for path in paths if (marks := _mask_key(path)) is not None}
    images: defaultdict[Key, list[str]] = defaultdict(list)
    for path in paths:
        if path not in marked:
            images[_image_key(path)].append(path)
    found: dict[str, str | None] = {}
    for path, (key, by_file) in marked.items():
        matches = images.get(key, [])
        if len(matches) == 1:
            found[path] = matches[0]
        elif by_file or matches:
            found[path] = None
    return _if_mostly(found, marked)


def _if_mostly(found: dict[str, str | None], marked: Mapping[str, tuple[Key, bool]]) -> dict[str, str | None]:
    """Add the masks of a folder in which most others have an image: those whose image was left out."""
    matched: defaultdict[str, int] = defaultdict(int)
    total: defaultdict[str, int] = defaultdict(int)
    for path in marked:
        folder = posixpath.dirname(path)
        total[folder] += 1
        matched[folder] += found.get(path) is not None
    for path in marked:
        folder = posixpath.dirname(path)
        if path not in found and 2 * matched[folder] > total[folder]:
            found[path] = None
    return found


def _mask_key(path: str) -> tuple[Key, bool] | None:
    """Give what a mask's image is found by, and whether the file's own name says that it is a mask."""
    words = rules()["masks"]
    *folders, name = path.split("/")
    stem = tokens(stem_of(name))
    at = [" ".join(tokens(folder)) in words["folders"] for folder in folders]
    ending = next(
        (length for length in (2, 1) if len(stem) > length and " ".join(stem[-length:]) in words["endings"]), 0
    )
    if not ending and len(stem) > 2 and stem[-1].isdigit() and stem[-2] in ("mask", "seg"):
        ending = 2  # 7_mask_1
    inside = any(word in words["endings"][:3] for word in stem[1:])  # t1_seg_tool
    if not any(at) and not ending and not inside:
        return None
    kept = [folder for folder, is_mask in zip(folders, at, strict=True) if not is_mask]
    body = " ".join(stem[: len(stem) - ending] if ending else stem)
    return (_without_images(kept), body), bool(ending or inside)


def _image_key(path: str) -> Key:
    *folders, name = path.split("/")
    return _without_images(folders), " ".join(tokens(stem_of(name)))


def _without_images(folders: Iterable[str]) -> tuple[str, ...]:
    words = rules()["masks"]["images"]
    return tuple(folder for folder in folders if " ".join(tokens(folder)) not in words)


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
