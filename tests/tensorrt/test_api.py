"""The names of four TensorRT releases: what we use exists in each, or stands behind a guard."""

import ast
import logging
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest

import fcn_deploy
from fcn_deploy.core.errors import InputError, MissingExtraError
from fcn_deploy.core.spec import Precision, Product
from fcn_deploy.tensorrt import api as trt_api
from fcn_deploy.tensorrt import callbacks
from tests import tensorrt_fixtures
from tests.fake_tensorrt import RELEASES, api
from tests.tensorrt_fixtures import FakeMachine

machine = tensorrt_fixtures.machine
PACKAGE = Path(fcn_deploy.__file__).parent / "tensorrt"
SOURCES = (
    "api.py", "binding.py", "builder.py", "callbacks.py", "execution.py", "layer_census.py",
    "portability.py",
)  # fmt: skip
#: What a variable of that name holds, in those sources.
CLASS_OF = {
    "builder": "Builder",
    "network": "INetworkDefinition",
    "config": "IBuilderConfig",
    "parser": "OnnxParser",
    "problem": "ParserError",
    "runtime": "Runtime",
    "engine": "ICudaEngine",
    "context": "IExecutionContext",
    "inspector": "EngineInspector",
    "profile": "IOptimizationProfile",
    "cache": "ITimingCache",
    "tensor": "ITensor",
}


def guarded_names(test: ast.expr) -> set[str]:
    """Names that are known to exist where ``test`` holds: hasattr(x, "name") and …"""
    if isinstance(test, ast.BoolOp) and isinstance(test.op, ast.And):
        return set().union(*map(guarded_names, test.values))
    if (
        isinstance(test, ast.Call)
        and isinstance(test.func, ast.Name)
        and test.func.id == "hasattr"
        and isinstance(test.args[1], ast.Constant)
    ):
        return {str(test.args[1].value)}
    return set()


def used_names(node: ast.AST, guards: frozenset[str] = frozenset()) -> Iterator[tuple[str, str]]:
    """Yield (class, name) of each use of TensorRT's API that no guard protects."""
    if isinstance(node, ast.If | ast.IfExp):
        yield from used_names(node.test, guards)
        inside = guards | guarded_names(node.test)
        body = node.body if isinstance(node.body, list) else [node.body]
        orelse = node.orelse if isinstance(node.orelse, list) else [node.orelse]
        yield from used_in_block(body, frozenset(inside))
        yield from used_in_block(orelse, guards)
        return
    if isinstance(node, ast.Attribute):
        owner = node.value
        found = None
        if isinstance(owner, ast.Name) and owner.id == "trt":
            found = "", node.attr
        elif isinstance(owner, ast.Name) and owner.id in CLASS_OF:
            found = CLASS_OF[owner.id], node.attr
        elif (
            isinstance(owner, ast.Attribute)
            and isinstance(owner.value, ast.Name)
            and owner.value.id == "trt"
        ):
            found = owner.attr, node.attr
        if found is not None and not found[1].startswith("__") and found[1] not in guards:
            yield found
    for _, value in ast.iter_fields(node):
        if isinstance(value, list):
            yield from used_in_block(value, guards)
        elif isinstance(value, ast.AST):
            yield from used_names(value, guards)


def used_in_block(block: list[ast.AST], guards: frozenset[str]) -> Iterator[tuple[str, str]]:
    for statement in block:
        if not isinstance(statement, ast.AST):
            continue
        yield from used_names(statement, guards)
        # if not hasattr(x, "name"): return … — what follows stands behind the guard too.
        if (
            isinstance(statement, ast.If)
            and isinstance(statement.test, ast.UnaryOp)
            and isinstance(statement.test.op, ast.Not)
            and isinstance(statement.body[-1], ast.Return | ast.Raise)
        ):
            guards = frozenset(guards | guarded_names(statement.test.operand))


def missing_names(source: str, release: str) -> set[str]:
    """Names that ``source`` uses without a guard and ``release`` does not have."""
    classes = {"": api(release), **api(release)}  # a class's own lack is one of trt.
    used = used_names(ast.parse(source))
    return {f"{c or 'trt'}.{name}" for c, name in used if c in classes and name not in classes[c]}


