"""Batches from a source."""

import dataclasses
import itertools
import json
import os
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch

from dicom_files import VALUES
from dicom_files import write as write_dicom
from medmoe.data import images
from medmoe.data.crops import RandomCrop
from medmoe.data.loader import Loader
from medmoe.data.preprocess import Preprocess
from medmoe.data.sources.manifest import ManifestSource
from medmoe.data.text import ReportTokenizer
from medmoe.data.transforms import Augment
from medmoe.errors import ConfigError, DataError, MissingDependencyError
from medmoe.types import Batch, Sample

pytestmark = pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")

MODALITIES = ("xray", "ct")
SENTENCES = ["Small mass here.", "No acute finding.", "The heart is large.", "Left lung clear."]
TOKENIZER = ReportTokenizer.train(SENTENCES, vocab_size=80, max_words=6)


class Memory:
    """Made-up samples, some of them bad."""

    def __init__(self, count: int, bad: dict[int, str] | None = None) -> None:
        self.count, self.bad = count, bad or {}

    def __len__(self) -> int:
        return self.count

    def facts(self, index: int) -> Sample:
        if self.bad.get(index) == "facts":
            raise DataError("unknown modality 'x'", where=f"m:{index}")
        return Sample(
            key=f"m:{index}",
            image=np.zeros((0, 0), np.uint8),
            report=" ".join(SENTENCES[index % 4 :] + SENTENCES[: index % 4]),
            modality="xray" if index % 3 else "ct",
        )

    def __getitem__(self, index: int) -> Sample:
        facts = self.facts(index)
        kind = self.bad.get(index)
        if kind == "truncated":
            raise DataError("the JPEG is truncated", where=f"m:{index}", remedy="fetch it again")
        if kind == "codec":
            raise MissingDependencyError("a codec is missing", remedy="pip install it")
        image = np.random.default_rng(index).random((16, 12), dtype=np.float32)
        if kind == "nan":
            image[0, 0] = np.nan
        return dataclasses.replace(facts, image=image)


def loader(source: Memory, **options) -> Loader:
    options = {"modalities": MODALITIES, "batch_size": 4, "train": True, "seed": 3} | options
    return Loader(source, Preprocess(8), TOKENIZER, **options)


def first(made: Loader, count: int) -> list[Batch]:
    batches = list(itertools.islice(made, count))
    made.close()
    return batches


def assert_same(ours: list[Batch], theirs: list[Batch]) -> None:
    assert len(ours) == len(theirs)
    for one, other in zip(ours, theirs, strict=True):
        assert one.keys == other.keys
        assert torch.equal(one.image, other.image)
        assert torch.equal(one.tokens.ids, other.tokens.ids)
        assert torch.equal(one.tokens.word, other.tokens.word)
        assert torch.equal(one.report_id, other.report_id)


OPTIONS = [
    {"augment": Augment()},
    {"augment": Augment(), "crop": RandomCrop()},
    {"batching": "within", "balance": 0.7, "augment": Augment(strength=0.5)},
    {"on_bad_sample": "skip"},
]


@pytest.mark.parametrize("options", OPTIONS)
def test_batches_are_the_same_for_any_number_of_workers(options: dict) -> None:
    source = Memory(10, {4: "nan"} if "on_bad_sample" in options else {})
    assert_same(first(loader(source, **options), 6), first(loader(source, workers=2, **options), 6))


@pytest.mark.parametrize("options", OPTIONS)
def test_a_resumed_loader_goes_on_where_the_first_would_be(options: dict) -> None:
    source = Memory(10, {4: "nan"} if "on_bad_sample" in options else {})
    assert_same(first(loader(source, **options), 7)[5:], first(loader(source, start=5, **options), 2))


def test_iterating_again_starts_again() -> None:
    made = loader(Memory(10), workers=1)
    once = list(itertools.islice(made, 2))
    assert_same(once, first(made, 2))


def test_another_seed_gives_other_batches() -> None:
    assert [b.keys for b in first(loader(Memory(10)), 3)] != [b.keys for b in first(loader(Memory(10), seed=4), 3)]


def test_training_holds_each_sample_once_a_pass_and_has_no_end() -> None:
    made = loader(Memory(10), batch_size=5)
    batches = first(made, 6)
    assert len(made) == 2
    for begin in (0, 2, 4):
        assert len({key for one in batches[begin : begin + 2] for key in one.keys}) == 10


def test_augmentation_differs_between_visits_of_a_sample() -> None:
    one, two = first(loader(Memory(1), batch_size=2, augment=Augment()), 2)
    images = [one.image[0], one.image[1], two.image[0], two.image[1]]
    assert not any(torch.equal(a, b) for a, b in itertools.combinations(images, 2))


