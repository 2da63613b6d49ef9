"""The house rules a machine can check, read from the code's syntax trees.

Imports go one way, heavy packages have their place, files and functions stay readable, and loading
a file never runs what is in it.
"""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import medmoe

ROOT = Path(medmoe.__file__).parent
FILES = {path.relative_to(ROOT).as_posix(): path for path in sorted(ROOT.rglob("*.py"))}
TEXTS = {name: path.read_text(encoding="utf-8") for name, path in FILES.items()}
TREES = {name: ast.parse(text) for name, text in TEXTS.items()}

# Each file or package of medmoe/ and its level; one imports only from levels below its own.
LEVELS = {
    "errors": 0,
    **dict.fromkeys(["types", "modalities", "products"], 1),
    **dict.fromkeys(["layers", "config", "distributed", "folder", "gate", "signals"], 2),
    **dict.fromkeys(["data", "encoders", "experts", "heads", "pieces"], 3),
    **dict.fromkeys(["model", "objectives", "optim", "checkpoint", "metrics", "rundir", "leaks", "guards"], 4),
    "rewinds": 4,
    **dict.fromkeys(["tasks", "describe", "caching", "step", "refusals"], 5),
    **dict.fromkeys(["build", "adapters"], 6),
    "trackers": 6,
    **dict.fromkeys(["predictor", "evaluate", "embed", "export", "doubts", "state", "measures", "tracking"], 7),
    **dict.fromkeys(["train", "index", "benchmarks"], 8),
    **dict.fromkeys(["serve", "recipes", "report", "doctor", "progress"], 9),
    **dict.fromkeys(["summary", "ablation", "holdout", "speed", "runs"], 10),
    "cli": 11,
    "__main__": 12,
}
# They take flat values: only what assembles them reads the configuration.
COMPONENTS = {"data", "encoders", "experts", "heads", "layers", "model", "objectives", "metrics", "optim", "tasks"}

# package → where it may be imported: a file, or a folder when it ends with /
PLACES = {
    "timm": ["encoders/vision.py", "speed/"],
    "transformers": ["adapters/", "encoders/text.py", "data/text.py"],
    "tokenizers": ["data/text.py"],
    "pyarrow": ["data/"],
    "pydicom": ["data/dicom/", "data/curation/", "speed/"],
    "sklearn": ["tasks/", "data/"],
    "torchvision": ["adapters/", "data/", "speed/"],
    "typer": ["cli/"],
    "rich": ["cli/", "progress.py"],
    "PIL": ["adapters/", "data/", "predictor.py", "report/", "serve.py", "speed/"],
    "pydantic": ["config.py", "serve.py"],
    "safetensors": ["adapters/", "folder.py", "checkpoint.py", "pieces/", "encoders/pretrained.py"],
}
# Optional packages: whichever file imports one is the only one that does.
IN_ONE_FILE = ["huggingface_hub", "faiss", "nibabel", "onnx", "onnxruntime", "fastapi", "uvicorn", "open_clip", "ray"]
IN_ONE_FILE += ["simplejpeg", "webdataset", "tensorboard", "wandb", "mlflow"]
NEVER = ["pickle", "cPickle", "cloudpickle", "dill", "joblib", "shelve", "marshal", "requests", "pandas", "matplotlib"]

MOST_LINES, MOST_LINES_OF_A_FUNCTION = 450, 70


def imports(name: str) -> Iterator[tuple[int, str]]:
    """Give (line, dotted name) of each import of a file, wherever in it, one for each name imported from a module."""
    for node in ast.walk(TREES[name]):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield from ((node.lineno, f"{node.module}.{alias.name}") for alias in node.names)


def outside(name: str) -> Iterator[tuple[int, str]]:
    """Give (line, top-level package) of each import that isn't our own."""
    return ((line, module.split(".")[0]) for line, module in imports(name) if not module.startswith("medmoe."))


def inside(name: str) -> Iterator[tuple[int, str]]:
    """Give (line, file or package of medmoe/) of each import of our own."""
    return ((line, module.split(".")[1]) for line, module in imports(name) if module.startswith("medmoe."))


def part(name: str) -> str:
    """Give the file or package of medmoe/ that a file belongs to."""
    return name.removesuffix(".py").split("/")[0]


def allowed(name: str, places: list[str]) -> bool:
    return any(name.startswith(place) if place.endswith("/") else name == place for place in places)


OWN = [name for name in FILES if name != "__init__.py"]  # the top level only hands on names, when they are asked for


