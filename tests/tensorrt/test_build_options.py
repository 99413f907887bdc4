"""Compute capabilities among the options of a build: written in any order, told once."""

import pytest

from fcn_deploy.core.errors import InputError
from fcn_deploy.tensorrt import api, build, build_options
from fcn_deploy.tensorrt.build_options import BuildOptions
from tests import tensorrt_fixtures
from tests.tensorrt_fixtures import Install, write_onnx

installed = tensorrt_fixtures.installed


def test_an_engine_for_other_gpus_is_no_older_one_of_this(installed: Install) -> None:
    machine = installed("rtx-1.7.1")
    write_onnx()

    def built(*capabilities: str) -> build.Engine:
        options = BuildOptions(compute_capabilities=capabilities)
        return machine.build(options=options)

    assert built("sm89").differences == ()
    assert built("sm75").differences == ()  # another file: nothing was replaced
    assert built("sm89").current


def test_capabilities_are_sorted_and_told_once(installed: Install) -> None:
    machine = installed("rtx-1.7.1")
    write_onnx()

    def built(*capabilities: str) -> tuple[list[str], build.Engine]:
        machine.trt._calls.clear()
        options = BuildOptions(compute_capabilities=capabilities)
        engine = machine.build(options=options)
        told = [call[11:].lower() for call in machine.trt._calls if call.startswith("capability ")]
        return told, engine

    told, engine = built()  # what the sidecar says is what the builder was told
    assert tuple(told) == engine.sidecar.compute_capabilities == api.RTX_DEFAULT_CAPABILITIES
    told, engine = built("sm120", "sm89", "sm89")
    assert tuple(told) == engine.sidecar.compute_capabilities == ("sm89", "sm120")
    assert engine.path.name.endswith(".sm89-sm120.plan")
    assert built("sm89", "sm120")[1].current


@pytest.mark.parametrize("text", ["nonsense", "", ",", "sm89,", "8.9", "none", "sm"])
def test_capabilities_that_are_none(text: str) -> None:
    with pytest.raises(
        InputError, match=r"is no compute capability; write e\.g\. --compute"
    ) as bad:
        build_options.parse_capabilities(text)
    assert len(str(bad.value).splitlines()) == 1
    assert build_options.parse_capabilities(" SM120,sm89 ,sm89") == ("sm89", "sm120")
