"""The page's files: their types and headers, and nothing in them that its policy would stop."""

from __future__ import annotations

import re
from collections.abc import Iterator
from html.parser import HTMLParser
from importlib.resources import files

import httpx
import pytest

from fcn_deploy.serve.page import OPEN_PATHS
from tests.fakes import FAKE_SPEC
from tests.serve.live import asked


@pytest.fixture(scope="module")
def client() -> Iterator[httpx.Client]:
    with asked(token=b"secret") as client:
        yield client


@pytest.mark.parametrize("path", sorted(OPEN_PATHS))
def test_files_come_with_their_type_and_policy_and_without_a_token(
    client: httpx.Client, path: str
) -> None:
    answer = client.get(path)
    assert answer.status_code == 200
    suffix = path.rpartition(".")[2] if "." in path else "html"
    expected = {"html": "text/html; charset=utf-8", "js": "text/javascript; charset=utf-8"}
    expected |= {"css": "text/css; charset=utf-8", "svg": "image/svg+xml"}
    assert answer.headers["content-type"] == expected[suffix]
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["cache-control"] == "no-cache"
    policy = dict(
        part.split(maxsplit=1) for part in answer.headers["content-security-policy"].split("; ")
    )
    assert policy["default-src"] == policy["frame-ancestors"] == policy["base-uri"] == "'none'"
    assert "unsafe" not in answer.headers["content-security-policy"]
    assert policy["script-src"] == policy["style-src"] == policy["connect-src"] == "'self'"


def test_what_is_known_already_is_not_sent_again(client: httpx.Client) -> None:
    first = client.get("/")
    tag = first.headers["etag"]
    for known in (tag, f'"other", W/{tag}'):
        again = client.get("/", headers={"If-None-Match": known})
        assert (again.status_code, again.content) == (304, b"")
        assert again.headers["etag"] == tag
    assert client.get("/", headers={"If-None-Match": '"other"'}).content == first.content
    assert client.head("/").headers["etag"] == tag
    assert client.get("/static/page.js").headers["etag"] != tag


def test_every_file_is_served_and_every_reference_is_a_file(client: httpx.Client) -> None:
    names = {entry.name for entry in (files("fcn_deploy.serve") / "static").iterdir()}
    assert {f"/static/{name}" for name in names - {"index.html"}} == OPEN_PATHS - {"/"}
    page = client.get("/").text
    for reference in re.findall(r'(?:src|href)="([^"]+)"', page):
        assert f"/{reference}" in OPEN_PATHS  # relative: behind a proxy the page may lie deeper
    assert client.get("/static/../page.py").status_code in (401, 404)


class Found(HTMLParser):
    """Collects tags and attributes."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, dict[str, str | None]]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes.append((tag, dict(attrs)))


def test_nothing_inline_and_every_field_has_a_label(client: httpx.Client) -> None:
    found = Found()
    found.feed(client.get("/").text)
    assert "style" not in found.tags
    labels = {attributes.get("for") for tag, attributes in found.attributes if tag == "label"}
    for tag, attributes in found.attributes:
        assert "style" not in attributes
        assert not any(name.startswith("on") for name in attributes)
        assert tag != "script" or attributes["src"]
        if tag == "input" and "id" in attributes:
            assert attributes["id"] in labels or attributes["aria-label"]
    ids = [attributes["id"] for _, attributes in found.attributes if "id" in attributes]
    assert len(ids) == len(set(ids))


def test_the_classes_bear_a_token(client: httpx.Client) -> None:
    assert client.get("/classes").status_code == 401
    said = client.get("/classes", headers={"Authorization": "Bearer secret"}).json()
    assert [entry["name"] for entry in said["classes"]] == list(FAKE_SPEC.class_names)
    assert said["classes"][2] == {"index": 2, "name": "green", "colour": "#008000"}
    assert said["digest"] == "sha256:fake"
    assert said["max_body_bytes"] > said["max_pixels"] > 0
