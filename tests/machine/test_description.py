"""Which machine and which versions: what Linux says of CPUs, and systems that say nothing."""

import json
from pathlib import Path

import pytest

from fcn_deploy.machine import description
from fcn_deploy.machine.description import (
    DISTRIBUTIONS,
    SPEED_FLAGS,
    cpu_flags,
    describe_machine,
    describe_versions,
)

X86 = """processor\t: 0
vendor_id\t: GenuineIntel
model name\t: Some CPU @ 2.00GHz
flags\t\t: fpu amx_tile avx avx512f avx2 fma f16c avx512_bf16 amx_bf16 avx512_vnni avx_vnni
vmx flags\t: vnmi sve
bugs\t\t: spectre_v1

processor\t: 1
model name\t: Some CPU @ 2.00GHz
flags\t\t: fpu
"""
ARM = """processor\t: 0
BogoMIPS\t: 50.00
Features\t: fp asimd evtstrm aes bf16 i8mm asimddp asimdhp
CPU implementer\t: 0x41
"""


@pytest.fixture
def cpu_info(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "cpuinfo"
    monkeypatch.setattr(description, "_CPU_INFO", path)
    return path


def test_flags_of_an_x86_in_fixed_order(cpu_info: Path) -> None:
    cpu_info.write_text(X86)
    assert cpu_flags() == [
        "avx2", "fma", "f16c", "avx512f", "avx512_vnni", "avx512_bf16", "avx_vnni", "amx_tile",
        "amx_bf16",
    ]  # fmt: skip
    assert describe_machine()["cpu"] == "Some CPU @ 2.00GHz"
    assert describe_machine()["cpu_flags"] == cpu_flags()


def test_flags_of_an_arm(cpu_info: Path) -> None:
    cpu_info.write_text(ARM)
    assert cpu_flags() == ["asimd", "asimddp", "i8mm", "bf16"]


@pytest.mark.parametrize("text", [None, "", "processor : 0\n", "flags\t:\n"])
def test_no_flags_where_the_system_names_none(cpu_info: Path, text: str | None) -> None:
    if text is not None:
        cpu_info.write_text(text)
    assert cpu_flags() == []
    assert describe_machine()["cpu"]


def test_this_machine_is_described_in_json() -> None:
    described = describe_machine()
    assert json.loads(json.dumps(described)) == described
    assert set(described["cpu_flags"]) <= set(SPEED_FLAGS)
    assert described["cores"] >= 1


def test_versions_name_what_is_installed() -> None:
    versions = describe_versions()
    assert versions["numpy"]
    assert set(versions) <= set(DISTRIBUTIONS)
    assert {"mlcommons-loadgen", "nvidia-ml-py", "openvino"} <= set(DISTRIBUTIONS)
