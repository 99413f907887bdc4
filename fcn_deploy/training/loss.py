"""The training loss, and the layer in which a NaN or an infinity arose.

logits, masks ─▶ segmentation_loss ─NaN, infinity─▶ first_not_finite: the layer to blame
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fcn_deploy.core.spec import IGNORE_INDEX
from fcn_deploy.training.distributed import World
from fcn_deploy.training.recipes import Loss


def segmentation_loss(
    logits: Tensor,
    masks: Tensor,
    kind: Loss,
    class_weights: Tensor | None = None,
    world: World = World(),  # noqa: B008  # a frozen value
) -> Tensor:
    """Return the cross-entropy loss of a batch; void pixels count for nothing.

    Args:
        logits: float [N, C, H, W].
        masks: uint8 [N, H, W].
        kind: see :class:`~fcn_deploy.training.recipes.Recipe`.
        class_weights: float [C], or None for all alike.
        world: a batch is that of all its processes.

    Returns:
        A scalar whose mean over the processes is the loss of their batches together; 0 where every
        pixel is void.
    """
    # Pixel by pixel: of the loss over whole pictures CUDA has no deterministic form.
    per_pixel = F.cross_entropy(
        logits.permute(0, 2, 3, 1).flatten(0, 2),  # (N·H·W, C)
        masks.flatten().long(),
        class_weights,
        ignore_index=IGNORE_INDEX,
        reduction="none",
    ).view(masks.shape)  # (N, H, W), 0 at void
    if kind == "image-sum":
        return world.size * per_pixel.mean(dim=(1, 2)).sum()
    labelled = masks != IGNORE_INDEX
    if class_weights is None:
        total = labelled.sum().float()
    else:
        # Picking out the labelled pixels would make the CPU wait for a GPU.
        inside = masks.long().clamp(max=len(class_weights) - 1)
        total = torch.where(labelled, class_weights[inside], 0).sum()
    everywhere = world.sum(total).clamp(min=torch.finfo(torch.float32).tiny)
    return world.size * per_pixel.sum() / everywhere


def first_not_finite(network: nn.Module, images: Tensor) -> str | None:
    """Say where in a network the first NaN or infinity arises; None where all is finite.

    Args:
        network: in any mode.
        images: float [N, 3, H, W], normalised.
    """
    for name, tensor in (*network.named_parameters(), *network.named_buffers()):
        if not tensor.isfinite().all():
            return f"the weights {name} are no longer finite"
    found: list[str] = []

    def watch(name: str) -> Callable[[nn.Module, Any, Any], None]:
        def look(_module: nn.Module, _inputs: Any, output: Any) -> None:
            if isinstance(output, Tensor) and not output.isfinite().all():
                found.append(name)

        return look

    leaves = [(name, m) for name, m in network.named_modules() if not list(m.children())]
    hooks = [module.register_forward_hook(watch(name)) for name, module in leaves]
    try:
        with torch.no_grad():
            network(images)
    finally:
        for hook in hooks:
            hook.remove()
    if found:
        return f"{found[0]} is the first layer that gives NaN or infinity"
    return None
