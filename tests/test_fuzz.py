"""Damaged and hostile files: each is read or refused by an error that names it, within bounds of time and memory."""

from __future__ import annotations

import datetime
import json
import os
import struct
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from medmoe.data.dicom.facts import facts_from
from medmoe.data.images import image_size, read_gaze, read_image, read_mask
from medmoe.data.levels import stretch
from medmoe.data.sources.concat import open_source
from medmoe.data.sources.manifest import ManifestSource
from medmoe.data.sources.manifest_write import read_all
from medmoe.data.sources.shards import ShardSource
from medmoe.data.sources.tar_index import open_index
from medmoe.errors import DataError, UserError, unknown

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
CASES = {"dicom": 30, "jpeg": 30, "png": 20, "other pictures": 25, "tar": 30, "manifest": 10, "nifti": 20}


@pytest.fixture(scope="module", autouse=True)
def fuzzing():
    """Make the campaign's modules importable."""
    sys.path.insert(0, str(BENCHMARKS))
    yield
    sys.path.remove(str(BENCHMARKS))


@pytest.mark.skipif(sys.platform != "linux", reason="memory is measured as Linux tells it")
def test_a_part_of_the_campaign_finds_no_fault(tmp_path):
    from fuzzing.worker import make, run

    cases = []
    for kind, count in CASES.items():
        for number in range(1000, 1000 + count):
            (tmp_path / f"{kind}-{number}").mkdir()
            if "bomb" not in make(kind, number, 7, tmp_path / f"{kind}-{number}").how:  # these take a second each
                cases.append((kind, number))
    assert len(cases) > 150
    outcomes = list(run(cases, seed=7, seconds=20.0, megabytes=1024.0))
    assert [outcome for outcome in outcomes if outcome.fault] == []
    assert {outcome.result for outcome in outcomes} == {"read", "refused"}


@pytest.mark.skipif(sys.platform != "linux", reason="memory is measured as Linux tells it")
def test_the_campaign_tells_each_fault_from_a_refusal(tmp_path):
    import warnings

    from fuzzing.kinds import promise
    from fuzzing.worker import judge

    def refuse(text: str):
        raise DataError(text)

    def flood():
        for number in range(200):
            warnings.warn(f"warning {number}", UserWarning, stacklevel=1)

    names = ("a.png",)
    assert judge(names, lambda: None)[0] == "read"
    assert judge(names, lambda: refuse("a.png: damaged"))[0] == "refused"
    assert judge(names, lambda: refuse("damaged"))[0] == "error without the file's name"
    assert judge(names, lambda: 1 / 0)[0] == "ZeroDivisionError escapes"
    assert judge(names, lambda: promise(False, "negative"))[0] == "BrokenPromiseError escapes"
    assert judge(names, flood)[0] == "flood of warnings"


def test_a_case_is_the_same_for_the_same_seed(tmp_path):
    from fuzzing.worker import make

    made = []
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        made += [make("png", number, 3, tmp_path / name).path.read_bytes() for number in range(5)]
    assert made[:5] == made[5:]
    assert len(set(made)) == 5


# Decompression bombs.


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize(("bits", "colour"), [(8, 6), (16, 2), (16, 6), (8, 2)])
def test_a_png_of_few_bytes_that_claims_a_huge_picture_is_refused(tmp_path, bits, colour):
    from fuzzing.damage import deflated_zeros
    from fuzzing.pictures import png

    path = tmp_path / "bomb.png"
    path.write_bytes(png(13_000, 13_000, bits, colour, deflated_zeros(4, wrapped=True)))
    for read in (read_image, read_mask, read_gaze, image_size):
        with pytest.raises(DataError, match=r"bomb\.png: the image has 13,000 x 13,000 pixels, too many to be read"):
            read(path)


def test_a_png_whose_text_unpacks_to_a_hundred_mebibytes_is_refused_or_read_without_it(tmp_path):
    import zlib

    from fuzzing.damage import deflated_zeros
    from fuzzing.pictures import chunk, png

    text = chunk(b"zTXt", b"k\0\0" + deflated_zeros(100, wrapped=True))
    path = tmp_path / "bomb.png"
    path.write_bytes(png(2, 2, 8, 0, zlib.compress(bytes(6)), text))
    with pytest.raises(DataError, match=r"bomb\.png: .*truncated or damaged"):
        read_image(path)


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_a_jpeg_that_claims_a_huge_picture_is_refused(tmp_path):
    from fuzzing.pictures import seeds

    data = seeds("jpg")[0]
    at = data.index(b"\xff\xc0") + 5
    path = tmp_path / "bomb.jpg"
    for sides, told in (((65_500, 65_500), "claims more than 178,956,970"), ((11_000, 11_000), "too many to be read")):
        path.write_bytes(data[:at] + struct.pack(">HH", *sides) + data[at + 4 :])
        with pytest.raises(DataError, match=rf"bomb\.jpg: .*{told}"):
            read_image(path)


