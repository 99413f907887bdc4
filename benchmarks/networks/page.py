"""Writes docs/which-network.md and its plot from the recorded file.

PYTHONPATH=benchmarks python -m networks.page
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from fcn_deploy.core.files import write_bytes
from networks.figures import MARK, Figures, Network, largest_losses, read_figures
from networks.plot import svg

ROOT = Path(__file__).resolve().parents[2]
RECORDED = ROOT / "benchmarks" / "results" / "networks-amd-epyc-2-cores.json"
PAGE, PLOT = ROOT / "docs" / "which-network.md", ROOT / "docs" / "img" / "which-network.svg"
#: Classes that are named where a network is behind.
_CLASSES = 4


def main() -> None:
    """Write both files."""
    figures = read_figures(RECORDED)
    write_bytes(PLOT, svg(figures).encode())
    write_bytes(PAGE, page(figures).encode())
    print(f"wrote {PAGE} and {PLOT}")


def page(figures: Figures) -> str:
    """Return the page."""
    parts = [
        "<!-- `PYTHONPATH=benchmarks python -m networks.page` writes this page from the recorded "
        "file. Do not edit it. -->",
        "# Which network should I take?",
        _introduction(figures),
        "![Validation mIoU over latency](img/which-network.svg)",
        *_advice(figures),
        "## The figures",
        _table(figures),
        _reading(figures),
        "## The mark",
        *_mark(figures),
        "## How they were trained and measured",
        *_method(figures),
        "## What this does not say",
        _LIMITS,
        "## Measure it yourself",
        _STEPS,
    ]
    return "\n\n".join(parts) + "\n"


def _introduction(figures: Figures) -> str:
    budget, pictures = figures.document["budget"], figures.document["pictures"]
    minutes = budget["seconds"] / 60
    missing = ""
    if figures.missing:
        names = ", ".join(f"`{name}`" for name in figures.missing)
        missing = f" Not measured yet: {names}."
    return (
        f"Accuracy against latency on CamVid, of {len(figures.networks)} networks. Each was "
        f"trained from random weights for what takes {minutes:g} minutes on two idle cores, by the "
        f"same loop and the same recipe, and scored on the {pictures['count']} validation pictures."
        + missing
    )


def _advice(figures: Figures) -> Iterator[str]:
    fastest, best = figures.networks[0], figures.front[-1]
    yield "On a CPU, for a network that is trained from scratch in minutes:"
    lines = [f"- **{_code(best)}** has the best masks of these: mIoU {best.mean_iou:.3f} in "
             f"{best.ms:.1f} ms."]  # fmt: skip
    between = [n for n in figures.front if n not in (fastest, best)]
    lines += [
        f"- **{_code(n)}** takes {n.ms:.1f} ms for {n.mean_iou:.3f}: nothing here is both faster "
        "and better."
        for n in reversed(between)
    ]
    if fastest is not best:
        lines.append(
            f"- **{_code(fastest)}** is the fastest: {fastest.ms:.1f} ms, mIoU "
            f"{fastest.mean_iou:.3f}."
        )
    yield "\n".join(lines)
    rest = [n for n in figures.networks if n not in figures.front]
    if rest:
        yield (
            f"The others ({', '.join(map(_code, rest))}) have a higher median time than one of "
            "these that is at least as accurate here. Intervals that overlap, and ratios whose "
            "interval holds 1, are no proof of an order."
        )


def _table(figures: Figures) -> str:
    mark = figures.mark
    head = ["network", "of", "parameters", "GMACs", "ms", f"× the time of `{MARK}`",
            "val mIoU [95 %]", "pixel accuracy", "epochs, of as many as fit"]  # fmt: skip
    lines = [head, ["---", "---", *["---:"] * (len(head) - 2)]]
    for n in figures.networks:
        times = "–" if mark is None or n is mark else _ratio(n, mark)
        lines.append(
            [
                _code(n), n.family, f"{n.parameters / 1e6:.2f} M", f"{n.gmacs:.2f}", f"{n.ms:.1f}",
                times, f"{n.mean_iou:.3f} [{n.interval[0]:.3f} to {n.interval[1]:.3f}]",
                f"{n.pixel_accuracy:.3f}", f"{n.epochs} of {n.fitting_epochs}",
            ]
        )  # fmt: skip
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _ratio(network: Network, mark: Network) -> str:
    ratio = network.slower_than(mark)
    low, high = ratio.shown
    return f"{ratio.median:.2f} [{low:.2f} to {high:.2f}]"


def _reading(figures: Figures) -> str:
    latency, bootstrap = figures.document["latency"], figures.document["bootstrap"]
    height, width = latency["size"]
    repeats = len(figures.networks[0].repeats_ms)
    recorded = RECORDED.relative_to(ROOT).as_posix()
    return (
        f"GMACs are multiplications with additions, in 10⁹, of one picture of {height}×{width}. ms "
        "is the median time "
        f"from such a picture in memory to its mask, {latency['library']} in FP32, "
        f"{latency['threads']} threads, {repeats} repeats in which the networks take turns. The "
        "ratio is taken repeat by repeat, with its 95 % interval. The interval of mIoU is what "
        f"`fcn-deploy evaluate` gives: {bootstrap['level']:.0%} of {bootstrap['resamples']} "
        f"resamples of the pictures. File: [`{recorded}`](../{recorded})."
    )


def _mark(figures: Figures) -> Iterator[str]:
    mark, fast = figures.mark, figures.fast_enough()
    yield (
        "The goal is a network of this project's own that is at most as slow as ultralytics' "
        "YOLO26n-sem in ONNX Runtime and has at least its mIoU after the same training."
    )
    if mark is None:
        yield f"`{MARK}` is not measured yet, so nothing can be said."
        return
    if not fast:
        yield (
            f"It is not reached: no network of ours is as fast as its {mark.ms:.1f} ms. What stops "
            "it is the time, not the masks."
        )
        return
    best = fast[0]
    said = f"{_code(best)} takes {best.ms:.1f} ms, `{MARK}` {mark.ms:.1f} ms"
    said += ", a tie; " if best.slower_than(mark).verdict == "tie" else "; "
    said += f"mIoU is {best.mean_iou:.3f} and {mark.mean_iou:.3f}."
    overlap = best.interval[0] <= mark.interval[1] and mark.interval[0] <= best.interval[1]
    if best.mean_iou >= mark.mean_iou:
        yield f"It is reached: {said}"
        if overlap:
            yield (
                "The two intervals of mIoU overlap: of other pictures, and of trainings from "
                "another seed, the order may be another."
            )
        return
    gaps = largest_losses(best, mark, _CLASSES)
    named = ", ".join(f"{name} ({100 * gap:.0f})" for name, gap in gaps)
    yield (
        f"It is not reached: {said} What stops it is accuracy. It is "
        f"behind most, in points of IoU, on {named}."
    )
    if overlap:
        yield "The two intervals of mIoU overlap."


def _method(figures: Figures) -> Iterator[str]:
    budget, latency = figures.document["budget"], figures.document["latency"]
    crop = "×".join(map(str, budget["crop"]))
    machine = figures.document["machine"]
    yield (
        f"**Training.** `fcn-deploy train --weights none --recipe {budget['recipe']} --crop-size "
        f"{crop.replace('×', 'x')} --batch-size {budget['batch']}`, seed 0, float32: "
        f"{budget['half_size']:.0%} of the epochs at half size. YOLO26, `smp` and `lraspp` go "
        "through the same command as `--arch python:…`."
    )
    yield (
        "**The same time.** A script measured the seconds per step of each network at half and at "
        f"full size, in turns, on {budget['threads']} cores ({machine['cpu']}) that did nothing "
        f"else, and found how many epochs fit into {budget['seconds']:g} s by the medians: so many "
        "were trained, or fewer. The trainings themselves ran on one core beside other work and "
        "took longer, which changes "
        "nothing in what they learn. Only the last epoch is validated, so the scored "
        "pictures chose nothing."
    )
    yield (
        "**Scores.** `fcn-deploy evaluate --split val --backend ort`, on the exported file, at the "
        "pictures' own 360×480."
    )
    yield (
        f"**Latency.** One process holds all exported files open ({latency['library']}, CPU). Each "
        "file takes uint8 pictures and gives uint8 masks: normalisation, upsampling and argmax are "
        f"inside. Measured on {latency['created'][:10]}.{_untrained(figures)}{_load(figures)}"
    )
    if len(budget["created"]) > 1:
        yield (
            "Networks that were added later had their steps measured in turns with one of the "
            "first, beside other work, and that one's time scales theirs: how many of their epochs "
            "fit is a rough figure."
        )


def _load(figures: Figures) -> str:
    latency = figures.document["latency"]
    load = max(latency["load"])
    if load <= latency["threads"] + 1:
        return ""
    return (
        f" **The machine did other work meanwhile** (load average up to {load:.1f} on "
        f"{latency['threads']} cores): read the ratios with their intervals, not the milliseconds."
    )


def _untrained(figures: Figures) -> str:
    names = [
        f"`{entry['name']}`" for entry in figures.document["networks"] if entry["timed_untrained"]
    ]
    if not names:
        return ""
    return (
        f" Timed before the training had ended: {', '.join(names)}; an exported file with other "
        "weights does the same work."
    )


_LIMITS = """\
- From scratch, and a short training. With pretrained weights, or with hours, the order may be
  another.
- One data set of 367 training pictures, one seed. CamVid has here a training and a validation list
  only; no test pictures were scored.
- YOLO26n-sem was trained by this project's loop. Ultralytics' own trainer, with its augmentation,
  losses and auxiliary head, may well do better; the same holds for the other libraries' networks.
- Latency is of one machine, ONNX Runtime and FP32. A GPU, INT8 or another runtime may have another
  order.
- A ratio of times between two networks also depends on the size of the pictures."""

_STEPS = """\
```sh
sh benchmarks/networks/camvid.sh CAMVID OUT          # hours; two cores that do nothing else
PYTHONPATH=benchmarks python -m networks.page        # this page, from the recorded file
```

`CAMVID` is CamVid in [VOC layout](data.md). The script installs segmentation_models_pytorch and
ultralytics into an environment of their own below `OUT`; neither is a dependency of this project.
ultralytics is under AGPL-3.0: see what that means for you before you ship one of its networks."""


def _code(network: Network) -> str:
    return f"`{network.name}`"


if __name__ == "__main__":
    main()
