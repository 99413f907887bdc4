"""The deploy graph: a network with normalisation before it and a tail that ends in masks.

DeployModel  as it is drawn: what training validates and the PyTorch runner computes
DeployGraph  the same function, rewritten to move fewer bytes: what is exported
"""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from fcn_deploy.core.errors import InputError
from fcn_deploy.core.spec import ModelSpec, Precision, Tail
from fcn_deploy.networks.fcn import SegmentationNetwork
from fcn_deploy.networks.tails import outputs_from_logits, tails_of


class Normalise(nn.Module):
    """Pixels 0 to 255 → zero mean and unit deviation, by the spec's statistics.

    The one place where mean and std are applied, in training and in the deploy graph alike.
    """

    def __init__(self, spec: ModelSpec) -> None:
        super().__init__()
        # In units of the uint8 image: one subtraction and one division, no scaling to [0, 1].
        self.mean: Tensor
        self.std: Tensor
        self.register_buffer("mean", 255 * torch.tensor(spec.mean).view(1, 3, 1, 1))
        self.register_buffer("std", 255 * torch.tensor(spec.std).view(1, 3, 1, 1))

    def forward(self, pixels: Tensor) -> Tensor:
        """Normalise float32 [N, 3, H, W], RGB in 0 to 255; the shape stays."""
        return (pixels - self.mean) / self.std


class DeployModel(nn.Module):
    """The deploy graph: pictures in as they are decoded, masks out as they are written.

    Normalisation, crop and argmax are inside, so that no consumer can get mean and std or the
    class axis wrong, and so that few bytes cross the bus.

    Args:
        network: float [N, 3, H, W] → logits [N, C, H, W]; it is copied, not changed.
        spec: mean and std.
        outputs: a subset of ``OUTPUT_NAMES`` in that order.
        precision: arithmetic of the network; normalisation stays in float32.
    """

    def __init__(
        self,
        network: nn.Module,
        spec: ModelSpec,
        outputs: tuple[str, ...] = ("mask",),
        precision: Precision = Precision.FP32,
    ) -> None:
        super().__init__()
        self.dtype = torch.float16 if precision is Precision.FP16 else torch.float32
        self.network = copy.deepcopy(network).to(self.dtype).eval()
        self.outputs = outputs
        self.num_classes = spec.num_classes
        self.normalise = Normalise(spec)

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        """Segment pictures.

        Args:
            image: uint8 [N, H, W, 3], RGB, any H, W ≥ 1.

        Returns:
            Of these the ones asked for: mask uint8 [N, H, W] (ties go to the lowest class),
            logits float32 [N, C, H, W], margin float32 [N, H, W] (top-1 minus top-2 logit).
        """
        # Cast first, transpose after: TensorRT takes uint8 at the graph's edge only.
        pixels = image.to(torch.float32).permute(0, 3, 1, 2)  # (N, 3, H, W)
        logits = self.network(self.normalise(pixels).to(self.dtype))  # (N, C, H, W)
        return outputs_from_logits(logits, self.outputs)


class SubtractMean(nn.Module):
    """The half of :class:`Normalise` that stays a step of its own.

    The deviation divides what the first convolution reads, so its weights can be divided instead.
    The mean cannot move there: the convolution pads with zeros, which are the mean's colour.
    """

    def __init__(self, spec: ModelSpec) -> None:
        super().__init__()
        self.mean: Tensor
        self.register_buffer("mean", 255 * torch.tensor(spec.mean).view(1, 3, 1, 1))

    def forward(self, pixels: Tensor) -> Tensor:
        """Centre float32 [N, 3, H, W], RGB in 0 to 255; the shape stays."""
        return pixels - self.mean


class DeployGraph(nn.Module):
    """What is exported: the function of :class:`DeployModel`, rewritten to move fewer bytes.

    It computes in float32; :mod:`fcn_deploy.graph.fp16` makes half of the graph that is traced.

    The rewritten sums have the same terms in another order, so logits differ from the reference's
    in their last bits, and where two classes lead by no more than that, the mask may too.

        image ─Cast─▶ ─Transpose─▶ ─subtract_mean─▶ network.scores ─▶ tail ─▶ mask, logits, margin

    Args:
        network: it is copied, not changed.
        spec: mean and std; the std goes into the first convolution's weights, if there is one.
        outputs: a subset of ``OUTPUT_NAMES`` in that order.
        tail: which form the last step takes; None: the cheapest exact one.

    Attributes:
        tail_form: which one it is.

    Raises:
        InputError: the network's last step has no such tail, or ``tail`` is ``RESIZE`` and the
            upsampling is trained.
        ArchitectureError: the last step is of no known kind, or the upsampling of a form that
            ``tail`` does not replace.
    """

    def __init__(
        self,
        network: SegmentationNetwork,
        spec: ModelSpec,
        outputs: tuple[str, ...] = ("mask",),
        tail: Tail | None = None,
    ) -> None:
        super().__init__()
        self.outputs = outputs
        self.num_classes = spec.num_classes
        tails = tails_of(network)
        self.tail_form = tail or next(iter(tails))
        if self.tail_form not in tails:
            raise InputError(
                f"there is no tail {self.tail_form.value} for the last step of {spec.architecture}",
                f"use --tail auto, which is {next(iter(tails)).value} here",
            )
        self.tail = tails[self.tail_form](network, outputs)
        self.network = copy.deepcopy(network)
        self.network.drop_last_step()
        self.network.eval()
        first = self.network.first_convolution()
        self.subtract_mean: nn.Module
        if first is None:  # nothing is known that could divide in its place
            self.subtract_mean = Normalise(spec)
        else:
            self.subtract_mean = SubtractMean(spec)
            _divide_by_deviation(first, spec)

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        """Segment uint8 [N, H, W, 3]; see :meth:`DeployModel.forward`."""
        # Cast first, transpose after: TensorRT takes uint8 at the graph's edge only.
        pixels = image.to(torch.float32).permute(0, 3, 1, 2)  # (N, 3, H, W)
        scores = self.network.scores(self.subtract_mean(pixels))  # (N, C, h, w)
        produced: tuple[Tensor, ...] = self.tail(scores, image.shape[1], image.shape[2])
        return produced


def _divide_by_deviation(convolution: nn.Conv2d, spec: ModelSpec) -> None:
    deviation = 255 * torch.tensor(spec.std, dtype=torch.float64).view(1, 3, 1, 1)
    with torch.no_grad():
        convolution.weight.copy_(convolution.weight.to(torch.float64) / deviation)
