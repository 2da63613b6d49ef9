"""How much of generated reports' identifiers the rules find, kind by kind, and what they take of texts without any.

    python benchmarks/deidentify_text.py [--captions MANIFEST] --json FILE

The reports are made here from parts; their identifiers are known. `lost` are words of the reports that name no one and went
all the same. Of a manifest's captions, every change is counted, and the commonest are printed to be looked at.
"""

# ruff: noqa: E501 - rows of examples stay on one line
from __future__ import annotations

import argparse
import json
import random
import re
from collections import Counter
from pathlib import Path

from medmoe.data.curation.deidentify_text import Known, clean_text

FIRST = [
    "Amara",
    "Bjorn",
    "Chidi",
    "Dolores",
    "Eamon",
    "Fatima",
    "Giulia",
    "Hiroshi",
    "Ingrid",
    "Jamal",
    "Katarzyna",
    "Liam",
    "Mei",
    "Noor",
    "Olga",
    "Pradeep",
    "Quentin",
    "Rosa",
]
LAST = [
    "Abernathy",
    "Okonkwo",
    "Nakamura",
    "Petrov",
    "Garcia-Lopez",
    "O'Brien",
    "Schmidt",
    "Nguyen",
    "Kowalski",
    "Haddad",
    "Lindqvist",
    "Mbeki",
    "Rossi",
    "Young",
    "Brown",
]
MONTHS = [
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
]
TOWNS = ["Millbrook", "Ashford", "Granville", "Stonehaven", "Riverton", "Lakewood"]
BODY = (
    "CT of the chest with contrast. There is a {size} cm nodule in the right upper lobe, SUV 4.5, previously {size} x 2.1 cm. No "
    "Hodgkin lymphoma. Graves disease is known. Mild degenerative change at C5-6 and L4/5. T1/T2 hypointense lesion at 1.5T, 12/5 mm. "
    "Kerley B lines and a Baker cyst. BI-RADS 2, grade 3/4, ejection fraction 55%. A 63-year-old patient; follow up in 3 months."
)
CARRIERS = {
    "name in the header": "The patient {0} tolerated this well.",
    "name after a title": "Findings were discussed with Dr. {0} by phone.",
    "name after a label": "Electronically signed by: {0}",
    "name with a degree": "{0}, MD",
    "name alone": "{0} will arrange the follow up.",
    "date in numbers": "Compared with the study of {0}.",
    "date in words": "Last seen on {0} in clinic.",
    "time": "The scan was done at {0}.",
    "age over 89": "This is a {0}-year-old patient.",
    "id after a label": "MRN: {0}.",
    "id in the header": "Images {0} were loaded.",
    "id alone": "See order {0}.",
    "phone": "Call back at {0}.",
    "email": "Write to {0}.",
    "address": "Lives at {0}.",
    "hospital": "Transferred from {0} yesterday.",
}


def made(kind: str, draw: random.Random, patient: str, number: str) -> str:
    """Make an identifier of a kind."""
    name = f"{draw.choice(FIRST)} {draw.choice(LAST)}"
    day, month, year = draw.randint(1, 28), draw.randint(1, 12), draw.randint(1990, 2024)
    made_up = {
        "name in the header": lambda: draw.choice([patient, patient.upper(), ", ".join(patient.split()[::-1]), patient.split()[1]]),
        "date in numbers": lambda: draw.choice([f"{month}/{day}/{year}", f"{day:02}.{month:02}.{year}", f"{year}-{month:02}-{day:02}", f"{month:02}/{day:02}/{year % 100:02}", f"{year}{month:02}{day:02}"]),
        "date in words": lambda: draw.choice([f"{MONTHS[month - 1]} {day}, {year}", f"{day} {MONTHS[month - 1][:3]} {year}", f"the {day}th of {MONTHS[month - 1]}", f"{day}-{MONTHS[month - 1][:3]}-{year}"]),
        "time": lambda: draw.choice([f"{draw.randint(0, 23):02}:{draw.randint(0, 59):02}", f"{draw.randint(1, 12)}:{draw.randint(0, 59):02} pm", f"{draw.randint(10, 23)}{draw.randint(10, 59)} hours"]),
        "age over 89": lambda: str(draw.randint(90, 104)),
        "id after a label": lambda: draw.choice([f"{draw.randint(10**5, 10**8)}", f"{draw.randint(100, 999)}-{draw.randint(1000, 9999)}", f"AB{draw.randint(10**4, 10**6)}"]),
        "id in the header": lambda: number,
        "id alone": lambda: draw.choice([f"{draw.randint(10**7, 10**9)}", f"CT{draw.randint(10**5, 10**7)}"]),
        "phone": lambda: draw.choice([f"({draw.randint(200, 999)}) {draw.randint(200, 999)}-{draw.randint(1000, 9999)}", f"{draw.randint(200, 999)}-{draw.randint(200, 999)}-{draw.randint(1000, 9999)}", f"+44 20 {draw.randint(1000, 9999)} {draw.randint(1000, 9999)}"]),
        "email": lambda: f"{draw.choice(FIRST).lower()}.{draw.randint(1, 99)}@{draw.choice(TOWNS).lower()}.example",
        "address": lambda: f"{draw.randint(1, 999)} {draw.choice(TOWNS)} {draw.choice(['Street', 'Avenue', 'Road', 'Lane'])}, {draw.choice(TOWNS)}, NY {draw.randint(10000, 99999)}",
        "hospital": lambda: draw.choice([f"{draw.choice(TOWNS)} General Hospital", f"St. {draw.choice(FIRST)}'s Hospital", f"{draw.choice(TOWNS)} Medical Center"]),
    }  # fmt: skip
    return made_up.get(kind, lambda: name)()


