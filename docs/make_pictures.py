"""Run the blocks of tutorial.md and put the pictures that they write into img/.

The tutorial trains for seconds.  Here its training block gets the settings below, which take
minutes on a CPU, so that the prediction has something to show; its caption names them.
"""

from __future__ import annotations

import argparse
import os
import re
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fcn_deploy.data.images import opened

TUTORIAL = Path(__file__).resolve().parent / "tutorial.md"
#: WebP's quality of the pictures that are kept, and the most pixels in width and height.  The
#: camera's grain would take most of the bytes; edges of masks stay clean to the eye.
QUALITY = 30
MOST_PIXELS = (1100, 482)
_BLOCK = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True)
class Block:
    """One ```python block of a page.

    Attributes:
        page: the page's path, for tracebacks.
        line: of the page, from 1, where the code starts.
        code: what stands between the fences.
    """

    page: Path
    line: int
    code: str

    def run(self, namespace: dict[str, Any]) -> None:
        """Execute the code; a traceback shows the page's own line numbers."""
        exec(compile("\n" * (self.line - 1) + self.code, self.page, "exec"), namespace)


def python_blocks(page: Path) -> Iterator[Block]:
    """Yield the ```python blocks of a Markdown page, in order."""
    text = page.read_text(encoding="utf-8")
    for match in _BLOCK.finditer(text):
        yield Block(page, text.count("\n", 0, match.start(1)) + 1, match.group(1))


def set_knob(code: str, name: str, value: str | int) -> str:
    """Give the top-level assignment ``name = …`` another value, where the code has one."""
    return re.sub(rf"^{name} = .*$", f"{name} = {value!r}", code, flags=re.MULTILINE)


def main() -> None:
    """Run the tutorial in a temporary folder and copy its pictures."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--recipe", choices=["tutorial", "scratch"], default="scratch")
    parser.add_argument("--scenes", type=int, default=160)
    parser.add_argument("--epochs", type=int, default=12)
    options = parser.parse_args()
    knobs = {
        "recipe_name": options.recipe,
        "scenes": options.scenes,
        "epochs": options.epochs,
    }

    namespace: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        for block in python_blocks(TUTORIAL):
            code = block.code
            for name, value in knobs.items():
                code = set_knob(code, name, value)
            Block(block.page, block.line, code).run(namespace)
        target = TUTORIAL.parent / "img"
        target.mkdir(exist_ok=True)
        for picture in sorted(Path("img").iterdir()):
            kept = target / f"{picture.stem}.webp"
            with opened(picture) as image:
                image.thumbnail(MOST_PIXELS)
                image.save(kept, quality=QUALITY, method=6)
            print(f"wrote {kept}, {kept.stat().st_size / 1000:.0f} kB")
        os.chdir(TUTORIAL.parent)  # a folder in use cannot be removed everywhere


if __name__ == "__main__":
    main()
