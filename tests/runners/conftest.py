from pathlib import Path

import pytest

from fcn_deploy.core.run import Run


@pytest.fixture(scope="session")
def tiny_run(tiny_folder: Path) -> Run:
    """The shared run directory as what ``open_runner`` takes."""
    return Run(tiny_folder)
