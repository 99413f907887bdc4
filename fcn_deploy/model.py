"""The networks: a ResNet body, a 1×1 convolution to class scores, a learned upsampling.

Source: Long, Shelhamer, Darrell, "Fully Convolutional Networks for Semantic Segmentation"
(CVPR 2015), in the form of the FCN chapter of "Dive into Deep Learning" (Zhang et al.).
"""

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
import torchvision
from torch import Tensor, nn

from fcn_deploy.errors import ArchitectureError, InputError
from fcn_deploy.spec import ModelSpec, Precision, Tail

#: Pixels of the image per step of the body's grid.
STRIDE = 32


def bilinear_kernel(in_channels: int, out_channels: int, kernel_size: int) -> Tensor:
    """Return transposed-convolution weights that upsample each channel bilinearly.

    The value at (i, j) is (1 - |i - c| / f) (1 - |j - c| / f) with f = ⌊(k + 1) / 2⌋ and centre
    c = f - 1 for odd k, f - 0.5 for even k; it stands on the diagonal of the channels, all other
    weights are 0.

    Args:
        in_channels: channels of the input.
        out_channels: channels of the output; the diagonal ends at the smaller of the two.
        kernel_size: k, in pixels.

    Returns:
        float32 [in_channels, out_channels, k, k], the layout of ``nn.ConvTranspose2d.weight``.

    Raises:
        ValueError: an argument is below 1.
    """
    if min(in_channels, out_channels, kernel_size) < 1:
        raise ValueError("channels and kernel_size must be at least 1")
    factor = (kernel_size + 1) // 2
    centre = factor - 1 if kernel_size % 2 == 1 else factor - 0.5
    ramp = 1 - (torch.arange(kernel_size, dtype=torch.float32) - centre).abs() / factor  # (k,)
    kernel = ramp[:, None] * ramp[None, :]  # (k, 1) * (1, k) -> (k, k)
    weight = torch.zeros(in_channels, out_channels, kernel_size, kernel_size)
    diagonal = torch.arange(min(in_channels, out_channels))
    weight[diagonal, diagonal] = kernel
    return weight


class UpsamplingNetwork(nn.Module):
    """A network whose last step is a transposed convolution, cropped at the top left.

    What :class:`DeployGraph` needs to know of a network to put another tail in that step's place.
    A subclass gives :meth:`scores` and sets ``upsample``, which is
    ``nn.ConvTranspose2d(C, C, 2 * s, stride=s, padding=s // 2, bias=False)`` with an even s.

    Attributes:
        upsample: scores [N, C, h, w] → logits [N, C, s·h, s·w].
    """

    upsample: nn.ConvTranspose2d

    def scores(self, images: Tensor) -> Tensor:
        """Return class scores [N, C, h, w], h = ⌈H/s⌉, of normalised float images [N, 3, H, W]."""
        raise NotImplementedError

    def forward(self, images: Tensor) -> Tensor:
        """Return logits for normalised images.

        Args:
            images: float [N, 3, H, W], any H, W ≥ 1.

        Returns:
            float [N, C, H, W].
        """
        logits: Tensor = self.upsample(self.scores(images))  # (N, C, s·h, s·w)
        # The body's grid starts at the image's top left corner whatever its size, so that is
        # where the crop starts too.
        return _cropped(logits, 0, images.shape[2], images.shape[3])  # (N, C, H, W)

    def first_convolution(self) -> nn.Conv2d:
        """Return the convolution that reads the image: the first that was put in."""
        return next(module for module in self.modules() if isinstance(module, nn.Conv2d))


def _cropped(grid: Tensor, start: int, height: int, width: int) -> Tensor:
    """Return ``height``×``width`` pixels of [N, K, ≥, ≥] from (start, start) on."""
    return grid[:, :, start : start + height, start : start + width]


