"""Which of some backends work here, as options of ``fcn-deploy bench``.

    python backends.py FILE NAME…

Writes ``--backend NAME`` for each that works to FILE and says why the others do not.  ``bench``
itself refuses a list of which one is missing, before it has measured anything.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from fcn_deploy.core.files import write_bytes
from fcn_deploy.runners.base import unavailable_reason


def main(arguments: Sequence[str]) -> None:
    target, *names = arguments
    words = []
    for name in names:
        reason = unavailable_reason(name)
        if reason is None:
            words += ["--backend", name]
        else:
            print(f"{name} is left out: {reason}")
    if not words:
        sys.exit(f"of {', '.join(names)} none works here")
    write_bytes(Path(target), f"{' '.join(words)}\n".encode())


if __name__ == "__main__":
    main(sys.argv[1:])
