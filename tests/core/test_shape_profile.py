"""Profiles of batch shapes: as text and JSON, what they reach, what is too large for TensorRT."""

import json
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fcn_deploy.core.errors import InputError
from fcn_deploy.core.input_shape import InputShape
from fcn_deploy.core.spec import ShapeProfile, SizeRange

sizes = st.integers(1, 4096)
batches = st.integers(1, 32)  # with the largest of these sizes still small enough
shapes = st.tuples(batches, sizes, sizes)


@st.composite
def profiles(draw: st.DrawFn) -> ShapeProfile:
    columns = [sorted(draw(st.tuples(kind, kind, kind))) for kind in (batches, sizes, sizes)]
    low, middle, high = zip(*columns, strict=True)
    return ShapeProfile(low, middle, high)


@settings(deadline=None, derandomize=True)
@given(profiles())
def test_profiles_survive_text_and_json(profile: ShapeProfile) -> None:
    assert ShapeProfile.from_text(str(profile)) == profile
    assert ShapeProfile.from_json(json.loads(json.dumps(profile.to_json()))) == profile


@settings(deadline=None, derandomize=True)
@given(profiles(), shapes)
def test_a_profile_reaches_for_a_shape_and_no_further(
    profile: ShapeProfile, shape: tuple[int, int, int]
) -> None:
    reached = profile.widened_to(shape)
    assert reached.contains(shape)
    assert all(reached.contains(known) for known in profile.shapes)
    assert profile.contains(shape) == (reached == profile)
    assert (profile.distance(shape) == 0) == profile.contains(shape)


@settings(deadline=None, derandomize=True)
@given(shapes.filter(lambda shape: len(set(shape)) > 1), shapes)
def test_a_profile_that_does_not_rise_is_refused(
    low: tuple[int, int, int], high: tuple[int, int, int]
) -> None:
    if any(a > b for a, b in zip(low, high, strict=True)):
        with pytest.raises(InputError, match="does not rise"):
            ShapeProfile(low, low, high)


huge = st.one_of(st.integers(1, 2**11), st.integers(2**28, 2**33), st.integers(10**17, 10**5000))


@settings(deadline=None, derandomize=True)
@given(st.tuples(huge, huge, huge))
def test_a_profile_is_small_enough_for_tensorrt_or_refused_by_name(
    shape: tuple[int, int, int],
) -> None:
    # Python itself writes no number of over 4300 digits.
    text = "1x1x1:1x1x1:" + "x".join("9" * 5000 if n > 10**4000 else str(n) for n in shape)
    if math.prod(shape) * 3 < 2**31:
        assert ShapeProfile.from_text(text).largest == shape
    else:
        with pytest.raises(InputError, match="profile") as refused:
            ShapeProfile.from_text(text)
        assert text in str(refused.value)


@pytest.mark.parametrize("side", [100, 10_000, 20_000, 26_754])
def test_the_default_profile_takes_fewer_of_very_large_images(side: int) -> None:
    largest = ShapeProfile.default_for(SizeRange((1, 1), (1, 1), (side, side))).largest
    assert largest[1] >= side
    assert 1 <= largest[0] <= 8
    assert (largest[0] == 8) == (8 * 3 * largest[1] * largest[2] < 2**31)


@settings(deadline=None, derandomize=True)
@given(st.text(max_size=30))
def test_foreign_text_is_refused_in_words(text: str) -> None:
    try:
        ShapeProfile.from_text(text)
    except InputError as error:
        assert "1x32x32:1x320x480:8x1024x2048" in str(error)  # noqa: PT017


@settings(deadline=None, derandomize=True)
@given(profiles())
def test_the_default_profile_covers_the_training_images(profile: ShapeProfile) -> None:
    sizes_seen = SizeRange(*(shape[1:] for shape in profile.shapes))
    default = ShapeProfile.default_for(sizes_seen)
    for height, width in (sizes_seen.smallest, sizes_seen.largest, (1, 1), (561, 728)):
        assert default.contains((8, height, width))
    assert default.typical == (1, *sizes_seen.typical)


@pytest.mark.parametrize(
    ("taken", "profile"),
    [
        (InputShape(1, 512, 640), "1x512x640:1x512x640:1x512x640"),
        (InputShape(None, 512, 640), "1x512x640:1x512x640:8x512x640"),
        (InputShape(multiple=64), "1x64x64:1x320x512:8x576x768"),
        (InputShape(), "1x1x1:1x320x480:8x576x768"),
    ],
)
def test_the_default_profile_keeps_to_what_the_network_takes(
    taken: InputShape, profile: str
) -> None:
    sizes = SizeRange((320, 480), (320, 480), (320, 480))
    assert str(ShapeProfile.default_for(sizes, taken)) == profile
