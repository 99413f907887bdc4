"""What TensorRT itself answers on this machine where its documents leave it open.

    python probe.py JSON FILE.onnx …

A small engine is built of the first file that is half precision (else of the first), and asked what
reading could not settle: the header of a plan, what the inspector tells with and without a context,
a second context on a profile, capturing with and without waiting before it, memory over contexts
that come and go.  The parser is asked about every file.  Each question is one of TensorRT's own
calls in a ``try`` of its own, and the JSON is written before and after it: where a call ends the
process, ``running`` names it.  Last, the same engine by way of this package.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fcn_deploy.core.errors import FcnDeployError
from fcn_deploy.core.files import write_json
from fcn_deploy.core.run import Run
from fcn_deploy.core.spec import BatchShape, Precision, ShapeProfile
from fcn_deploy.graph.logits import with_logits
from fcn_deploy.graph.onnx_file import OnnxFile
from fcn_deploy.machine import cuda
from fcn_deploy.results.environment import result_header
from fcn_deploy.runners.base import open_runner
from fcn_deploy.tensorrt import api, callbacks
from fcn_deploy.tensorrt.build import engine_from_onnx
from fcn_deploy.tensorrt.build_options import BuildOptions

PROBE_SCHEMA = 1
SHAPE: BatchShape = (1, 64, 96)
#: Dynamic, so that a type which depends on the size shows.
PROFILE = ShapeProfile(SHAPE, SHAPE, (2, 96, 128))
HEADER_BYTES = 64
CONTEXTS, CONTEXTS_BETWEEN_MARKS = 50, 10
FOLDER = Path("probe-engines")


class Answers:
    """The answers so far, in a file after each.

    Args:
        target: the JSON.
    """

    def __init__(self, target: Path) -> None:
        self._target = target
        self._document: dict[str, Any] = {
            **result_header("probe", PROBE_SCHEMA), "running": None, "answers": {},
        }  # fmt: skip

    def ask(self, name: str, question: Callable[[], Any]) -> None:
        """Keep what a question answers, or what it raises, and TensorRT's own last error."""
        self._document["running"] = name
        write_json(self._target, self._document)
        callbacks.clear_errors()
        silence, started = callbacks.last_error(), time.perf_counter()
        entry: dict[str, Any] = {}
        try:
            entry["answer"] = question()
        except Exception as error:  # whatever it is, it is the answer
            entry["raised"] = f"{type(error).__name__}: {error}"
        entry["seconds"] = round(time.perf_counter() - started, 3)
        if callbacks.last_error() != silence:
            entry["logged"] = callbacks.last_error()
        self._document["answers"][name] = entry
        self._document["running"] = None
        write_json(self._target, self._document)
        print(f"{name}: {str(entry)[:200]}")


