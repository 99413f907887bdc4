"""The script that measures maps, on one that is small enough to be segmented as a whole."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

pytest.importorskip("rasterio", reason="maps need the extra geo")
from benchmarks import maps


@pytest.mark.slow
def test_a_map_is_segmented_by_windows_and_gets_the_mask_of_the_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    side = 3000
    network = maps.write_network(tmp_path / "maps.onnx")
    source = maps.write_map(tmp_path / "map.tif", side, side)
    out = tmp_path / "out"
    peak, said = maps.predict_in_a_child(network, source, out, "--tile", "1024")
    assert "tiles of 1024×1024" in said
    # As a whole it took 1,436 MB.
    assert peak < 600e6
    monkeypatch.setattr(maps, "_PART", side)
    assert maps.differing_pixels(network, source, out / "map.tif", 0, 0) == 0
    line = json.loads((out / "predictions.jsonl").read_text().splitlines()[1])
    assert line["size"] == [side, side]
    assert len(line["shares"]) > 3