def test_a_jpeg_of_scans_without_end_is_refused_and_one_of_a_few_is_read(tmp_path):
    Image.new("L", (2000, 2000)).save(tmp_path / "a.jpg", progressive=True)
    whole = (tmp_path / "a.jpg").read_bytes()
    assert read_image(tmp_path / "a.jpg").shape == (2000, 2000)
    first = whole.index(b"\xff\xda")
    second = whole.index(b"\xff\xda", first + 2)
    (tmp_path / "a.jpg").write_bytes(whole[:second] + whole[first:second] * 3000 + whole[second:])
    with pytest.raises(DataError, match=r"a\.jpg: the JPEG has 3,\d+ scans of 2,000 x 2,000 pixels, too many"):
        read_image(tmp_path / "a.jpg")


def test_a_deflated_dicom_file_is_inflated_no_further_than_its_header_asks(tmp_path):
    from fuzzing.dicom_files import deflated_bomb

    path = tmp_path / "bomb.dcm"
    path.write_bytes(deflated_bomb(1500, 64, 64))
    assert len(path.read_bytes()) < 2**21
    assert read_image(path).shape == (64, 64)
    path.write_bytes(deflated_bomb(1500, 20_000, 20_000))
    with pytest.raises(DataError, match=r"bomb\.dcm: .*inflated, it would have 400,\d+,\d+ bytes"):
        read_image(path)


def test_a_dicom_file_that_claims_a_huge_frame_is_refused(tmp_path):
    from fuzzing.dicom_files import image

    path = tmp_path / "bomb.dcm"
    path.write_bytes(image(9000, 9000, bytes(64)))
    with pytest.raises(
        DataError, match=r"bomb\.dcm: the image claims 9,000 × 9,000 pixels; 33,\d+,\d+ of such are read"
    ):
        read_image(path)


def test_an_array_that_claims_more_than_there_is_is_refused(tmp_path):
    from fuzzing.tars import npy, tar_of

    path, about = tmp_path / "a.tar", b"{'descr': '<f8', 'fortran_order': False, 'shape': (%s)}"
    headers = {about % b"1000, 1000": "claimed", about % b"True, 12": "an array of shape", b"(" * 9000: "not an array"}
    for header, told in {**headers, b"{'descr': [": "not an array"}.items():
        path.write_bytes(tar_of([("c.npy", npy(header, bytes(96)))]))
        with pytest.raises(DataError, match=rf"a\.tar:c\.npy: .*{told}"):
            ShardSource([path])[0]
        path.unlink()


# Tars.


@pytest.mark.parametrize("name", [b"../out.png", b"/etc/out.png", b"a/../../out.png", b"..\\out.png"])
def test_a_member_that_leads_out_of_the_tar_is_refused(tmp_path, name):
    from fuzzing.tars import header, padded

    record = b"%d path=%s\n" % (len(name) + 9, name)
    ways = {
        "plain": header(name, 3),
        "record": header(b"pax", len(record), b"x") + padded(record) + header(b"a.png", 3),
        "long": header(b"././@LongLink", len(name) + 1, b"L") + padded(name + b"\0") + header(b"a.png", 3),
    }
    for way, head in ways.items():
        path = tmp_path / f"{way}.tar"
        path.write_bytes(head + padded(b"abc") + bytes(1024))
        with pytest.raises(DataError, match=rf"{way}\.tar:.*a name that leads out of the tar"):
            ShardSource([path])


@pytest.mark.parametrize("kind", [b"1", b"2", b"3", b"4", b"6", b"S"])
def test_links_devices_pipes_and_sparse_files_in_a_tar_are_refused(tmp_path, kind):
    from fuzzing.tars import header

    path = tmp_path / "a.tar"
    path.write_bytes(header(b"a.png", 0, kind, link=b"/etc/passwd") + bytes(1024))
    with pytest.raises(DataError, match=r"a\.tar:a\.png: the tar holds a link, a device or a sparse file"):
        ShardSource([path])


def test_a_record_that_claims_to_be_larger_than_memory_is_refused(tmp_path):
    from fuzzing.tars import header

    path = tmp_path / "a.tar"
    path.write_bytes(header(b"pax", b"\x80\0\0\0\x7f" + bytes(7), b"x") + bytes(1024))
    with pytest.raises(DataError, match=r"a\.tar: the tar is truncated or damaged after its beginning"):
        ShardSource([path])


