"""The checks that only a GPU can make: what is checked, by which steps, and which results decide.

A new check is a line here.  ``steps`` are names in ``benchmarks/gpu/run.sh`` or ``steps.txt``; a
check that has none is made by hand, and ``by_hand`` says how.  ``find`` chooses the results that
decide, by their content; a check without it has no result file of its own.
"""

from __future__ import annotations

from dataclasses import dataclass

from fcn_deploy.core.spec import Tail
from fcn_deploy.results.scenarios import END_TO_END
from gpu_page import device
from gpu_page.device import measured
from gpu_page.findings import (
    FP16,
    FP32,
    INT8,
    MAX_SECONDS,
    MIN_MIOU,
    Finder,
    engine,
    masks_alone,
    parity,
    rtx_loaded,
    tested,
    trained,
    training_rate,
)
from gpu_page.speed import (
    TIMES_PLAIN_EXPORT,
    ahead_of_others,
    cold_starts,
    in_turns,
    peers,
    sensors,
    speed,
)


@dataclass(frozen=True)
class Check:
    """One check.

    Attributes:
        what: is checked.
        steps: that give it.
        find: finds its results; None where it leaves no result file.
        by_hand: how it is made where no step gives it.
    """

    what: str
    steps: tuple[str, ...] = ()
    find: Finder | None = None
    by_hand: str = ""


@dataclass(frozen=True)
class Section:
    """Checks that stand together on the page."""

    title: str
    checks: tuple[Check, ...]


_OTHERS = ("torch", "torch-graphs", "torch-compile", "ort-cuda", "baseline-cuda")
TOURNAMENT = Tail.TOURNAMENT.value
_SHARE = f"{device.MIN_OF_FLOOR:.0%}".replace("%", " %")

