"""The networks: a classifier's body, 1×1 convolutions to scores, an upsampling to the picture.

    fcn32s  body ─▶ scores ─────────────────────────────────▶ 32× transposed convolution
    fcn16s  body ─▶ scores ─2×─▶ + scores of stride 16 ─────▶ 16×
    fcn8s   body ─▶ scores ─2×─▶ + … 16 ─2×─▶ + … of stride 8 ─▶ 8×
    tv-fcn  body of stride 8 ─▶ torchvision's head ─▶ bilinear interpolation

Source: Long, Shelhamer, Darrell, "Fully Convolutional Networks for Semantic Segmentation"
(CVPR 2015), on ResNets as in the FCN chapter of "Dive into Deep Learning" (Zhang et al.); dilated
bodies after Chen et al., "Rethinking Atrous Convolution" (2017), in torchvision's form.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor, nn
from torchvision.models.segmentation.fcn import FCNHead

from fcn_deploy.networks.first_convolution import first_convolution_of
from fcn_deploy.networks.timm_bodies import TimmBody
from fcn_deploy.networks.upsampling import bilinear_upsampling, cropped, interpolated


class SegmentationNetwork(nn.Module):
    """A network that gives class scores on a coarse grid and brings them to the picture's size.

    What :class:`fcn_deploy.networks.deploy_graph.DeployGraph` needs to know of a network to put
    another tail in its last step's place.
    """

    def scores(self, images: Tensor) -> Tensor:
        """Return class scores [N, C, h, w] of normalised float images [N, 3, H, W]."""
        raise NotImplementedError

    def forward(self, images: Tensor) -> Tensor:
        """Return logits for normalised images.

        Args:
            images: float [N, 3, H, W], any H, W ≥ 1.

        Returns:
            float [N, C, H, W].
        """
        raise NotImplementedError

    def drop_last_step(self) -> None:
        """Forget what only the last step needs: a tail does its work, ``forward`` no more."""

    def first_convolution(self) -> nn.Conv2d | None:
        """Return the convolution that alone reads the image: the first that was put in.

        None: there is none.
        """
        return next(module for module in self.modules() if isinstance(module, nn.Conv2d))


class UpsamplingNetwork(SegmentationNetwork):
    """A network whose last step is a transposed convolution, cropped at the top left.

    A subclass gives :meth:`scores` on a grid of h = ⌈H/s⌉ and sets ``upsample``, which is
    ``nn.ConvTranspose2d(C, C, 2 * s, stride=s, padding=s // 2, bias=False)`` with an even s.

    Attributes:
        upsample: scores [N, C, h, w] → logits [N, C, s·h, s·w].
    """

    upsample: nn.ConvTranspose2d

    def forward(self, images: Tensor) -> Tensor:
        """Return logits [N, C, H, W]; see :meth:`SegmentationNetwork.forward`."""
        logits: Tensor = self.upsample(self.scores(images))  # (N, C, s·h, s·w)
        # The body's grid starts at the image's top left corner whatever its size, so that is
        # where the crop starts too.
        return cropped(logits, 0, images.shape[2], images.shape[3])  # (N, C, H, W)

    def drop_last_step(self) -> None:
        """Forget the transposed convolution."""
        del self.upsample


class InterpolatingNetwork(SegmentationNetwork):
    """A network whose last step stretches the scores over the picture, bilinearly."""

    def forward(self, images: Tensor) -> Tensor:
        """Return logits [N, C, H, W]; see :meth:`SegmentationNetwork.forward`."""
        return interpolated(self.scores(images), images.shape[2], images.shape[3])


class Fcn(UpsamplingNetwork):
    """FCN-32s, -16s or -8s: scores of the body's end, joined by those of finer stages.

    Args:
        body: its children are the stages, each fed by the one before; or one of timm's, which gives
            the features of the stages by their names.
        channels: stage → channels that it ends with.
        strides: stage → pixels of the image per step of its grid.
        skips: finer stages whose scores are added, coarsest first.
        num_classes: C.
    """

    def __init__(
        self,
        body: nn.Sequential | TimmBody,
        channels: Mapping[str, int],
        strides: Mapping[str, int],
        skips: Sequence[str],
        num_classes: int,
    ) -> None:
        super().__init__()
        self.body = body
        self.score = nn.Conv2d(channels["layer4"], num_classes, kernel_size=1)
        nn.init.xavier_uniform_(self.score.weight)
        nn.init.zeros_(self.score.bias)  # type: ignore[arg-type]
        stride = strides["layer4"]
        self.skips = nn.ModuleDict()
        for stage in skips:
            factor = stride // strides[stage]
            self.skips[stage] = Skip(channels[stage], num_classes, factor)
            stride = strides[stage]
        self.upsample = bilinear_upsampling(num_classes, stride)

    def scores(self, images: Tensor) -> Tensor:
        """Return class scores [N, C, h, w] of normalised float images [N, 3, H, W].

        The grid is that of the finest stage used: h = ⌈H/s⌉ for its stride s.
        """
        features: dict[str, Tensor] = {}
        if isinstance(self.body, TimmBody):
            features = self.body(images)
        else:
            for stage, module in self.body.named_children():
                images = module(images)
                features[stage] = images
        scores: Tensor = self.score(features["layer4"])  # (N, C, h, w) of the coarsest grid
        for stage, skip in self.skips.items():
            scores = skip(scores, features[stage])
        return scores

    def first_convolution(self) -> nn.Conv2d | None:
        """Return the convolution that alone reads the image; of timm's it is found by trying."""
        if not isinstance(self.body, TimmBody):
            return super().first_convolution()
        features = self.body.features
        return first_convolution_of(features, lambda image: features(image)[-1], 64, 96)


class Skip(nn.Module):
    """Adds a finer stage's scores to the coarser ones so far.

    Its scores start at zero, so that a network begins as the coarser one it extends.

    Args:
        channels: of the stage's features.
        num_classes: C.
        factor: how many times finer the stage's grid is, 1 or even.
    """

    def __init__(self, channels: int, num_classes: int, factor: int) -> None:
        super().__init__()
        self.score = nn.Conv2d(channels, num_classes, kernel_size=1)
        nn.init.zeros_(self.score.weight)
        nn.init.zeros_(self.score.bias)  # type: ignore[arg-type]
        self.upsample = bilinear_upsampling(num_classes, factor) if factor > 1 else None

    def forward(self, coarse: Tensor, features: Tensor) -> Tensor:
        """Return scores [N, C, h, w] from [N, C, ≤ h, ≤ w] and features [N, K, h, w]."""
        finer: Tensor = self.score(features)
        if self.upsample is not None:
            # Both grids start at the image's top left corner; the coarse one reaches further.
            coarse = cropped(self.upsample(coarse), 0, finer.shape[2], finer.shape[3])
        return coarse + finer


class TorchvisionFcn(InterpolatingNetwork):
    """torchvision's ``fcn_resnet50`` and ``fcn_resnet101`` without their auxiliary classifier.

    Args:
        body: of output stride 8.
        body_channels: channels that it ends with.
        num_classes: C.
    """

    def __init__(self, body: nn.Sequential, body_channels: int, num_classes: int) -> None:
        super().__init__()
        self.body = body
        self.classifier = FCNHead(body_channels, num_classes)

    def scores(self, images: Tensor) -> Tensor:
        """Return class scores [N, C, ⌈H/8⌉, ⌈W/8⌉] of normalised float images [N, 3, H, W]."""
        scores: Tensor = self.classifier(self.body(images))
        return scores