def test_parts_of_an_image_are_taken_anew_at_each_visit() -> None:
    one, two = first(loader(Memory(1), batch_size=1, crop=RandomCrop(chance=1.0, area=0.1)), 2)
    assert not torch.equal(one.image, two.image)


def test_sentences_are_drawn_in_training_and_all_kept_in_evaluation() -> None:
    (drawn,) = first(loader(Memory(4)), 1)
    (whole,) = loader(Memory(4), train=False)
    assert drawn.tokens.word_mask.sum(1).max() <= 6
    assert whole.tokens.word_mask.sum(1).tolist() == [13] * 4


@pytest.mark.parametrize("workers", [0, 2])
def test_evaluation_gives_every_sample_once_in_order(workers: int) -> None:
    made = loader(Memory(10), train=False, workers=workers, start=3)
    for _ in range(2):
        batches = list(made)
        assert [len(one.keys) for one in batches] == [4, 4, 2]
        assert [key for one in batches for key in one.keys] == [f"m:{index}" for index in range(10)]
    made.close()
    assert len(made) == 3


def test_within_and_balance_change_the_shares() -> None:
    within = first(loader(Memory(30), batching="within", within_fraction=1.0), 4)
    assert [one.modality.unique().tolist() for one in within] == [[1], [0]] * 2
    balanced = first(loader(Memory(30), balance=1.0), 128)
    counts = Counter(torch.cat([one.modality for one in balanced]).tolist())
    assert counts[0] == counts[1]


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("train", [False, True])
def test_a_bad_sample_raises_its_own_error(workers: int, train: bool) -> None:
    made = loader(Memory(5, {2: "truncated"}), workers=workers, train=train)
    with pytest.raises(DataError) as caught:
        first(made, 9)
    assert str(caught.value) == "m:2: the JPEG is truncated; fetch it again"
    assert caught.value.remedy == "fetch it again"


@pytest.mark.parametrize("workers", [0, 2])
def test_skipped_samples_are_replaced_counted_and_written_down_once(workers: int, tmp_path: Path) -> None:
    path = tmp_path / "run" / "quarantine.jsonl"
    options = {"workers": workers, "on_bad_sample": "skip", "quarantine": path}
    made = loader(Memory(8, {2: "truncated", 5: "nan"}), **options)
    batches = first(made, 8)
    assert all(len(one.keys) == 4 for one in batches)
    assert {key for one in batches for key in one.keys} == {f"m:{index}" for index in (0, 1, 3, 4, 6, 7)}
    assert made.skipped >= 8
    lines = sorted(path.read_text().splitlines())
    assert [json.loads(line)["key"] for line in lines] == ["m:2", "m:5"]
    assert json.loads(lines[0])["reason"] == "m:2: the JPEG is truncated; fetch it again"
    assert 0 <= json.loads(lines[0])["step"] < 2

    with path.open("a") as file:
        file.write('{"key": "torn')
    first(loader(Memory(8, {2: "truncated", 5: "nan"}), **options), 4)
    assert len(path.read_text().splitlines()) == 3


def test_evaluation_leaves_bad_samples_out() -> None:
    made = loader(Memory(9, {2: "truncated", 8: "nan"}), train=False, on_bad_sample="skip")
    batches = list(made)
    assert [len(one.keys) for one in batches] == [3, 4]
    assert made.skipped == 2
    assert made.describe()["skipped"] == 2


def test_a_sample_with_bad_facts_is_skipped_too(tmp_path: Path) -> None:
    made = loader(Memory(6, {2: "facts"}), balance=1.0, on_bad_sample="skip", quarantine=tmp_path / "q")
    assert all("m:2" not in one.keys for one in first(made, 6))
    assert json.loads((tmp_path / "q").read_text())["key"] == "m:2"


@pytest.mark.parametrize("train", [False, True])
def test_all_samples_bad_is_an_error_and_no_endless_loop(train: bool) -> None:
    made = loader(Memory(3, dict.fromkeys(range(3), "truncated")), train=train, on_bad_sample="skip")
    with pytest.raises(DataError, match=r"none of 3 samples is good|3 of 3 tried are bad, such as: the JPEG is trunc"):
        first(made, 2)
    assert made.skipped == 3


def test_one_good_sample_among_bad_ones_is_enough() -> None:
    made = loader(Memory(9, dict.fromkeys(range(8), "nan")), on_bad_sample="skip")
    assert first(made, 1)[0].keys == ("m:8",) * 4


def test_what_is_missing_on_the_machine_is_never_skipped() -> None:
    with pytest.raises(MissingDependencyError, match="codec"):
        first(loader(Memory(3, {1: "codec"}), on_bad_sample="skip"), 1)