SECTIONS = (
    Section(
        "Engines and tests",
        (
            Check(
                "FP16 engine of TensorRT 8.6",
                ("build-fp16",),
                engine(FP16, "8.6."),
            ),
            Check(
                "FP16 engine of TensorRT 10 or 11",
                ("build-fp16",),
                engine(FP16, "10.", "11."),
            ),
            Check(
                "FP16 engine with a tournament in the argmax's place",
                ("build-tournament",),
                engine(FP16, tail=TOURNAMENT),
            ),
            Check(
                "FP16 engine that fits other releases, or other GPUs",
                find=engine(FP16, portable=True),
                by_hand="`fcn-deploy build RUN --fp16 --portable version`, then `ampere+`",
            ),
            Check("FP32 engine", ("build-fp32",), engine(FP32)),
            Check("INT8 engine, and which layers stay in float", ("build-int8",), engine(INT8)),
            Check(
                "TensorRT for RTX on an RTX card (1.7.1 builds for 7.5, 8.x and 12.x, not for "
                "9.0): it loads its own engine, and our check says the same",
                ("rtx-build", "rtx-load"),
                rtx_loaded(),
            ),
            Check(
                "`pytest -m gpu` of `trt`: masks against ONNX Runtime, `stream` against `run`, "
                "CUDA graphs with shared scratch memory, flat memory",
                ("gpu-tests",),
                tested("test_trt_gpu"),
            ),
            Check(
                "`pytest -m gpu` of PyTorch: half precision, `torch-compile` and `torch-graphs` "
                "give eager's masks",
                ("gpu-tests-torch",),
                tested("test_pytorch"),
            ),
        ),
    ),
    Section(
        "Masks: the parity gate",
        (
            Check("`trt` FP16", ("parity-trt-fp16",), parity("trt", FP16)),
            Check(
                "masks alone of `trt` FP16 beside the recorded reference: less than the gate, but "
                "at once",
                ("masks-trt-fp16",),
                masks_alone("trt", FP16),
            ),
            Check(
                "the same of the engine whose argmax is a tournament",
                ("masks-trt-tournament",),
                masks_alone("trt", FP16, tail=TOURNAMENT),
            ),
            Check("`trt` FP32", ("parity-trt-fp32",), parity("trt", FP32)),
            Check("`trt` INT8", ("parity-trt-int8",), parity("trt", INT8)),
            Check(
                "`ort-cuda` FP32; it refuses a file of which ONNX Runtime runs a node that "
                "computes with pixels on the CPU",
                ("parity-ort-cuda-fp32",),
                parity("ort-cuda", FP32),
            ),
            Check("`ort-cuda` FP16", ("parity-ort-cuda-fp16",), parity("ort-cuda", FP16)),
            Check("`torch` FP16", ("parity-record",), parity("torch", FP16)),
            Check(
                "`torch-graphs` FP16",
                ("parity-torch-graphs-fp16",),
                parity("torch-graphs", FP16),
            ),
            Check(
                "`torch-compile` FP16",
                ("parity-torch-compile-fp16",),
                parity("torch-compile", FP16),
            ),
            Check(
                "`ort-rtx` FP16 on an RTX card",
                find=parity("ort-rtx", FP16),
                by_hand="`fcn-deploy parity RUN --backend ort-rtx --fp16 --data DIR --json FILE`",
            ),
        ),
    ),
    Section(
        "Speed, from host memory and from files",
        (
            Check(
                "`trt` FP16, single stream and offline",
                ("bench-trt-*", "bench-offline-trt"),
                speed("trt"),
            ),
            Check(
                "`trt` INT8",
                ("bench-trt-int8-*", "bench-offline-trt-int8"),
                speed("trt", precision=INT8),
            ),
            Check(
                "PyTorch, `ort-cuda` and the plain export on ONNX Runtime's CUDA provider, FP16",
                ("bench-others-*", "bench-compile-320x480", "bench-offline-others"),
                speed(*_OTHERS),
            ),
            Check(
                "`trt` FP16 ahead of all others end to end at batch 32, in one run (where one "
                "Python has both)",
                ("bench-offline-trt",),
                ahead_of_others(END_TO_END, 32),
            ),
            Check(
                "`trt` FP16 from pinned and from ordinary memory, in turns with PyTorch and "
                "`ort-cuda` of another Python",
                ("turns",),
                in_turns(over_plain_export=False),
            ),
            Check(
                f"`trt` FP16 at least {TIMES_PLAIN_EXPORT} × the plain export from host memory, in "
                "turns with it",
                ("turns",),
                in_turns(over_plain_export=True),
            ),
            Check(
                "our backends beside PyTorch eager, compiled and with CUDA graphs, in one run",
                ("peers",),
                peers(),
            ),
            Check(
                "clocks, temperature, power and energy during a bench",
                ("bench-trt-*", "bench-others-*"),
                sensors(),
            ),
            Check("`trt` from its start to the first mask", ("bench-trt-*",), cold_starts("trt")),
        ),
    ),
    Section(
        "The engine on the GPU",
        (
            Check("FP16 alone on the GPU, with a CUDA graph", ("device-tier-fp16",),
                  measured(device.latency)),
            Check(
                "the same with a tournament in the argmax's place",
                ("device-tier-tournament",),
                measured(device.latency, tail=TOURNAMENT),
            ),
            Check("the same in FP32", ("device-tier-fp32",), measured(device.latency, FP32)),
            Check("the same in INT8", ("device-tier-int8",), measured(device.latency, INT8)),
            Check(
                "FP16 from pinned memory to pinned memory, and its share of what the slower of bus "
                f"and GPU allows: at least {_SHARE} at batch {device.OF_FLOOR_BATCH}",
                ("device-tier-fp16",),
                measured(device.of_floor),
            ),
            Check("the bus alone", ("device-tier-fp16",), measured(device.bus)),
            Check(
                "FP16 from ordinary memory, beside pinned memory",
                ("device-tier-fp16",),
                measured(device.ordinary_memory),
            ),
            Check(
                "two engine contexts at once, beside one",
                ("device-tier-fp16",),
                measured(device.two_contexts),
            ),
            Check(
                "FP16 layer by layer, beside the whole as one CUDA graph",
                ("device-tier-fp16",),
                measured(device.layers),
            ),
            Check("GPU memory of an FP16 engine", ("device-tier-fp16",), measured(device.memory)),
            Check(
                "CUDA graphs are recorded with shared scratch memory, and none is refused",
                ("device-tier-fp16", "leak"),
                device.graphs(),
            ),
            Check(
                "memory over 1,000 runs of 20 shapes in turns, graphs recorded and dropped",
                ("leak",),
                measured(device.leak),
            ),
        ),
    ),
    Section(
        "Training",
        (
            Check(
                "`fcn8s-resnet18` from scratch on CamVid at full size: validation mIoU of at least "
                f"{MIN_MIOU} within {MAX_SECONDS // 60} minutes",
                ("train-fcn8s",),
                trained("fcn8s-resnet18"),
            ),
            Check(
                "examples per second at 320×480, and the share of the time spent waiting for data",
                ("train-rate-*",),
                training_rate(),
            ),
        ),
    ),
    Section(
        "By hand, without a result file",
        (
            Check(
                "out of GPU memory: the error, and that the runner goes on",
                by_hand="a batch beyond the GPU's memory, then a small one, with one runner",
            ),
            Check(
                "an engine of another compute capability or release is refused",
                by_hand="an engine of another card, or of another TensorRT",
            ),
            Check(
                "training on several GPUs by NCCL, `--sync-batch-norm`, `--amp fp16`, `--compile`",
                by_hand="`torchrun --nproc-per-node 2 -m fcn_deploy train …`",
            ),
            Check(
                "`tv-fcn-resnet50` and `fcn8s`: engine and gate of `trt`",
                by_hand="`fcn-deploy import`, then `build` and `parity --backend trt`",
            ),
            Check(
                "the memory estimate of `build --plan-from`, beside what each choice takes",
                by_hand="`fcn-deploy build RUN --plan-from DIR/JPEGImages`, then "
                "`benchmarks/gpu/device_tier.py`",
            ),
            Check(
                "JetPack 6.0 (TensorRT 8.6) and 6.1 (10.x)",
                by_hand="on the device, [as for JetPack](tensorrt.md#jetpack)",
            ),
        ),
    ),
)  # fmt: skip
CHECKS = tuple(check for section in SECTIONS for check in section.checks)
