"""The table that ranks the peers, as Markdown."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import markdown_page
import pytest

from fcn_deploy.results.bench import Bench, BenchRow, LoadGenVerdict
from fcn_deploy.results.conditions import Conditions
from fcn_deploy.results.environment import Environment
from tests.benchmarks.table_inputs import row
from tests.result_files import measured_bench


class TestMarkdown:
    ROWS = (
        row("baseline", 50, 51, 52),
        row("ort", 40, 41, 42),
        row("peer:slow", 49, 52, 53),
        row("baseline", 60, 61, 62, tier="end-to-end"),
    )
    MASKS = {"baseline fp32": 1.0, "ort fp32": 0.99996, "peer:slow fp32": 1.0}  # noqa: RUF012

    def bench(self, rows: Sequence[BenchRow] = ROWS, *warnings: str) -> Bench:
        made = measured_bench(
            *rows,
            environment=Environment(
                "", "2026-11-27T10:00:00+00:00", {"cpu": "A CPU", "cores": 1}, {}
            ),
            conditions=Conditions(threads=2, warnings=warnings),
        )
        return replace(
            made, masks=self.MASKS, references=(row("peer:fcn_resnet50", 500, 501, 502),)
        )

    def text(self, *left_out: str) -> str:
        return markdown_page.markdown(self.bench(), left_out)

    def cells(self, text: str, name: str) -> list[str]:
        """Return the cells of a runner's line in the table of the host tier."""
        host = text.split("**single-stream, host")[1]
        (line,) = [line for line in host.splitlines() if line.startswith(f"| {name}")]
        return [cell.strip() for cell in line.strip("|").split("|")]

    def test_rows_fastest_first_references_last(self) -> None:
        host = self.text().split("**single-stream, host")[1]
        names = [line.split("|")[1].strip() for line in host.splitlines() if line.startswith("| ")]
        assert names[2:] == ["ort fp32", "plain export", "peer:slow fp32", "peer:fcn_resnet50 fp32"]

    def test_a_row(self) -> None:
        assert self.cells(self.text(), "ort") == [
            "ort fp32", "41.0 [40.0–42.0]", "24.4", "1.24 [1.24–1.25]", "99.996%", "timed loop",
            "Library 1.0",
        ]  # fmt: skip

    def test_the_heading_says_machine_day_and_clock(self) -> None:
        assert self.text().splitlines()[0] == (
            "A CPU, 1 core, 2 threads; 2026-11-27; 6 interleaved repeats, single stream by a timed "
            "loop."
        )

    def test_the_file_is_named(self) -> None:
        text = markdown_page.markdown(self.bench(), (), "results/a.json")
        assert text.splitlines()[0].endswith("by a timed loop. File: `results/a.json`.")

    def test_a_tie_is_called_a_tie_and_the_baseline_is_one(self) -> None:
        assert self.cells(self.text(), "peer:slow")[3] == "tie [0.981–1.02]"
        assert self.cells(self.text(), "plain export")[3] == "1"

    def test_neighbours_too_close_to_call_are_named(self) -> None:
        near = row("near", 40.5, 41.2, 41.9)
        host = markdown_page.markdown(self.bench((*self.ROWS, near))).split(
            "**single-stream, host"
        )[1]
        assert "Too close to call: ort fp32 and near fp32." in host
        assert "Too close" not in self.text()

    def test_what_loadgen_refuses_and_what_to_doubt_is_said(self) -> None:
        verdict = LoadGenVerdict(False, problems=("too short",))
        invalid = replace(row("ort", 40, 41, 42), loadgen=verdict)
        text = markdown_page.markdown(
            self.bench((invalid,), "the load was 9", "dropped"), ["dropped"]
        )
        assert self.cells(text, "ort")[5] == "INVALID: too short"
        assert text.endswith("Left out: dropped.\n\nWarning: the load was 9.\n")
        assert "INVALID" not in self.text()

    def test_another_network_is_not_ranked(self) -> None:
        assert self.cells(self.text(), "peer:fcn_resnet50")[3:5] == [
            "not ranked",
            "another network",
        ]

    def test_tiers_apart_and_who_is_missing(self) -> None:
        text = self.text("peer:cuda-graphs: no GPU")
        assert (
            text.count("**single-stream, host, ")
            == text.count("**single-stream, end-to-end, ")
            == 1
        )
        assert text.endswith("Left out: peer:cuda-graphs: no GPU.\n")

    def test_between_the_markers(self) -> None:
        first, last = markdown_page.markers("bench")
        page = f"before\n{first}\nold\n{last}\nafter\n"
        assert markdown_page.with_part(page, "bench", "new\n") == (
            f"before\n{first}\nnew\n{last}\nafter\n"
        )
        assert markdown_page.with_part(page, "bench-short", "new") is None
        assert markdown_page.with_part("no markers", "bench", "new") is None
        assert markdown_page.with_part(f"{last}{first}", "bench", "new") is None

    PYTORCH = (
        row("torch", 80, 81, 82, library="PyTorch 2.15"),
        row("peer:eager", 58, 60, 61, library="PyTorch 2.15, eager"),
    )

    def test_ratios_are_over_the_strongest_pytorch_row(self) -> None:
        text = markdown_page.markdown(self.bench((*self.ROWS, *self.PYTORCH)))
        assert self.cells(text, "ort")[3:5] == ["1.45 [1.45–1.46]", "1.24 [1.24–1.25]"]
        assert self.cells(text, "peer:eager")[3:5] == ["1", "0.852 [0.850–0.862]"]
        assert self.cells(text, "torch")[3] == "0.741 [0.725–0.744]"
        assert "× PyTorch: over peer:eager fp32, the fastest PyTorch row here." in text

    def test_the_short_table_has_ours_beside_the_strongest_pytorch_row(self) -> None:
        quick = row("openvino-bf16", 20, 20.5, 21)
        quick = replace(quick, runner=replace(quick.runner, precision="bf16"))
        near = row("ncnn", 50, 51, 53)
        third = row("openvino", 55, 56, 57)  # of its precision: the page has all
        made = self.bench((*self.ROWS[:3], *self.PYTORCH, quick, near, third))
        headline, table = markdown_page.short_table(made, "results/a.json").split("\n\n")
        assert headline == (
            "A CPU, 1 core, 2026-11-27 (`results/a.json`). "
            "The fastest of each precision: in fp32 `ort`: **1.45** × PyTorch, 1.24 × plain "
            "export; in bf16 `openvino-bf16`: **2.90** × PyTorch, 2.49 × plain export. PyTorch is "
            "the strongest PyTorch row that was measured, `peer:eager` in fp32."
        )
        lines = [[cell.strip() for cell in line.split("|")[1:-1]] for line in table.splitlines()]
        assert lines[0] == [
            "backend", "ms per image [spread]", "× PyTorch", "× plain export",
            "masks as in PyTorch, 8 images",
        ]  # fmt: skip
        names = ["openvino-bf16 bf16", "ort fp32", "plain export", "ncnn fp32", "peer:eager fp32"]
        assert [line[0] for line in lines[2:]] == names  # torch is not PyTorch's strongest
        assert lines[5][3] == "tie [0.981–1.00]"

    def test_without_pytorch_there_is_no_headline(self) -> None:
        short = markdown_page.short_table(self.bench())
        assert short.startswith(
            "A CPU, 1 core, 2026-11-27.\n\n| backend | ms per image [spread] | × plain export |"
        )


def test_a_page_without_markers_stays_as_it_was(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page = tmp_path / "page.md"
    page.write_text("no markers\n", encoding="utf-8")
    markdown_page.update_page(page, {"bench": "new"})
    assert page.read_text(encoding="utf-8") == "no markers\n"
    assert "is as it was" in capsys.readouterr().out