def generated(count: int, seed: int) -> dict[str, object]:
    """Clean generated reports and count."""
    draw = random.Random(seed)
    tried: Counter[str] = Counter()
    found: Counter[str] = Counter()
    words = lost = 0
    for _ in range(count):
        patient, number = f"{draw.choice(FIRST)} {draw.choice(LAST)}", f"P{draw.randint(10**3, 10**6)}"
        known = Known.of(names=["^".join(patient.split()[::-1])], ids=[number])
        kinds = draw.sample(sorted(CARRIERS), 6)
        values = {kind: made(kind, draw, patient, number) for kind in kinds}
        body = BODY.format(size=round(draw.uniform(0.5, 5), 1))
        text = "\n".join([body, *(CARRIERS[kind].format(value) for kind, value in values.items())])
        cleaned = clean_text(text, known).text
        for kind, value in values.items():
            tried[kind] += 1
            parts = [part for part in re.findall(r"\w+", value) if (len(part) > 2 or part.isdigit()) and part != "the"]
            line = cleaned.split("\n")[1 + kinds.index(kind)]
            around = Counter(re.findall(r"\w+", CARRIERS[kind]))
            found[kind] += not any(part in re.findall(r"\w+", line) and not around[part] for part in parts)
        own = Counter(re.findall(r"\w+", "\n".join([body, *(CARRIERS[kind].format("") for kind in kinds)])))
        left = Counter(re.findall(r"\w+", re.sub(r"\[[A-Z]+\]", " ", cleaned)))
        words += sum(own.values())
        lost += sum((own - left).values())
    table = {kind: {"recall": found[kind] / tried[kind], "n": tried[kind]} for kind in sorted(tried)}
    usual = [kind for kind in tried if kind != "name alone"]
    identifiers = sum(found[kind] for kind in tried)
    return {
        "reports": count,
        "recall": identifiers / sum(tried.values()),
        "recall without names alone": sum(found[kind] for kind in usual) / sum(tried[kind] for kind in usual),
        "precision": identifiers / (identifiers + lost),
        "other words": words,
        "lost": lost,
        "kinds": table,
    }


def captions(manifest: Path) -> dict[str, object]:
    """Clean a manifest's captions, and count what changed."""
    import pyarrow.parquet as pq

    texts = sorted({text for text in pq.read_table(manifest, columns=["text"])["text"].to_pylist() if text})
    kinds: Counter[str] = Counter()
    changes: Counter[str] = Counter()
    changed = 0
    for text in texts:
        cleaned = clean_text(text)
        kinds.update(cleaned.found)
        changed += bool(cleaned.found)
        at = 0
        for part in re.split(r"\[[A-Z]+\]", cleaned.text)[1:]:
            start = text.find(part[:12], at) if part else len(text)
            at = max(start, at)
        if cleaned.found:
            changes[cleaned.text[:200]] += 1
    return {"captions": len(texts), "changed": changed, "kinds": dict(kinds), "some": list(changes)[:40]}


def main() -> None:
    """Print and write both."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--captions", type=Path)
    parser.add_argument("--reports", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    report: dict[str, object] = {"generated": generated(arguments.reports, arguments.seed)}
    if arguments.captions:
        report["captions"] = captions(arguments.captions)
    print(json.dumps(report, indent=1))
    if arguments.json:
        arguments.json.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