class Fcn32s(UpsamplingNetwork):
    """FCN-32s: class scores on the body's stride-32 grid, upsampled 32× in one step.

    Args:
        body: float [N, 3, H, W] → [N, body_channels, ⌈H/32⌉, ⌈W/32⌉].
        body_channels: channels that the body ends with.
        num_classes: C.
    """

    def __init__(self, body: nn.Module, body_channels: int, num_classes: int) -> None:
        super().__init__()
        self.body = body
        self.score = nn.Conv2d(body_channels, num_classes, kernel_size=1)
        self.upsample = nn.ConvTranspose2d(
            num_classes,
            num_classes,
            kernel_size=2 * STRIDE,
            stride=STRIDE,
            padding=STRIDE // 2,
            bias=False,
        )
        nn.init.xavier_uniform_(self.score.weight)
        nn.init.zeros_(self.score.bias)  # type: ignore[arg-type]
        with torch.no_grad():
            self.upsample.weight.copy_(bilinear_kernel(num_classes, num_classes, 2 * STRIDE))

    def scores(self, images: Tensor) -> Tensor:
        """Return class scores [N, C, ⌈H/32⌉, ⌈W/32⌉] of normalised float images [N, 3, H, W]."""
        features = self.body(images)  # (N, body_channels, h, w), h = ⌈H/32⌉
        scores: Tensor = self.score(features)  # (N, C, h, w)
        return scores


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
        return _outputs_from_logits(logits, self.outputs)


def _outputs_from_logits(logits: Tensor, outputs: tuple[str, ...]) -> tuple[Tensor, ...]:
    """Return the outputs asked for, each made from logits [N, C, H, W]."""
    produced = []
    if "mask" in outputs:
        produced.append(logits.argmax(dim=1).to(torch.uint8))  # (N, H, W)
    if "logits" in outputs:
        produced.append(logits.to(torch.float32))
    if "margin" in outputs:
        top_two = logits.to(torch.float32).topk(2, dim=1).values  # (N, 2, H, W)
        produced.append(top_two[:, 0] - top_two[:, 1])
    return tuple(produced)


class LateArgmax(nn.Module):
    """The tail as it is drawn: upsample, crop, argmax.

        scores [N, C, h, w] ─upsample─▶ [N, C, ≥ H, ≥ W] ─crop─▶ logits ─ArgMax─▶ mask [N, H, W]

    Args:
        upsample: scores → logits on a grid that covers the picture.
        start: row and column of that grid where the picture begins.
        outputs: a subset of ``OUTPUT_NAMES`` in that order.
    """

    def __init__(self, upsample: nn.Module, start: int, outputs: tuple[str, ...]) -> None:
        super().__init__()
        self.upsample = upsample
        self.start = start
        self.outputs = outputs

    def forward(self, scores: Tensor, height: int, width: int) -> tuple[Tensor, ...]:
        """Return what :meth:`DeployModel.forward` does, from scores [N, C, h, w]."""
        logits = _cropped(self.upsample(scores), self.start, height, width)  # (N, C, H, W)
        return _outputs_from_logits(logits, self.outputs)


class BilinearResize(nn.Module):
    """Bilinear interpolation, equal to the bilinear transposed convolution everywhere.

    Beyond the border the convolution sees zeros, an interpolation the border itself; so a frame of
    zeros is put around the scores, and the picture begins ``stride`` pixels further in.

    Args:
        stride: s.
    """

    def __init__(self, stride: int) -> None:
        super().__init__()
        self.stride = stride

    def forward(self, scores: Tensor) -> Tensor:
        """Scores float [N, C, h, w] → logits [N, C, s·(h + 2), s·(w + 2)]."""
        framed = nn.functional.pad(scores, (1, 1, 1, 1))  # (N, C, h + 2, w + 2)
        return nn.functional.interpolate(
            framed, scale_factor=float(self.stride), mode="bilinear", align_corners=False
        )


