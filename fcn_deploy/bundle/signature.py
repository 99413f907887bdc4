"""Signatures by OpenSSF model signing: `model.sig` beside the files that it signs.

The format is OMS 1.0: a Sigstore bundle with one SHA-256 for each file, signed with an ECDSA key.
`model_signing verify key DIR` checks the unpacked bundle without this package.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from fcn_deploy.bundle.manifest import SIGNATURE
from fcn_deploy.core.errors import InputError, MissingExtraError

#: The curve that the documentation names; the library takes P-384 and P-521 as well.
_KEY_REPAIR = (
    "make a pair of keys with `openssl ecparam -name prime256v1 -genkey -noout -out key.pem` and "
    "`openssl ec -in key.pem -pubout -out key.pub`"
)


def sign(folder: Path, key: Path) -> None:
    """Sign all files in a folder; the signature lies beside them.

    Args:
        folder: of the files.
        key: private, ECDSA, PEM, without a password.

    Raises:
        MissingExtraError: the packages that sign are not installed.
        InputError: the key cannot be read, or is of another kind.
    """
    library = _library("signing a bundle")
    try:
        config = library.signing.Config().use_elliptic_key_signer(private_key=key)
    except Exception as error:  # the library and the one below it raise what they like
        raise _key_error(key, "private", error) from error
    config.set_hashing_config(_hashing(library)).sign(folder, folder / SIGNATURE)


def signature_problem(folder: Path, key: Path) -> str | None:
    """Return why the signature in a folder does not hold, or None where it does.

    Args:
        folder: with the files and the signature, and nothing else.
        key: public, ECDSA, PEM.

    Raises:
        MissingExtraError: the packages that verify are not installed.
        InputError: the key cannot be read, or is of another kind.
    """
    if not (folder / SIGNATURE).is_file():
        return "the bundle is not signed"
    library = _library("checking a signature")
    try:
        config = library.verifying.Config().use_elliptic_key_verifier(public_key=key)
    except Exception as error:  # likewise
        raise _key_error(key, "public", error) from error
    try:
        config.set_hashing_config(_hashing(library)).verify(folder, folder / SIGNATURE)
    except Exception as error:  # whatever it is: the signature has not been found good
        words = " ".join(str(error).split()) or type(error).__name__
        return f"it does not hold with {key}: {words}"
    return None


def require_signing(key: Path) -> None:
    """Refuse a key that cannot sign, before the work whose result it is to sign.

    Raises:
        MissingExtraError: the packages that sign are not installed.
        InputError: the key cannot be read, or is of another kind.
    """
    library = _library("signing a bundle")
    try:
        library.signing.Config().use_elliptic_key_signer(private_key=key)
    except Exception as error:  # likewise
        raise _key_error(key, "private", error) from error


def names_key(signature: bytes, key: Path) -> bool:
    """Say whether a signature names the public half of a private key; it is not checked.

    Args:
        signature: content of the file.
        key: private, ECDSA, PEM, without a password.

    Raises:
        MissingExtraError: the packages that sign are not installed.
        InputError: the key cannot be read, or is of another kind.
    """
    require_signing(key)
    from cryptography.hazmat.primitives import serialization

    private = serialization.load_pem_private_key(key.read_bytes(), None)
    public = private.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    try:
        hint = json.loads(signature)["verificationMaterial"]["publicKey"]["hint"]
    except (ValueError, TypeError, KeyError):
        return False
    return bool(hint == hashlib.sha256(public).hexdigest())


def _library(what: str) -> Any:
    try:
        import model_signing.hashing
        import model_signing.signing
        import model_signing.verifying
    except ImportError as error:
        raise MissingExtraError(what, "sign", error) from error
    return model_signing


def _hashing(library: Any) -> Any:
    # Of git's files none is passed over: a bundle holds none, and what it holds is to be signed.
    return library.hashing.Config().set_ignored_paths(paths=[SIGNATURE], ignore_git_paths=False)


def _key_error(key: Path, kind: str, error: Exception) -> InputError:
    words = error.strerror if isinstance(error, OSError) else str(error)
    return InputError(f"{key} is no {kind} ECDSA key ({words or error!r})", _KEY_REPAIR)
