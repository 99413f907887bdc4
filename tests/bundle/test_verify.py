"""`verify` on the target: what holds, what does not, and with which exit code."""

import json
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from fcn_deploy.bundle.extraction import contradictions
from fcn_deploy.bundle.signature import names_key
from fcn_deploy.bundle.verification import BackendState, State, Verification, verified_before
from fcn_deploy.core.errors import BackendError
from fcn_deploy.core.files import file_digest, read_json, write_json
from fcn_deploy.core.run import Run
from fcn_deploy.core.spec import Precision
from fcn_deploy.runners.ort.runner import OrtRunner
from tests.bundle.archives import contents_of, forged, pack
from tests.bundle.conftest import Bundled
from tests.command_line import FcnDeploy, refused, run_without_torch


def keys(folder: Path, name: str) -> tuple[Path, Path]:
    """Make a pair of ECDSA P-256 keys: private, public."""
    serialization = pytest.importorskip("cryptography.hazmat.primitives.serialization")
    ec = pytest.importorskip("cryptography.hazmat.primitives.asymmetric.ec")
    made = ec.generate_private_key(ec.SECP256R1())
    private, public = folder / f"{name}.pem", folder / f"{name}.pub"
    private.write_bytes(
        made.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    public.write_bytes(
        made.public_key().public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        )
    )
    return private, public


def exchanged_channels(content: bytes) -> bytes:
    """Return an ONNX file whose first convolution reads red as blue."""
    model = onnx.load_from_string(content)
    first = next(node for node in model.graph.node if node.op_type == "Conv")
    (weights,) = (w for w in model.graph.initializer if w.name == first.input[1])
    turned = np.ascontiguousarray(numpy_helper.to_array(weights)[:, ::-1])
    weights.CopyFrom(numpy_helper.from_array(turned, weights.name))
    return bytes(model.SerializeToString())


Check = Callable[[Mapping[str, bytes]], str]


@pytest.fixture
def failed(fcn_deploy: FcnDeploy, bundle: Path) -> Check:
    """Exchange files of the bundle, which must not hold then; return what is said."""

    def check(changes: Mapping[str, bytes]) -> str:
        forged(bundle, bundle, changes)
        done = fcn_deploy("verify", bundle, "--backend", "ort").failed()
        return done.out

    return check


def test_a_good_bundle_holds(fcn_deploy: FcnDeploy, bundle: Path) -> None:
    done = fcn_deploy("verify", bundle, "--backend", "ort").succeeded()
    assert "every file has the SHA-256" in done.out
    assert "signature: the bundle is not signed" in done.out
    assert "ort             fp32  runs" in done.out


def test_its_masks_are_the_same(fcn_deploy: FcnDeploy, bundle: Path) -> None:
    words = ("--run", "--no-timing", "--backend", "ort", "--json", "v.json")
    done = fcn_deploy("verify", bundle, *words).succeeded()
    assert "same masks by the gate of `parity`: 0 of" in done.out
    document = read_json(Path("v.json"), "")
    assert document["holds"] is True
    assert document["signature"]["asked"] is False
    (state,) = document["backends"]
    assert state["comparison"]["passed"] is True
    assert state["comparison"]["reference"]["backend"] == "original"
    # Nothing is left behind but what was asked for.
    assert sorted(path.name for path in Path().iterdir()) == ["model.fcnd.zip", "v.json"]


