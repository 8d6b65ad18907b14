"""The GPUs and the driver that the system shows: why torch sees none, and what to do."""

import os
from dataclasses import replace

import pytest

from mousefacelift.gpu import driver
from mousefacelift.gpu.driver import System, look, version, why_unseen

R550 = "NVRM version: NVIDIA UNIX x86_64 Kernel Module  550.54.14  Thu Feb 22 01:44:30 UTC 2024\nGCC version:  gcc version 12.2.0\n"
R580 = "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  580.65.06  Release Build  (root@host)  \n"
HERE = System(given=1, refused=0, on_bus=1, driver="580.65.06", hidden=False)


@pytest.fixture
def machine(tmp_path, monkeypatch):
    """A made-up file system: machine(driver=text, devices=n, cards=n)."""
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(driver, "supported_cuda", lambda: 0)

    def make(driver=None, devices=0, cards=0):
        (tmp_path / "dev").mkdir()
        for number in range(devices):
            (tmp_path / "dev" / f"nvidia{number}").touch()
        (tmp_path / "dev" / "nvidiactl").touch()
        if driver:
            (tmp_path / "proc/driver/nvidia").mkdir(parents=True)
            (tmp_path / "proc/driver/nvidia/version").write_text(driver)
        for number in range(cards):
            for vendor, kind in (("0x10de", "0x030200"), ("0x10de", "0x040300"), ("0x8086", "0x030000")):
                folder = tmp_path / "sys/bus/pci/devices" / f"{number}-{vendor}-{kind}"
                folder.mkdir(parents=True)
                (folder / "vendor").write_text(vendor + "\n")
                (folder / "class").write_text(kind + "\n")
        return tmp_path

    return make


@pytest.mark.parametrize(("text", "expected"), [(R550, "550.54.14"), (R580, "580.65.06"), ("something else", None)])
def test_the_drivers_version_is_read(machine, text, expected):
    assert look(machine(text, devices=2)) == System(2, 0, 0, expected, hidden=False)


def test_sound_devices_and_other_vendors_cards_are_no_gpus(machine):
    assert look(machine(cards=2)).on_bus == 2


def test_a_machine_without_a_gpu_has_nothing_to_explain(machine):
    found = look(machine())
    assert not found.has_gpu
    assert why_unseen(found, "2.13.0+cu130", "13.0") is None
    assert why_unseen(found, "2.13.0+cpu", None) is None


def test_devices_that_may_not_be_opened_are_of_another_job(machine, monkeypatch):
    root = machine(R580, devices=2)
    real = os.open

    def refused(path, *rest):
        if "nvidia" in str(path):
            raise PermissionError(1, "Operation not permitted")
        return real(path, *rest)

    monkeypatch.setattr(os, "open", refused)
    found = look(root)
    assert (found.given, found.refused) == (0, 2)
    assert "ask the cluster for one" in why_unseen(found, "2.13.0+cu130", "13.0")


@pytest.mark.parametrize(("devices", "hidden"), [("", True), ("-1", True), ("0", False), (None, False)])
def test_hidden_gpus_are_hidden_on_purpose(machine, monkeypatch, devices, hidden):
    if devices is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", devices)
    found = look(machine(R580, devices=1))
    assert found.hidden is hidden
    assert (why_unseen(found, "2.13.0+cu130", "13.0") is None) is hidden


@pytest.mark.parametrize(
    ("system", "torch", "cuda", "expected"),
    [
        (HERE, "2.13.0+cpu", None, r"torch 2\.13\.0\+cpu is a CPU build.*pip install torch==2\.13\.0 .*cu126"),
        (
            System(1, 0, 1, "550.54.14", False), "2.13.0+cu130", "13.0",
            r"driver here is 550\.54\.14.*needs 580\.65 or newer.*Update the driver.*pip uninstall -y torch && pip install torch==2\.13\.0 --index-url \S+/cu126",
        ),
        (System(1, 0, 1, "520.61.05", False), "2.13.0+cu126", "12.6", r"520\.61\.05.*needs 525\.60"),
        (System(0, 0, 1, None, False), "2.13.0+cu130", "13.0", "driver is not loaded.*--gpus all"),
        (System(0, 0, 1, "580.65.06", False), "2.13.0+cu130", "13.0", "no /dev/nvidia0"),
        (HERE, "2.13.0+cu130", "13.0", r"torch says: CUDA error 802: system not yet initialized.*nvidia-smi"),
    ],
)  # fmt: skip
def test_each_reason_is_named_with_its_remedy(system, torch, cuda, expected):
    import re

    text = why_unseen(system, torch, cuda, "CUDA error 802: system not yet initialized\nmore")
    assert re.search(expected, text)


def test_a_driver_that_is_new_enough_is_not_blamed():
    assert "needs" not in why_unseen(System(1, 0, 1, "550.54.14", False), "2.13.0+cu126", "12.6")
    assert version("580.65.06") == (580, 65, 6)


def test_what_the_drivers_library_supports_counts_more_than_its_number():
    """CUDA's compatibility package lets an old driver serve a newer CUDA."""
    old = System(1, 0, 1, "550.54.14", False)
    assert driver.why_unusable(old, "2.13.0+cu130", "13.0")
    assert driver.why_unusable(replace(old, cuda=13), "2.13.0+cu130", "13.0") is None
    assert "too old" in driver.why_unusable(replace(old, driver=None, cuda=12), "2.13.0+cu130", "13.0")


def test_windows_subsystem_has_a_gpu_of_nvidias_only_with_its_library(machine):
    root = machine()
    (root / "dev/dxg").touch()
    assert not look(root).has_gpu, "of another vendor"
    (root / "usr/lib/wsl/lib").mkdir(parents=True)
    (root / "usr/lib/wsl/lib/libcuda.so.1").touch()
    found = look(root)
    assert found.given == 1
    said = "The NVIDIA driver on your system is too old (found version 12040)."
    assert "cu126" in why_unseen(found, "2.13.0+cu130", "13.0", said)


def test_without_a_driver_there_is_no_version_to_ask_for():
    assert isinstance(driver.supported_cuda(), int)
