"""Result files → one HTML file that a person reads: no network; a script for the viewer alone.

    Results ──┬─ summary: a sentence per backend ────────┐
              ├─ repeat_commands: how to make them anew ─┤
              ├─ charts: laid out by chart_layout ───────┼─ templates ──▶ report.html
              ├─ tables: flips, layers, machines ────────┤
              ├─ pictures as data URIs ──────────────────┤
  Predictions └─ prediction_sheet ───────────────────────┘

The page shows what the files say, with one exception: how rows of a bench file compare with one
another, and with PyTorch's fastest, follows from their repeats.  Rows are set side by side only
within one file (one interleaved run on one machine) and one group (scenario, tier, batch, size,
inputs).
"""

from __future__ import annotations

import base64
import hashlib
import io
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from fcn_deploy.core.errors import ArtifactError, ImageError, InputError
from fcn_deploy.core.files import write_bytes
from fcn_deploy.core.run import Run
from fcn_deploy.data.images import read_image
from fcn_deploy.report import charts, repeat_commands, summary, tables
from fcn_deploy.report.chart_layout import Chart
from fcn_deploy.report.films import film_charts
from fcn_deploy.report.prediction_sheet import prediction_cards
from fcn_deploy.results import bench_table, format
from fcn_deploy.results.bench import ALL_STAGES
from fcn_deploy.results.evaluation import FEW_PICTURES
from fcn_deploy.results.parity import VIEWS
from fcn_deploy.results.predictions import Predictions, read_predictions
from fcn_deploy.results.read import read_files, read_results
from fcn_deploy.results.results import Results

if TYPE_CHECKING:
    from jinja2 import Environment as Templates
    from markupsafe import Markup

#: Where result files of anywhere meet, unless another place is named.
MERGED_REPORT = Path("report.html")
#: Pictures are shrunk to this before they are stored in it: wider is not seen on the page.
MAX_PICTURE_WIDTH = 1400
_TEMPLATES = Path(__file__).parent / "templates"


# -- the page -----------------------------------------------------------------------------------


def write_report(run: Run, target: Path | None = None, predictions: Path | None = None) -> Path:
    """Gather what there is of a run into one self-contained HTML file.

    Args:
        run: the run directory.
        target: the file to write; by default the run's ``report.html``.
        predictions: the folder of `predict`; by default the run's own.

    Returns:
        The file that was written.

    Raises:
        InputError: ``predictions`` holds no journal.
        MissingStageError: the run holds no results at all.
        ArtifactError: a result is damaged or foreign, or the file cannot be written.
    """
    target = target or run.report
    folder = predictions or run.predictions
    found = read_predictions(folder)
    if found is None and predictions is not None:
        raise InputError(f"no predictions.jsonl in {predictions}", "name a folder of `predict`")
    results = read_results(run, or_nothing=found is not None)
    _write(results, target, found, film_charts(folder))
    return target


def write_merged_report(files: Sequence[Path], target: Path | None = None) -> Path:
    """Gather result files, of whatever machines and runs, into one self-contained HTML file.

    Args:
        files: JSON files that ``train``, ``parity``, ``bench`` or ``bisect`` have written, or
            ``benchmarks/gpu/device_tier.py``.
        target: the file to write; by default ``report.html`` in the current folder.

    Returns:
        The file that was written.

    Raises:
        InputError: there are no files, or the target is one of them.
        ArtifactError: a result is damaged, foreign or none, or the file cannot be written.
    """
    target = target or MERGED_REPORT
    if target.resolve() in {file.resolve() for file in files}:
        raise InputError(f"{target} is one of the results", "write the page elsewhere with --out")
    _write(read_files(files), target)
    return target


def _write(
    results: Results,
    target: Path,
    predictions: Predictions | None = None,
    films: Sequence[Chart] = (),
) -> None:
    # JSON may hold half a surrogate pair, which UTF-8 cannot.
    write_bytes(target, render(results, predictions, films).encode("utf-8", errors="replace"))


