from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from medmoe.build import load_model
from medmoe.errors import ModelError
from medmoe.folder import (
    check_replaceable,
    find_folder,
    read_json,
    read_weights,
    write_atomically,
    write_text_atomically,
)
from small_runs import batch_of, built, train

FILES = {
    "README.md",
    "config.json",
    "model.safetensors",
    "preprocess.json",
    "tokenizer.json",
    "tokenizer_settings.json",
}

# Runs in a process of its own: every way to reach a network raises before medmoe is imported.
LOAD_WITHOUT_NETWORK = """
import socket, sys

def refused(*args, **kwargs):
    raise AssertionError(f"the network was asked for: {args}")

socket.socket.connect = socket.socket.connect_ex = socket.getaddrinfo = socket.create_connection = refused

import torch
torch.set_num_threads(1)
import medmoe
from safetensors.torch import load_file, save_file
from medmoe.build import tokenizer_of

folder, wanted, out = sys.argv[1:]
model = medmoe.from_pretrained(folder)
report = open(wanted + ".txt", encoding="utf-8").read().split("\\n")
with torch.inference_mode():
    image = model.encode_image(load_file(wanted)["image"]).embed
    text = model.encode_text(tokenizer_of(model)(report)).embed
save_file({"image": image, "text": text}, out)
"""


def pretend_model(folder: Path) -> Path:
    folder.mkdir(parents=True)
    for name in ("config.json", "model.safetensors", "preprocess.json"):
        (folder / name).write_text("{}")
    return folder


def test_a_folder_is_filled_then_put_in_place(tmp_path: Path):
    folder = write_atomically(tmp_path / "a" / "b", lambda aside: (aside / "x").write_text("new") and None)
    assert (folder / "x").read_text() == "new"
    assert [path.name for path in folder.parent.iterdir()] == ["b"]


def test_nothing_is_in_place_while_the_folder_is_filled(tmp_path: Path):
    seen = []
    write_atomically(tmp_path / "b", lambda aside: seen.append(((tmp_path / "b").exists(), aside.is_dir())))
    assert seen == [(False, True)]


def test_a_new_folder_takes_the_place_of_the_whole_old_one(tmp_path: Path):
    write_atomically(tmp_path / "b", lambda aside: (aside / "old").write_text("") and None)
    write_atomically(tmp_path / "b", lambda aside: (aside / "new").write_text("") and None)
    assert [path.name for path in (tmp_path / "b").iterdir()] == ["new"]


@pytest.mark.parametrize("kind", [OSError, KeyboardInterrupt])
def test_a_failing_fill_leaves_the_old_folder_and_nothing_else(tmp_path: Path, kind: type[BaseException]):
    write_atomically(tmp_path / "b", lambda aside: (aside / "x").write_text("old") and None)

    def fail(aside: Path) -> None:
        (aside / "x").write_text("half")
        raise kind("disk full")

    with pytest.raises(kind):
        write_atomically(tmp_path / "b", fail)
    assert [path.name for path in tmp_path.iterdir()] == ["b"]
    assert (tmp_path / "b" / "x").read_text() == "old"


def test_a_text_file_is_replaced_without_a_trace(tmp_path: Path):
    for text in ("old", "new"):
        write_text_atomically(tmp_path / "a.txt", text)
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {"a.txt": "new"}


def test_a_saved_model_holds_what_it_needs_and_no_pickle(tmp_path: Path):
    folder = built().save_pretrained(tmp_path / "model")
    assert {path.name for path in folder.iterdir()} == FILES
    for path in folder.iterdir():
        assert not path.read_bytes().startswith((b"\x80", b"PK")), f"{path.name} looks like a pickle or a zip of one"


def test_the_model_card_names_modalities_size_and_preprocessing(tmp_path: Path):
    model = built()
    card = (model.save_pretrained(tmp_path / "model") / "README.md").read_text()
    assert model.assets is not None
    for word in ("xray, ct, mri", "32 × 32 px", model.assets.preprocess["fingerprint"], "Not a medical device"):
        assert word in card


