"""The import law, proven in fresh interpreters: the deploy side runs where torch is absent."""

from __future__ import annotations

import ast
import importlib
import importlib.metadata
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from fcn_deploy.cli import SECTIONS

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "fcn_deploy"
TORCH_PACKAGES = {"networks", "training", "export"}
TORCH_FREE_MODULES = sorted(
    {
        ".".join(path.relative_to(ROOT).with_suffix("").parts)
        for path in PACKAGE.rglob("*.py")
        if path.stem not in {"__main__", "__init__"}
        and path.relative_to(PACKAGE).parts[0] not in TORCH_PACKAGES
    }
)
COMMANDS = [command.name for commands in SECTIONS.values() for command in commands]


def run_python(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=False
    )


def test_every_torch_free_module_imports_without_torch() -> None:
    assert "fcn_deploy.runners.ort.runner" in TORCH_FREE_MODULES
    imports = "\n".join(f"import {module}" for module in TORCH_FREE_MODULES)
    blocked = "import sys\nfor name in ('torch', 'torchvision', 'safetensors'):\n"
    blocked += "    sys.modules[name] = None\n"
    result = run_python(blocked + imports)
    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize("command", ["", *COMMANDS])
def test_help_answers_without_heavy_imports(command: str) -> None:
    arguments = [command, "--help"] if command else ["--help"]
    result = run_python(
        "import sys\n"
        "from fcn_deploy.cli import main\n"
        f"try: main({arguments!r})\n"
        "except SystemExit as stop: assert stop.code == 0, stop.code\n"
        "heavy = {'torch', 'numpy', 'onnx', 'onnxruntime', 'PIL', 'asyncio'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    assert result.returncode == 0, result.stderr
    assert "Usage: fcn-deploy" in result.stdout


def test_importing_the_package_loads_nothing_heavy() -> None:
    result = run_python(
        "import sys, fcn_deploy\n"
        "assert not {'torch', 'numpy', 'onnx', 'PIL'} & set(sys.modules), 'heavy import'\n"
    )
    assert result.returncode == 0, result.stderr


def test_every_public_name_resolves() -> None:
    import fcn_deploy

    for name in fcn_deploy._HOMES:
        assert getattr(fcn_deploy, name) is not None
    with pytest.raises(AttributeError, match="no_such_name"):
        _ = fcn_deploy.no_such_name


def test_torch_runner_says_what_is_missing_without_torch() -> None:
    result = run_python(
        "import sys\n"
        "sys.modules['torch'] = None\n"
        "from fcn_deploy.runners.base import unavailable_reason\n"
        "print(unavailable_reason('torch'))\n"
    )
    assert "pip install 'fcn-deploy[train]'" in result.stdout, result.stderr


SOURCES = sorted(
    path
    for folder in ("fcn_deploy", "tests", "benchmarks")
    for path in (ROOT / folder).rglob("*.py")
)


def functions_of(path: Path) -> Iterator[ast.FunctionDef]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.FunctionDef):
            yield node


def test_programs_lie_beside_no_file_that_hides_a_library() -> None:
    # A program's own folder comes first in sys.path: there, tests/triton would be `import triton`.
    libraries = {*sys.stdlib_module_names, *importlib.metadata.packages_distributions()}
    for folder in ("tests/programs", "tests/triton", "benchmarks", "benchmarks/gpu", "docs"):
        beside = {path.stem for path in (ROOT / folder).iterdir() if path.suffix in {"", ".py"}}
        assert not beside & libraries, folder


def test_files_and_functions_stay_short() -> None:
    assert len(SOURCES) > 300
    long_files = [p for p in SOURCES if len(p.read_text(encoding="utf-8").splitlines()) > 400]
    assert not long_files
    long_functions = [
        f"{path}:{function.lineno} {function.name}"
        for path in SOURCES
        for function in functions_of(path)
        if (function.end_lineno or 0) - function.lineno + 1 > 60
    ]
    assert not long_functions


def test_commands_take_their_options_as_one_value() -> None:
    many = [
        f"{path}:{function.lineno} {function.name}"
        for path in (PACKAGE / "commands").rglob("*.py")
        for function in functions_of(path)
        if len(function.args.posonlyargs + function.args.args + function.args.kwonlyargs) > 6
    ]
    assert not many


CROSS_REFERENCE = re.compile(r":(?:class|func|meth|mod|data|attr):`~?(fcn_deploy\.[\w.]+)`")


def resolves(target: str) -> bool:
    """Whether a dotted name is a module, or lies in one."""
    parts = target.split(".")
    for length in range(len(parts), 0, -1):
        try:
            found: object = importlib.import_module(".".join(parts[:length]))
        except ModuleNotFoundError:
            continue
        for name in parts[length:]:
            found = getattr(found, name, None)
        return found is not None
    return False


def test_cross_references_resolve() -> None:
    targets = {
        (str(path), target)
        for path in PACKAGE.rglob("*.py")
        for target in CROSS_REFERENCE.findall(path.read_text(encoding="utf-8"))
    }
    assert len(targets) > 10
    assert not [(path, target) for path, target in sorted(targets) if not resolves(target)]
    assert not resolves("fcn_deploy.model.DeployGraph")
    assert not resolves("fcn_deploy.networks.fcn.NoSuchNetwork")


def test_import_contracts_hold() -> None:
    result = subprocess.run(
        [str(Path(sys.executable).parent / "lint-imports"), "--no-cache"],
        capture_output=True,
        text=True,
        cwd=ROOT,
        check=False,
    )
    assert result.returncode == 0, result.stdout + result.stderr
