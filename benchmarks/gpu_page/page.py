"""``docs/gpu-checks.md`` out of the checks and the results: measured, or not measured."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from gpu_page.checks import SECTIONS, Check, Section
from gpu_page.findings import Finding, newest
from gpu_page.results import GpuResults

NOT_MEASURED = "not measured"
_NO_FIGURE = "–"
_INTRODUCTION = """\
<!-- `make gpu-checks` writes this page from benchmarks/results/.  Do not edit it. -->

# What only a GPU can show

The GPU side is built and tested without one: TensorRT for RTX builds engines on any machine, and
the rest is tested with stand-ins that offer the names of each TensorRT release and a CUDA device
that works asynchronously. What such a test cannot show is listed here, each check with its steps
and its results.

A check is measured when a file in [`benchmarks/results/`](../benchmarks/results/README.md) has its
result; whatever was seen and not kept counts as **not measured**. Of each GPU the newest result of
each case, e.g. of a shape, is shown. Times in different lines are of different runs and do not
compare; ratios in one line do. *Decided pixels*, *gate* and *flips*: [`gate.md`](gate.md). *Single
stream*, *offline* and the tiers: [`measuring.md`](measuring.md).

On a machine of your own, this takes every step, and leaves the results in OUT:

```sh
benchmarks/gpu/run.sh OUT --run runs/camvid --data camvid
```

`--torch-python`, `--trt-python` and `--rtx-python` name other Python interpreters if the libraries
are not installed in one; `--opset 17` is for TensorRT 8.6. The Python with TensorRT also needs
numpy, pillow, click, rich, onnx, cuda-bindings, pytest and onnxruntime-gpu (a plain onnxruntime
suffices to compare masks, without it that test is skipped). All scripts:
[`benchmarks/gpu/`](../benchmarks/gpu/README.md). How results get onto this page:
[`benchmarks.md`](benchmarks.md#measured-on-a-gpu).
"""


def page(results: GpuResults, folder: Path) -> str:
    """Return the page.

    Args:
        results: of GPUs.
        folder: that the page lies in, for its links.
    """
    answers = {check: _answers(check, results) for s in SECTIONS for check in s.checks}
    measured = sum(bool(found) for found in answers.values())
    with_files = sum(check.find is not None for check in answers)
    parts = [
        _INTRODUCTION.rstrip("\n"),
        f"Measured: {measured} of {with_files} checks; {len(answers) - with_files} more leave no "
        "result file.",
        *(part for section in SECTIONS for part in _section(section, answers, folder)),
    ]
    if results.passed_over:
        lines = (f"- {link(file, folder)}: {cell(why)}" for file, why in results.passed_over)
        parts += ["## Files that were passed over", "\n".join(lines)]
    return "\n\n".join(parts) + "\n"


def _answers(check: Check, results: GpuResults) -> list[Finding]:
    return [] if check.find is None else newest(check.find(results))


def _section(section: Section, answers: dict[Check, list[Finding]], folder: Path) -> Iterator[str]:
    yield f"## {section.title}"
    lines = [
        ("what", "step", "result", "GPU", "date", "versions"),
        ("---",) * 6,
        *(line for check in section.checks for line in _lines(check, answers[check], folder)),
    ]
    yield "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def _lines(check: Check, found: Sequence[Finding], folder: Path) -> Iterator[tuple[str, ...]]:
    steps = ", ".join(f"`{step}`" for step in check.steps) or f"– by hand: {check.by_hand}"
    if not found:
        yield (cell(check.what), cell(steps), NOT_MEASURED, *(_NO_FIGURE,) * 3)
    for one in found:
        # A GPU without a name in its file is told by the folder of that file.
        gpu = one.gpu or f"not named (`{one.file.parent.name}`)"
        result = f"{one.result} ({link(one.file, folder)})"
        cells = (check.what, steps, result, gpu, one.created[:10], one.versions)
        yield tuple(map(cell, cells))


def link(file: Path, folder: Path) -> str:
    """Return a link to a file, by its name, for a page in a folder."""
    path = Path(os.path.relpath(file, folder)).as_posix()
    return f"[`{file.name}`]({path})"


def cell(text: str) -> str:
    """Return a text that a result file told, on one line and without a meaning in Markdown."""
    return " ".join(text.replace("|", "\\|").replace("<", "&lt;").split())
