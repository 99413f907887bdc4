"""Run by tests/training/test_distributed.py under torchrun: `train`, but rank 1 is hit in batch 3.

torchrun --nproc-per-node 2 lost_rank.py SIGKILL|SIGTERM train …
"""

from __future__ import annotations

import itertools
import os
import signal
import sys
from typing import Any

from fcn_deploy.cli import main
from fcn_deploy.training import trainer

_loss = trainer.segmentation_loss
_calls = itertools.count(1)


def hit_in_batch_3(*arguments: Any) -> Any:
    if next(_calls) == 3 and os.environ["RANK"] == "1":
        os.kill(os.getpid(), signal.Signals[sys.argv[1]])
    return _loss(*arguments)


trainer.segmentation_loss = hit_in_batch_3
main(sys.argv[2:])