def test_names_cut_at_their_first_dot_into_one_sample_of_thousands_of_files_are_told(tmp_path):
    from fuzzing.tars import header

    path = tmp_path / "a.tar"
    path.write_bytes(b"".join(header(b"1.2.840.%d.png" % number, 0) for number in range(1001)) + bytes(1024))
    with pytest.raises(DataError, match=r"a\.tar:1\.2\.840\.1000\.png: more than 1,000 kinds of files.*first dot"):
        ShardSource([path])


@pytest.mark.parametrize(
    "odd",
    [
        {"extensions": 5}, {"extensions": [1, 2, 3]}, {"extensions": "abc"}, {"code": [1, 2]}, {"length": [[1],
            [1, 1]]},
        {"offset": [[2**62], [1]]}, {"key": [1, 2]}, {"code": [["x"], ["y"]]},
    ],
)  # fmt: skip
def test_an_index_that_lies_is_made_anew(tmp_path, odd):
    from fuzzing.tars import members, tar_of

    path = tmp_path / "a.tar"
    path.write_bytes(tar_of(members()))
    state = path.stat()
    rows = {"key": ["a", "b"], "code": [[0], [1]], "offset": [[512], [1024]], "length": [[9], [9]]}
    about = {"version": 1, "size": state.st_size, "mtime_ns": state.st_mtime_ns, "extensions": ["jpg", "txt", "png"]}
    about |= {name: value for name, value in odd.items() if name in about}
    table = pa.table(rows | {name: value for name, value in odd.items() if name in rows})
    table = table.replace_schema_metadata({"medmoe": json.dumps(about)})
    with pa.OSFile(f"{path}.index", "wb") as file, pa.ipc.new_file(file, table.schema) as writer:
        writer.write_table(table)
    assert open_index(path).keys.to_pylist() == ["a", "b", "c"]


def test_half_of_a_character_in_a_samples_json_is_refused(tmp_path):
    from fuzzing.tars import tar_of

    path = tmp_path / "a.tar"
    path.write_bytes(tar_of([("a.txt", b"x"), ("a.json", b'{"view": "\\ud800"}')]))
    with pytest.raises(DataError, match=r"a\.tar:a\.json: not valid JSON .*surrogates"):
        ShardSource([path]).facts(0)


# Manifests.


def jsonl(folder: Path, *lines: str) -> Path:
    """Write a manifest of lines as they are."""
    path = folder / "m.jsonl"
    path.write_text("\n".join(lines), encoding="utf-8")
    return path


@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.dcm", "a.nii", "a.tif"])
def test_a_pipe_or_a_device_in_place_of_an_image_is_refused_and_not_waited_for(tmp_path, name):
    (tmp_path / "pipe").mkdir()
    os.mkfifo(tmp_path / "pipe" / name)
    (tmp_path / name).symlink_to("/dev/zero")
    for path in (tmp_path / "pipe" / name, tmp_path / name):
        for read in (read_image, read_mask, read_gaze, image_size):
            with pytest.raises(DataError, match=rf"{name}: is a pipe or a device"):
                read(path)
        source = ManifestSource(jsonl(tmp_path, json.dumps({"image": str(path.relative_to(tmp_path))})))
        for read in (source.__getitem__, source.content):
            with pytest.raises(DataError, match=r"m\.jsonl:1: image .*is a pipe or a device"):
                read(0)


@pytest.mark.skipif(not Path("/proc/kmsg").exists(), reason="a file of Linux, whose reader waits for the kernel")
def test_a_file_that_is_read_like_a_pipe_is_refused_as_empty(tmp_path):
    for read in (read_image, image_size):
        with pytest.raises(DataError, match=r"/proc/kmsg: the file is empty"):
            read("/proc/kmsg")


def test_a_long_report_in_a_csv_file_is_read_by_every_reader(tmp_path):
    Image.new("L", (2, 2)).save(tmp_path / "a.png")
    path, text = tmp_path / "m.csv", "x" * 200_000
    path.write_text(f"image,text,note\na.png,{text},{text}\n", encoding="utf-8")
    assert ManifestSource(path).facts(0).report == text
    assert read_all(path).to_pylist() == [{"image": "a.png", "text": text, "note": text}]


def test_a_column_name_too_long_for_a_csv_reader_is_refused(tmp_path):
    path = tmp_path / "m.csv"
    path.write_text("x" * 200_000 + ",image\n1,a.png\n", encoding="utf-8")
    with pytest.raises(DataError, match=r"m\.csv: the manifest can't be read as csv \(field larger"):
        read_all(path)


