"""Fixtures of the tests of commands."""

import pytest


@pytest.fixture
def few_scenes(monkeypatch: pytest.MonkeyPatch) -> None:
    from fcn_deploy.data.scenes import dataset

    monkeypatch.setattr(dataset, "SCENE_COUNTS", {"train": 4, "val": 2})
    monkeypatch.setattr(dataset, "SCENE_SIZE", (96, 128))
    # the default of a dataclass field is bound at definition, so open() is replaced as a whole
    monkeypatch.setattr(
        dataset.SceneDataset,
        "open",
        classmethod(
            lambda cls, split: cls(
                dataset.SCENE_SEEDS[split], {"train": 4, "val": 8}[split], (96, 128)
            )
        ),
    )