def test_a_modality_the_model_lacks_is_never_skipped() -> None:
    with pytest.raises(DataError, match=r"unknown modality 'xray'.*--set 'model\.modalities=\[.ct., .xray.\]'"):
        first(loader(Memory(3), modalities=("ct",), on_bad_sample="skip"), 1)


def test_loading_leaves_global_random_numbers_and_the_environment_alone() -> None:
    state, environment = torch.random.get_rng_state(), dict(os.environ)
    legacy = np.random.get_state()[1].tolist()  # noqa: NPY002
    first(loader(Memory(5), augment=Augment(), workers=1), 2)
    assert torch.equal(state, torch.random.get_rng_state())
    assert np.random.get_state()[1].tolist() == legacy  # noqa: NPY002
    assert dict(os.environ) == environment


def test_the_environment_is_put_back_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOKENIZERS_PARALLELISM", "true")
    first(loader(Memory(5)), 1)
    assert os.environ["TOKENIZERS_PARALLELISM"] == "true"


def test_the_time_waited_is_counted() -> None:
    made = loader(Memory(5))
    first(made, 3)
    assert made.waited > 0
    assert json.loads(json.dumps(made.describe()))["batch_size"] == 4


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 0}, "data.batch_size: 0 isn't allowed; 1 or more is"),
        ({"seed": -1}, "data.seed: -1"),
        ({"workers": -1}, "data.workers: -1"),
        ({"on_bad_sample": "skipp"}, "did you mean 'skip'"),
        ({"train": False, "augment": Augment()}, "training only"),
        ({"train": False, "crop": RandomCrop()}, "training only"),
    ],
)
def test_a_wrong_option_is_told(options: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        loader(Memory(3), **options)


def test_an_empty_source_is_told() -> None:
    with pytest.raises(DataError, match="no sample to load"):
        loader(Memory(0))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("workers", [0, 1])
def test_batches_are_pinned_where_there_is_a_gpu(workers: int) -> None:
    (one,) = first(loader(Memory(4), workers=workers), 1)
    assert one.image.is_pinned()
    assert one.tokens.ids.is_pinned()


def test_dicom_is_decoded_in_the_worker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = [write_dicom(tmp_path / f"{number}.dcm", VALUES + number).name for number in range(4)]
    (tmp_path / "manifest.csv").write_text("\n".join(["image,modality", *(f"{name},ct" for name in names)]))
    source = ManifestSource(tmp_path)

    def batches(workers: int) -> list[Batch]:
        loader = Loader(
            source, Preprocess(8), None, modalities=MODALITIES, batch_size=2, train=False, workers=workers
        )  # fmt: skip
        found = list(loader)
        loader.close()
        return found

    here, own, read = os.getpid(), batches(0), images.read_dicom

    def elsewhere(*given: object, **more: object) -> object:
        assert os.getpid() != here
        return read(*given, **more)

    monkeypatch.setattr(images, "read_dicom", elsewhere)
    assert all(torch.equal(one.image, other.image) for one, other in zip(batches(1), own, strict=True))


@pytest.mark.parametrize("options", OPTIONS[:3])
@pytest.mark.parametrize("world", [2, 3, 4])
def test_ranks_share_each_batch_out_without_overlap(options: dict, world: int) -> None:
    whole = first(loader(Memory(10), **options), 5)
    parts = [first(loader(Memory(10), rank=rank, world=world, **options), 5) for rank in range(world)]
    for step, batch in enumerate(whole):
        for rank in range(world):
            own = parts[rank][step]
            assert own.keys == batch.keys[rank::world]
            assert torch.equal(own.image, batch.image[rank::world])


def test_ranks_put_different_samples_in_the_place_of_bad_ones() -> None:
    source = Memory(40, dict.fromkeys(range(0, 40, 2), "nan"))
    parts = [first(loader(source, rank=rank, world=2, on_bad_sample="skip"), 3) for rank in (0, 1)]
    for one, other in zip(*parts, strict=True):
        assert len(one.keys) == len(other.keys) == 2
        assert not set(one.keys) & set(other.keys)


def test_ranks_go_through_an_evaluation_set_once() -> None:
    parts = [list(loader(Memory(9), train=False, rank=rank, world=2)) for rank in (0, 1)]
    keys = [key for part in parts for batch in part for key in batch.keys]
    assert sorted(keys) == sorted(f"m:{number}" for number in range(9))


@pytest.mark.parametrize(("rank", "world"), [(2, 2), (-1, 2), (0, 5)])
def test_a_rank_that_cannot_be_is_told(rank: int, world: int) -> None:
    with pytest.raises(ConfigError, match=f"rank {rank} of {world} for batches of 4"):
        loader(Memory(10), rank=rank, world=world)