def test_a_bundle_that_is_exchanged_meanwhile_is_not_said_to_hold(
    fcn_deploy: FcnDeploy, bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def exchanging(*words: Any) -> Any:
        found = contradictions(*words)
        bundle.write_bytes(b"another")
        return found

    monkeypatch.setattr("fcn_deploy.bundle.extraction.contradictions", exchanging)
    refused(fcn_deploy("verify", bundle, "--backend", "ort"), "exchanged while it was verified")


@pytest.mark.parametrize("name", ["model.int8.onnx", "engines/a.plan"])
def test_a_model_that_the_manifest_does_not_describe_is_refused(
    name: str, fcn_deploy: FcnDeploy, bundle: Path
) -> None:
    forged(bundle, bundle, {name: b"run by commands, proven by nobody"})
    refused(fcn_deploy("verify", bundle), f"lists {name}, and does not say what it is")


def test_another_original_is_refused(failed: Check, bundle: Path) -> None:
    changed = exchanged_channels(contents_of(bundle)["original.onnx"])
    assert "FAILED  original.onnx is another network" in failed({"original.onnx": changed})


def test_exchanged_channels_are_told_by_the_masks(fcn_deploy: FcnDeploy, bundle: Path) -> None:
    changed = exchanged_channels(contents_of(bundle)["model.onnx"])
    forged(bundle, Path("forged.fcnd.zip"), {"model.onnx": changed})
    fcn_deploy("verify", "forged.fcnd.zip", "--backend", "ort").succeeded()
    done = fcn_deploy(
        "verify", "forged.fcnd.zip", "--run", "--backend", "ort", "--json", "v.json"
    ).failed()
    assert "FAILED  ort             fp32  other masks: " in done.out
    assert "all pixels: " in done.out
    assert "no backend's fp32 masks have passed" in done.out
    assert read_json(Path("v.json"), "")["holds"] is False
    # What was proven before would be taken still, if this were not remembered.
    remembered = read_json(Path("forged.fcnd/parity/verify.ort.json"), "")
    assert [result["passed"] for result in remembered["results"]] == [False]
    assert not Path("forged.fcnd/bench").exists()


def test_a_bundle_writes_no_verdict_of_its_own(fcn_deploy: FcnDeploy, bundle: Path) -> None:
    contents = contents_of(bundle)
    values = {**json.loads(contents["fcn-deploy.json"]), "name": "street\nsignature: good\x1b[8m"}
    pack(bundle, contents | {"fcn-deploy.json": json.dumps(values).encode()})
    done = fcn_deploy("verify", bundle, "--backend", "ort")
    assert r"street\nsignature: good\x1b[8m" in done.out
    assert "\x1b" not in done.out


def test_pytorch_computes_no_bundle(fcn_deploy: FcnDeploy, bundle: Path) -> None:
    done = fcn_deploy("verify", bundle, "--backend", "torch")
    assert "cannot run here: a bundle holds no checkpoint" in done.out


def test_a_backend_that_fails_loses_its_proof(
    fcn_deploy: FcnDeploy, bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ("verify", bundle, "--run", "--backend", "ort")
    monkeypatch.setattr("fcn_deploy.commands.verify.run_step", lambda words: 0)
    fcn_deploy(*words).succeeded()
    proof = Path("model.fcnd/parity/verify.ort.json")
    assert proof.is_file()

    def broken(*_: Any) -> Any:
        raise BackendError("broken kernel")

    monkeypatch.setattr(OrtRunner, "_infer", broken)
    done = fcn_deploy(*words).failed()
    assert "the verdict on ort is dropped" in done.out
    assert not proof.exists()


def state(precision: Precision, passed: bool | None, *, refused: bool = False) -> BackendState:
    """A backend whose masks were compared, or that refused the network."""
    comparison: Any = None if passed is None else SimpleNamespace(passed=passed, to_json=dict)
    found = State.RUNS if passed is not None else State.CANNOT
    return BackendState("ort", precision, found, None, comparison, refused=refused)


@pytest.mark.parametrize(
    ("backends", "unproven"),
    [
        ([state(Precision.FP32, True)], ()),
        ([state(Precision.FP32, True), state(Precision.INT8, None)], ()),  # it takes no such files
        ([state(Precision.FP32, True), state(Precision.FP16, None, refused=True)], ("fp16",)),
        ([state(Precision.FP32, None)], ("fp32",)),
        ([], ("fp32",)),
    ],
)
def test_each_file_must_be_proven_by_some_backend(
    backends: list[BackendState], unproven: tuple[str, ...]
) -> None:
    found = Verification(Path("b"), "", (), None, False, None, True, tuple(backends))
    assert tuple(precision.value for precision in found.unproven) == unproven
    assert found.holds is (not unproven)


def test_a_verification_counts_for_its_bundle_and_key(tmp_path: Path) -> None:
    bundle, ours, theirs, record = (tmp_path / name for name in ("b", "ours", "theirs", "v.json"))
    for file in (bundle, ours, theirs):
        file.write_text(file.name)
    proven = (state(Precision.FP32, True),)
    found = Verification(
        bundle, file_digest(bundle), (), None, True, file_digest(ours), True, proven
    )
    write_json(record, found.to_json() | {"backends": []})
    assert verified_before(record, bundle, key=None)
    assert verified_before(record, bundle, key=ours)
    assert not verified_before(record, bundle, key=theirs)
    bundle.write_text("another")
    assert not verified_before(record, bundle, key=ours)


def test_a_damaged_file_is_named_and_nothing_is_loaded(
    fcn_deploy: FcnDeploy, bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = bundle.read_bytes()
    place = content.index(contents_of(bundle)["model.onnx"]) + 1000
    damaged = bytearray(content)
    damaged[place] ^= 1
    bundle.write_bytes(damaged)
    for name in ("fcn_deploy.bundle.extraction.OnnxFile", "fcn_deploy.runners.base.open_runner"):
        monkeypatch.setattr(name, lambda *words, **options: pytest.fail("it was loaded"))
    done = fcn_deploy("verify", bundle, "--run", "--backend", "ort").failed()
    assert "FAILED  model.onnx is damaged: expected sha256:" in done.out
    assert "ort" not in done.out.replace("parity/ort.json", "")
    refused(fcn_deploy("predict", bundle, "x.png"), "model.onnx is damaged")


@pytest.mark.parametrize("name", ["model.onnx", "original.onnx"])
def test_weights_in_another_file_are_refused(
    name: str, fcn_deploy: FcnDeploy, failed: Check, bundle: Path
) -> None:
    model = onnx.load_from_string(contents_of(bundle)[name])
    tensor = model.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = onnx.TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="/etc/passwd")
    said = failed({name: model.SerializeToString()})
    assert f"FAILED  {name}: " in said
    assert "keeps its weights in another file" in said
    refused(fcn_deploy("predict", bundle, "x.png"), "keeps its weights in another file")


def test_a_certificate_of_another_network_is_refused(failed: Check, bundle: Path) -> None:
    name = "certificate/certificate.json"
    document = json.loads(contents_of(bundle)[name])
    document["reference"]["checkpoint_digest"] = "sha256:another"
    said = failed({name: json.dumps(document).encode()})
    assert "certificate: it is of another network" in said


def _called_trained(contents: dict[str, bytes]) -> dict[str, bytes]:
    manifest = json.loads(contents["fcn-deploy.json"]) | {"imported": False}
    return {"fcn-deploy.json": json.dumps(manifest).encode()}


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"model.onnx": None}, "only fcn-deploy.json names model.onnx"),
        ({"fcn-deploy.json": None}, "holds no fcn-deploy.json"),
        ({"model.pkl": b"x"}, "only the archive holds"),
        ({"fcn-deploy.json": b"{"}, "not JSON"),
        ({"fcn-deploy.json": b"[]"}, "describes no bundle"),
        ({"fcn-deploy.json": b'{"kind": "bundle", "schema": 99}'}, "has schema 99"),
        ({"Kitfile": b""}, "Kitfile has 0 bytes"),
        (_called_trained, "whether it was imported"),  # and holds an original
    ],
)
def test_files_that_the_manifest_does_not_name(
    changed: Any, said: str, fcn_deploy: FcnDeploy, bundle: Path
) -> None:
    contents = contents_of(bundle)
    contents |= changed(contents) if callable(changed) else changed
    pack(bundle, {name: content for name, content in contents.items() if content is not None})
    refused(fcn_deploy("verify", bundle), said)