def test_the_rules_see_imports_at_the_top_and_inside_functions():
    assert "errors" in {other for _, other in inside("modalities.py")}
    assert "doctor" in {other for _, other in inside("cli/models.py")}
    assert "timm" in {other for _, other in outside("encoders/vision.py")}


def test_every_file_has_a_level():
    assert {part(name) for name in OWN} - set(LEVELS) == set(), "give it a level in tests/test_architecture.py"


@pytest.mark.parametrize("name", OWN)
def test_imports_go_one_way(name: str):
    own = part(name)
    wrong = [
        f"{name}:{line} imports {other} (level {LEVELS.get(other)}) from level {LEVELS[own]}"
        for line, other in inside(name)
        if other not in (own, "__version__") and LEVELS.get(other, 99) >= LEVELS[own]
    ]
    assert wrong == []


def test_no_component_reads_the_configuration():
    wrong = [
        f"{name}:{line}"
        for name in OWN
        if part(name) in COMPONENTS
        for line, other in inside(name)
        if other == "config"
    ]
    assert wrong == []


def test_the_configuration_imports_no_component():
    assert {other for _, other in inside("config.py")} <= {"errors", "types", "modalities"}


@pytest.mark.parametrize("package", PLACES)
def test_heavy_packages_are_imported_only_in_their_place(package: str):
    users = {name for name in FILES for _, other in outside(name) if other == package}
    assert {name for name in users if not allowed(name, PLACES[package])} == set()


@pytest.mark.parametrize("package", IN_ONE_FILE)
def test_an_optional_package_is_imported_in_one_file(package: str):
    assert len({name for name in FILES for _, other in outside(name) if other == package}) <= 1


def test_what_runs_code_from_files_is_never_imported():
    assert [(name, other) for name in FILES for _, other in outside(name) if other in NEVER] == []


def test_no_file_is_loaded_in_a_way_that_runs_what_is_in_it():
    wrong = []
    for name, tree in TREES.items():
        for node in ast.walk(tree):
            if isinstance(node, ast.Call):
                called = ast.unparse(node.func)
                keywords = {word.arg: ast.unparse(word.value) for word in node.keywords}
                risky = called in {"torch.load", "eval", "exec", "yaml.load"}
                if (
                    risky
                    or {"allow_pickle": "True", "trust_remote_code": "True", "shell": "True"}.items() & keywords.items()
                ):
                    wrong.append(f"{name}:{node.lineno} {called}")
    assert wrong == []


@pytest.mark.parametrize("name", FILES)
def test_a_files_first_line_says_its_one_idea(name: str):
    written = ast.get_docstring(TREES[name])
    assert written, f"{name} has no docstring"
    first = written.split("\n")[0]
    assert first.endswith((".", "?")), f"{name}: {first!r} isn't a sentence on one line"
    assert not re.search(r"[.?] [A-Z]", first), f"{name}: {first!r} is more than one sentence"


def test_no_file_is_longer_than_a_head():
    assert {name: lines for name, text in TEXTS.items() if (lines := text.count("\n")) > MOST_LINES} == {}


def test_no_function_is_longer_than_a_screen():
    wrong = [
        f"{name}:{node.lineno} {node.name}"
        for name, tree in TREES.items()
        for node in ast.walk(tree)
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))
        and (node.end_lineno or node.lineno) - node.lineno + 1 > MOST_LINES_OF_A_FUNCTION
    ]
    assert wrong == []


def test_nothing_is_left_undone():
    left = re.compile(r"\b(TODO|FIXME|XXX|HACK)\b|raise NotImplementedError")
    assert [
        f"{name}:{number}"
        for name, text in TEXTS.items()
        for number, line in enumerate(text.split("\n"), start=1)
        if left.search(line)
    ] == []


def test_no_error_is_swallowed_unseen():
    wrong = [
        f"{name}:{node.lineno}"
        for name, tree in TREES.items()
        for node in ast.walk(tree)
        if isinstance(node, ast.ExceptHandler)
        and (node.type is None or ast.unparse(node.type) in {"Exception", "BaseException"})
        and all(isinstance(inner, (ast.Pass, ast.Continue)) for inner in node.body)
    ]
    assert wrong == []


def test_importing_medmoe_imports_nothing_heavy():
    heavy = ["timm", "transformers", "tokenizers", "pyarrow", "sklearn", "pydicom", "torchvision", "torch"]
    program = f"import sys, medmoe; print([name for name in {heavy!r} if name in sys.modules])"
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"
