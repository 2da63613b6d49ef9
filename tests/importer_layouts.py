"""Public data sets in small: the exact folders, file names and columns of each, written without the library's help."""

from __future__ import annotations

import csv
import gzip
import io
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
from PIL import Image
from pydicom.uid import ExplicitVRLittleEndian, SecondaryCaptureImageStorage, generate_uid

CHEXPERT = (
    "No Finding", "Enlarged Cardiomediastinum", "Cardiomegaly", "Lung Opacity", "Lung Lesion", "Edema", "Consolidation",
    "Pneumonia", "Atelectasis", "Pneumothorax", "Pleural Effusion", "Pleural Other", "Fracture", "Support Devices",
)  # fmt: skip
REPORT = """                                 FINAL REPORT
 EXAMINATION:  CHEST (PA AND LAT)

 INDICATION:  ___F with new onset ascites  // eval for infection

 FINDINGS:

 There is a small {side} pleural effusion.  The lungs
 are otherwise clear.

 IMPRESSION:

 Small {side} pleural effusion.
"""
SUBFIGURES = "caption_T060_filtered_top4_sep_v0_subfigures"


def picture(path: Path, number: int, *, size: tuple[int, int] = (24, 20), colour: bool = False) -> Path:
    """Write noise of (width, height) as an image file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    shape = (size[1], size[0], 3) if colour else (size[1], size[0])
    Image.fromarray(np.random.default_rng(number).integers(0, 255, shape, np.uint8)).save(path)
    return path


def blob(path: Path, box: tuple[int, int, int, int], *, size: tuple[int, int] = (24, 20), quality: int = 75) -> None:
    """Write a mask that is white within a box."""
    path.parent.mkdir(parents=True, exist_ok=True)
    mask = np.zeros((size[1], size[0]), np.uint8)
    mask[box[1] : box[3], box[0] : box[2]] = 255
    Image.fromarray(mask).save(path, **({"quality": quality} if path.suffix == ".jpg" else {}))


def dicom(path: Path, number: int) -> None:
    """Write noise as an 8-bit DICOM file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    meta = pydicom.dataset.FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = SecondaryCaptureImageStorage, generate_uid()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    file = pydicom.Dataset()
    file.file_meta = meta
    file.SOPClassUID, file.SOPInstanceUID, file.Modality = SecondaryCaptureImageStorage, generate_uid(), "CR"
    file.Rows, file.Columns, file.SamplesPerPixel, file.PhotometricInterpretation = 40, 40, 1, "MONOCHROME2"
    file.BitsAllocated, file.BitsStored, file.HighBit, file.PixelRepresentation = 8, 8, 7, 0
    file.PixelData = np.random.default_rng(number).integers(0, 255, (40, 40), np.uint8).tobytes()
    file.save_as(path, enforce_file_format=True)


def table(path: Path, head: Sequence[str] | None, rows: Sequence[Sequence[object]]) -> Path:
    """Write a CSV file, packed if its name ends in .gz."""
    path.parent.mkdir(parents=True, exist_ok=True)
    text = io.StringIO(newline="")
    csv.writer(text).writerows([*([head] if head else []), *rows])
    data = text.getvalue().encode()
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    return path