class SmallEngine:
    """An engine of one file, built and run by TensorRT's own calls.

    Args:
        tensorrt: the product that is installed.
        file: with the mask as its one output.
    """

    def __init__(self, tensorrt: api.TensorRt, file: OnnxFile) -> None:
        self._tensorrt, self._trt, self._file = tensorrt, tensorrt.trt, file
        self.plan: bytes = b""
        self._timings: bytes = b""
        self._runtime: Any = None
        self._engine: Any = None
        self._made_stream: cuda.Stream | None = None
        self._buffers: dict[str, Any] = {}

    def build(self, *, share: bool) -> dict[str, Any]:
        """Build the plan at the lowest level, beginning with the timings of the build before."""
        trt, tensorrt = self._trt, self._tensorrt
        self.close()
        builder = trt.Builder(tensorrt.logger)
        network = tensorrt.create_network(builder)
        parser = trt.OnnxParser(network, tensorrt.logger)
        if not parser.parse(self._file.bytes):
            raise ValueError(str(tensorrt.problems(parser)))
        config = builder.create_builder_config()
        profile = builder.create_optimization_profile()
        profile.set_shape("image", *((*shape, 3) for shape in PROFILE.shapes))
        config.add_optimization_profile(profile)
        config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
        config.builder_optimization_level = 0
        flags = tensorrt.set_precision(config, self._file.metadata.precision)
        left_out = tensorrt.leave_out_external_tactics(config)
        sharing = api.share_profiles(trt, config) if share else None
        before, taken = self._timings, None
        if tensorrt.has_timing_cache:
            taken = config.set_timing_cache(config.create_timing_cache(before), False)
        with (
            callbacks.logged_messages("Engine Layer Information") as information,
            callbacks.logged_messages("Layers:") as layers,
        ):
            plan = builder.build_serialized_network(network, config)
        if tensorrt.has_timing_cache:
            self._timings = bytes(config.get_timing_cache().serialize())
        self.plan = b"" if plan is None else bytes(plan)
        return {
            "plan_bytes": len(self.plan),
            "flags": [*flags, *left_out, *([] if sharing is None else [sharing])],
            "timing_cache_before_bytes": len(before),
            "timing_cache_taken": taken,
            "timing_cache_bytes": len(self._timings),
            "log_engine_layer_information": information,
            "log_layers": layers,
        }

    def header(self) -> dict[str, str]:
        """Return the plan's first bytes."""
        start = self.plan[:HEADER_BYTES]
        return {"hex": start.hex(" "), "text": start.decode("ascii", "replace")}

    def load(self) -> dict[str, Any]:
        """Load the plan; return what the engine tells of itself."""
        self._runtime = self._trt.Runtime(self._tensorrt.logger)
        self._engine = self._runtime.deserialize_cuda_engine(self.plan)
        told = (
            "num_layers", "num_aux_streams", "device_memory_size", "device_memory_size_v2",
            "num_optimization_profiles", "num_io_tensors",
        )  # fmt: skip
        loaded = self._engine is not None
        return {"loaded": loaded, **{name: _told(self._engine, name) for name in told}}

    def inspect(self, *, with_context: bool) -> str:
        """Return the inspector's JSON as it is, with or without a context that knows its sizes."""
        inspector = self._engine.create_engine_inspector()
        if with_context:
            context = self._new_context()
            context.set_input_shape("image", (*SHAPE, 3))
            inspector.execution_context = context
        return str(inspector.get_engine_information(self._trt.LayerInformationFormat.JSON))

    def two_contexts(self) -> list[dict[str, Any]]:
        """Return what the calls say that put two contexts on one profile."""
        contexts, answers = [self._new_context(), self._new_context()], []
        for context in contexts:
            calls = {
                "profile_set": partial(context.set_optimization_profile_async, 0, self._handle()),
                "pixels_by_class": partial(self._pixels_by_class, context),
            }
            answer: dict[str, Any] = {}
            for name, call in calls.items():
                try:
                    answer[name] = call()
                except Exception as error:  # what it raises is an answer too
                    answer[name] = f"{type(error).__name__}: {error}"
            answers.append(answer)
        return answers

    def run(self) -> dict[str, Any]:
        """Run a picture twice; return how many pixels each class has."""
        context = self._new_context()
        first, again = self._pixels_by_class(context), self._pixels_by_class(context)
        return {"pixels_by_class": first, "same_again": first == again}

    def capture(self, *, synchronise: bool) -> dict[str, Any]:
        """Record a run right after one, waiting for it or not, and launch what was recorded."""
        context, stream = self._new_context(), self._stream()
        expected = self._run(context)
        context.execute_async_v3(self._handle())
        if synchronise:
            stream.synchronize()
        stream.begin_capture()
        try:
            executed = bool(context.execute_async_v3(self._handle()))
        except BaseException:
            stream.abandon_capture()
            raise
        graph = stream.end_capture()
        graph.launch(stream)
        found = self._mask()
        graph.close()
        return {"executed": executed, "same_masks": bool((found == expected).all())}

    def contexts_come_and_go(self) -> dict[str, int]:
        """Return the device memory in use, in KiB, after so many contexts were made and dropped."""
        used = {"0": cuda.memory_in_use() >> 10}
        for index in range(CONTEXTS):
            self._run(self._new_context())
            if (index + 1) % CONTEXTS_BETWEEN_MARKS == 0:
                used[str(index + 1)] = cuda.memory_in_use() >> 10
        return used

    def _new_context(self) -> Any:
        scratch = self._tensorrt.scratch_bytes(self._engine)
        buffer = self._buffer("scratch", max(scratch, 1))
        return self._tensorrt.create_context(self._engine, buffer.pointer, buffer.nbytes)

    def _pixels_by_class(self, context: Any) -> list[int]:
        return list(map(int, np.bincount(self._run(context))))

    def _run(self, context: Any) -> NDArray[np.uint8]:
        stream, pixels = self._stream(), int(np.prod(SHAPE))
        image = self._buffer("image", 3 * pixels)
        host = self._buffer("image on the host", 3 * pixels, on_host=True)
        generator = np.random.default_rng(0)
        host.array((3 * pixels,), np.dtype(np.uint8))[:] = generator.integers(0, 256, 3 * pixels)
        stream.copy_in(image, host, 3 * pixels)
        if not context.set_input_shape("image", (*SHAPE, 3)):
            raise RuntimeError(f"no shape is taken: {callbacks.last_error()}")
        context.set_tensor_address("image", image.pointer)
        context.set_tensor_address("mask", self._buffer("mask", pixels).pointer)
        if not context.execute_async_v3(self._handle()):
            raise RuntimeError(callbacks.last_error())
        return self._mask()

    def _mask(self) -> NDArray[np.uint8]:
        pixels, stream = int(np.prod(SHAPE)), self._stream()
        host = self._buffer("mask on the host", pixels, on_host=True)
        stream.copy_out(host, self._buffer("mask", pixels), pixels)
        stream.synchronize()
        mask: NDArray[np.uint8] = host.array((pixels,), np.dtype(np.uint8)).copy()
        return mask

    def _buffer(self, name: str, nbytes: int, *, on_host: bool = False) -> Any:
        """Return memory of that name, made when it is first asked for."""
        if name not in self._buffers:
            self._buffers[name] = (cuda.PinnedBuffer if on_host else cuda.DeviceBuffer)(nbytes)
        return self._buffers[name]

    def _stream(self) -> cuda.Stream:
        if self._made_stream is None:
            self._made_stream = cuda.Stream()
        return self._made_stream

    def _handle(self) -> int:
        return int(self._stream().handle)

    def close(self) -> None:
        """Free the engine and the memory."""
        self._stream().synchronize()
        self._engine = self._runtime = None
        for held in (self._stream(), *self._buffers.values()):
            held.close()
        self._made_stream, self._buffers = None, {}