class EarlyArgmax(nn.Module):
    """The transposed convolution cell by cell, and the argmax before anything is put in place.

    Each s×s cell between four neighbouring scores depends on these four alone, so the transposed
    convolution is a 2×2 convolution that gives all C·s² logits of a cell at once.  Argmax looks at
    one pixel, putting pixels in place and cropping move them: these commute.  So C logits for each
    pixel are never moved, one index is.

        scores [N, C, h, w]
          │ corners: each cell's four scores            [N, 4C, h+1, w+1]
          │ MatMul: its logits                          [N, h+1, w+1, C·s²]
          │ ArgMax over C                               [N, h+1, w+1, s²]
          │ DepthToSpace: pixels in their places        [N, 1, s·(h+1), s·(w+1)]
          │ crop at s/2, the grid's first cell being half outside
        mask [N, H, W]

    Source of the rearrangement: Shi et al., "Is the deconvolution layer the same as a
    convolutional layer?" (2016).  The form was chosen by measuring ONNX Runtime's CPU kernels,
    see docs/architecture.md.

    Args:
        upsample: the transposed convolution; see :class:`UpsamplingNetwork`.
        outputs: a subset of ``OUTPUT_NAMES`` in that order.

    Raises:
        ArchitectureError: ``upsample`` is of another form.
    """

    def __init__(self, upsample: nn.ConvTranspose2d, outputs: tuple[str, ...]) -> None:
        super().__init__()
        self.stride = _stride_of(upsample)
        self.num_classes = upsample.out_channels
        self.outputs = outputs
        channels = upsample.in_channels
        # One 1 in each filter: the 2×2 scores around a cell become its channels, unchanged.
        self.corners = nn.Conv2d(
            channels, 4 * channels, kernel_size=2, padding=1, groups=channels, bias=False
        )
        self.weight: Tensor
        with torch.no_grad():
            self.corners.weight.copy_(torch.eye(4).view(4, 1, 2, 2).repeat(channels, 1, 1, 1))
            self.register_buffer("weight", _cell_weight(upsample.weight.detach(), self.stride))

    def forward(self, scores: Tensor, height: int, width: int) -> tuple[Tensor, ...]:
        """Return what :meth:`DeployModel.forward` does, from scores [N, C, h, w]."""
        corners = self.corners(scores)  # (N, 4C, h + 1, w + 1)
        cells = corners.permute(0, 2, 3, 1) @ self.weight  # (N, h + 1, w + 1, C·s²)
        by_class = torch.unflatten(cells, 3, (self.num_classes, self.stride**2))  # (N, ·, ·, C, s²)
        # TensorRT moves no integers of 8 bits, and no 64; below 257 float32 is exact.
        index = by_class.argmax(dim=3).to(torch.float32)  # (N, h + 1, w + 1, s²)
        produced = []
        if "mask" in self.outputs:
            produced.append(self._in_place(index, height, width).to(torch.uint8))
        if "logits" in self.outputs:
            produced.append(self._logits(cells, height, width).to(torch.float32))
        if "margin" in self.outputs:
            # Two maxima cost a fraction of a sort (ONNX Runtime's TopK).
            best = by_class.amax(dim=3)  # (N, h + 1, w + 1, s²)
            classes = torch.arange(self.num_classes, dtype=torch.float32, device=index.device)
            chosen = index.unsqueeze(3) == classes.view(-1, 1)  # (N, h + 1, w + 1, C, s²)
            second = by_class.masked_fill(chosen, -torch.inf).amax(dim=3)
            margin = best.to(torch.float32) - second.to(torch.float32)
            produced.append(self._in_place(margin, height, width))
        return tuple(produced)

    def _in_place(self, cells: Tensor, height: int, width: int) -> Tensor:
        """One value per pixel, [N, h + 1, w + 1, s²], as a picture [N, H, W]."""
        channels = cells.permute(0, 3, 1, 2)  # (N, s², h + 1, w + 1)
        grid = nn.functional.pixel_shuffle(channels, self.stride)  # (N, 1, s(h + 1), s(w + 1))
        return _cropped(grid, self.stride // 2, height, width).squeeze(1)

    def _logits(self, cells: Tensor, height: int, width: int) -> Tensor:
        """All logits, [N, h + 1, w + 1, C·s²], as [N, C, H, W]."""
        # Not by pixel_shuffle: runs of s pixels stay together here, which copies faster.
        rows, columns, s = cells.shape[1], cells.shape[2], self.stride
        grid = torch.unflatten(cells, 3, (self.num_classes, s, s)).permute(0, 3, 1, 4, 2, 5)
        whole = grid.reshape(cells.shape[0], self.num_classes, rows * s, columns * s)
        return _cropped(whole, s // 2, height, width)


def _stride_of(upsample: nn.ConvTranspose2d) -> int:
    """Return s of a transposed convolution whose kernel is 2s and whose padding is s/2.

    Raises:
        ArchitectureError: it has another form.
    """
    stride = upsample.stride[0]
    expected = {
        "stride": (stride, stride),
        "kernel_size": (2 * stride, 2 * stride),
        "padding": (stride // 2, stride // 2),
        "output_padding": (0, 0),
        "dilation": (1, 1),
        "groups": 1,
        "bias": None,
    }
    other = [name for name, value in expected.items() if getattr(upsample, name) != value]
    if other or stride % 2:
        raise ArchitectureError(
            f"the upsampling {upsample} is not of kernel 2s, even stride s and padding s/2 without "
            "a bias, and cannot be rewritten",
            "use --tail deconv",
        )
    return stride


def _cell_weight(weight: Tensor, stride: int) -> Tensor:
    """Turn w[ci, co, s·a + ry, s·b + rx] into the matrix of :class:`EarlyArgmax`.

    A pixel (ry, rx) of cell (y, x) gets score (y - a, x - b) times that number, and this score is
    the cell's corner (1 - a, 1 - b).

    Args:
        weight: float [C, C, 2s, 2s], of the transposed convolution.
        stride: s.

    Returns:
        float [4C, C·s²]: rows by (ci, 1 - a, 1 - b), columns by (co, ry, rx).
    """
    parts = weight.view(*weight.shape[:2], 2, stride, 2, stride)  # (ci, co, a, ry, b, rx)
    corners = parts.flip(2, 4).permute(0, 2, 4, 1, 3, 5)  # (ci, 1 - a, 1 - b, co, ry, rx)
    return corners.reshape(4 * weight.shape[0], weight.shape[1] * stride**2).contiguous()


def _tail_of(
    upsample: nn.ConvTranspose2d, tail: Tail, outputs: tuple[str, ...]
) -> LateArgmax | EarlyArgmax:
    if tail is Tail.EARLY_ARGMAX:
        return EarlyArgmax(upsample, outputs)
    if tail is Tail.DECONV:
        return LateArgmax(copy.deepcopy(upsample), 0, outputs)
    stride = _stride_of(upsample)
    size = upsample.kernel_size[0]
    bilinear = bilinear_kernel(upsample.in_channels, upsample.out_channels, size)
    if not torch.equal(upsample.weight.detach().cpu(), bilinear):
        raise InputError(
            "the upsampling is trained: resize would give other masks (94 % agreement on CamVid)",
            "use --tail early-argmax",
        )
    return LateArgmax(BilinearResize(stride), stride, outputs)


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

    The rewritten sums have the same terms in another order, so logits differ from the reference's
    in their last bits, and where two classes lead by no more than that, the mask may too.

        image ─Cast─▶ ─Transpose─▶ ─subtract_mean─▶ network.scores ─▶ tail ─▶ mask, logits, margin

    Args:
        network: it is copied, not changed.
        spec: mean and std; the std goes into the first convolution's weights.
        outputs: a subset of ``OUTPUT_NAMES`` in that order.
        precision: arithmetic of the network; the mean is subtracted in float32.
        tail: which form the upsampling takes.

    Raises:
        InputError: ``tail`` is ``RESIZE`` and the upsampling is trained.
        ArchitectureError: the network is no :class:`UpsamplingNetwork`, or its upsampling is of a
            form that ``tail`` does not replace.
    """

    def __init__(
        self,
        network: nn.Module,
        spec: ModelSpec,
        outputs: tuple[str, ...] = ("mask",),
        precision: Precision = Precision.FP32,
        tail: Tail = Tail.EARLY_ARGMAX,
    ) -> None:
        super().__init__()
        if not isinstance(network, UpsamplingNetwork):
            raise ArchitectureError(
                f"{type(network).__name__} does not end with an upsampling that could be rewritten"
            )
        self.dtype = torch.float16 if precision is Precision.FP16 else torch.float32
        self.outputs = outputs
        self.num_classes = spec.num_classes
        self.subtract_mean = SubtractMean(spec)
        self.tail = _tail_of(network.upsample, tail, outputs).to(self.dtype)
        self.network = copy.deepcopy(network)
        del self.network.upsample  # the tail has taken its place
        _divide_by_deviation(self.network.first_convolution(), spec)
        self.network.to(self.dtype).eval()

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        """Segment uint8 [N, H, W, 3]; see :meth:`DeployModel.forward`."""
        # Cast first, transpose after: TensorRT takes uint8 at the graph's edge only.
        pixels = image.to(torch.float32).permute(0, 3, 1, 2)  # (N, 3, H, W)
        scores = self.network.scores(self.subtract_mean(pixels).to(self.dtype))  # (N, C, h, w)
        produced: tuple[Tensor, ...] = self.tail(scores, image.shape[1], image.shape[2])
        return produced


def _divide_by_deviation(convolution: nn.Conv2d, spec: ModelSpec) -> None:
    deviation = 255 * torch.tensor(spec.std, dtype=torch.float64).view(1, 3, 1, 1)
    with torch.no_grad():
        convolution.weight.copy_(convolution.weight.to(torch.float64) / deviation)


@dataclass(frozen=True)
class Architecture:
    """One row of the table of networks.

    Attributes:
        head: the class that puts scores and upsampling onto a body.
        backbone: name of the torchvision ResNet whose body is used.
        body_channels: channels that body ends with.
    """

    head: Callable[[nn.Module, int, int], UpsamplingNetwork]
    backbone: str
    body_channels: int


#: Every network that can be trained, by name.
ARCHITECTURES: dict[str, Architecture] = {
    "fcn32s-resnet18": Architecture(Fcn32s, "resnet18", 512),
    "fcn32s-resnet34": Architecture(Fcn32s, "resnet34", 512),
    "fcn32s-resnet50": Architecture(Fcn32s, "resnet50", 2048),
    "fcn32s-resnet101": Architecture(Fcn32s, "resnet101", 2048),
}
DEFAULT_ARCHITECTURE = "fcn32s-resnet18"


def build_model(
    architecture: str, num_classes: int, *, weights: Literal["imagenet"] | Path | None = None
) -> UpsamplingNetwork:
    """Build a network by its name.

    Args:
        architecture: a key of ``ARCHITECTURES``.
        num_classes: C.
        weights: what the body starts from: nothing, torchvision's ImageNet weights (downloaded by
            torchvision), or a file of torchvision's with such weights.

    Returns:
        A module float [N, 3, H, W] → logits [N, C, H, W], in training mode.

    Raises:
        ArchitectureError: unknown name, or the weights cannot be fetched, read or fitted.
    """
    row = find_architecture(architecture)
    body = _resnet_body(row.backbone, weights)
    return row.head(body, row.body_channels, num_classes)


def find_architecture(name: str) -> Architecture:
    """Return the table's row.

    Raises:
        ArchitectureError: there is no such row; the message lists the names.
    """
    if name not in ARCHITECTURES:
        raise ArchitectureError(
            f"unknown architecture {name!r}", f"choose one of {', '.join(ARCHITECTURES)}"
        )
    return ARCHITECTURES[name]


def _resnet_body(backbone: str, weights: Literal["imagenet"] | Path | None) -> nn.Sequential:
    resnet = torchvision.models.get_model(backbone, weights=None)
    if weights is not None:
        resnet.load_state_dict(_resnet_weights(backbone, weights, resnet.state_dict()))
    # All stages but the last two: global average pooling and the classifier.
    return nn.Sequential(OrderedDict(list(resnet.named_children())[:-2]))


def _resnet_weights(
    backbone: str, weights: Literal["imagenet"] | Path, expected: dict[str, Tensor]
) -> dict[str, Tensor]:
    ways_out = (
        "train from scratch with --weights none, or give a downloaded file with --weights FILE"
    )
    try:
        if isinstance(weights, Path):
            # weights_only: tensors and containers, nothing that runs code.
            given = torch.load(weights, map_location="cpu", weights_only=True)
        else:
            published = torchvision.models.get_model_weights(backbone).DEFAULT
            given = published.get_state_dict(progress=False, check_hash=True)
    except Exception as error:  # on foreign bytes torch's unpickler stumbles in any way
        what = weights if isinstance(weights, Path) else f"the ImageNet weights of {backbone}"
        # Its own words for a refused pickle explain how to run it all the same.
        spoken = isinstance(error, (OSError, RuntimeError)) and str(error)
        reason = str(error).splitlines()[0] if spoken else "not tensors saved by torch.save"
        raise ArchitectureError(f"cannot read {what} ({reason})", ways_out) from error
    # Files from before PyTorch 0.4.1 do not count batches; the count decides nothing here.
    body = {
        name
        for name in expected
        if not name.startswith("fc.") and not name.endswith(".num_batches_tracked")
    }
    unfit = sorted(
        name
        for name in body
        if not isinstance(given, dict)
        or name not in given
        or getattr(given[name], "shape", None) != expected[name].shape
    )
    if unfit:
        raise ArchitectureError(
            f"{weights} holds no {backbone} weights (first misfit: {unfit[0]})", ways_out
        )
    # The classifier is stripped afterwards, so its size does not matter.
    return {name: given[name] if name in body else expected[name] for name in expected}
