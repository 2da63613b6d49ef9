"""Report text: what a rule finds goes, what only looks like it stays."""

# ruff: noqa: E501 - rows of examples stay on one line
from __future__ import annotations

import random
import re

import pytest

from medmoe.data.curation.deidentify_text import Known, clean_text

KNOWN = Known.of(names=["DOE^JANE^MARIE", "Referrer^Bob"], ids=["MRN-0012345", "A99 812 44"])


@pytest.mark.parametrize(
    "text",
    [
        "3/14/2019", "03/14/19", "31/12/2019", "14.03.2019", "2019-03-14", "2019/03/14", "20190314", "14 March 2019",
        "14th of March, 2019", "March 14, 2019", "Mar 14th 2019", "14-Mar-2019", "14. Dezember 2019", "3 août 2019", "March 2019",
        "on 3/14", "14 March", "03/2019", "20190314142355", "12 de mayo de 2019",
    ],
)  # fmt: skip
def test_a_date_goes(text: str):
    cleaned = clean_text(f"Compared with the study {text} there is no change.")
    assert not re.search(r"\d", cleaned.text), cleaned.text
    assert cleaned.found["DATE"] == 1


@pytest.mark.parametrize(
    "text",
    [
        "Hodgkin lymphoma, Graves disease, Baker cyst, Kerley B lines, Crohn disease and a Bochdalek hernia.",
        "A 3.5 cm x 2.1 cm mass; 12/5 mm; 10/12/15 mm; C5-6; L4/5; T1/T2; 1.5T; grade 3/4; BI-RADS 4a; TE 3.4/5.6 ms.",
        "1:20 dilution; 3 o'clock; SUV 4.5; 120 kVp; 5-10 mm; 63-year-old; T2N1M0; 99mTc; series 3, image 45; may 5 mm.",
        "MR. No acute lesion. MR. Masses. CT AND MR. BRAIN IS NORMAL. MS plaques. The patient may have an infiltrate. The hospital course was long. HU 40-60.",
        "Normal sinuses. Dr absent. Signed out. Patient: stable. Comparison: None. March fracture; August presentation.",
    ],
)
def test_medicine_stays(text: str):
    assert clean_text(text, KNOWN).text == text


@pytest.mark.parametrize(
    ("text", "gone", "kind"),
    [
        ("seen by Dr. Smith today", "Smith", "NAME"),
        ("seen by Dr Anna van der Berg today", "Berg", "NAME"),
        ("DR. JONES WAS TOLD", "JONES", "NAME"),
        ("MR. JONES WAS TOLD", "JONES", "NAME"),
        ("Mrs. O'Hara-Lopez was well", "Hara", "NAME"),
        ("Electronically signed by: John Q. Public", "Public", "NAME"),
        ("Dictated by Maria Souza, MD", "Souza", "NAME"),
        ("Gregor Samsa, M.D.", "Samsa", "NAME"),
        ("Referring physician: Karl Heinz", "Heinz", "NAME"),
        ("Patient name: Franz Kafka", "Kafka", "NAME"),
        ("jane doe was scanned", "jane", "NAME"),
        ("DOE, JANE", "DOE", "NAME"),
        ("MRN: 55-1234-9", "1234", "ID"),
        ("Accession No. CT20-99812", "99812", "ID"),
        ("id 0012345", "0012345", "ID"),
        ("A99-812-44", "812", "ID"),
        ("SSN 123-45-6789", "6789", "ID"),
        ("number 123456789", "123456789", "ID"),
        ("call (555) 123-4567", "4567", "PHONE"),
        ("pager 81234", "81234", "PHONE"),
        ("+49 170 1234567", "1234567", "PHONE"),
        ("a.b@c-d.org", "c-d", "EMAIL"),
        ("https://pacs.example.org/x?id=1", "pacs", "URL"),
        ("12 Oak Tree Avenue, Springfield, IL 62704", "Oak", "ADDRESS"),
        ("P.O. Box 1234", "1234", "ADDRESS"),
        ("at St. Mary's Hospital", "Mary", "PLACE"),
        ("from Saint Elsewhere Medical Center", "Elsewhere", "PLACE"),
        ("a 94-year-old man", "94", "AGE"),
        ("aged 101", "101", "AGE"),
        ("at 14:32", "14:32", "TIME"),
        ("at 4:05 pm", "4:05", "TIME"),
    ],
)
def test_what_names_someone_goes(text: str, gone: str, kind: str):
    cleaned = clean_text(text, KNOWN)
    assert gone not in cleaned.text
    assert f"[{kind}]" in cleaned.text


