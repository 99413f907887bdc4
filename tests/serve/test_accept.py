"""The form of an answer is the one that the client likes best."""

from __future__ import annotations

import pytest

from fcn_deploy.serve.accept import preferred

OFFERED = ("image/png", "application/json")


@pytest.mark.parametrize(
    ("accept", "expected"),
    [
        ("", "image/png"),
        ("*/*", "image/png"),
        ("image/*", "image/png"),
        ("application/*", "application/json"),
        ("Application/JSON", "application/json"),
        ("application/json, image/png", "image/png"),  # liked equally: the first that is offered
        ("image/png;q=0.5, application/json", "application/json"),
        ("image/png;q=0.5, */*;q=0.4", "image/png"),
        # The most specific range decides, wherever it stands and however little it likes.
        ("*/*, image/png;q=0.1", "application/json"),
        ("image/*;q=0.9, image/png;q=0, application/json;q=0.1", "application/json"),
        ("image/png;q=0", None),
        ("text/html", None),
        ("text/html, */*;q=0", None),
        # As browsers ask for a page.
        ("text/html,application/xml;q=0.9,image/avif,image/webp,*/*;q=0.8", "image/png"),
        # Other parameters are passed over, and so is what is no range.
        ("application/json ; charset=utf-8 ; q=0.7, image/png ; q=0.2", "application/json"),
        ("image/png;q=high, application/json;q=0.1", "application/json"),
        ("image/png;q=1.5, application/json;q=0.001", "application/json"),
        (",;q=1,png", "image/png"),
    ],
)
def test_the_client_s_first_choice(accept: str, expected: str | None) -> None:
    assert preferred(accept, OFFERED) == expected