def render(
    results: Results, predictions: Predictions | None = None, films: Sequence[Chart] = ()
) -> str:
    """Return the HTML page.

    Raises:
        ArtifactError: the preview is damaged.
    """
    from markupsafe import Markup

    filters: dict[str, Callable[..., Any]] = {
        "number": format.number,
        "percent": format.percent,
        "points": format.points,
        "score": format.score,
        "runner": format.runner_name,
        "estimate": format.estimate_words,
        "change": format.points_words,
        "role": format.role_words,
        "prose": prose,
        "margin_words": tables.margin_words,
        "distance_words": tables.distance_words,
    }
    environment = templates(filters)
    environment.globals |= {
        "plots": charts,
        "tables": tables,
        "bench_table": bench_table,
        "stages": ALL_STAGES,
        "views": VIEWS,
        "few_pictures": FEW_PICTURES,
    }
    script = _template("viewer.js")
    return environment.get_template("report.html.j2").render(
        results=results,
        films=films,
        summary=summary.summary_lines(results),
        styles=charts.runner_styles(results),
        machines=tables.machines(results.environments),
        digests=tables.digests(results),
        predictions=predictions,
        cards=[] if predictions is None else prediction_cards(predictions),
        commands=repeat_commands.repeat_commands(results),
        preview=_preview(results),
        css=stylesheet(),
        # Our own file, not from any result: it may stand as it is.
        script=Markup(script),
        script_digest=_csp_digest(script),
    )


def templates(filters: Mapping[str, Callable[..., Any]]) -> Templates:
    """Return the templates of pages, in which everything is escaped and nothing may be missing."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(_TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= filters
    return environment


def stylesheet() -> Markup:
    """Return the style of all pages: our own file, which may stand as it is."""
    from markupsafe import Markup

    return Markup(_template("report.css"))


def _template(name: str) -> str:
    return (_TEMPLATES / name).read_text(encoding="utf-8").strip()


def _csp_digest(script: str) -> str:
    """Return how a Content-Security-Policy names the one script that may run."""
    digest = hashlib.sha256(script.encode()).digest()
    return f"sha256-{base64.b64encode(digest).decode('ascii')}"


def prose(text: str) -> Markup:
    """Escape a sentence and set what stands between backticks as code."""
    from markupsafe import Markup, escape

    return Markup("").join(
        _code(piece) if index % 2 else escape(piece) for index, piece in enumerate(text.split("`"))
    )


def _code(command: str) -> Markup:
    """Set a command so that lines break between its words only, not after their hyphens."""
    from markupsafe import Markup

    spans = (Markup("<span>{}</span>").format(word) for word in command.split(" "))
    return Markup("<code>{}</code>").format(Markup(" ").join(spans))


# -- the preview --------------------------------------------------------------------------------


def _preview(results: Results) -> str | None:
    if results.preview is None:
        return None
    return data_uri(results.preview, f"train again, or delete {results.preview}")


def data_uri(path: Path, repair: str) -> str:
    """Return a picture as a ``data:`` URI: colour-exact PNG for masks, else JPEG.

    Pictures wider than ``MAX_PICTURE_WIDTH`` are shrunk.

    Raises:
        ArtifactError: the file is no readable picture.
    """
    try:
        image = Image.fromarray(read_image(path))
    except ImageError as error:
        raise ArtifactError(error.message, repair) from error
    # getcolors gives None beyond its limit: then it is a photograph.
    flat = image.getcolors(256) is not None
    if image.width > MAX_PICTURE_WIDTH:
        height = max(1, round(image.height * MAX_PICTURE_WIDTH / image.width))
        kernel = Image.Resampling.NEAREST if flat else Image.Resampling.LANCZOS
        image = image.resize((MAX_PICTURE_WIDTH, height), kernel)
    content = io.BytesIO()
    if flat:
        red, green, blue = np.moveaxis(np.asarray(image, dtype=np.int32), 2, 0)
        codes, indices = np.unique(red << 16 | green << 8 | blue, return_inverse=True)
        small = Image.fromarray(indices.reshape(red.shape).astype(np.uint8))
        small.putpalette([code >> shift & 255 for code in codes.tolist() for shift in (16, 8, 0)])
        small.save(content, format="PNG", optimize=True)
        kind = "png"
    else:
        image.save(content, format="JPEG", quality=88, subsampling=0)  # the grid holds masks too
        kind = "jpeg"
    return f"data:image/{kind};base64,{base64.b64encode(content.getvalue()).decode('ascii')}"