def test_whole_dates_move_by_the_offset_and_only_once():
    text = "14 March 2019; 2019-03-14; 3/14/2019; 20190314; in March 2019"
    assert clean_text(text, days=-100).text == "2018-12-04; 2018-12-04; 2018-12-04; 2018-12-04; in [DATE]"


def test_names_that_are_words_of_the_field_are_only_taken_in_their_phrase():
    known = Known.of(names=["CHEST^ANGELA"])
    assert clean_text("Chest radiograph of Chest, Angela.", known).text == "Chest radiograph of [NAME]."


def test_a_name_of_which_the_header_has_a_part_goes_whole():
    known = Known.of(names=["BROWN^LIAM"])
    assert (
        clean_text("Told to Dr. Liam Young, and to Rosa Brown, MD.", known).text
        == "Told to Dr. [NAME], and to [NAME], MD."
    )


def test_cleaning_again_changes_nothing():
    text = "Mrs. Jane Doe, MRN 0012345, seen on 3/14/2019 at 14:32 by Dr. Smith of St. Mary's Hospital, 94 years old."
    once = clean_text(text, KNOWN).text
    assert clean_text(once, KNOWN).text == once


def test_text_of_any_letters_comes_through():
    generator = random.Random(0)
    for _ in range(200):
        text = "".join(chr(generator.choice([*range(32, 127), 0xE4, 0x4E2D, 0x1F600, 0xE001])) for _ in range(80))
        cleaned = clean_text(text, KNOWN, days=3)
        assert cleaned.text.count("\U0001f600") == text.count("\U0001f600")  # no rule takes what is no letter or digit
        assert bool(cleaned.found) or cleaned.text == text.replace("\ue001", "?")  # a letter that marks places within


def test_a_hostile_text_takes_no_long_time():
    for text in (
        "A. " * 5000,
        "1-" * 5000,
        "Dr " * 5000,
        "van " * 5000,
        "12 " + "Aa " * 5000,
        "St. " * 4000,
        "a@" * 5000,
    ):
        cleaned = clean_text(text, KNOWN)
        assert cleaned.text
        assert bool(cleaned.found) or cleaned.text == text


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("Yamada^Tarou=山田^太郎=やまだ^たろう", "患者山田太郎は胸痛。山田 太郎様。やまだたろう。太郎さん"),
        ("ﾔﾏﾀﾞ^ﾀﾛｳ=山田^太郎", "ヤマダ・タロウ"),
        ("Wang^XiaoDong=王^小东", "王小东的胸部。小东。"),
        ("Hong^Gildong=洪^吉洞=홍^길동", "홍길동님의 흉부"),
        ("Li^Na=李^娜", "The chest of Li Na. LI, NA. 李娜。"),
        ("García^José", "X-ray of Garci\u0301a: clear"),
        ("O'Brien^Tim", "for O’Brien, OBrien and O Brien"),
    ],
)
def test_a_name_goes_in_each_of_its_scripts_and_spellings(name: str, text: str):
    cleaned = clean_text(text, Known.of(names=[name])).text.casefold()
    left = set(re.findall(r"[^\W\d_]", cleaned.replace("[name]", "")))
    assert not left & set("山田太郎やまだヤマダタロウ小东홍길동娜"), cleaned
    assert not re.search(r"li,? na|garc|brien", cleaned), cleaned
