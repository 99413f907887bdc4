"""What is printed fits the terminal that it is printed on."""

from io import StringIO

import pytest
from rich.console import Console
from rich.table import Table

from fcn_deploy.commands.shared import console


@pytest.mark.parametrize(
    ("width", "expected"),
    [
        (20, "classes\nclass disc: images 3, median frequency 1.25\nclass ring: images 4, "),
        (30, "\n┃ class ┃ images ┃ frequency ┃\n"),
        (80, "\n┃ class ┃ images ┃ median frequency ┃\n"),
    ],
    ids=["row by row", "heads are wrapped", "as it is"],
)
def test_no_word_of_a_table_is_cut_off(
    monkeypatch: pytest.MonkeyPatch, width: int, expected: str
) -> None:
    stream = StringIO()
    monkeypatch.setattr(console, "console", Console(file=stream, width=width, soft_wrap=True))
    table = Table(title="classes", title_justify="left")
    for head in ("class", "images", "median frequency"):
        table.add_column(head)
    table.add_row("disc", "3", "1.25")
    table.add_row("ring", "4", "")
    console.print_table(table)
    assert expected in stream.getvalue()
    assert "…" not in stream.getvalue()