def text(path: Path, words: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(words, encoding="utf-8")


def findings(**values: str) -> list[str]:
    """Give CheXpert's 14 cells, blank where nothing is said."""
    return [values.get(name.replace(" ", "_"), "") for name in CHEXPERT]


# subject, study, image, view, StudyDate, split
_MIMIC = (
    ("10000032", "50414267", "02aa804e-bde0afdd-112c0b34-7bc16630-4e384014", "PA", "21800506", "train"),
    ("10000032", "50414267", "174413ec-4ec4c1f7-34ea26b7-c5f994f8-79ef1962", "LATERAL", "21800506", "train"),
    ("10000032", "53189527", "2a2277a9-b0ded155-c0de8eb9-c124d10e-82c5caab", "AP", "21800626", "train"),
    ("10000764", "57375967", "096052b7-d256dc40-453a102b-fa7d01c6-1b22c6b4", "AP", "21321015", "test"),
    ("10000898", "50771383", "2a280266-c8bae121-54d75383-cac046f4-ca37aa16", "LL", "21880318", "validate"),
)


def mimic_cxr(folder: Path, *, suffix: str = ".jpg") -> None:
    for number, (subject, study, image, *_) in enumerate(_MIMIC):
        inside = f"files/p{subject[:2]}/p{subject}/s{study}"
        path = folder / inside / f"{image}{suffix}"
        dicom(path, number) if suffix == ".dcm" else picture(path, number)
        words = REPORT.format(side=("left", "right")[number % 2])
        text(folder / "mimic-cxr-reports" / f"{inside}.txt", words)
    head = (
        "dicom_id",
        "subject_id",
        "study_id",
        "PerformedProcedureStepDescription",
        "ViewPosition",
        "Rows",
        "Columns",
    )
    rows = [(i, s, t, "CHEST (PA AND LAT)", view, 20, 24, day, "213014.531") for s, t, i, view, day, _ in _MIMIC]
    table(folder / "mimic-cxr-2.0.0-metadata.csv.gz", (*head, "StudyDate", "StudyTime"), rows)
    splits = [(image, study, subject, split) for subject, study, image, _, _, split in _MIMIC]
    table(folder / "mimic-cxr-2.0.0-split.csv.gz", ("dicom_id", "study_id", "subject_id", "split"), splits)
    labels = [
        ("10000032", "50414267", *findings(No_Finding="1.0", Support_Devices="1.0")),
        ("10000032", "53189527", *findings(Pleural_Effusion="1.0", Edema="-1.0", Pneumonia="0.0")),
        ("10000764", "57375967", *findings(Consolidation="-1.0")),
        ("10000898", "50771383", *findings(No_Finding="1.0")),
    ]
    table(folder / "mimic-cxr-2.0.0-chexpert.csv.gz", ("subject_id", "study_id", *CHEXPERT), labels)
    table(folder / "mimic-cxr-2.0.0-negbio.csv.gz", ("subject_id", "study_id", *CHEXPERT), labels[:2])


def mimic_cxr_dicom(folder: Path) -> None:
    mimic_cxr(folder, suffix=".dcm")
    records = [
        (subject, study, image, f"files/p{subject[:2]}/p{subject}/s{study}/{image}.dcm")
        for subject, study, image, *_ in _MIMIC
    ]
    table(folder / "cxr-record-list.csv.gz", ("subject_id", "study_id", "dicom_id", "path"), records)


def chexpert(folder: Path) -> None:
    head = ("Path", "Sex", "Age", "Frontal/Lateral", "AP/PA", *CHEXPERT)
    rows = {
        "train": [
            ("patient00001/study1/view1_frontal.jpg", "Female", 68, "Frontal", "AP", *findings(No_Finding="1.0")),
            ("patient00002/study2/view1_frontal.jpg", "Female", 87, "Frontal", "AP", *findings(Edema="-1.0")),
            (
                "patient00002/study2/view2_lateral.jpg", "Female", 87, "Lateral", "",
                *findings(Edema="-1.0", Lung_Opacity="1.0", Pleural_Effusion="1.0", Pneumonia="0.0"),
            ),
        ],
        "valid": [
            ("patient64541/study1/view1_frontal.jpg", "Male", 73, "Frontal", "PA", *findings(Cardiomegaly="1.0")),
        ],
    }  # fmt: skip
    for split, own in rows.items():
        within = [(f"CheXpert-v1.0-small/{split}/{path}", *rest) for path, *rest in own]
        table(folder / f"{split}.csv", head, within)
        for number, (path, *_) in enumerate(own):
            picture(folder / split / str(path), number)


def chexpert_5x200(folder: Path) -> None:
    five = ("Atelectasis", "Cardiomegaly", "Consolidation", "Edema", "Pleural Effusion")
    head = ("", "Path", "Sex", "Age", "Frontal/Lateral", "AP/PA", *CHEXPERT, "Report Impression")
    rows = []
    for number, label in enumerate(five):
        path = f"CheXpert-v1.0/train/patient{number:05}/study1/view1_frontal.jpg"
        own = findings(**{label.replace(" ", "_"): "1.0"})
        rows.append((number, path, "Male", 60, "Frontal", "AP", *own, "1. One finding.\n2. As before."))
        picture(folder / path, number)
    table(folder / "chexpert_5x200.csv", head, rows)


def iu_xray(folder: Path) -> None:
    head = ("uid", "MeSH", "Problems", "image", "indication", "comparison", "findings", "impression")
    rows = [
        (1, "normal", "normal", "Xray Chest PA and Lateral", "XXXX.", "None.", "The heart is normal.", "Normal chest."),
        (
            2, "Cardiomegaly/borderline;Pulmonary Artery/enlarged", "Cardiomegaly;Pulmonary Artery", "PA and lateral",
            "Chest pain", "", "Borderline cardiomegaly.", "No acute finding.",
        ),
    ]  # fmt: skip
    table(folder / "indiana_reports.csv", head, rows)
    names = [(1, "1_IM-0001-4001.dcm.png", "Frontal"), (1, "1_IM-0001-3001.dcm.png", "Lateral")]
    names += [(2, "2_IM-0652-1001.dcm.png", "Frontal"), (2, "2_IM-0652-2001.dcm.png", "Lateral")]
    table(folder / "indiana_projections.csv", ("uid", "filename", "projection"), names)
    for number, (_, name, _) in enumerate(names):
        picture(folder / "images" / "images_normalized" / str(name), number)


def openi(folder: Path) -> None:
    for uid, findings_, impression, major, images in (
        (1, "The heart is normal.", "Normal chest.", "normal", ("CXR1_1_IM-0001-3001", "CXR1_1_IM-0001-4001")),
        (2, "", "Cardiomegaly.", "Cardiomegaly/borderline", ("CXR2_IM-0652-1001",)),
    ):
        pictures = "".join(f'<parentImage id="{name}"><figureId>F1</figureId></parentImage>' for name in images)
        text(
            folder / "ecgen-radiology" / f"{uid}.xml",
            '<?xml version="1.0" encoding="utf-8"?>\n'
            f'<eCitation><uId id="CXR{uid}"/><MedlineCitation><Article><Abstract>'
            f'<AbstractText Label="COMPARISON">None.</AbstractText><AbstractText Label="INDICATION">Pain</AbstractText>'
            f'<AbstractText Label="FINDINGS">{findings_}</AbstractText>'
            f'<AbstractText Label="IMPRESSION">{impression}</AbstractText></Abstract></Article></MedlineCitation>'
            f"<MeSH><major>{major}</major><automatic>heart</automatic></MeSH>{pictures}</eCitation>",
        )
        for number, name in enumerate(images):
            picture(folder / "NLMCXR_png" / f"{name}.png", number)


def nih(folder: Path) -> None:
    head = (
        "Image Index", "Finding Labels", "Follow-up #", "Patient ID", "Patient Age", "Patient Gender", "View Position",
        "OriginalImage[Width", "Height]", "OriginalImagePixelSpacing[x", "y]", "",
    )  # fmt: skip
    rows = [
        ("00000001_000.png", "Cardiomegaly", 0, 1, 58, "M", "PA", 2682, 2749, 0.143, 0.143, ""),
        ("00000001_001.png", "Cardiomegaly|Effusion", 1, 1, 58, "M", "PA", 2894, 2729, 0.143, 0.143, ""),
        ("00000002_000.png", "No Finding", 0, 2, 81, "M", "AP", 2500, 2048, 0.171, 0.171, ""),
    ]
    table(folder / "Data_Entry_2017.csv", head, rows)
    boxes = [("00000001_000.png", "Cardiomegaly", "2.5", "3.0", "10.0", "8.25", "", "", "")]
    names = ("Image Index", "Finding Label", "Bbox [x", "y", "w", "h]", "", "", "")
    table(folder / "BBox_List_2017.csv", names, boxes)
    for number, (name, *_) in enumerate(rows):
        picture(folder / f"images_00{number % 2 + 1}" / "images" / str(name), number)
    text(folder / "train_val_list.txt", "00000001_000.png\n00000001_001.png\n")
    text(folder / "test_list.txt", "00000002_000.png\n")


def rsna(folder: Path) -> None:
    ids = ("0004cfab-14fd-4e49-80ba-63a80b6bddd6", "00436515-870c-4b36-a041-de91049b9ab4")
    other = "00313ee0-9eaa-42f4-b0ab-c148ed3241cd"
    rows = [
        (ids[0], "", "", "", "", 0),
        (ids[1], "26.0", "15.2", "9.0", "20.5", 1),
        (ids[1], "5.0", "12.0", "8.0", "18.0", 1),
        (other, "", "", "", "", 0),
    ]
    table(folder / "stage_2_train_labels.csv", ("patientId", "x", "y", "width", "height", "Target"), rows)
    kinds = [
        (ids[0], "No Lung Opacity / Not Normal"),
        (ids[1], "Lung Opacity"),
        (ids[1], "Lung Opacity"),
        (other, "Normal"),
    ]
    table(folder / "stage_2_detailed_class_info.csv", ("patientId", "class"), kinds)
    mapping = [
        {"subset_img_id": own, "img_id": f"{13774 + at // 2:08}_{at:03}.png", "orig_labels": ["x"]}
        for at, own in enumerate((*ids, other))
    ]
    text(folder / "pneumonia-challenge-dataset-mappings_2018.json", json.dumps(mapping))
    for number, own in enumerate((*ids, other)):
        dicom(folder / "stage_2_train_images" / f"{own}.dcm", number)


def rocov2(folder: Path) -> None:
    licences = []
    concepts = ("C0040405", "C1306645;C0817096", "C0041618", "C0024485;C0032743")
    for split in ("train", "valid", "test"):
        names = [f"ROCOv2_2023_{split}_{number:06}" for number in range(1, 5)]
        captions = [(name, f"Axial image {number}, with a cyst (arrow).") for number, name in enumerate(names)]
        table(folder / f"{split}_captions.csv", ("ID", "Caption"), captions)
        table(folder / f"{split}_concepts.csv", ("ID", "CUIs"), [(name, "C0010709") for name in names])
        table(folder / f"{split}_concepts_manual.csv", ("ID", "CUIs"), list(zip(names, concepts, strict=True)))
        licences += [
            (name, f"PMC{number}", f"CC BY [Doe et al. (2020)] {number}", "https://x")
            for number, name in enumerate(names)
        ]
        for number, name in enumerate(names):
            picture(folder / f"{split}_images" / split / f"{name}.jpg", number)
    table(folder / "license_information.csv", ("ID", "PMCID", "Attribution", "Link"), licences)
    table(folder / "cui_mapping.csv", ("CUI", "Canonical name"), [("C0040405", "X-Ray Computed Tomography")])


def pmc_oa(folder: Path) -> None:
    for split, names in (
        ("train", ("PMC212319_Fig3_4.jpg", "PMC212319_Fig3_5.jpg")),
        ("test", ("PMC1064076_Fig1_0.jpg",)),
    ):
        rows = [
            {"image": name, "caption": f"Panel {at}.", "alignment_type": "", "alignment_score": 0.9}
            for at, name in enumerate(names)
        ]
        text(folder / f"{split}.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
        for number, name in enumerate(names):
            picture(folder / "images" / SUBFIGURES / name, number)


def radimagenet(folder: Path) -> None:
    rows = {
        "train": [
            ("MR/af/Plantar_plate_tear/foot040499.png", "Plantar_plate_tear"),
            ("CT/abd/normal/abd-normal023849.png", "normal"),
        ],
        "val": [("US/liver/usn053022.png", "liver")],
        "test": [("MR/knee/acl_tear/knee1.png", "acl_tear")],
    }  # fmt: skip
    for split, own in rows.items():
        table(
            folder / f"RadiologyAI_{split}.csv",
            ("filename", "label"),
            [(f"radiology_ai/{p}", label) for p, label in own],
        )
        for number, (path, _) in enumerate(own):
            picture(folder / "radiology_ai" / path, number)


def quilt(folder: Path) -> None:
    head = (
        "", "caption", "image_path", "subset", "split", "pathology", "roi_text", "noisy_text", "corrected_text",
        "med_umls_ids", "magnification", "height", "width",
    )  # fmt: skip
    names = ("D1u1Ugr5XpY_image_0a.jpg", "D1u1Ugr5XpY_image_0b.jpg", "rUqjNq8k0Pc_image_0c.jpg", "1234.jpg")
    rows = [
        (at, f"Glands, number {at}.", name, ("quilt", "openpath")[at == 3], ("train", "val")[at == 2],
         "['Gastrointestinal']", "['a']", "b", "c", "[]", "1.0", 20, 24)
        for at, name in enumerate(names)
    ]  # fmt: skip
    table(folder / "quilt_1M_lookup.csv", head, [*rows, (4, "A second caption.", *rows[0][2:])])
    for number, name in enumerate(names):
        picture(folder / f"images_part_{number % 2 + 1}" / "quilt_1m" / name, number, colour=True)


def llava_med(folder: Path) -> None:
    kinds = ("chest_xray", "mri", "histology", "gross", "ct_scan")

    def row(pair: str, kind: str, turns: Sequence[tuple[str, str]]) -> dict[str, Any]:
        own = [{"from": who, "value": said} for who, said in turns]
        return {
            "id": pair,
            "image": f"{pair}.jpg",
            "domain": {name: name == kind for name in kinds},
            "conversatons": own,
        }

    captions = [
        row("28707733_F1", "ct_scan", [("human", "Describe the image.\n<image>"), ("gpt", "A mass in the liver.")])
    ]
    turns = [
        ("human", "<image>\nWhat is shown?"),
        ("gpt", "A chest X-ray."),
        ("human", "Where?"),
        ("gpt", "On the left."),
    ]
    instruct = [row("34150979_Fig6", "chest_xray", turns), row("17506892_F1", "gross", turns[:2])]
    text(folder / "alignment" / "llava_med_alignment_500k.json", json.dumps(captions))
    text(folder / "instruct" / "llava_med_instruct_10k.json", json.dumps(instruct, indent=1))
    urls = [
        {
            "pair_id": "28707733_F1",
            "pmc_tar_url": "https://x/oa_package/PMC6149739.tar.gz",
            "image_file_path": "PMC6149739/a.jpg",
        }
    ]
    text(folder / "llava_med_image_urls.jsonl", "".join(json.dumps(row) + "\n" for row in urls))
    text(folder / "instruct" / "llava_med_instruct_fig_captions.json", json.dumps([{"pair_id": "34150979_Fig6"}]))
    for number, pair in enumerate(("28707733_F1", "34150979_Fig6", "17506892_F1")):
        picture(folder / "images" / f"{pair}.jpg", number)


def flair(folder: Path) -> None:
    odir = [
        (0, "08_ODIR-5K/images/0_left.jpg", "[]", "['cataract']"),
        (1, "08_ODIR-5K/images/1_left.jpg", "[]", "['normal']"),
    ]
    idrid = [
        (
            0,
            "03_IDRID/a/IDRiD_001.jpg",
            "['hard exudates', 'few cotton wool spots']",
            "['severe diabetic retinopathy', 'noisy']",
        )
    ]
    for name, rows in (("08_ODIR", odir), ("03_IDRID", idrid)):
        table(folder / f"{name}.csv", ("", "image", "atributes", "categories"), rows)
        for number, (_, path, *_) in enumerate(rows):
            picture(folder / str(path), number, colour=True)


def mm_retinal(folder: Path) -> None:
    for kind in ("CFP", "OCT"):
        rows = [(f"{kind}_{at}.jpg", "说明", f"Drusen at the macula, {at}.") for at in range(2)]
        table(folder / f"{kind}_translated_v1.csv", ("Image_ID", "cn_caption", "en_caption"), rows)
        for number, (name, *_) in enumerate(rows):
            picture(folder / kind / name, number, colour=True)


def archive(path: Path, *, colour: bool, labels: Sequence[Sequence[int]], shape: Sequence[int] = (28, 28)) -> None:
    """Write a NumPy archive in MedMNIST's form, with the same labels in each split."""
    rng = np.random.default_rng(0)
    held: dict[str, Any] = {}
    for split in ("train", "val", "test"):
        held[f"{split}_images"] = rng.integers(0, 255, (len(labels), *shape, *((3,) if colour else ())), np.uint8)
        held[f"{split}_labels"] = np.array(labels, np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez(path, **held)


def medmnist(folder: Path) -> None:
    archive(folder / "pathmnist.npz", colour=True, labels=[[8], [0], [3]])
    archive(folder / "chestmnist_64.npz", colour=False, labels=[[0] * 14, [1, 0, 1, *[0] * 11]], shape=(64, 64))
    archive(folder / "organmnist3d.npz", colour=False, labels=[[0], [10]], shape=(28, 28, 28))


def mrnet(folder: Path) -> None:
    cases = {"train": ((0, 1, 0, 0), (1, 1, 1, 1), (2, 0, 0, 0)), "valid": ((1130, 1, 1, 0),)}
    for split, rows in cases.items():
        for at, name in enumerate(("abnormal", "acl", "meniscus"), 1):
            table(folder / f"{split}-{name}.csv", None, [(f"{row[0]:04}", row[at]) for row in rows])
        for case, *_ in rows:
            for depth, plane in enumerate(("axial", "coronal", "sagittal"), 5):
                path = folder / split / plane / f"{case:04}.npy"
                path.parent.mkdir(parents=True, exist_ok=True)
                np.save(path, np.random.default_rng(case).integers(0, 255, (depth, 32, 32), np.uint8))


def busi(folder: Path) -> None:
    base = folder / "Dataset_BUSI_with_GT"
    for kind, count in (("benign", 2), ("malignant", 1), ("normal", 1)):
        for number in range(1, count + 1):
            name = f"{kind} ({number})"
            picture(base / kind / f"{name}.png", number, colour=True)
            blob(base / kind / f"{name}_mask.png", (0, 0, 0, 0) if kind == "normal" else (2, 2, 8, 8))
    blob(base / "benign" / "benign (2)_mask_1.png", (12, 10, 20, 18))


def ddti(folder: Path) -> None:
    outline = [
        {"points": [{"x": x, "y": y} for x, y in ((4, 4), (14, 4), (14, 12), (4, 12))], "regionType": "freehand"}
    ]
    marks = f"<mark><image>1</image><svg>{json.dumps(outline)}</svg></mark><mark><image>2</image><svg></svg></mark>"
    for number, tirads in ((1, "4a"), (2, "2"), (3, "")):
        own = marks if number == 1 else marks.replace("<image>2</image>", "<image>1</image>")
        text(
            folder / f"{number}.xml",
            f"<case><number>{number}</number><age>49</age><sex>F</sex><composition>solid</composition>"
            f"<tirads>{tirads}</tirads>{own}</case>",
        )
        picture(folder / f"{number}_1.jpg", number)
    picture(folder / "1_2.jpg", 9)


def tn3k(folder: Path) -> None:
    base = folder / "tn3k"
    for part, count in (("trainval", 3), ("test", 2)):
        for number in range(count):
            picture(base / f"{part}-image" / f"{number:04}.jpg", number, size=(64, 48))
            blob(base / f"{part}-mask" / f"{number:04}.jpg", (11, 13, 31, 30), size=(64, 48))
        table(base / f"label4{part}.csv", None, [(f"{number:04}.jpg", number % 2) for number in range(count)])
    text(base / "tn3k-trainval-fold0.json", json.dumps({"train": [0, 2], "val": [1]}))


def medimeta(folder: Path) -> None:
    one = "tasks:\n- task_name: {}\n  task_target: {}_CLASSIFICATION\n  labels:\n    0: {}\n    1: {}\n"
    several, organ = (
        one.format("findings", "MULTILABEL", "edema", "hernia"),
        one.format("organ label", "MULTICLASS", "heart", "liver"),
    )
    for name, domain, tasks, labels in (
        ("organs_axial", "Abdominal CT", organ, [0, 1, 1]),
        ("cxr", "Chest X-ray", several, [[1, 0], [0, 0], [1, 1]]),
    ):
        base = folder / name
        text(base / "info.yaml", f"id: {name}\nname: {name}\ndomain: {domain}\ninput_size: [1, 224, 224]\n{tasks}")
        (base / "task_labels").mkdir(parents=True)
        head = ("filepath", "original_filepath", "original_split", *(("patient_id",) if name == "cxr" else ()))
        own = [
            (f"images/{at:06}.tiff", f"a/{at}.png", "train", *((f"p{at}",) if name == "cxr" else ())) for at in range(3)
        ]
        table(base / "annotations.csv", head, own)
        np.save(
            base / "task_labels" / f"{'organ label' if name == 'organs_axial' else 'findings'}.npy", np.array(labels)
        )
        for at, split in enumerate(("train", "val", "test")):
            picture(base / "images" / f"{at:06}.tiff", at)
            text(base / "splits" / f"{split}.txt", f"images/{at:06}.tiff\n")


LAYOUTS: dict[str, Callable[[Path], None]] = {
    "mimic-cxr-jpg": mimic_cxr,
    "mimic-cxr": mimic_cxr_dicom,
    "chexpert": chexpert,
    "chexpert-5x200": chexpert_5x200,
    "iu-xray": iu_xray,
    "openi": openi,
    "nih-cxr14": nih,
    "rsna-pneumonia": rsna,
    "rocov2": rocov2,
    "pmc-oa": pmc_oa,
    "radimagenet": radimagenet,
    "quilt-1m": quilt,
    "llava-med": llava_med,
    "flair": flair,
    "mm-retinal": mm_retinal,
    "medmnist": medmnist,
    "mrnet": mrnet,
    "busi": busi,
    "ddti": ddti,
    "tn3k": tn3k,
    "medimeta": medimeta,
}
