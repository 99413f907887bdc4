"""`fcn-deploy serve`: what it refuses to start with, and what `--check` says."""

import socket
import sys
from pathlib import Path

import pytest

from tests.command_line import FcnDeploy, refused


def test_an_address_for_others_needs_a_token_or_consent(fcn_deploy: FcnDeploy) -> None:
    for host in ("0.0.0.0", "::", "192.0.2.1", "serve.example"):
        refused(fcn_deploy("serve", "--host", host), "--token-file", "--insecure")
    for host in ("127.0.0.1", "localhost"):
        refused(fcn_deploy("serve", "elsewhere", "--host", host), "no run elsewhere")


@pytest.mark.parametrize("content", ["", "two words", "umlaut-\u00fc", "\n\n"])
def test_a_token_file_holds_one_token(fcn_deploy: FcnDeploy, tmp_path: Path, content: str) -> None:
    (tmp_path / "token").write_text(content, encoding="utf-8")
    refused(fcn_deploy("serve", "--token-file", "token"), "openssl rand")


def test_what_is_not_there_is_named(fcn_deploy: FcnDeploy) -> None:
    refused(fcn_deploy("serve", "--token-file", "no-such-file"), "no-such-file")
    network = fcn_deploy("serve", "--port", "0", "--fp16")
    refused(network, "model.fp16.onnx; run `fcn-deploy")


@pytest.mark.parametrize("option", ["--port", "--grpc-port"])
def test_a_port_that_is_taken_is_named(fcn_deploy: FcnDeploy, option: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        refused(fcn_deploy("serve", "--port", "0", option, str(port)), f"port {port}")


@pytest.mark.parametrize(
    ("package", "extra", "words"),
    [("uvicorn", "serve", []), ("grpc", "grpc", ["--grpc-port", "0"])],
)
def test_a_missing_extra_is_named(
    fcn_deploy: FcnDeploy,
    monkeypatch: pytest.MonkeyPatch,
    package: str,
    extra: str,
    words: list[str],
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    refused(fcn_deploy("serve", *words), f"pip install 'fcn-deploy[{extra}]'")


def test_check_computes_once_and_says_what_would_be_served(
    fcn_deploy: FcnDeploy, tiny_folder: Path, tmp_path: Path
) -> None:
    token = tmp_path / "token"
    token.write_text("secret\n", encoding="utf-8")
    ports = ("--port", "0", "--grpc-port", "0")
    words = ("--check", *ports, "--token-file", token, "--max-batch", "2", "--threads", "1")
    checked = fcn_deploy("serve", tiny_folder, *words).succeeded()
    name = tiny_folder.name
    assert f"would serve {name} on http://127.0.0.1:" in checked.out
    assert "over gRPC" in checked.out
    assert "to those who bear the token" in checked.out
    assert "warmed up 2×48×64" in checked.out
    assert "computed by ort on cpu in fp32" in checked.out
    assert "5 classes: background, disc, ring, box, star" in checked.out
    assert "secret" not in checked.out + checked.err
