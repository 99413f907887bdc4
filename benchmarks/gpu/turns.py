"""Ratios between two Pythons that took turns on one GPU.

    python turns.py JSON TIER.json BENCH.json [TIER.json BENCH.json …]

TIER.json is what ``device_tier.py`` wrote of an engine, BENCH.json what ``fcn-deploy bench
--scenario offline --tier host`` wrote of the others at once after it.  For every shape that both
have, the engine's pictures per second, from pinned memory to pinned memory and from ordinary memory
to ordinary memory as the others have it, over those of each valid row of the bench: one ratio a
turn, their median and range.  A turn of which a file is missing is left out.
"""

from __future__ import annotations

import statistics
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from fcn_deploy.core.errors import InputError
from fcn_deploy.core.files import read_json, write_json
from fcn_deploy.results.environment import result_header

TURNS_SCHEMA = 1
ENGINE_TIERS = ("pinned", "host")


def turns(pairs: Sequence[tuple[dict[str, Any], dict[str, Any]]]) -> dict[str, Any]:
    """Return the document of all turns, each (device tier, bench).

    Raises:
        InputError: they are not all of one trained network.
    """
    networks = {
        runner["checkpoint_digest"]
        for tier, bench in pairs
        for runner in (tier["runner"], *(row["runner"] for row in bench["rows"]))
    }
    if len(networks) != 1:
        raise InputError("the files are not of one trained network", "take the turns anew")
    ratios: dict[tuple[Any, ...], list[tuple[float, float]]] = {}
    for tier, bench in pairs:
        for key, engine, other in _rates(tier, bench):
            ratios.setdefault(key, []).append((engine, other))
    return {
        **result_header("turns", TURNS_SCHEMA),
        "engine": pairs[0][0]["runner"],
        "rows": [
            {
                "engine_tier": engine_tier,
                "over": name,
                "precision": precision,
                "tier": tier,
                "batch": batch,
                "size": list(size),
                "engine_images_per_s": [engine for engine, _ in rates],
                "other_images_per_s": [other for _, other in rates],
                "ratios": (by_turn := [engine / other for engine, other in rates]),
                "median": statistics.median(by_turn),
                "range": [min(by_turn), max(by_turn)],
            }
            for (engine_tier, name, precision, tier, batch, size), rates in ratios.items()
        ],
    }


def _rates(
    tier: dict[str, Any], bench: dict[str, Any]
) -> Iterator[tuple[tuple[Any, ...], float, float]]:
    engines = {(row["batch"], tuple(row["size"])): row for row in tier["rows"]}
    for row in bench["rows"]:
        shape = (row["batch_size"], tuple(row["size"]))
        if row["loadgen"] is not None and not row["loadgen"]["valid"]:
            continue
        for engine_tier in ENGINE_TIERS:
            if engine_tier in engines.get(shape, {}):
                runner = row["runner"]
                key = (engine_tier, runner["backend"], runner["precision"], row["tier"], *shape)
                yield key, engines[shape][engine_tier]["images_per_s"], row["images_per_s"]


def main(arguments: Sequence[str]) -> None:
    target, *files = map(Path, arguments)
    pairs = []
    for pair in zip(files[::2], files[1::2], strict=True):
        missing = [str(file) for file in pair if not file.exists()]
        if missing:
            print(f"no ratio of the turn whose {' and '.join(missing)} is missing")
        else:
            pairs.append([read_json(file, repair="measure it anew") for file in pair])
    if not pairs:
        raise InputError("no turn has both of its files", "take the turns first")
    document = turns([(tier, bench) for tier, bench in pairs])
    write_json(target, document)
    for row in document["rows"]:
        low, high = row["range"]
        print(
            f"{row['engine_tier']}, {row['batch']} × {row['size']}: {row['median']:.2f}× "
            f"({low:.2f} to {high:.2f}) "
            f"{row['over']} {row['precision']} {row['tier']}"
        )


if __name__ == "__main__":
    main(sys.argv[1:])
