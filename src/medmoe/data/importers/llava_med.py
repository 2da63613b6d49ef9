"""LLaVA-Med: figures of biomedical articles with captions to learn from (alignment) or conversations (instruct).

Layout: what https://github.com/microsoft/LLaVA-Med describes (Li et al., 2023, https://arxiv.org/abs/2306.00890):
`llava_med_alignment_500k.json`, `llava_med_instruct_10k.json` and its kin, in the folder or in `data/alignment` and
`data/instruct`: lists of objects with `id`, `image` (`17506892_F1.jpg`), `domain` (`chest_xray`, `ct_scan`, `mri`,
`histology`, `gross`: true or false) and `conversatons`, spelled so (a few copies say `conversations`): turns `from`
human and gpt. `llava_med_image_urls.jsonl` (pair_id, pmc_tar_url, image_file_path) tells the article of each image.
`llava_med_instruct_fig_captions.json`, which is no conversation, is left out. Images are at `images/PAIR_ID.jpg`.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from medmoe.data.importers.common import Found, Importer, Job, base_of, first_there, read_json_list, read_jsonl
from medmoe.errors import DataError

_PLACES = ("", "alignment/", "instruct/", "data/", "data/alignment/", "data/instruct/")
_MODALITIES = {"chest_xray": "xray", "ct_scan": "ct", "mri": "mri", "histology": "pathology"}


def read(job: Job) -> Iterator[Found]:
    """Give a row for each question with its answer; of the alignment set the answer is the text."""
    marks = [f"{place}llava_med_{kind}*.json" for place in _PLACES for kind in ("alignment", "instruct")]
    base = base_of(job.folder, *marks, what="LLaVA-Med")
    articles = _articles(base)
    images = first_there(base / "images", base / "data" / "images")
    parts = sorted({path for mark in marks for path in base.glob(mark) if not path.stem.endswith("fig_captions")})
    if sum("instruct" in path.name for path in parts) > 1:
        job.notes.append(
            "several instruct files ask about the same figures: the column `part` tells which file is which"
        )
    for path in parts:
        for where, row in read_json_list(path):
            image = row.get("image")
            if not isinstance(image, str):
                raise DataError("no 'image' of text", where=where, remedy="use the file as published")
            pair = image.rsplit(".")[0]
            own = articles.get(pair, pair.split("_")[0])
            facts: dict[str, object] = {
                "modality": _modality(row.get("domain")),
                "patient_id": own,
                "study_id": own,
                "part": path.stem,
            }
            for question, answer in _turns(row, where):
                said = {"text": answer} if "alignment" in path.name else {"question": question, "answer": answer}
                yield Found(where, images / image, facts | said)


def _articles(base: Path) -> dict[str, str]:
    """Give the article of each pair, from the address of its archive."""
    table = first_there(base / "llava_med_image_urls.jsonl", base / "data" / "llava_med_image_urls.jsonl")
    rows = read_jsonl(table) if table.exists() else ()
    named = ((str(row.get("pair_id")), str(row.get("pmc_tar_url", ""))) for _, row in rows)
    return {pair: url.rsplit("/")[-1].split(".")[0] for pair, url in named if url}


def _modality(domain: Any) -> str | None:
    """Give the modality, where the domain is just one that we know."""
    said = [name for name, there in domain.items() if there] if isinstance(domain, dict) else []
    return _MODALITIES.get(said[0]) if len(said) == 1 else None


def _turns(row: dict[str, Any], where: str) -> Iterator[tuple[str, str]]:
    """Give each question with its answer."""
    turns = row.get("conversatons", row.get("conversations"))
    if not isinstance(turns, list) or not all(isinstance(turn, dict) for turn in turns):
        raise DataError("no list 'conversatons'", where=where, remedy="use the file as published")
    question = ""
    for turn in turns:
        said = " ".join(str(turn.get("value", "")).replace("<image>", " ").split())
        if turn.get("from") == "human":
            question = said
        elif turn.get("from") == "gpt" and said:
            yield question, said


ROWS = (
    Importer(
        name="llava-med",
        title="LLaVA-Med",
        url="https://github.com/microsoft/LLaVA-Med",
        terms="CC BY-NC 4.0, OpenAI's terms for the answers; the images as their articles",
        modality="several",
        needs="llava_med_alignment_500k.json and/or llava_med_instruct_….json, images/*.jpg; the image_urls.jsonl",
        splits="none; the article stands for the patient",
        read=read,
    ),
)
