"""What the pages say is so: their code runs, their commands and names exist, their links lead somewhere.

A block of code under `<!-- test: run -->` is run, in the order of its page, in a folder with a small run (`runs/demo`),
phantoms (`data/test`), images with a manifest (`own`) and one of several hospitals (`own/sites.csv`). Commands are
shrunk to a few steps; what they print isn't looked at. To write the README's map of the code anew:
`python tests/test_docs.py`.
"""

from __future__ import annotations

import ast
import csv
import itertools
import pkgutil
import re
import shlex
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from PIL import Image
from typer.main import get_command

from medmoe.cli import app
from medmoe.config import keys, override
from medmoe.experts.moe import EXPERTS
from medmoe.objectives import OBJECTIVES
from medmoe.recipes import RECIPES
from medmoe.trackers import TRACKERS
from micro import SMALL, medmoe

ROOT = Path(__file__).resolve().parents[1]
PAGES = {str(path.relative_to(ROOT)): path for path in (ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md")))}
README = ROOT / "README.md"

BLOCK = re.compile(r"^(?:<!-- test: (?P<test>run|skip [^\n]+) -->\n)?```(?P<kind>\w+)\n(?P<code>.*?)^```$", re.M | re.S)
INLINE = re.compile(r"`(medmoe [a-z][^`\n]*)`")
LINK = re.compile(r"\]\(([^)#\s]+)[^)]*\)")
NAME = re.compile(r"(?<![\w/.`-])`?(medmoe(?:\.[A-Za-z_]\w*)+)")
SETTING = re.compile(r"""--set ['"]?([\w.]+)=""")
MAP = re.compile(r"(?<=<!-- map -->\n).*?(?=<!-- /map -->)", re.S)
# In the order of imports, each package as a whole.
ORDER = (
    "errors types modalities products signals distributed layers folder gate config data encoders experts heads model"
    " objectives optim pieces checkpoint"
)
ORDER += (
    " metrics rundir guards leaks rewinds tasks describe caching step refusals build adapters trackers predictor"
    " evaluate embed export doubts measures tracking index benchmarks state train recipes doctor progress report"
    " summary ablation holdout speed runs cli"
    " __main__"
)


SMALL_ROUTER = ("--set", "model.vision.image_size=32", "--set", "model.router.hidden=32")
SITES = ("xray", "fundus", "pathology")


@dataclass(frozen=True)
class Block:
    """A fenced block of a page."""

    kind: str
    code: str
    test: str
    line: int


def blocks(page: Path) -> list[Block]:
    text = page.read_text(encoding="utf-8")
    return [
        Block(found["kind"], found["code"], found["test"] or "", text[: found.start("code")].count("\n"))
        for found in BLOCK.finditer(text)
    ]


def commands(code: str) -> Iterator[list[str]]:
    """Split shell text into the words of each command."""
    for line in code.replace("\\\n", " ").splitlines():
        for part in line.split(" && "):
            if words := shlex.split(part, comments=True):
                yield words


def shrunk(words: list[str]) -> list[str]:
    """Make a command take a moment."""
    words = [re.sub(r"patients=\d+", "patients=24", word) for word in words]
    more = {
        ("train",): (*SMALL, "--workers", "0"),
        ("eval",): ("--workers", "0", "--resamples", "20"),
        ("embed",): ("--workers", "0"),
        ("holdout",): ("--seeds", "1", "--views", "2", "--pictures", "6", "--resamples", "20", *SMALL_ROUTER),
        ("report",): ("--heatmaps", "2", "--resamples", "20"),
        ("data", "phantom"): ("--patients", "24", "--size", "32"),
    }
    return [*words, *(word for command, own in more.items() if tuple(words[: len(command)]) == command for word in own)]


def parse(words: list[str]) -> None:
    """Parse a command line as typer would; it raises what typer would say."""
    command, rest = found_command(words)
    command.make_context(command.name, rest)


def found_command(words: list[str]) -> tuple[Any, list[str]]:
    """Find the command that words begin with, and give the words that are left."""
    command: Any = get_command(app)
    while hasattr(command, "commands"):
        if not words or words[0] not in command.commands:
            raise LookupError(f"No such command: {words[:1]}")
        command, words = command.commands[words[0]], words[1:]
    return command, words


@pytest.fixture
def world(tmp_path: Path, phantoms: Path, run: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Give what the pages take for granted, as the current folder."""
    shutil.copytree(run, tmp_path / "runs" / "demo")
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "test").symlink_to(phantoms)
    scans = tmp_path / "own" / "scans"
    scans.mkdir(parents=True)
    with (tmp_path / "own" / "manifest.csv").open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        table.writerow(["image", "text", "modality", "label", "patient_id", "split"])
        for number, row in enumerate(pq.read_table(phantoms / "manifest.parquet").to_pylist(), 1):
            name = f"scans/{number:04}.{'jpg' if number == 3 else 'png'}"
            Image.open(phantoms / row["image"]).save(tmp_path / "own" / name)
            split = ("train", "val", "test")[int(row["patient_id"][-1]) % 3]
            table.writerow([name, row["text"], row["modality"], row["label"], row["patient_id"], split])
    _write_sites(tmp_path / "own", phantoms)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def _write_sites(folder: Path, phantoms: Path) -> None:
    """Write a manifest of three hospitals with three modalities, half of it for training."""
    rows = [row for row in pq.read_table(phantoms / "manifest.parquet").to_pylist() if row["modality"] in SITES]
    with (folder / "sites.csv").open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        table.writerow(["image", "modality", "source", "patient_id", "split"])
        for number, row in enumerate(sorted(rows, key=lambda row: str(row["modality"]))):
            split = ("train", "train", "val", "test")[number // 3 % 4]
            source = ("north", "south", "west")[number % 3]
            table.writerow([phantoms / row["image"], row["modality"], source, f"p{number}", split])


@pytest.fixture
def tables() -> Iterator[None]:
    """Take back the rows that a page adds to show how it is done."""
    before: list[tuple[dict[str, Any], dict[str, Any]]] = [(t, dict(t)) for t in (EXPERTS, OBJECTIVES, TRACKERS)]
    yield
    for table, rows in before:
        table.clear()
        table.update(rows)


@pytest.mark.parametrize("page", [name for name, path in PAGES.items() if any(b.test == "run" for b in blocks(path))])
def test_the_code_of_a_page_runs(page: str, world: Path, tables: None) -> None:
    names: dict[str, Any] = {}
    for block in blocks(PAGES[page]):
        if block.test != "run":
            continue
        if block.kind == "python":
            exec(compile("\n" * block.line + block.code, page, "exec"), names)
            continue
        for words in commands(block.code):
            assert words[0] == "medmoe", f"{page}: only medmoe commands can be run, not {words[0]}"
            said = medmoe(*shrunk(words[1:]))
            assert said.code == 0, f"{page}:{block.line}: {shlex.join(words)}\n{said.err}"


@pytest.mark.parametrize("page", PAGES)
def test_every_block_of_code_is_run_or_says_why_not(page: str) -> None:
    unsaid = [block.line for block in blocks(PAGES[page]) if block.kind in ("bash", "python") and not block.test]
    assert not unsaid, f"{page}: put <!-- test: run --> or <!-- test: skip WHY --> over the blocks at lines {unsaid}"


@pytest.mark.parametrize("page", PAGES)
def test_every_link_to_a_file_leads_somewhere(page: str) -> None:
    text = PAGES[page].read_text(encoding="utf-8")
    targets = [target for target in LINK.findall(text) if not re.match(r"[a-z]+:", target)]
    missing = [target for target in targets if not (PAGES[page].parent / target).exists()]
    assert not missing


@pytest.mark.parametrize("page", PAGES)
def test_every_command_is_one(page: str) -> None:
    for block in blocks(PAGES[page]):
        for words in commands(block.code) if block.kind == "bash" else ():
            if words[0] == "medmoe":
                parse(words[1:])
    for text in INLINE.findall(PAGES[page].read_text(encoding="utf-8")):
        command, words = found_command(text.split()[1:])
        options = {option for parameter in command.params for option in parameter.opts}
        assert {word for word in words if word.startswith("--")} <= options, f"{page}: `{text}`"


@pytest.mark.parametrize(
    "words", [["trian"], ["data", "shrad"], ["train", "tiny"], ["eval", "run", "--data", "d", "--no"]]
)
def test_a_wrong_command_would_be_noticed(words: list[str]) -> None:
    with pytest.raises(Exception, match=r"No such|Missing"):
        parse(words)


@pytest.mark.parametrize("page", PAGES)
def test_every_setting_is_one(page: str) -> None:
    known = {key for recipe in RECIPES.values() for key in keys(recipe())}
    free = ("objectives.", "objective_options.")
    for setting in SETTING.findall(PAGES[page].read_text(encoding="utf-8")):
        assert setting in known or setting.startswith(free), f"{page}: {setting}"


@pytest.mark.parametrize("page", PAGES)
def test_settings_of_training_commands_are_allowed(page: str) -> None:
    for block in blocks(PAGES[page]):
        for words in commands(block.code) if block.kind == "bash" else ():
            if words[:2] == ["medmoe", "train"]:
                given = [value for flag, value in itertools.pairwise(words) if flag == "--set"]
                override(RECIPES[words[2]](), given)


@pytest.mark.parametrize("page", PAGES)
def test_every_name_of_the_library_exists(page: str) -> None:
    for name in NAME.findall(PAGES[page].read_text(encoding="utf-8")):
        pkgutil.resolve_name(name)


def test_every_recipe_is_described() -> None:
    text = PAGES["docs/concepts.md"].read_text(encoding="utf-8")
    assert [name for name in (*RECIPES, *OBJECTIVES) if f"`{name}`" not in text] == []


def test_the_map_gives_the_idea_of_every_file() -> None:
    found = MAP.search(README.read_text(encoding="utf-8"))
    assert found is not None
    assert found[0] == code_map(), "the map is out of date; run: python tests/test_docs.py"


def code_map() -> str:
    """Write the table of the code's files and the first line of each one's docstring."""
    package = ROOT / "src" / "medmoe"
    places = {name: place for place, name in enumerate(ORDER.split())}
    rows: list[tuple[int, str, str]] = []
    for path in package.rglob("*.py"):
        name = path.relative_to(package)
        if name.parts[0] != "__init__.py":
            idea = (ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or "").partition("\n")[0]
            rows.append((places[name.parts[0].removesuffix(".py")], name.as_posix(), idea.replace("|", "\\|")))
    rows.sort(key=lambda row: (row[0], row[1].replace("__init__", "")))
    lines = ["| file | its one idea |", "| --- | --- |"]
    return "\n".join([*lines, *(f"| [{name}](src/medmoe/{name}) | {idea} |" for _, name, idea in rows), ""])


if __name__ == "__main__":
    README.write_text(MAP.sub(lambda _: code_map(), README.read_text(encoding="utf-8")), encoding="utf-8")
