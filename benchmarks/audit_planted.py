"""Does `medmoe data audit` find what was planted, and what else does it find?

    python benchmarks/audit_planted.py --corpus FOLDER --json audit.json

Copies of randomly drawn images of a folder with a manifest are planted in an evaluation manifest: as they are, in
another lossless file, recoded as JPEG (quality 30 to 95), resized (0.4 to 1.5 times), made brighter or darker (gamma
0.6 to 1.6, contrast and brightness by up to a quarter and an eighth), flipped, turned by 90 degrees, cropped (2 to 10 %
of either side), with text burned in, in grey, and several of these at once; all but the first two are recoded as JPEG
besides. With them, rows of the same patients with other pictures, and copied reports with other case and spacing. The
evaluation manifest is audited against the whole manifest, by the command line's own functions.

Recall is by kind, with Wilson's 95 % interval. A false pair is one of different pictures that the audit calls the same:
it is counted among the planted pictures' pairs and, without planting, among all of the manifest's pictures, those of
one patient left out. Which of the latter are false only a look can tell: `--montage FILE.png` draws some, spread evenly
from the likest to the least like, and `--look N` says how many. Then the time of comparing N × N hashes, by default of
100,000 images.
"""

from __future__ import annotations

import argparse
import json
import platform
import shutil
import tempfile
import time
from collections import Counter
from pathlib import Path
from statistics import NormalDist
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from medmoe.data.curation.audit import Audit, Options, audit, rows_of, summary
from medmoe.data.curation.near import pairs_within
from medmoe.data.curation.sheet import read_sheet
from medmoe.data.images import read_image
from medmoe.data.sources.manifest_write import read_all, write_manifest

KINDS = (
    "identical", "lossless", "recoded", "resized", "brightness", "flipped", "turned", "cropped", "text", "grey",
    "recoded + resized + brightened", "flipped + cropped + recoded",
)  # fmt: skip
EXACT = ("identical", "lossless", "patient")
JPEG_AFTER = [kind for kind in KINDS if kind not in ("identical", "lossless")]


