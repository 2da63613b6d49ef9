from __future__ import annotations

import sys
from pathlib import Path

import pytest

from medmoe import doctor
from medmoe.doctor import Check, diagnose


def test_every_check_is_complete_and_nothing_required_is_broken_here():
    checks = diagnose()
    assert {check.status for check in checks} <= {"ok", "missing", "problem"}
    assert all(check.name and check.detail for check in checks)
    assert all(check.remedy for check in checks if check.status == "problem")
    assert {"Python", "torch", "timm", "disk", "cache", "memory"} <= {check.name for check in checks}
    assert [check for check in checks if check.name in doctor.REQUIRED and check.status != "ok"] == []


def test_names_of_checks_are_unique():
    names = [check.name for check in diagnose()]
    assert len(names) == len(set(names))


def test_an_old_python_is_a_problem():
    assert doctor.check_python((3, 9, 2)) == Check("Python", "problem", "3.9.2", "install Python 3.10 or newer")


def test_a_missing_requirement_is_a_problem_and_a_missing_extra_is_not():
    required = doctor.check_required("no-such-thing", "dreams", "1.0")
    optional = doctor.check_optional("no-such-thing", "dreams")
    assert (required.status, optional.status) == ("problem", "missing")
    assert required.remedy == optional.remedy == "pip install no-such-thing"


def test_an_installed_extra_is_ok():
    assert doctor.check_optional("numpy", "sums").status == "ok"


def test_an_outdated_requirement_tells_the_version_wanted():
    check = doctor.check_required("numpy", "sums", "999.1")
    assert check.status == "problem"
    assert check.remedy == "pip install --upgrade 'numpy>=999.1'"


def test_minimums_come_from_the_package_itself_without_its_extras():
    least = doctor.minimums()
    assert least["torch"] == "2.6"
    assert "pytest" not in least
    assert doctor.minimums("no-such-thing") == {}


@pytest.mark.parametrize(
    ("version", "least", "enough"),
    [("2.6.0", "2.6", True), ("2.10", "2.9", True), ("1.0rc1", "1.0", True), ("unknown", "1.0", False)],
)
def test_versions_compare_as_numbers(version: str, least: str, enough: bool):
    assert doctor.at_least(version, least) is enough


def test_torch_that_is_too_old_is_a_problem(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(doctor, "minimums", lambda: {"torch": "999"})
    assert [check.status for check in doctor.check_torch()] == ["problem"]


def test_torch_that_cannot_be_imported_is_told_not_raised(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    (check,) = doctor.check_torch()
    assert check.status == "problem"
    assert "can't be imported" in check.detail


def test_a_driver_that_torch_cannot_reach_is_a_problem(monkeypatch: pytest.MonkeyPatch):
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(doctor.shutil, "which", lambda name: f"/usr/bin/{name}")
    assert [check.status for check in doctor.check_torch()] == ["ok", "problem"]
    monkeypatch.setattr(doctor.shutil, "which", lambda name: None)
    assert [check.status for check in doctor.check_torch()] == ["ok", "missing"]


def test_each_gpu_is_named_with_its_memory(monkeypatch: pytest.MonkeyPatch):
    from types import SimpleNamespace

    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda: False)
    card = SimpleNamespace(name="Card", total_memory=16 * 2**30)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda index: card)
    found = doctor.check_torch()[1:]
    assert [check.name for check in found] == ["GPU 0", "GPU 1"]
    assert found[0].detail == "Card, 16 GiB, no bf16: use --precision fp32"


def test_torchvision_made_for_another_torch_is_a_problem(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(doctor.metadata, "requires", lambda name: ["numpy", "torch==1.2.3"])
    check = doctor.check_pair()
    assert check.status == "problem"
    assert "torch==1.2.3" in check.remedy


def test_torchvision_alone_is_a_problem(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(doctor, "version_of", lambda name: None)
    assert doctor.check_pair().status == "problem"


def test_a_transfer_syntax_without_decoder_names_what_to_install():
    assert doctor.check_decoder("of dreams", ["no-such-thing"]).remedy == "pip install no-such-thing"
    assert doctor.check_decoder("plain", ["no-such-thing", "pydicom"]).detail == "by pydicom"


def test_a_cramped_or_locked_folder_is_a_problem(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    assert doctor.check_disk(tmp_path / "not" / "yet").status in {"ok", "problem"}
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda path: _Usage(2**30))
    assert doctor.check_disk(tmp_path).detail.startswith("1.0 GiB free")
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda path: _Usage(2**40))
    assert doctor.check_disk(tmp_path).status == "ok"
    monkeypatch.setattr(doctor.os, "access", lambda path, mode: False)
    assert doctor.check_disk(tmp_path).status == "problem"
    assert doctor.check_cache(tmp_path).remedy.startswith("set HF_HOME")


class _Usage:
    def __init__(self, free: int) -> None:
        self.free = free


def test_the_cache_is_where_hugging_face_libraries_look():
    assert doctor.cache_folder({"HF_HOME": "/a"}) == Path("/a")
    assert doctor.cache_folder({"XDG_CACHE_HOME": "/b"}) == Path("/b/huggingface")
    assert doctor.cache_folder({}) == Path.home() / ".cache" / "huggingface"


def test_a_containers_limit_counts_where_it_is_less(tmp_path: Path):
    limit = tmp_path / "memory.max"
    whole = doctor.memory(limit)
    limit.write_text(str(2**30), encoding="ascii")
    assert doctor.memory(limit) == 1.0
    limit.write_text("max", encoding="ascii")
    assert doctor.memory(limit) == whole


def test_memory_of_an_unknown_system_is_unknown(monkeypatch: pytest.MonkeyPatch):
    def unknown(name: str) -> int:
        raise ValueError(name)

    monkeypatch.setattr(doctor.os, "sysconf", unknown)
    assert doctor.memory() is None


@pytest.mark.parametrize(("total", "status"), [(None, "ok"), (1.0, "problem"), (64.0, "ok")])
def test_little_memory_is_a_problem(total: float | None, status: str):
    assert doctor.check_memory(total).status == status
