"""A certificate judges as the live reference does, and is trusted no further than checked."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fcn_deploy.bundle.certificate import read_certificate, record_certificate
from fcn_deploy.bundle.logit_packing import pack_logits, unpack_logits
from fcn_deploy.core.errors import ArtifactError, BundleError, InputError
from fcn_deploy.core.spec import Precision
from fcn_deploy.parity.compare import compare
from fcn_deploy.parity.inputs import made_extras
from fcn_deploy.runners.base import Outputs
from tests.candidates import as_candidate
from tests.fakes import FakeRunner
from tests.parity.comparisons import listed, made_up


def smooth(channels: int = 3, height: int = 33, width: int = 47, scale: float = 8.0) -> Any:
    rows, columns = np.mgrid[0:height, 0:width]
    waves = [np.sin(rows / (9 + c)) * np.cos(columns / (7 + c)) for c in range(channels)]
    return (scale * np.stack(waves)).astype(np.float32)


@pytest.mark.parametrize("offset", [0.0, 1e4, -3e6])
def test_logits_are_kept_to_a_small_share_of_their_spread(offset: float) -> None:
    logits = smooth() + np.float32(offset)
    packed, step = pack_logits(logits)
    spread = float((logits.max(axis=0) - logits.min(axis=0)).max())
    error = np.abs(unpack_logits(packed, step, logits.shape).astype(np.float64) - logits).max()
    assert error <= step / 2 + np.spacing(np.float32(abs(offset) + 8)) / 2
    assert step <= max(spread * 2**-21, float(np.abs(logits).max()) * 2**-24)


def test_smooth_logits_become_small() -> None:
    logits = smooth(8, 160, 240)
    packed, _step = pack_logits(logits)
    assert len(packed) < logits.nbytes / 4


def test_constant_logits_can_be_packed() -> None:
    logits = np.zeros((2, 1, 1), np.float32)
    assert np.array_equal(unpack_logits(*pack_logits(logits), (2, 1, 1)), logits)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda packed: packed[:-5],
        lambda packed: packed + b"x",
        lambda packed: b"no zlib" + packed,
        lambda packed: b"",
    ],
)
def test_damaged_logits_are_refused(spoil: Callable[[bytes], bytes]) -> None:
    logits = smooth()
    packed, step = pack_logits(logits)
    with pytest.raises(ArtifactError, match="damaged"):
        unpack_logits(spoil(packed), step, logits.shape)


def test_logits_of_another_size_are_refused() -> None:
    packed, step = pack_logits(smooth())
    for shape in ((3, 33, 46), (3, 33, 48), (2, 33, 47)):
        with pytest.raises(ArtifactError, match="damaged"):
            unpack_logits(packed, step, shape)


def test_logits_that_are_not_finite_are_refused() -> None:
    logits = smooth()
    logits[0, 0, 0] = np.nan
    with pytest.raises(InputError, match="NaN"):
        pack_logits(logits)


def leak(_: Any, outputs: Outputs) -> Outputs:
    mask = outputs.mask.copy()
    mask[1:] = outputs.mask[:1]
    return replace(outputs, mask=mask)


CANDIDATES = {
    "equal": FakeRunner(backend="other"),
    "rounding": FakeRunner(noise=0.05, precision=Precision.FP16),
    "wrong": FakeRunner(noise=1.0),
    "leaking": FakeRunner(bug=leak),
    "swapped": FakeRunner(see=lambda images: np.ascontiguousarray(images[..., ::-1])),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A certificate of the fake reference, read by all tests."""
    found = tmp_path_factory.mktemp("certificate")
    record_certificate(FakeRunner(), listed(made_up(3)), found)
    return found


@pytest.mark.parametrize("name", CANDIDATES)
def test_it_judges_as_the_live_reference_does(name: str, folder: Path) -> None:
    pictures = listed(made_up(3))
    pictures = replace(pictures, extras=lambda first: replace(made_extras(first), large=None))
    (live,) = compare(FakeRunner(), [as_candidate(CANDIDATES[name])], pictures, can_rerun=False)
    certificate = read_certificate(folder / "certificate.json")
    with certificate.runner() as reference:
        (held,) = compare(
            reference, [as_candidate(CANDIDATES[name])], certificate.pictures(), can_rerun=False
        )
    verdicts = [(check.name, check.passed) for check in held.checks]
    assert verdicts == [(check.name, check.passed) for check in live.checks]
    assert (held.flips, held.images.digest) == (live.flips, live.images.digest)
    assert held.is_labelled is live.is_labelled is True
    assert held.passed is (name in ("equal", "rounding"))
    assert held.epsilon == pytest.approx(live.epsilon, abs=2**-20 * live.logit_scale)


def edited(folder: Path, target: Path, edit: Callable[[dict[str, Any]], object]) -> Path:
    shutil.copytree(folder, target)
    document = json.loads((target / "certificate.json").read_text())
    edit(document)
    (target / "certificate.json").write_text(json.dumps(document))
    return target / "certificate.json"


@pytest.mark.parametrize(
    ("edit", "said"),
    [
        (lambda d: d.update(schema=99), "schema"),
        (lambda d: d.update(pictures=[]), "batches"),
        (lambda d: d.update(streamed=[]), "missing"),
        (lambda d: d["pictures"].pop(0), "batches of its pictures"),
        (lambda d: [p.update(use="other") for p in d["pictures"]], "missing"),
        (lambda d: d["pictures"][0].update(stem="../../x"), "stem"),
        (lambda d: d["pictures"][0].update(step=0), "step"),
        (lambda d: d["reference"].update(precision="fp16"), "float32"),
        (lambda d: d.update(spec="{}"), "spec"),
    ],
)
def test_a_changed_certificate_is_refused(
    edit: Callable[[dict[str, Any]], object], said: str, folder: Path, tmp_path: Path
) -> None:
    with pytest.raises(BundleError, match=said):
        read_certificate(edited(folder, tmp_path / "c", edit))


def test_other_pictures_have_no_answer(folder: Path) -> None:
    certificate = read_certificate(folder / "certificate.json")
    with pytest.raises(ArtifactError, match="no answer"):
        certificate.runner().run(np.full((1, 5, 5, 3), 77, np.uint8))


def test_an_exchanged_picture_is_noticed(folder: Path, tmp_path: Path) -> None:
    file = edited(folder, tmp_path / "c", lambda document: None)
    shutil.copy(file.with_name("00001.png"), file.with_name("00000.png"))
    with pytest.raises(BundleError, match="another picture"):
        list(read_certificate(file).pictures())
