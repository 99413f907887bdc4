"""TensorRT 8.6, 10.x, 11.x and TensorRT for RTX 1.x: the one place that knows how they differ.

| | 8.6 | 10.x | 11.x | RTX 1.x |
|---|---|---|---|---|
| network | ``EXPLICIT_BATCH`` | ``STRONGLY_TYPED`` | 0 | 0 |
| half precision | ``BuilderFlag.FP16`` | from the ONNX file | same | same |
| ONNX opset | up to 17 | 20 | 20 | 20 |
| progress monitor | no | yes | yes | yes |
| target compute capabilities | this GPU | this GPU | this GPU | to choose |
| timing cache | yes | yes | yes | no |
| contexts per profile | one, more on request | many | many | many |

Every difference is asked of the API itself, by name (``hasattr``), never of a version number: a
test holds each name used here and in the modules beside this one against the names of the four
releases and accepts one that a release lacks only behind such a question.  The calls that run an
engine lie in ``binding``.

Knows no torch.  TensorRT is imported when it is first asked for.
"""

from __future__ import annotations

import ctypes
import importlib.util
import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from fcn_deploy.core.errors import BackendError, InputError, MissingExtraError
from fcn_deploy.core.spec import Precision, Product
from fcn_deploy.tensorrt.binding import Binding
from fcn_deploy.tensorrt.callbacks import LOGGER, OnProgress, progress_monitor

# What TensorRT says reaches those who listen; nobody else's stderr.
LOGGER.addHandler(logging.NullHandler())
_MODULES = {Product.TRT: "tensorrt", Product.RTX: "tensorrt_rtx_bindings"}
_DISTRIBUTIONS = {Product.TRT: "tensorrt", Product.RTX: "tensorrt-rtx-cu13-bindings"}
#: Carries the libraries of TensorRT for RTX; its bindings come without.
_RTX_LIBRARIES = "onnxruntime_ep_nv_tensorrt_rtx"
_EXTRAS = {Product.TRT: "trt", Product.RTX: "rtx"}
#: What may stand behind the repair of a missing one.
_BESIDE = {Product.TRT: " (on a Jetson, TensorRT comes with JetPack)", Product.RTX: None}
_LABELS = {Product.TRT: "TensorRT", Product.RTX: "TensorRT for RTX"}
#: What an RTX engine runs on when no compute capability is chosen: Ampere and later, not 9.0.
RTX_DEFAULT_CAPABILITIES = ("sm80", "sm86", "sm89", "sm120", "sm121")
_OLD_PARSER_OPSET, _NEW_PARSER_OPSET = 17, 20
#: Tactics of libraries that the engine would then need on the target, over 1 GB of them.
_EXTERNAL_TACTICS = ("CUBLAS", "CUBLAS_LT", "CUDNN")
_loaded: dict[Product, TensorRt] = {}


@dataclass(frozen=True)
class ParserProblem:
    """One thing that TensorRT's ONNX parser could not read.

    Attributes:
        description: in TensorRT's words.
        node_index: index into the graph's nodes, or -1 if it is about none.
        node_name: the node's name where this release tells it, else empty.
        operator: the node's type where this release tells it, else empty.
    """

    description: str
    node_index: int
    node_name: str = ""
    operator: str = ""


def is_installed(product: Product) -> bool:
    """Say whether a product's Python packages are there, without loading them."""
    needed = [_MODULES[product]] + ([_RTX_LIBRARIES] if product is Product.RTX else [])
    return all(importlib.util.find_spec(name) is not None for name in needed)


def unavailable_reason(product: Product) -> str | None:
    """Return what is missing for that product and what to install, or None."""
    try:
        load(product)
    except (BackendError, MissingExtraError) as error:
        return str(error)
    return None


def load(product: Product) -> TensorRt:
    """Import a product, once per process.

    Raises:
        MissingExtraError: it is not installed.
        BackendError: its libraries cannot be loaded.
    """
    if product not in _loaded:
        _loaded[product] = TensorRt(product, _import(product))
    return _loaded[product]


def installed_version(product: Product) -> str:
    """Return the release that is installed, without loading TensorRT where its package tells.

    Raises:
        MissingExtraError: it is not installed.
    """
    try:
        # A repackaged wheel (8.6.1.post1) holds the same release.
        return metadata.version(_DISTRIBUTIONS[product]).partition(".post")[0]
    except metadata.PackageNotFoundError:  # e.g. a Jetson's, which came with the system
        return load(product).version


def choose_product(word: str) -> Product:
    """Turn ``auto``, ``trt`` or ``trt-rtx`` into a product; auto takes TensorRT where it is.

    Raises:
        MissingExtraError: ``auto``, and neither is installed.
    """
    if word != "auto":
        return Product(word)
    for product in Product:
        if is_installed(product):
            return product
    raise _missing(Product.TRT, ModuleNotFoundError(name=_MODULES[Product.TRT]))


