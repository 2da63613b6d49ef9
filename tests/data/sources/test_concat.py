"""Several sources must read as one, and the command line's words must open the right ones."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from medmoe.data.sources import SOURCES
from medmoe.data.sources.base import Source
from medmoe.data.sources.concat import ConcatSource, open_source
from medmoe.data.sources.manifest import ManifestSource
from medmoe.data.sources.phantom import PhantomSource
from medmoe.errors import DataError, UserError


@pytest.fixture
def folder(tmp_path):
    for name, count in (("one", 2), ("two", 3)):
        (tmp_path / name).mkdir()
        Image.fromarray(np.zeros((2, 3), np.uint8)).save(tmp_path / name / "a.png")
        rows = "".join(f"a.png,{name} {row},{'train' if row else 'test'}\n" for row in range(count))
        (tmp_path / name / "manifest.csv").write_text(f"image,text,split\n{rows}")
    return tmp_path


def test_the_table_of_sources_is_complete():
    assert SOURCES["manifest"] is ManifestSource
    assert SOURCES["phantom"] is PhantomSource


def test_sources_follow_one_another(folder):
    parts = [ManifestSource(folder / "one"), ManifestSource(folder / "two")]
    both = ConcatSource(parts)
    assert isinstance(both, Source)
    expected = [part.facts(i).report for part in parts for i in range(len(part))]
    assert [both.facts(i).report for i in range(len(both))] == expected
    assert [both[i].report for i in range(len(both))] == expected
    assert both[-1].report == expected[-1]


def test_indices_outside_are_refused(folder):
    both = ConcatSource([ManifestSource(folder / "one")])
    for index in (2, -3):
        with pytest.raises(IndexError):
            both[index]


def test_an_empty_source_in_between_takes_no_index(folder):
    class Nothing(ManifestSource):
        def __len__(self) -> int:
            return 0

    one = ManifestSource(folder / "one")
    both = ConcatSource([Nothing(folder / "two"), one, Nothing(folder / "two"), one])
    assert [both.facts(i).report for i in range(len(both))] == ["one 0", "one 1", "one 0", "one 1"]


def test_no_source_is_refused():
    with pytest.raises(DataError, match="no source to read from; give a manifest"):
        ConcatSource([])


def test_a_path_opens_a_manifest_with_its_options(folder):
    source = open_source(folder / "one" / "manifest.csv", split="train", columns={"answer": "text"})
    assert isinstance(source, ManifestSource)
    assert (len(source), source.facts(0).answer, source.facts(0).key) == (1, "one 1", "manifest.csv:2")


def test_joined_paths_open_all_with_keys_that_tell_them_apart(folder):
    source = open_source(f"{folder}/one::{folder}/two/manifest.csv", split="train")
    assert isinstance(source, ConcatSource)
    keys = [source.facts(i).key for i in range(len(source))]
    assert keys == [f"{folder}/one:2", f"{folder}/two/manifest.csv:2", f"{folder}/two/manifest.csv:3"]


def test_fallback_takes_all_rows_of_a_manifest_without_splits(folder):
    (folder / "plain.csv").write_text("image\none/a.png\n")
    assert len(open_source(folder / "plain.csv", split="train", fallback=True)) == 1
    with pytest.raises(DataError, match="no split 'train'"):
        open_source(folder / "plain.csv", split="train")


def test_phantoms_open_by_their_settings(folder):
    source = open_source("phantom:patients=4,size=32,seed=3,modalities=CT+mri", split="train")
    assert isinstance(source, PhantomSource)
    assert (source.patients, source.size, source.seed, source.modalities) == (4, 32, 3, ("ct", "mri"))
    assert isinstance(open_source("phantom"), PhantomSource)
    mixed = open_source(f"phantom:patients=4,size=32::{folder}/one")
    assert mixed.facts(len(mixed) - 1).report == "one 1"


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ("phantom:patient=4", "unknown phantom setting 'patient' .did you mean 'patients'"),
        ("phantom:patients=many", "phantom setting 'patients' is 'many', not a whole number"),
        ("phantom:modalities=xrey", "unknown modality 'xrey'"),
        ("nowhere.csv", "nowhere.csv: no such manifest"),
        ("a.csv::", "an empty part in 'a.csv::'; give a manifest"),
    ],
)
def test_what_cannot_be_opened_is_told_with_a_remedy(spec, words):
    with pytest.raises(UserError, match=words) as caught:
        open_source(spec)
    assert caught.value.remedy