@pytest.mark.parametrize("content", [b"", b"no zip at all", b"PK\5\6" + bytes(18)])
def test_what_is_no_bundle(content: bytes, fcn_deploy: FcnDeploy) -> None:
    Path("x.fcnd.zip").write_bytes(content)
    for command in ("verify", "predict"):
        words = ("x.png",) if command == "predict" else ()
        refused(fcn_deploy(command, "x.fcnd.zip", *words), "no bundle, or damaged")
    refused(fcn_deploy("verify", "missing.fcnd.zip"), "no bundle missing.fcnd.zip")
    refused(fcn_deploy("verify", "."), "is a folder")


def test_a_signature_that_cannot_be_checked_is_an_error(
    fcn_deploy: FcnDeploy, bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pack(bundle, contents_of(bundle) | {"model.sig": b"{}"})
    monkeypatch.setitem(sys.modules, "model_signing", None)
    refused(fcn_deploy("verify", bundle, "--key", "k.pub"), "pip install 'fcn-deploy[sign]'")
    done = fcn_deploy("verify", bundle, "--backend", "ort").succeeded()
    assert "signature not checked" in done.out


def test_an_unsigned_bundle_fails_where_a_signature_is_asked_for(
    fcn_deploy: FcnDeploy, bundle: Path
) -> None:
    done = fcn_deploy("verify", bundle, "--key", "k.pub", "--run", "--json", "v.json").failed()
    assert "FAILED  signature: the bundle is not signed" in done.out
    assert read_json(Path("v.json"), "")["backends"] == []


@pytest.mark.slow
def test_signatures(fcn_deploy: FcnDeploy, bundled: Bundled, tmp_path: Path) -> None:
    pytest.importorskip("model_signing")
    (private, public), (their_private, other) = keys(tmp_path, "ours"), keys(tmp_path, "theirs")
    signed = tmp_path / "signed.fcnd.zip"
    bundled.bundle_to(signed, key=private)
    done = fcn_deploy("verify", signed, "--key", public, "--backend", "ort").succeeded()
    assert "signature: good" in done.out
    content = contents_of(signed)["model.sig"]
    assert names_key(content, private)
    assert not names_key(content, their_private)
    done = fcn_deploy("verify", signed, "--key", other, "--backend", "ort").failed()
    assert "FAILED  signature: it does not hold" in done.out
    refused(fcn_deploy("verify", signed, "--key", private), "no public ECDSA key")

    changed = exchanged_channels(contents_of(signed)["model.onnx"])
    forged(signed, tmp_path / "forged.fcnd.zip", {"model.onnx": changed})
    done = fcn_deploy("verify", "forged.fcnd.zip", "--key", public, "--run").failed()
    assert "FAILED  signature" in done.out
    assert "model.onnx" in done.out
    assert "ort " not in done.out

    assert strangers_verdict(signed, public, tmp_path / "one") == 0
    assert strangers_verdict(signed, other, tmp_path / "two") != 0
    assert strangers_verdict(tmp_path / "forged.fcnd.zip", public, tmp_path / "three") != 0


def strangers_verdict(bundle: Path, key: Path, folder: Path) -> int:
    """Unpack a bundle, and ask the tool of OpenSSF model signing about it."""
    for name, content in contents_of(bundle).items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    words = ["verify", "key", str(folder), "--signature", str(folder / "model.sig")]
    command = [sys.executable, "-m", "model_signing", *words, "--public_key", str(key)]
    return subprocess.run(command, capture_output=True, check=False).returncode


@pytest.mark.slow
def test_nothing_of_it_needs_torch(bundle: Path, bundled: Bundled, tmp_path: Path) -> None:
    run_without_torch("verify", bundle, "--run", "--backend", "ort").succeeded()
    run_without_torch("predict", bundle, bundled.pictures, "--out", tmp_path / "masks").succeeded()
    run_without_torch("parity", bundle, "--backend", "ort").succeeded()
    assert Run(bundle.with_suffix("")).parity_folder.is_dir()
