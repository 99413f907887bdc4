"""A picture in a form is found, and what is no form with one picture is refused."""

from __future__ import annotations

import httpx
import pytest

from fcn_deploy.serve.errors import RequestError
from fcn_deploy.serve.picture_body import file_of_form

#: Bytes that a parser of lines, or of text, would change.
CONTENT = b"\r\n--\xff\xd8\n\r\r\n\r\n--bound\x00\xfe\r\n"
TYPE = "multipart/form-data; boundary=bound"


def form(*parts: bytes, end: bytes = b"--bound--\r\n") -> bytes:
    return b"".join(b"--bound\r\n" + part + b"\r\n" for part in parts) + end


def file(content: bytes, name: bytes = b"a.jpg") -> bytes:
    head = b'Content-Disposition: form-data; name="image"; filename="' + name + b'"\r\n'
    return head + b"Content-Type: image/jpeg\r\n\r\n" + content


FIELD = b'Content-Disposition: form-data; name="note"\r\n\r\nhello'


def test_the_file_of_a_form_comes_out_byte_for_byte() -> None:
    request = httpx.Request(
        "POST", "http://here/", files={"image": ("a.jpg", CONTENT)}, data={"note": "hello"}
    )
    assert file_of_form(request.read(), request.headers["content-type"]) == CONTENT


@pytest.mark.parametrize(
    "body",
    [
        form(file(b"pixels")),
        form(FIELD, file(b"pixels"), FIELD),
        b"a preamble\r\n" + form(file(b"pixels")) + b"an epilogue",
        form(file(b"pixels", name=b"\xc3\xa4.jpg")),
    ],
    ids=["alone", "between fields", "preamble and epilogue", "a name beyond ASCII"],
)
def test_the_file_is_found(body: bytes) -> None:
    assert file_of_form(body, TYPE) == b"pixels"
    assert file_of_form(body, 'multipart/form-data; charset=x; boundary="bound"') == b"pixels"


@pytest.mark.parametrize(
    ("body", "content_type", "message"),
    [
        (form(file(b"")), "multipart/form-data", "names no boundary"),
        (form(FIELD), TYPE, "holds no files"),
        (form(file(b"1"), file(b"2")), TYPE, "holds 2 files"),
        (form(file(b"pixels"), end=b""), TYPE, "no end"),
        (b"", TYPE, "no end"),
        (form(file(b"pixels"))[:-8], TYPE, "no end"),
        (form(b"no headers"), TYPE, "no end of its headers"),
        (form(*[FIELD] * 16), TYPE, "more than 15 parts"),
        (b"--bound" * 100_000, TYPE, "holds no files"),
        (b"\r\n--bound" * 100_000, TYPE, "more than 15 parts"),
    ],
    ids=[
        "no boundary", "no file", "two files", "no last line", "empty", "cut off", "no headers",
        "many parts", "no lines", "a flood of parts",
    ],
)  # fmt: skip
def test_what_is_no_form_with_one_picture(body: bytes, content_type: str, message: str) -> None:
    with pytest.raises(RequestError, match=message) as caught:
        file_of_form(body, content_type)
    assert caught.value.status == 400
    assert caught.value.repair
