"""What an ablation is to run: every arm with every seed at every size of data, each in a folder of its own."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from medmoe.ablation.subset import fewer_patients
from medmoe.config import RunConfig, parse
from medmoe.data.sources.concat import open_source
from medmoe.data.sources.phantom import write_phantoms
from medmoe.errors import ConfigError
from medmoe.folder import find_folder, read_json, write_text_atomically
from medmoe.recipes.ablations import ablation_of, arm_config

JOB, SCORES, OUTCOMES, LOG, RUN = "job.json", "scores.json", "outcomes.npz", "log.txt", "run"
_TRAIN_SEED, _TEST_SEED = 101, 202  # other phantoms for training than for testing


@dataclass(frozen=True, slots=True)
class Data:
    """Where samples come from.

    Attributes:
        spec: Manifests or folders joined by `::`, those within the ablation's folder relative to it.
        split: A split of the manifest, `all`, or None for the usual one where there are splits.
        patients: Take so many patients, the same whoever asks; None takes all.
    """

    spec: str
    split: str | None = None
    patients: int | None = None

    def open(self, root: Path, *, usual: str, config: RunConfig) -> Any:
        """Open the samples.

        Args:
            root: The ablation's folder.
            usual: The split to take where there are splits and none is named.
            config: Maps columns, and says whether files may be missing.
        """
        parts = [part if _generated(part) else str(root / part) for part in self.spec.split("::")]
        wanted = self.split or usual
        source = open_source(
            "::".join(parts),
            split=None if wanted == "all" else wanted,
            fallback=self.split is None,
            columns=config.data.columns,
            check_files=config.data.on_bad_sample != "skip",
            maps=False,
        )
        return source if self.patients is None else fewer_patients(source, self.patients)


@dataclass(frozen=True, slots=True)
class Job:
    """One arm with one seed on one size of data.

    Attributes:
        folder: Where it writes, relative to the ablation's folder.
        arm: The arm.
        seed: The seed.
        config: What is trained, in full.
        train: Training samples.
        test: Samples to judge on.
        init: Model to start from, relative to the ablation's folder; None: fresh weights.
    """

    folder: str
    arm: str
    seed: int
    config: RunConfig
    train: Data
    test: Data
    init: str | None = None

    def done(self, root: Path) -> bool:
        """Tell whether it has been trained and judged."""
        return (root / self.folder / SCORES).is_file()

    def write(self, root: Path) -> None:
        """Write down what is to be done, or check that it is what was written down before.

        Raises:
            ConfigError: If the folder holds a job with other settings.
        """
        path = root / self.folder / JOB
        if path.is_file():
            before = read_job(root, self.folder)
            if before != self:
                raise ConfigError(
                    f"was started with other settings ({_first_difference(before, self)})",
                    where=str(path.parent),
                    remedy="give another --out, or delete this folder to run it again",
                )
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        values = {**asdict(self), "config": self.config.model_dump(mode="json")}
        write_text_atomically(path, json.dumps(values, indent=2) + "\n")


def read_job(root: Path, folder: str) -> Job:
    """Read a job back."""
    path = root / folder / JOB
    values = read_json(path)
    return Job(
        folder=folder,
        arm=values["arm"],
        seed=values["seed"],
        config=parse(RunConfig, values["config"], where=str(path)),
        train=Data(**values["train"]),
        test=Data(**values["test"]),
        init=values.get("init"),
    )


@dataclass(frozen=True, slots=True)
class Plan:
    """A grid over seeds and sizes.

    Attributes:
        root: The ablation's folder.
        grid: Name of a grid.
        arms: Arms, in the grid's order.
        seeds: Seeds.
        jobs: By size of the data (its name), all jobs.
    """

    root: Path
    grid: str
    arms: tuple[str, ...]
    seeds: tuple[int, ...]
    jobs: dict[str, tuple[Job, ...]]

    def every(self) -> list[Job]:
        """List all jobs: seeds outermost, so that an early stop leaves whole comparisons."""
        return sorted(
            (job for jobs in self.jobs.values() for job in jobs), key=lambda job: job.seed
        )  # the sort keeps sizes and arms in order


def make_plan(
    root: Path,
    grid: str,
    *,
    seeds: int,
    arms: Sequence[str] = (),
    recipe: str | None = None,
    settings: Sequence[str] = (),
    train: Data | None = None,
    test: Data | None = None,
    sizes: Sequence[int] = (),
    test_patients: int = 1200,
    init: str | None = None,
) -> Plan:
    """Plan a grid and write its jobs down; without data, on phantoms that are generated once.

    Args:
        root: The ablation's folder.
        grid: Name of a grid.
        seeds: How many seeds, from 0.
        arms: Arms to run; none: all of the grid.
        recipe: A recipe to change in place of the grid's own.
        settings: `a.b=1` changes for every arm.
        train: Training samples.
        test: Samples to judge on.
        sizes: Patients to train on, one round of the grid for each; none: all, or 3600 phantoms.
        test_patients: Phantom patients to judge on.
        init: Run or model folder that every run starts from, all that fits its arm; `{seed}` stands for the seed.

    Raises:
        ConfigError: If a name or setting isn't allowed, or a job was started with other settings.
    """
    if (train is None) != (test is None):
        raise ConfigError("got one of --train-data and --test-data", remedy="give both, or none for phantoms")
    ablation = ablation_of(grid)
    known = [name for name in ablation.arms if name in arms or not arms]  # in the grid's order
    arms = (*known, *(name for name in arms if name not in known))  # an unknown one is refused now
    settings = ["data.workers=0", "data.cache_mb=2000", *settings]
    each = [(arm, seed) for arm in arms for seed in range(seeds)]
    configs = {
        (arm, seed): arm_config(ablation, arm, recipe=recipe, settings=settings, seed=seed) for arm, seed in each
    }
    starts = {seed: _start(init, seed, root) for seed in range(seeds)}
    jobs: dict[str, tuple[Job, ...]] = {}
    for size in sizes or ((3600,) if train is None else (None,)):
        name = "all" if size is None else f"patients-{size}"
        side = configs[arms[0], 0].model.vision.image_size
        samples, judged = _data(root, train, test, size, side, test_patients)
        jobs[name] = tuple(
            Job(f"{name}/{arm}/seed-{seed}", arm, seed, config, samples, judged, starts[seed])
            for (arm, seed), config in configs.items()
        )
    plan = Plan(root, grid.lower(), arms, tuple(range(seeds)), jobs)
    for job in plan.every():
        job.write(root)
    return plan


def _start(init: str | None, seed: int, root: Path) -> str | None:
    """Name the model that a run starts from.

    Raises:
        ModelError: If there is none.
    """
    if init is None:
        return None
    folder = init.replace("{seed}", str(seed))
    find_folder(folder)
    return named(folder, root)


def _data(
    root: Path, train: Data | None, test: Data | None, size: int | None, side: int, test_patients: int
) -> tuple[Data, Data]:
    """Give what to train and judge on, made if it must be."""
    if train is not None and test is not None:
        return Data(named(train.spec, root), train.split, size), Data(named(test.spec, root), test.split)
    assert size is not None
    made = (("train", size, _TRAIN_SEED), ("test", test_patients, _TEST_SEED))
    specs = [_phantoms(root, f"data/{part}-{patients}-{side}", patients, side, seed) for part, patients, seed in made]
    return Data(specs[0], "all"), Data(specs[1], "all")


def _phantoms(root: Path, name: str, patients: int, side: int, seed: int) -> str:
    """Generate phantoms, unless they are there: aside first, so that a stop leaves nothing half made."""
    import shutil

    folder = root / name
    if not folder.is_dir():
        aside = folder.with_name(folder.name + ".part")
        shutil.rmtree(aside, ignore_errors=True)
        write_phantoms(aside, patients=patients, size=side, seed=seed)
        aside.rename(folder)
    return name


def named(spec: str, root: Path) -> str:
    """Name data so that the name is the same from any working folder, and moves with the ablation's folder."""
    parts = []
    for part in spec.split("::"):
        if _generated(part):
            parts.append(part)
            continue
        path, home = Path(part).resolve(), root.resolve()
        parts.append(str(path.relative_to(home) if path.is_relative_to(home) else path))
    return "::".join(parts)


def _generated(part: str) -> bool:
    return part.startswith("phantom:") or part == "phantom"


def _first_difference(before: Job, now: Job) -> str:
    def flat(value: Any, prefix: str = "") -> Iterable[tuple[str, Any]]:
        if isinstance(value, dict) and value:
            for key, inner in value.items():
                yield from flat(inner, f"{prefix}.{key}" if prefix else key)
        else:
            yield prefix, value

    old = dict(flat({**asdict(before), "config": before.config.model_dump(mode="json")}))
    new = dict(flat({**asdict(now), "config": now.config.model_dump(mode="json")}))
    key = next(key for key in (*old, *new) if old.get(key) != new.get(key))
    return f"{key.removeprefix('config.')} was {old.get(key)!r}, is {new.get(key)!r}"
