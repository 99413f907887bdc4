"""Words of `fcn-deploy train` for a training of seconds."""

from __future__ import annotations

QUICK = ["--epochs", "1", "--batch-size", "4", "--crop-size", "64x96"]