@pytest.mark.parametrize("release", RELEASES)
@pytest.mark.parametrize("source", SOURCES)
def test_every_name_exists_in_each_release_or_stands_behind_a_guard(
    source: str, release: str
) -> None:
    assert missing_names((PACKAGE / source).read_text(), release) == set()


def test_api_and_binding_alone_ask_what_a_release_has() -> None:
    asking = {
        path.name
        for path in PACKAGE.glob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Name)
        and node.func.id == "hasattr"
    }
    assert asking == {"api.py", "binding.py"}


def test_the_scan_sees_the_names_that_we_use() -> None:
    seen = {name for source in SOURCES for name in used_names_of(PACKAGE / source)}
    assert {
        ("Builder", "create_builder_config"),
        ("IBuilderConfig", "add_optimization_profile"),
        ("IExecutionContext", "execute_async_v3"),
        ("IExecutionContext", "set_input_shape"),
        ("OnnxParser", "parse"),
        ("ProfilingVerbosity", "DETAILED"),
        ("", "Builder"),
        ("Runtime", "deserialize_cuda_engine"),
    } <= seen


def used_names_of(path: Path) -> set[tuple[str, str]]:
    return set(used_names(ast.parse(path.read_text())))


@pytest.mark.parametrize(
    ("planted", "release", "found"),
    [
        ("config.set_flag(trt.BuilderFlag.FP16)", "11.4.0", "BuilderFlag.FP16"),
        ("context.execute_async_v2(0)", "10.16.1", "IExecutionContext.execute_async_v2"),
        ("config.progress_monitor = monitor", "8.6.0", "IBuilderConfig.progress_monitor"),
        ("config.set_compute_capability(x, 0)", "11.4.0", "IBuilderConfig.set_compute_capability"),
        (
            'if not hasattr(config, "set_compute_capability"):\n    pass\n'
            "config.set_compute_capability(x, 0)",
            "11.4.0",
            "IBuilderConfig.set_compute_capability",
        ),
        (
            'if hasattr(trt.BuilderFlag, "FP16"):\n    pass\nelse:\n    trt.BuilderFlag.FP16',
            "rtx-1.7.1",
            "BuilderFlag.FP16",
        ),
        ("trt.PreviewFeature.PROFILE_SHARING_0806", "11.4.0",
         "PreviewFeature.PROFILE_SHARING_0806"),
        ("trt.NetworkDefinitionCreationFlag.EXPLICIT_BATCH", "11.4.0",
         "NetworkDefinitionCreationFlag.EXPLICIT_BATCH"),
    ],
)  # fmt: skip
def test_a_planted_name_without_its_guard_is_found(planted: str, release: str, found: str) -> None:
    source = (PACKAGE / "builder.py").read_text() + "\n\ndef planted(trt, config, context):\n"
    assert missing_names(source + textwrap.indent(planted, "    "), release) == {found}


def test_a_guard_is_accepted() -> None:
    guarded = 'if hasattr(config, "progress_monitor"):\n    config.progress_monitor = monitor'
    assert missing_names(guarded, "8.6.0") == set()


def test_each_release_loads_and_says_what_it_is(machine: FakeMachine) -> None:
    tensorrt = trt_api.load(machine.product)
    assert tensorrt is trt_api.load(machine.product)  # one logger per process
    assert tensorrt.version == machine.trt.__version__
    assert tensorrt.max_opset == (17 if machine.release == "8.6.0" else 20)
    assert tensorrt.chooses_capabilities == machine.release.startswith("rtx")
    assert tensorrt.has_timing_cache != machine.release.startswith("rtx")


def test_fp16_is_a_flag_only_where_it_decides(machine: FakeMachine) -> None:
    config = machine.trt.IBuilderConfig()
    flags = trt_api.load(machine.product).set_precision(config, Precision.FP16)
    assert flags == (("FP16",) if machine.release == "8.6.0" else ())


def test_fp32_means_no_tf32(machine: FakeMachine) -> None:
    config = machine.trt.IBuilderConfig()
    trt_api.load(machine.product).set_precision(config, Precision.FP32)
    assert config._flags == set()