@pytest.mark.parametrize("line", ['{"image": "\\ud800.png"}', "[" * 100_000, '{"image": ' + "9" * 5000 + "}"])
def test_half_of_a_character_deep_nesting_and_endless_numbers_are_refused_by_row(tmp_path, line):
    path = jsonl(tmp_path, '{"image": "a.png"}', line)
    with pytest.raises(DataError, match=r"m\.jsonl:2: not valid JSON"):
        read_all(path)


@pytest.mark.parametrize(
    "row",
    [
        {"boxes": '[{"label": "a", "xyxy": [0, 0, ' + "9" * 400 + ", 2]}]"},
        {"boxes": "[" * 50_000},
        {"boxes": '[{"label": "a", "xyxy": [0, 0, 1, 1]}]', "width": "0.5", "height": "0.5"},
    ],
)
def test_boxes_that_no_number_or_image_can_hold_are_refused(tmp_path, row):
    Image.new("L", (2, 2)).save(tmp_path / "a.png")
    source = ManifestSource(jsonl(tmp_path, json.dumps({"image": "a.png", **row})))
    with pytest.raises(DataError, match=r"m\.jsonl:1: "):
        source.facts(0)


def test_a_manifest_of_very_many_columns_is_refused_in_one_line(tmp_path):
    path = tmp_path / "m.csv"
    path.write_text(",".join(f"column{number}" for number in range(20_000)) + "\n", encoding="utf-8")
    with pytest.raises(DataError, match=r"m\.csv: 20,000 columns; allowed: 1,000"):
        ManifestSource(path)


def test_dates_in_a_parquet_list_are_read_as_text(tmp_path):
    day = datetime.datetime(2020, 1, 2)
    pq.write_table(pa.table({"image": ["a.png"], "days": [[day]]}), tmp_path / "m.parquet")
    assert read_all(tmp_path / "m.parquet")["days"].to_pylist() == ['["2020-01-02 00:00:00"]']


def test_other_columns_of_one_name_are_all_kept(tmp_path):
    path = tmp_path / "m.csv"
    path.write_text("image,note,note\na.png,one,two\n", encoding="utf-8")
    assert read_all(path).to_pylist() == [{"image": "a.png", "note": "one", "note.2": "two"}]


@pytest.mark.parametrize("place", ["pipe", "zero", "loop", "folder"])
def test_what_stands_where_a_manifest_should_be_is_refused(tmp_path, place):
    path = tmp_path / "m.csv"
    {
        "pipe": lambda: os.mkfifo(path),
        "zero": lambda: path.symlink_to("/dev/zero"),
        "loop": lambda: path.symlink_to("m.csv"),
        "folder": path.mkdir,
    }[place]()
    with pytest.raises(DataError, match=r"m\.csv"):
        open_source(path)


# Errors, values, headers.


def test_an_error_is_one_short_line_whatever_a_file_holds():
    text = str(UserError("a\nb \x1b[31m \ud800 " + "x" * 10_000, where="m.csv:3", remedy="mend it"))
    assert text.startswith("m.csv:3: a\\nb \\x1b[31m \\ud800 xxx")
    assert text.endswith("xxx; mend it")
    assert len(text) < 2100
    assert text.isprintable()


def test_an_unknown_name_among_very_many_long_ones_is_told_shortly():
    text = unknown("column", "x" * 5000, ["y" * 1000 + str(number) for number in range(5000)])
    assert len(text) < 8000
    assert text.endswith("and 4,900 more")


def test_values_further_apart_than_the_largest_number_are_stretched():
    assert stretch(np.array([[-1e308, 0.0, 1e308]])).tolist() == [[0.0, 0.5, 1.0]]


def test_a_cut_volume_is_refused(tmp_path):
    pytest.importorskip("nibabel")
    path = tmp_path / "a.nii"
    path.write_bytes(struct.pack("<i", 348) + bytes(96))
    with pytest.raises(DataError, match=r"a\.nii: the NIfTI volume can't be read"):
        read_image(path)


def test_an_image_type_that_is_a_number_does_not_keep_a_header_from_being_read(tmp_path):
    from fuzzing.dicom_files import element, image

    data = image(2, 2, bytes(4))
    at = data.index(b"\x08\0\x16\0UI")
    path = tmp_path / "a.dcm"
    path.write_bytes(data[:at] + element(0x00080008, "DS", b"1 ") + data[at:])
    with path.open("rb") as file:
        assert facts_from(file, where="a.dcm").image_type == ("1",)
