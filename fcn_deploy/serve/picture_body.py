"""A picture as a request carries it → pixels: raw or in a form, decoded as ``predict`` decodes."""

from __future__ import annotations

from collections.abc import Callable
from email.message import Message
from email.parser import HeaderParser

import numpy as np
from numpy.typing import NDArray
from PIL import UnidentifiedImageError

from fcn_deploy.core.errors import FcnDeployError, ImageError, PixelLimitError
from fcn_deploy.data.images import EncodedPicture, read_image
from fcn_deploy.serve.errors import RequestError, TooLargeError, UnsupportedEncodingError

_FORM = "multipart/form-data"
#: A form holds one picture; other fields are passed over, up to so many parts of it.
_MOST_PARTS = 16
_HEAD_BYTES = 8 * 1024
_SEND = "send a JPEG, PNG, WebP or TIFF file as the body, or as the one file of a form"


def decode(
    body: bytes, content_type: str, before: Callable[[tuple[int, int]], None]
) -> NDArray[np.uint8]:
    """Return the picture of a request's body, uint8 [H, W, 3], as ``predict`` reads a file.

    What the body is, its first bytes say: clients declare all kinds of things (curl, for one, a
    form).  ``Content-Type`` is heeded only where it says that the picture is in a form.

    Args:
        body: the whole body.
        content_type: the header, or nothing.
        before: called with (width, height) before pixels are decoded; what it raises is passed on.

    Raises:
        RequestError: the picture is damaged, or there is not one of it (400).
        TooLargeError: it has more pixels than are ever decoded (413).
        UnsupportedEncodingError: it is in no format that is read (415).
    """
    try:
        if content_type.partition(";")[0].strip().lower() == _FORM:
            body = file_of_form(body, content_type)
        if not body:
            raise RequestError("the body is empty", _SEND)
        return read_image(EncodedPicture(body, "the body"), before)
    except PixelLimitError as error:
        raise TooLargeError(error.message, error.repair) from error
    except ImageError as error:
        if isinstance(error.__cause__, UnidentifiedImageError):
            repair = error.repair if "channels" in error.message else _SEND
            raise UnsupportedEncodingError(error.message, repair) from error
        raise RequestError(error.message, error.repair) from error
    except FcnDeployError:
        raise
    except Exception as error:  # of a damaged file or form: parsers raise whatever comes of it
        raise RequestError(f"the body cannot be decoded ({type(error).__name__})", _SEND) from error


def file_of_form(body: bytes, content_type: str) -> bytes:
    """Return the content of the one file of a ``multipart/form-data`` body (RFC 7578).

    Raises:
        RequestError: the form is damaged, or holds no file or several.
    """
    header = Message()
    header["Content-Type"] = content_type
    boundary = header.get_boundary()
    if not boundary:
        raise RequestError("Content-Type names no boundary of the form", _SEND)
    delimiter = b"\r\n--" + boundary.encode("latin-1", "replace")
    _, *parts = (b"\r\n" + body).split(delimiter, _MOST_PARTS + 1)
    if len(parts) > _MOST_PARTS:
        raise RequestError(f"the form has more than {_MOST_PARTS - 1} parts", _SEND)
    if not parts or not parts.pop().startswith(b"--"):
        raise RequestError("the form has no end", "send the whole of it")
    files = [content for head, content in map(_head_and_content, parts) if _is_file(head)]
    if len(files) != 1:
        raise RequestError(f"the form holds {len(files) or 'no'} files", _SEND)
    return files[0]


def _head_and_content(part: bytes) -> tuple[bytes, bytes]:
    end = part.find(b"\r\n\r\n", 0, _HEAD_BYTES)
    if end < 0:
        raise RequestError("a part of the form has no end of its headers", _SEND)
    return part[:end].lstrip(), part[end + 4 :]


def _is_file(head: bytes) -> bool:
    return HeaderParser().parsestr(head.decode("latin-1")).get_filename() is not None