def _told(engine: Any, name: str) -> Any:
    try:
        value = getattr(engine, name)
    except AttributeError:
        return None  # a name that this release lacks
    return value if isinstance(value, int) else str(value)


def parse(tensorrt: api.TensorRt, content: Callable[[], bytes]) -> dict[str, Any]:
    """Return what the parser says of an ONNX file."""
    builder = tensorrt.trt.Builder(tensorrt.logger)
    network = tensorrt.create_network(builder)
    parser = tensorrt.trt.OnnxParser(network, tensorrt.logger)
    parsed = bool(parser.parse(content()))
    return {"parsed": parsed, "problems": [vars(found) for found in tensorrt.problems(parser)]}


def by_this_package(tensorrt: api.TensorRt, file: OnnxFile) -> dict[str, Any]:
    """Build, run and stream the engine as `fcn-deploy` does; return whether its masks are one."""
    engine = engine_from_onnx(
        file,
        name="probe",
        product=tensorrt.product,
        options=BuildOptions(profiles=(PROFILE,), optimization_level=0),
        folder=FOLDER,
    )
    images = np.random.default_rng(0).integers(0, 256, (*SHAPE, 3), dtype=np.uint8)
    run = Run.from_argument(engine.path)
    with open_runner(run, "trt", precision=file.metadata.precision) as runner:
        # Plainly, then recorded, then launched.
        masks = [runner.run(images).mask for _ in range(4)]
        masks += [outputs.mask for outputs in runner.stream([images] * 4)]
        description = runner.describe().to_json()
    same = all(np.array_equal(mask, masks[0]) for mask in masks)
    sidecar = engine.sidecar
    return {
        "layers": sidecar.layers, "layers_from": sidecar.layers_from, "same_masks": same,
        "pixels_by_class": list(map(int, np.bincount(masks[0].ravel()))), "runner": description,
    }  # fmt: skip


def ask_all(answers: Answers, tensorrt: api.TensorRt, files: Sequence[Path]) -> None:
    """Ask everything, what may end the process after what does not."""
    for path in files:
        answers.ask(f"parse {path}", partial(parse, tensorrt, path.read_bytes))
    ours = [path for path in files if _gives_masks(path)]
    for path in ours:
        answers.ask(f"parse {path}, logits shown", partial(parse, tensorrt, partial(_shown, path)))
    if not ours:
        sys.exit("none of the files gives the mask alone")
    chosen = min(ours, key=lambda path: OnnxFile(path).metadata.precision is not Precision.FP16)
    small = SmallEngine(tensorrt, OnnxFile(chosen))
    answers.ask("build, profiles shared", lambda: small.build(share=True))
    answers.ask("plan's header", small.header)
    answers.ask("engine", small.load)
    answers.ask("inspector without a context", lambda: small.inspect(with_context=False))
    answers.ask("inspector with a context", lambda: small.inspect(with_context=True))
    answers.ask("run", small.run)
    answers.ask("two contexts, profiles shared", small.two_contexts)
    answers.ask("capture after synchronising", lambda: small.capture(synchronise=True))
    answers.ask("memory in use over contexts, KiB", small.contexts_come_and_go)
    # Also the round trip of the timing cache: this build begins with the one before.
    answers.ask("build, profiles not shared", lambda: small.build(share=False))
    answers.ask("engine, profiles not shared", small.load)
    answers.ask("two contexts, profiles not shared", small.two_contexts)
    answers.ask("by this package", lambda: by_this_package(tensorrt, OnnxFile(chosen)))
    answers.ask("capture without synchronising", lambda: small.capture(synchronise=False))
    small.close()


def _gives_masks(path: Path) -> bool:
    """Say whether a file is of this package and has the mask as its one output."""
    try:
        return OnnxFile(path).metadata.outputs == ("mask",)
    except FcnDeployError:
        return False


def _shown(path: Path) -> bytes:
    content: bytes = with_logits(OnnxFile(path).model).SerializeToString()
    return content


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("json", type=Path)
    parser.add_argument("onnx", type=Path, nargs="+")
    asked = parser.parse_args(arguments)
    tensorrt = api.load(api.choose_product("auto"))
    ask_all(Answers(asked.json), tensorrt, asked.onnx)


if __name__ == "__main__":
    main()