def test_a_saved_model_gives_the_same_embeddings_in_a_new_process_without_a_network(tmp_path: Path):
    model = built().eval()
    batch = batch_of(model)
    folder = model.save_pretrained(tmp_path / "model")
    wanted, got = tmp_path / "wanted.safetensors", tmp_path / "got.safetensors"
    save_file({"image": batch.image}, wanted)
    Path(f"{wanted}.txt").write_text("\n".join(sample.report or "" for sample in batch.samples), encoding="utf-8")
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"}
    command = [sys.executable, "-c", LOAD_WITHOUT_NETWORK, str(folder), str(wanted), str(got)]
    done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    with torch.inference_mode():
        mine = model(batch)
    there = load_file(got)
    torch.testing.assert_close(there["image"], mine.image.embed, rtol=0, atol=1e-6)
    torch.testing.assert_close(there["text"], mine.text.embed, rtol=0, atol=1e-6)


def test_the_check_for_a_network_would_notice_one(tmp_path: Path):
    head = LOAD_WITHOUT_NETWORK.split("import torch")[0]
    program = head + "import urllib.request; urllib.request.urlopen('http://127.0.0.1:9/')"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert "the network was asked for" in done.stderr


def test_a_truncated_weight_file_is_named(tmp_path: Path):
    folder = built().save_pretrained(tmp_path / "model")
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[: weights.stat().st_size // 2])
    with pytest.raises(ModelError, match="can't be read") as got:
        load_model(folder)
    assert got.value.where == str(weights)
    assert got.value.remedy


def test_a_missing_weight_file_is_named(tmp_path: Path):
    with pytest.raises(ModelError, match="no such file") as got:
        read_weights(tmp_path / "model.safetensors")
    assert got.value.where == str(tmp_path / "model.safetensors")


@pytest.mark.parametrize(
    ("text", "said"), [("{", "isn't JSON"), ("[1]", "isn't a JSON object"), (None, "no such file")]
)
def test_a_json_file_that_can_not_be_used_is_named(tmp_path: Path, text: str | None, said: str):
    path = tmp_path / "config.json"
    if text is not None:
        path.write_text(text)
    with pytest.raises(ModelError, match=said) as got:
        read_json(path)
    assert got.value.where == str(path)


def test_a_json_file_of_no_text_is_named(tmp_path: Path):
    (tmp_path / "config.json").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ModelError, match="isn't JSON"):
        read_json(tmp_path / "config.json")


def test_a_json_object_is_read(tmp_path: Path):
    (tmp_path / "a.json").write_text(json.dumps({"a": [1]}))
    assert read_json(tmp_path / "a.json") == {"a": [1]}


def test_a_model_folder_means_itself(tmp_path: Path):
    assert find_folder(pretend_model(tmp_path / "m")) == tmp_path / "m"


def test_a_run_means_its_model_rather_than_a_checkpoint(tmp_path: Path):
    pretend_model(tmp_path / "checkpoints" / "step-0000001")
    pretend_model(tmp_path / "model")
    assert find_folder(str(tmp_path)) == tmp_path / "model"


def test_an_unfinished_run_means_its_newest_checkpoint(tmp_path: Path):
    for step in (3, 12, 6):
        pretend_model(tmp_path / "checkpoints" / f"step-{step:07d}")
    (tmp_path / "checkpoints" / "step-0000099").mkdir()
    assert find_folder(tmp_path) == tmp_path / "checkpoints" / "step-0000012"


def test_a_real_run_and_its_checkpoint_can_both_be_loaded(tmp_path: Path):
    model = train(tmp_path / "run", "train.steps=1")
    for path in (tmp_path / "run", find_folder(tmp_path / "run" / "checkpoints" / "step-0000001")):
        assert torch.equal(load_model(path).log_scale, model.log_scale)


@pytest.mark.parametrize(("name", "said"), [("", "no model here"), ("nowhere", "no such folder")])
def test_nothing_to_load_says_what_is_wanted(tmp_path: Path, name: str, said: str):
    with pytest.raises(ModelError, match=said) as got:
        find_folder(tmp_path / name)
    assert got.value.where == str(tmp_path / name)
    assert "config.json" in (got.value.remedy or "")


def test_a_model_is_never_written_over_something_else(tmp_path: Path):
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(ModelError, match="something other than a saved model is here"):
        built().save_pretrained(tmp_path)
    with pytest.raises(ModelError, match="something other"):
        check_replaceable(tmp_path / "thesis.txt")
    assert (tmp_path / "thesis.txt").read_text() == "years of work"


def test_a_model_may_take_a_new_or_empty_folder_or_an_earlier_models(tmp_path: Path):
    (tmp_path / "empty").mkdir()
    for folder in (tmp_path / "new", tmp_path / "empty", pretend_model(tmp_path / "old")):
        check_replaceable(folder)