def test_tactics_of_cublas_and_cudnn_are_left_out(machine: FakeMachine) -> None:
    config = machine.trt.IBuilderConfig()
    left_out = trt_api.load(machine.product).leave_out_external_tactics(config)
    names = api(machine.release)["TacticSource"]
    kept = {name for index, name in enumerate(names) if config._sources >> index & 1}
    assert kept == set(names) - {"CUBLAS", "CUBLAS_LT", "CUDNN"}
    assert len(left_out) == len(names) - len(kept)


def test_profiles_are_shared_on_request_only_where_they_are_not_anyway(
    machine: FakeMachine,
) -> None:
    config = machine.trt.IBuilderConfig()
    found = trt_api.share_profiles(machine.trt, config)
    if machine.release == "8.6.0":
        assert found == "PROFILE_SHARING_0806"
        assert machine.trt._calls == ["preview PROFILE_SHARING_0806"]
    else:
        assert found is None
        assert machine.trt._calls == []


def test_an_error_is_kept_until_it_is_cleared(machine: FakeMachine) -> None:
    trt_api.load(machine.product).logger.log(machine.trt.ILogger.ERROR, "no room")
    assert callbacks.last_error() == "no room"
    callbacks.clear_errors()
    assert callbacks.last_error() == "no message"


def test_compute_capabilities_are_for_rtx(machine: FakeMachine) -> None:
    tensorrt = trt_api.load(machine.product)
    config = machine.trt.IBuilderConfig()
    if not tensorrt.chooses_capabilities:
        assert tensorrt.known_capabilities == ()
        with pytest.raises(InputError, match="--product trt-rtx"):
            tensorrt.set_capabilities(config, ("sm89",))
        return
    tensorrt.set_capabilities(config, ("sm89", "sm120"))
    assert machine.trt._calls == ["capability SM89", "capability SM120"]
    with pytest.raises(InputError, match="sm90"):
        tensorrt.set_capabilities(config, ("sm90",))


def test_messages_go_to_logging_and_the_last_error_is_kept(
    machine: FakeMachine, caplog: pytest.LogCaptureFixture
) -> None:
    tensorrt = trt_api.load(machine.product)
    levels = machine.trt.ILogger
    with caplog.at_level(logging.DEBUG, "fcn_deploy.tensorrt"):
        tensorrt.logger.log(levels.VERBOSE, "quiet")
        tensorrt.logger.log(levels.ERROR, "no\nroom")
    assert [(r.levelno, r.getMessage()) for r in caplog.records] == [
        (logging.DEBUG, "quiet"),
        (logging.ERROR, "no\nroom"),
    ]
    assert callbacks.last_error() == "no room"


def test_messages_print_nothing_where_nobody_listens() -> None:
    script = (
        "import logging, fcn_deploy.tensorrt.api as t\n"
        "t.LOGGER.error('loud')\nlogging.getLogger('fcn_deploy').warning('x') if 0 else None"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_what_is_missing_is_said_with_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trt_api, "_loaded", {})
    for name in ("tensorrt", "tensorrt_rtx_bindings", "onnxruntime_ep_nv_tensorrt_rtx"):
        monkeypatch.setitem(sys.modules, name, None)
    reason = trt_api.unavailable_reason(Product.TRT)
    assert reason is not None
    assert "TensorRT needs tensorrt, which cannot be imported" in reason
    assert "pip install 'fcn-deploy[trt]'" in reason
    reason = trt_api.unavailable_reason(Product.RTX)
    assert reason is not None
    assert "pip install 'fcn-deploy[rtx]'" in reason
    assert not trt_api.is_installed(Product.TRT)
    with pytest.raises(MissingExtraError, match="TensorRT needs tensorrt"):
        trt_api.choose_product("auto")


def test_the_installed_release_is_told_without_loading(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trt_api.metadata, "version", lambda name: "8.6.1.post1")
    monkeypatch.setattr(trt_api, "load", lambda product: pytest.fail("loaded"))
    assert trt_api.installed_version(Product.TRT) == "8.6.1"