def _missing(product: Product, error: ImportError) -> MissingExtraError:
    return MissingExtraError(_LABELS[product], _EXTRAS[product], error, _BESIDE[product])


def _import(product: Product) -> Any:
    try:
        if product is Product.RTX:
            _load_rtx_libraries()
        return importlib.import_module(_MODULES[product])
    except ImportError as error:
        raise _missing(product, error) from error
    except OSError as error:  # a library of its own, or one that it links to, is missing
        raise BackendError(
            f"{_LABELS[product]} cannot be loaded ({error})",
            _missing(product, ImportError()).repair,
        ) from error


def _load_rtx_libraries() -> None:
    found = importlib.util.find_spec(_RTX_LIBRARIES)
    if found is None or found.origin is None:
        raise ModuleNotFoundError(name=_RTX_LIBRARIES)
    folder = Path(found.origin).parent
    for stem in ("libtensorrt_rtx", "libtensorrt_onnxparser_rtx"):
        libraries = sorted(folder.glob(f"{stem}.so*"))
        if not libraries:
            raise ImportError(f"no {stem}.so in {folder.name}")
        # Global, because the bindings name no path: they take what the process has loaded.
        ctypes.CDLL(str(libraries[-1]), mode=ctypes.RTLD_GLOBAL)


class TensorRt(Binding):
    """A product that is loaded, and what its release can do.

    Attributes:
        product: which of the two it is.
        version: the full release, e.g. ``10.16.1.11``.
    """

    def __init__(self, product: Product, trt: Any) -> None:
        super().__init__(trt, f"{_LABELS[product]} {trt.__version__}")
        self.product = product
        self.version: str = trt.__version__

    @property
    def strongly_typed(self) -> bool:
        """Whether the precision of every layer is that of the ONNX file, flag or no flag."""
        return hasattr(self.trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED")

    @property
    def max_opset(self) -> int:
        """The newest ONNX opset that its parser reads."""
        return _NEW_PARSER_OPSET if self.strongly_typed else _OLD_PARSER_OPSET

    @property
    def chooses_capabilities(self) -> bool:
        """Whether engines can be built for other compute capabilities than this GPU's."""
        return hasattr(self.trt, "ComputeCapability")

    @property
    def has_timing_cache(self) -> bool:
        """Whether timings of tactics carry over to the next build; RTX measures none."""
        return self.product is Product.TRT

    def create_network(self, builder: Any) -> Any:
        """Return an empty network with a dynamic batch, strongly typed where there is a choice."""
        trt = self.trt
        flags = 0
        if hasattr(trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED"):
            # Where the FP16 flag is gone every network is strongly typed, and 0 is the word for it.
            if hasattr(trt.BuilderFlag, "FP16"):
                flags = 1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED)
        elif hasattr(trt.NetworkDefinitionCreationFlag, "EXPLICIT_BATCH"):
            flags = 1 << int(trt.NetworkDefinitionCreationFlag.EXPLICIT_BATCH)
        return builder.create_network(flags)

    def set_precision(self, config: Any, precision: Precision) -> tuple[str, ...]:
        """Allow the arithmetic that ``precision`` names and no other; return the flags changed."""
        trt = self.trt
        if precision in (Precision.FP32, Precision.INT8):
            # On by default: it would round every product to ten bits and call it FP32.
            config.clear_flag(trt.BuilderFlag.TF32)
            if precision is Precision.FP32:
                return ("no TF32",)
            if not self.strongly_typed and hasattr(trt.BuilderFlag, "INT8"):
                config.set_flag(trt.BuilderFlag.INT8)
                return ("no TF32", "INT8")
            return ("no TF32",)
        if not self.strongly_typed and hasattr(trt.BuilderFlag, "FP16"):
            config.set_flag(trt.BuilderFlag.FP16)
            return ("FP16",)
        return ()

    def leave_out_external_tactics(self, config: Any) -> tuple[str, ...]:
        """Do without cuBLAS and cuDNN, which the network does not need; return what was left."""
        trt = self.trt
        sources = config.get_tactic_sources()
        left_out = []
        for name in _EXTERNAL_TACTICS:
            if hasattr(trt.TacticSource, name):
                sources &= ~(1 << int(getattr(trt.TacticSource, name)))
                left_out.append(f"no {name}")
        if left_out and not config.set_tactic_sources(sources):
            raise BackendError(f"{self.label} refuses the tactic sources {sources:#x}")
        return tuple(left_out)

    def set_capabilities(self, config: Any, capabilities: tuple[str, ...]) -> None:
        """Build for these compute capabilities, e.g. ``("sm89", "sm120")``.

        Raises:
            InputError: this release cannot choose, or not this one.
        """
        trt = self.trt
        if not hasattr(trt, "ComputeCapability"):
            raise InputError(
                f"{self.label} builds for the GPU it runs on",
                "drop --compute-capability, or use --product trt-rtx",
            )
        if not (
            hasattr(config, "set_compute_capability")
            and hasattr(config, "num_compute_capabilities")
        ):
            raise InputError(f"{self.label} cannot choose a compute capability")
        config.num_compute_capabilities = len(capabilities)
        for index, name in enumerate(capabilities):
            capability = getattr(trt.ComputeCapability, name.upper(), None)
            if capability is None or not config.set_compute_capability(capability, index):
                raise InputError(
                    f"{self.label} does not build for {name}",
                    f"choose of {', '.join(self.known_capabilities)}",
                )

    @property
    def builds_version_compatible(self) -> bool:
        """Whether an engine can be built that later releases run too."""
        return hasattr(self.trt.BuilderFlag, "VERSION_COMPATIBLE")

    @property
    def builds_ampere_plus(self) -> bool:
        """Whether an engine can be built that every GPU from Ampere on runs."""
        return hasattr(self.trt, "HardwareCompatibilityLevel")

    def set_version_compatible(self, config: Any) -> str:
        """Let later releases run the engine too; return the flag that was set.

        Raises:
            InputError: this release cannot.
        """
        trt = self.trt
        if not hasattr(trt.BuilderFlag, "VERSION_COMPATIBLE"):
            raise InputError(f"{self.label} builds no version-compatible engine")
        config.set_flag(trt.BuilderFlag.VERSION_COMPATIBLE)
        return "VERSION_COMPATIBLE"

    def set_ampere_plus(self, config: Any) -> str:
        """Let every GPU from Ampere on run the engine; return the level that was set.

        Raises:
            InputError: this release cannot.
        """
        trt = self.trt
        if not (
            hasattr(trt, "HardwareCompatibilityLevel")
            and hasattr(config, "hardware_compatibility_level")
        ):
            raise InputError(f"{self.label} builds no engine for Ampere and later GPUs")
        config.hardware_compatibility_level = trt.HardwareCompatibilityLevel.AMPERE_PLUS
        return "AMPERE_PLUS"

    @property
    def known_capabilities(self) -> tuple[str, ...]:
        """Compute capabilities that an engine can be built for by name."""
        trt = self.trt
        if not hasattr(trt, "ComputeCapability"):
            return ()
        names = [name for name in dir(trt.ComputeCapability) if re.fullmatch(r"SM\d+", name)]
        return tuple(sorted((name.lower() for name in names), key=lambda name: int(name[2:])))

    @contextmanager
    def progress(self, config: Any, on_progress: OnProgress | None) -> Iterator[None]:
        """Report the phases of a build, where this release tells them.

        What the callback raises (Ctrl-C too) stops the build and is raised when it has stopped.
        """
        trt = self.trt
        raised: list[BaseException] = []
        if (
            on_progress is not None
            and hasattr(config, "progress_monitor")
            and hasattr(trt, "IProgressMonitor")
        ):
            monitor = progress_monitor(trt.IProgressMonitor, on_progress, raised)
            config.progress_monitor = monitor
            yield
            del monitor  # the config only borrows it
        else:
            yield
        if raised:
            raise raised[0]

    def problems(self, parser: Any) -> list[ParserProblem]:
        """Return what the parser could not read."""
        problems = []
        for index in range(parser.num_errors):
            problem = parser.get_error(index)
            problems.append(
                ParserProblem(
                    description=problem.desc(),
                    node_index=problem.node(),
                    node_name=problem.node_name() if hasattr(problem, "node_name") else "",
                    operator=problem.node_operator() if hasattr(problem, "node_operator") else "",
                )
            )
        return problems


def share_profiles(trt: Any, config: Any) -> str | None:
    """Let several contexts of an engine use one profile; return the feature switched on, if any.

    8.6 gives a profile to one context only unless told so when the engine is built, and a CUDA
    graph needs a context of its own.  Later releases share without being told.

    Args:
        trt: the module of the release.
        config: of the engine about to be built.
    """
    if hasattr(trt, "PreviewFeature") and hasattr(trt.PreviewFeature, "PROFILE_SHARING_0806"):
        feature = trt.PreviewFeature.PROFILE_SHARING_0806
        # 10.x still knows the name, but has it on for good and grumbles when it is set.
        if not config.get_preview_feature(feature):
            config.set_preview_feature(feature, True)
            return "PROFILE_SHARING_0806"
    return None
