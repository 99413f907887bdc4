"""What TensorRT for RTX says to its own engine on this card, in its own words.

    python rtx_engine.py PLAN JSON

Our own check refuses a card of another compute capability first; here TensorRT is asked directly.
In JSON, kind "rtx-load", schema 1:

    gpu {name, compute_capability, driver, memory_mib}, library, plan (its name)
    our_check (accepted, or why not), deserialised, last_error, engine_validity (if it can be asked)
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fcn_deploy.core.errors import FcnDeployError
from fcn_deploy.core.files import write_json
from fcn_deploy.core.spec import Product
from fcn_deploy.machine import cuda
from fcn_deploy.results.environment import result_header
from fcn_deploy.tensorrt import api, callbacks
from fcn_deploy.tensorrt.engine_file import read_engine
from fcn_deploy.tensorrt.engine_match import check_belongs

RTX_LOAD_SCHEMA = 1


def main(arguments: Sequence[str] | None = None) -> None:
    plan, target = map(Path, sys.argv[1:] if arguments is None else arguments)
    card = cuda.describe_gpu()
    tensorrt = api.load(Product.RTX)
    content: dict[str, Any] = {
        **result_header("rtx-load", RTX_LOAD_SCHEMA),
        "gpu": vars(card),
        "library": tensorrt.label,
        "plan": plan.name,
    }
    try:
        check_belongs(
            plan,
            read_engine(plan),
            product=Product.RTX,
            version=tensorrt.version,
            compute_capability=card.compute_capability,
        )
        content["our_check"] = "accepted"
    except FcnDeployError as error:
        content["our_check"] = str(error)
    runtime = tensorrt.create_runtime()
    if hasattr(runtime, "get_engine_validity"):
        content["engine_validity"] = [
            str(part) for part in runtime.get_engine_validity(plan.read_bytes())
        ]
    engine = runtime.deserialize_cuda_engine(plan.read_bytes())
    content["deserialised"] = engine is not None
    content["last_error"] = callbacks.last_error()
    write_json(target, content)
    print(content)


if __name__ == "__main__":
    main()
