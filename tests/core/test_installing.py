"""Which command installs an extra, beside the one ONNX Runtime and the other."""

from importlib import metadata

import pytest

from fcn_deploy.core.installing import install_command

REQUIRES = [
    "numpy>=1.26",
    'ncnn>=1.0; extra == "ncnn"',
    "httptools>=0.6; sys_platform != 'win32' and extra == 'serve'",
    'starlette>=0.45; extra == "serve"',
    'other>=1; (sys_platform == "linux" or sys_platform == "darwin") and extra == "serve-more"',
]


def machine(patch: pytest.MonkeyPatch, *installed: str, system: str = "linux") -> None:
    def distribution(name: str) -> None:
        if name not in installed:
            raise metadata.PackageNotFoundError(name)

    patch.setattr(metadata, "distribution", distribution)
    patch.setattr(metadata, "requires", lambda name: REQUIRES)
    patch.setattr("sys.platform", system)
    patch.setattr("platform.machine", lambda: "x86_64")


@pytest.mark.parametrize(
    ("installed", "system"),
    [(("onnxruntime-gpu",), "linux"), (("onnxruntime",), "darwin"), ((), "linux"),
     (("onnxruntime", "onnxruntime-gpu"), "linux")],
)  # fmt: skip
def test_the_extra_is_named(
    monkeypatch: pytest.MonkeyPatch, installed: tuple[str, ...], system: str
) -> None:
    machine(monkeypatch, *installed, system=system)
    assert install_command("ncnn") == "pip install 'fcn-deploy[ncnn]'"


def test_beside_the_onnxruntime_for_cpus_its_packages_are_named(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    machine(monkeypatch, "onnxruntime")
    assert install_command("ncnn") == "pip install 'ncnn>=1.0'"
    serve = """pip install "httptools>=0.6; sys_platform != 'win32'" 'starlette>=0.45'"""
    assert install_command("serve") == serve


def test_an_extra_that_is_not_known_is_named_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    machine(monkeypatch, "onnxruntime")
    assert install_command("new") == "pip install 'fcn-deploy[new]'"