def resized(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    scale = rng.uniform(0.4, 1.5)
    size = max(8, round(image.width * scale)), max(8, round(image.height * scale))
    return image.resize(size, Image.Resampling.BICUBIC)


def relit(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    grey = (np.asarray(image, np.float32) / 255) ** rng.uniform(0.6, 1.6)
    grey = (grey - 0.5) * rng.uniform(0.75, 1.25) + 0.5 + rng.uniform(-0.125, 0.125)
    return Image.fromarray((np.clip(grey, 0, 1) * 255).astype(np.uint8))


def cropped(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    width, height = (round(side * (1 - rng.uniform(0.02, 0.1))) for side in image.size)
    left, top = rng.integers(0, image.width - width + 1), rng.integers(0, image.height - height + 1)
    return image.crop((left, top, left + width, top + height))


def with_text(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    image = image.copy()
    draw = ImageDraw.Draw(image)
    for line in ("L", "2020-03-12 14:05", "HOSPITAL 0123"):
        place = rng.integers(0, max(image.width * 2 // 3, 1)), rng.integers(0, max(image.height * 9 // 10, 1))
        draw.text(place, line, fill=255 if image.mode == "L" else (255, 255, 255))
    return image


def flipped(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    return image.transpose(Image.Transpose(int(rng.integers(0, 2))))


def turned(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    return image.transpose((Image.Transpose.ROTATE_90, Image.Transpose.ROTATE_270)[int(rng.integers(0, 2))])


def altered(image: Image.Image, kind: str, rng: np.random.Generator) -> Image.Image:
    """Alter an image as a kind says."""
    steps = {
        "resized": resized, "brightness": relit, "brightened": relit, "flipped": flipped, "turned": turned,
        "cropped": cropped, "text": with_text, "grey": lambda image, _: image.convert("L"),
    }  # fmt: skip
    for step in kind.split(" + "):
        image = steps.get(step, lambda image, _: image)(image, rng)
    return image


def plant(corpus: Path, folder: Path, each: int, seed: int) -> tuple[Path, dict[int, tuple[str, int]]]:
    """Write an evaluation manifest of altered copies; give it, and each row's kind and original."""
    rng = np.random.default_rng(seed)
    table = read_all(corpus)
    rows = table.to_pylist()
    root = corpus if corpus.is_dir() else corpus.parent
    planted: list[dict[str, Any]] = []
    truth: dict[int, tuple[str, int]] = {}
    for kind in KINDS:
        for number in rng.choice(len(rows), each, replace=False):
            pixels = read_image(root / rows[number]["image"])
            if pixels.dtype != np.uint8 or (kind == "grey" and pixels.ndim == 2):
                continue
            name = f"{len(planted):05d}"
            if kind == "identical":
                path = folder / f"{name}{Path(rows[number]['image']).suffix}"
                shutil.copy(root / rows[number]["image"], path)
            else:
                image = altered(Image.fromarray(pixels), kind, rng)
                path = folder / f"{name}.{'jpg' if kind in JPEG_AFTER else 'png'}"
                image.save(path, **({"quality": int(rng.integers(30, 96))} if kind in JPEG_AFTER else {}))
            truth[len(planted)] = kind, int(number)
            planted.append({"image": path.name, "patient_id": f"planted{name}", "source": "planted"})
    have_text = [n for n, row in enumerate(rows) if row.get("text") and len(row["text"].split()) >= 10]
    for number in rng.choice(have_text, min(each, len(have_text)), replace=False):
        report = "  ".join(rows[number]["text"].upper().split(" ")) + "\n"
        truth[len(planted)] = "report", int(number)
        planted.append(blank(folder, rng, len(planted)) | {"text": report, "patient_id": f"planted{len(planted):05d}"})
    of_patient = {(row.get("source"), row["patient_id"]): n for n, row in enumerate(rows) if row.get("patient_id")}
    for number in rng.choice(list(of_patient.values()), min(each, len(of_patient)), replace=False):
        truth[len(planted)] = "patient", int(number)
        who = {name: rows[number][name] for name in ("patient_id", "source")}
        planted.append(blank(folder, rng, len(planted)) | who)
    return write_manifest(planted, folder / "manifest.csv"), truth


def blank(folder: Path, rng: np.random.Generator, number: int) -> dict[str, str]:
    """Write a picture that is like no other."""
    path = folder / f"{number:05d}.png"
    Image.fromarray(rng.integers(0, 256, (64, 64), np.uint8)).save(path)
    return {"image": path.name}


def judge(found: Audit, truth: dict[int, tuple[str, int]], offset: int) -> tuple[dict[str, Any], dict[str, Any]]:
    """Count planted rows that were found with their originals, by kind, and pairs with other pictures."""
    hits: dict[str, set[int]] = {}
    others: Counter[str] = Counter()
    doubtful = []
    persons = found.rows.persons
    for pair in found.pairs:
        row, (kind, original) = pair.other - offset, truth[pair.other - offset]
        wanted = {"report": "near-duplicate report", "patient": "shared patient"}.get(kind)
        fits = pair.kind == wanted if wanted else pair.kind in ("identical image", "near-duplicate image")
        if fits and (wanted is not None or pair.one == original):
            hits.setdefault(kind, set()).add(row)
        elif pair.kind in ("identical image", "near-duplicate image"):
            # Frames and slices of the original's patient, which has another name in the planted manifest, are alike.
            his = persons[pair.one] is not None and persons[pair.one] == persons[original]
            others["of the original's patient" if his else "of others"] += 1
            if not his:
                doubtful.append([found.rows.where(pair.one), found.rows.where(original), kind, round(pair.likeness, 3)])
    counts = Counter(kind for kind, _ in truth.values())
    recall = {kind: proportion(len(hits.get(kind, ())), count) for kind, count in counts.items()}
    return recall, {"pairs_with_other_pictures": dict(others), "doubtful": doubtful}


def proportion(hits: int, count: int) -> dict[str, Any]:
    """Give a share with Wilson's 95 % interval."""
    z = NormalDist().inv_cdf(0.975)
    share = hits / count
    middle = share + z * z / (2 * count)
    spread = z * float(np.sqrt(share * (1 - share) / count + z * z / (4 * count * count)))
    low, high = ((middle + side) / (1 + z * z / count) for side in (-spread, spread))
    return {"found": hits, "of": count} | {
        name: round(value, 4) for name, value in (("share", share), ("low", low), ("high", high))
    }


def existing(found: Audit, montage: Path | None, look: int) -> dict[str, Any]:
    """Count pairs between different patients of the manifest itself, by data set, and draw them."""
    sources = found.rows.column("source")
    pairs = [pair for pair in found.pairs if pair.kind in ("identical image", "near-duplicate image")]
    pairs.sort(key=lambda pair: -pair.likeness)
    if montage is not None:
        draw(found, pairs[:: max(len(pairs) // look, 1)][:look], montage)
    by = Counter(" & ".join(sorted({str(sources[pair.one]), str(sources[pair.other])})) for pair in pairs)
    kinds = Counter(pair.kind for pair in pairs)
    images = len({number for pair in pairs for number in (pair.one, pair.other)})
    listed = [
        [pair.kind, found.rows.where(pair.one), found.rows.where(pair.other), round(pair.likeness, 3), pair.distance]
        for pair in pairs
    ]
    return {"pairs": dict(kinds), "images_in_pairs": images, "by_source": dict(by.most_common()), "listed": listed}


def draw(found: Audit, pairs: list[Any], out: Path, side: int = 96, across: int = 8) -> None:
    """Draw pairs side by side, numbered."""
    from medmoe.data.curation.hashes import grey

    sheet = Image.new("L", (across * (2 * side + 6), -(-len(pairs) // across) * (side + 12)))
    pen = ImageDraw.Draw(sheet)
    for at, pair in enumerate(pairs):
        left, top = (at % across) * (2 * side + 6), (at // across) * (side + 12)
        for place, number in enumerate((pair.one, pair.other)):
            manifest, row = found.rows.places[number]
            path = found.rows.sheets[manifest].pictures()[row].path
            sheet.paste(Image.fromarray(grey(read_image(path))).resize((side, side)), (left + place * side, top))
        source = found.rows.column("source")[pair.one]
        pen.text((left, top + side), f"{at} {source} {pair.likeness:.2f} {pair.distance}", fill=255)
    sheet.save(out)


def timing(count: int, threads: int, seed: int, distance: int) -> dict[str, Any]:
    """Time comparing all pairs of random hashes."""
    hashes = np.random.default_rng(seed).integers(0, 2**63, (count, 4), np.uint64)
    start, used = time.perf_counter(), time.process_time()
    near = sum(len(found.one) for found in pairs_within(hashes, distance, threads=threads))
    seconds = time.perf_counter() - start
    pairs = count * (count - 1) // 2
    cpu = round(time.process_time() - used, 2)  # of all threads: what a busy machine doesn't change
    told = {"seconds": round(seconds, 2), "cpu_seconds": cpu, "near": near}
    return {"hashes": count, "pairs": pairs, "threads": threads} | told


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--corpus", type=Path, required=True, help="folder or manifest of real images")
    parser.add_argument("--json", type=Path, help="where to write the figures")
    parser.add_argument("--each", type=int, default=300, help="copies of each kind")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--hashes", type=int, default=100_000, help="how many to time; 0: none")
    parser.add_argument("--cache", type=Path, help="Parquet file of the audit's prints")
    parser.add_argument("--montage", type=Path, help="PNG of pairs between different patients")
    parser.add_argument("--look", type=int, default=160, help="pairs in it")
    asked = parser.parse_args()
    options = Options(workers=asked.workers, cache=asked.cache)
    result: dict[str, Any] = {"seed": asked.seed, "machine": platform.processor() or platform.machine()}
    if asked.hashes:
        result["timing"] = timing(asked.hashes, asked.workers, asked.seed, options.distance)
        print(json.dumps(result["timing"]), flush=True)
    corpus = read_sheet(asked.corpus)
    with tempfile.TemporaryDirectory() as scratch:
        manifest, truth = plant(asked.corpus, Path(scratch), asked.each, asked.seed)
        whole = corpus.path, {name: cells for name, cells in corpus.columns.items() if name != "split"}, corpus.rows
        start = time.perf_counter()
        found = audit(rows_of([type(corpus)(*whole), read_sheet(manifest)]), options)
        seconds = time.perf_counter() - start
        recall, others = judge(found, truth, corpus.rows)
    images = sum(kind not in ("report", "patient") for kind, _ in truth.values())
    result["planted"] = {
        "recall": recall,
        "altered": pooled(recall, [kind for kind in recall if kind not in EXACT]),
        "exact": pooled(recall, [kind for kind in recall if kind in EXACT]),
        **others,
        "compared": found.compared,
        "candidates": found.candidates,
        "seconds": round(seconds, 1),
        "pictures": images,
    }
    for kind, share in recall.items():
        within = f"{share['low']:.1%}–{share['high']:.1%}"
        print(f"{kind:32} {share['found']:4} of {share['of']:4}  {share['share']:.1%} ({within})")
    print(
        json.dumps({name: value for name, value in result["planted"].items() if name not in ("recall", "doubtful")}),
        flush=True,
    )
    start = time.perf_counter()
    options = Options(workers=asked.workers, cache=asked.cache, within=True)
    own = audit(rows_of([type(corpus)(*whole)], within=True), options)
    result["unplanted"] = existing(own, asked.montage, asked.look) | {
        "images": corpus.rows, "compared": own.compared, "candidates": own.candidates,
        "seconds": round(time.perf_counter() - start, 1), "summary": summary(own),
    }  # fmt: skip
    print(json.dumps({name: value for name, value in result["unplanted"].items() if name != "listed"}))
    if asked.json:
        asked.json.write_text(json.dumps(result, indent=1) + "\n")


def pooled(recall: dict[str, Any], kinds: list[str]) -> dict[str, Any]:
    """Pool kinds."""
    return proportion(sum(recall[kind]["found"] for kind in kinds), sum(recall[kind]["of"] for kind in kinds))


if __name__ == "__main__":
    main()
