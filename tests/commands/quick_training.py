"""Words of `fcn-deploy train` for a training of seconds."""

QUICK = ["--epochs", "1", "--batch-size", "4", "--crop-size", "64x96"]
