"""The tutorial does what it says: every block runs, and prints what the page promises."""

import importlib.util
import re
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

DOCS = Path(__file__).resolve().parent.parent / "docs"
TUTORIAL = DOCS / "tutorial.md"


def load_make_pictures() -> ModuleType:
    location = importlib.util.spec_from_file_location("make_pictures", DOCS / "make_pictures.py")
    assert location is not None
    assert location.loader is not None
    module = importlib.util.module_from_spec(location)
    sys.modules["make_pictures"] = module  # dataclasses look their module up
    location.loader.exec_module(module)
    return module


make_pictures = load_make_pictures()


def promised_lines(code: str) -> list[str]:
    """What the comments `# prints: …` of a block say that it prints."""
    return re.findall(r"^ *# prints: (.*)$", code, flags=re.MULTILINE)


def agrees(printed: str, promised: str) -> bool:
    """Whether a line is the promised one; `…` stands for any figure."""
    figure = r"[-+.\d]+|nan"
    pattern = f"({figure})".join(re.escape(part) for part in promised.split("…"))
    return re.fullmatch(pattern, printed) is not None


def run_page(page: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Run a page's blocks in one namespace and compare what each prints."""
    namespace: dict[str, Any] = {"__name__": "tutorial"}
    blocks = list(make_pictures.python_blocks(page))
    assert blocks, f"{page} has no block"
    for block in blocks:
        block.run(namespace)
        printed = capsys.readouterr().out.splitlines()
        promised = promised_lines(block.code)
        where = f"{page.name}, the block of line {block.line}: printed {printed}"
        assert len(printed) == len(promised), where
        for line, promise in zip(printed, promised, strict=True):
            assert agrees(line, promise), f"{where}, promised {promise!r}"


@pytest.mark.slow
def test_every_block_runs_and_prints_what_the_page_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    run_page(TUTORIAL, capsys)
    written = {f"{path.stem}.webp" for path in (tmp_path / "img").iterdir()}
    shown = re.findall(r"!\[.*?\]\(img/(.+?)\)", TUTORIAL.read_text(encoding="utf-8"))
    assert written == set(shown)
    kept = {path.name for path in (DOCS / "img").iterdir()}
    pages = [DOCS.parent / "README.md", *DOCS.glob("*.md")]
    linked = "".join(page.read_text(encoding="utf-8") for page in pages)
    assert written <= kept
    assert all(f"img/{name})" in linked for name in kept - written)


def test_the_shapes_are_those_of_the_chapter() -> None:
    text = TUTORIAL.read_text(encoding="utf-8")
    promised = "\n".join(promised_lines(text))
    for shape in ("(1, 512, 10, 15)", "(1, 21, 320, 480)", "(561, 728, 3) to (1122, 1456, 3)"):
        assert shape in promised
    assert "(32, 3, 320, 480) (32, 320, 480)" in promised


def test_the_whole_page_is_run() -> None:
    # A fence in another spelling would be shown and never run.
    text = TUTORIAL.read_text(encoding="utf-8")
    fences = re.findall(r"^ *(?:```|~~~)(.*)$", text, flags=re.MULTILINE)[::2]
    assert set(fences) == {"python", "sh", "text"}
    assert fences.count("python") == len(list(make_pictures.python_blocks(TUTORIAL)))


def test_the_knobs_of_the_pictures_exist() -> None:
    blocks = "".join(block.code for block in make_pictures.python_blocks(TUTORIAL))
    for name in ("recipe_name", "scenes", "epochs"):
        changed = make_pictures.set_knob(blocks, name, 77)
        assert changed.count(f"\n{name} = 77\n") == 1


@pytest.mark.parametrize(
    ("code", "error"),
    [
        ("print(1 + 1)\n# prints: 3", AssertionError),
        ("print(1)\nprint(2)\n# prints: 1", AssertionError),
        ("x = 1\n# prints: 1", AssertionError),
        ("print('loss', 'high')\n# prints: loss …", AssertionError),
        ("undefined_name", NameError),
    ],
)
def test_a_broken_block_is_noticed(
    code: str, error: type[Exception], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page = tmp_path / "page.md"
    page.write_text(f"Words.\n\n```python\n{code}\n```\n", encoding="utf-8")
    with pytest.raises(error):
        run_page(page, capsys)
