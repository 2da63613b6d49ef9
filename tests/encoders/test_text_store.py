"""What the store of text features keeps, gives back, refuses and repairs."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from medmoe.encoders import text_store
from medmoe.encoders.text_store import TextStore
from medmoe.errors import ModelError

MB = 2**20


def key(number: int) -> bytes:
    return number.to_bytes(16, "little")


def rows(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((count, 4)).astype(np.float32)


def opened(folder: Path, limit: int = MB, kind: str = "float32") -> TextStore:
    return TextStore(folder, width=4, limit=limit, kind=kind)


def filled(folder: Path, *counts: int) -> None:
    store = opened(folder)
    for number, count in enumerate(counts):
        store.put(key(number), rows(count, number))
    store.close()


def test_what_was_put_is_given_back_bit_for_bit_now_and_after_opening_again(tmp_path: Path):
    store = opened(tmp_path)
    assert store.get(key(0), 3) is None
    for number, count in enumerate((3, 1, 7)):
        store.put(key(number), rows(count, number))
    assert np.array_equal(store.get(key(1), 1), rows(1, 1))
    store.close()
    again = opened(tmp_path)
    assert len(again) == 3
    for number, count in enumerate((3, 1, 7)):
        assert np.array_equal(again.get(key(number), count), rows(count, number))


def test_what_is_given_back_is_mapped_from_disk_and_not_held_in_memory(tmp_path: Path):
    filled(tmp_path, 3)
    found = opened(tmp_path).get(key(0), 3)
    assert isinstance(found.base if found.base is not None else found, np.memmap)


def test_a_store_of_half_precision_takes_half_the_space(tmp_path: Path):
    whole, half = opened(tmp_path / "whole"), opened(tmp_path / "half", kind="float16")
    for store in (whole, half):
        store.put(key(0), rows(100))
    assert (tmp_path / "half" / "rows").stat().st_size * 2 == (tmp_path / "whole" / "rows").stat().st_size
    np.testing.assert_array_equal(half.get(key(0), 100), rows(100).astype(np.float16))


def test_a_full_store_takes_no_more_and_keeps_what_it_has(tmp_path: Path):
    store = opened(tmp_path, limit=200)  # 3 rows and their entry are 80 bytes
    for number in range(4):
        store.put(key(number), rows(3, number))
    assert len(store) == 2
    assert store.size <= 200
    assert store.refused.startswith("full")
    assert np.array_equal(store.get(key(1), 3), rows(3, 1))
    assert store.get(key(2), 3) is None


def test_a_second_store_reads_what_the_first_adds_and_adds_nothing(tmp_path: Path):
    first, second = opened(tmp_path), opened(tmp_path)
    assert (first.writing, second.writing) == (True, False)
    second.put(key(9), rows(2))
    assert len(second) == 0
    first.put(key(0), rows(2))
    assert np.array_equal(second.get(key(0), 2), rows(2))
    first.close()
    assert opened(tmp_path).writing


def test_another_process_finds_the_store_taken(tmp_path: Path):
    first = opened(tmp_path)
    program = (
        "import sys; from medmoe.encoders.text_store import TextStore; "
        "print(TextStore(sys.argv[1], width=4, limit=1000).writing)"
    )
    run = subprocess.run([sys.executable, "-c", program, str(tmp_path)], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "False"
    assert first.writing


def test_a_damaged_entry_is_noticed_forgotten_and_kept_anew(tmp_path: Path):
    filled(tmp_path, 3, 3)
    data = bytearray((tmp_path / "rows").read_bytes())
    data[5] ^= 1
    (tmp_path / "rows").write_bytes(data)
    store = opened(tmp_path)
    assert store.get(key(0), 3) is None
    assert store.broken == 1
    assert np.array_equal(store.get(key(1), 3), rows(3, 1))
    store.put(key(0), rows(3, 0))
    store.close()
    assert np.array_equal(opened(tmp_path).get(key(0), 3), rows(3, 0))


@pytest.mark.parametrize("lost", [1, 31, 33])
def test_an_index_cut_short_loses_the_last_entries_only(tmp_path: Path, lost: int):
    filled(tmp_path, 2, 2, 2)
    index = tmp_path / "index"
    os.truncate(index, index.stat().st_size - lost)
    store = opened(tmp_path)
    kept = 2 if lost < 32 else 1
    assert len(store) == kept
    assert (tmp_path / "rows").stat().st_size == kept * 2 * 16
    store.put(key(7), rows(5, 7))
    store.close()
    again = opened(tmp_path)
    assert np.array_equal(again.get(key(0), 2), rows(2, 0))
    assert np.array_equal(again.get(key(7), 5), rows(5, 7))


def test_rows_cut_short_lose_their_entry_only(tmp_path: Path):
    filled(tmp_path, 2, 2)
    os.truncate(tmp_path / "rows", 40)
    store = opened(tmp_path)
    assert np.array_equal(store.get(key(0), 2), rows(2, 0))
    assert store.get(key(1), 2) is None
    store.put(key(1), rows(2, 1))
    assert np.array_equal(store.get(key(1), 2), rows(2, 1))


def test_an_entry_of_another_length_is_not_the_report(tmp_path: Path):
    filled(tmp_path, 3)
    store = opened(tmp_path)
    assert store.get(key(0), 4) is None
    assert store.broken == 1


def test_a_disk_that_is_full_ends_the_writing_and_not_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    store = opened(tmp_path)
    store.put(key(0), rows(2, 0))

    def no_space(file: int, start: int, data: bytes) -> None:
        os.pwrite(file, data[:10], start)
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(text_store, "_write", no_space)
    store.put(key(1), rows(2, 1))
    monkeypatch.undo()
    assert store.refused == "can't write (No space left on device)"
    store.put(key(2), rows(2, 2))
    store.close()
    again = opened(tmp_path)
    assert len(again) == 1
    assert (tmp_path / "rows").stat().st_size == 32
    assert np.array_equal(again.get(key(0), 2), rows(2, 0))


def test_a_store_of_another_width_is_refused(tmp_path: Path):
    filled(tmp_path, 1)
    with pytest.raises(ModelError, match=r"about\.json: text features of another kind.*give another --text-cache"):
        TextStore(tmp_path, width=5, limit=MB)


def test_a_folder_that_can_not_be_made_is_told(tmp_path: Path):
    (tmp_path / "file").touch()
    with pytest.raises(ModelError, match=r"file/cache: can't keep text features .*--text-cache"):
        opened(tmp_path / "file" / "cache")
