"""A network of any architecture whose every weight counts, as after training."""

import torch

from fcn_deploy.core.spec import ModelSpec, SizeRange
from fcn_deploy.data.masks import voc_palette
from fcn_deploy.networks.architectures import build_model
from fcn_deploy.networks.fcn import SegmentationNetwork

CLASS_NAMES = ("sky", "road", "car", "tree")


def random_network(architecture: str) -> tuple[SegmentationNetwork, ModelSpec]:
    """Return a network of four classes in evaluation mode, always the same, and its spec.

    Skips begin with scores of zero, which would hide a skip that does nothing, and upsamplings as
    bilinear ones, which every tail computes alike: here neither is so.  Of random scores one class
    leads everywhere: here all have the same mean on noise.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = build_model(architecture, len(CLASS_NAMES))
        with torch.no_grad():
            for name, parameter in network.named_parameters():
                if name.startswith("skips.") and ".score." in name:
                    parameter.normal_(std=0.1)
                elif "upsample" in name:
                    parameter.add_(0.02 * torch.randn_like(parameter))
            network.eval()
            means = network.scores(torch.randn(1, 3, 64, 96)).mean((0, 2, 3))
            biases = dict(network.named_parameters())
            biases["classifier.4.bias" if "classifier.4.bias" in biases else "score.bias"] -= means
    spec = ModelSpec(
        architecture=architecture,
        class_names=CLASS_NAMES,
        palette=voc_palette(len(CLASS_NAMES)),
        image_sizes=SizeRange((48, 64), (48, 64), (97, 131)),
    )
    return network, spec
