"""What can go wrong, and what the user can do about it.

    FcnDeployError             exit code 2, one line on stderr
    ├── DataError              a folder, a list, an image or a mask
    │   ├── ImageError         one file that is no readable picture
    │   │   └── PixelLimitError    one of more pixels than are decoded
    │   ├── ListError          a line of a list that is no name of a sample
    │   ├── LabelError         a mask with a value that is no class
    │   └── PaletteError       a mask whose colours contradict its indices
    ├── ArtifactError          a file of ours: missing, unreadable, unwritable
    │   ├── WriteError         one that cannot be written; options may choose another place
    │   ├── MissingStageError  an earlier command has to run first
    │   ├── BundleError        a bundle: damaged, hostile, or not what it says
    │   ├── CheckpointError    model.safetensors
    │   ├── OnnxFileError      model.onnx
    │   │   └── UnfitNetworkError  one that is sound, and not for this backend
    │   └── EngineError        a TensorRT engine that does not belong here
    │       └── BatchShapeError  one that belongs, or a network, and not for this batch
    ├── MissingExtraError      a package of one of our extras is not installed
    ├── ArchitectureError      an architecture or its weights
    ├── BackendError           a backend, provider or device that is not to be had
    │   └── CudaError          a call of the CUDA runtime
    ├── InputError             what a runner was given to run
    ├── DeviceMemoryError      the GPU's memory does not suffice
    ├── TrainingError          the loss left the numbers, or another process was lost
    │   ├── LostProcessError   another process of the run has ended
    │   └── TrainingStoppedError  a signal asked for an end (exit code 130)
    ├── MeasurementError       the clock gave no figures
    │   └── MaskMismatchError  figures of masks that are not the network's
    ├── BuildError             TensorRT built no engine that may be used (exit code 1)
    └── ExportError            the exported graph failed its own check (exit code 1)

Every error carries its repair: what to type or change so that it goes away.
"""

from fcn_deploy.core.installing import install_command


class FcnDeployError(Exception):
    """Base of all errors that are for the user to read.

    Args:
        message: what is wrong, naming the file or value.
        repair: what to do about it, as a command where there is one.
    """

    exit_code = 2

    def __init__(self, message: str, repair: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.repair = repair

    def __str__(self) -> str:
        line = self.message if self.repair is None else f"{self.message}; {self.repair}"
        # Messages of foreign libraries may span lines; a user error is one line.
        return " ".join(line.split())


class DataError(FcnDeployError):
    """Something is wrong with the labelled images."""


class ImageError(DataError):
    """A file is not a picture that can be decoded."""


class PixelLimitError(ImageError):
    """A picture has more pixels, by its header, than are decoded."""


class ListError(DataError):
    """A list's line is no plain name, or leads out of the folder."""


class PaletteError(DataError):
    """A mask's indices and its palette's colours name different classes."""


class LabelError(DataError):
    """A mask holds a value beyond the classes."""


class ArtifactError(FcnDeployError):
    """A file of a run cannot be read or written."""


class WriteError(ArtifactError):
    """A file cannot be written where it was to be.

    Args:
        message: what cannot be written, and why.
        repair: what to do about it, up to the options that choose another place.
        flags: these options, for example ``--out``; None: whoever knows them adds them.
    """

    def __init__(self, message: str, repair: str | None = None, flags: str | None = None) -> None:
        super().__init__(message, repair)
        self.flags: str | None = None
        if flags is not None:
            self.name_flags(flags)

    def name_flags(self, flags: str) -> None:
        """Add the options that choose another place to the repair, unless it has them."""
        if self.flags is None and self.repair is not None:
            self.flags = flags
            self.repair = f"{self.repair} with {flags}"


class MissingStageError(ArtifactError):
    """An earlier stage has not been run; the repair names its command."""


class BundleError(ArtifactError):
    """A bundle is damaged, not written by `fcn-deploy bundle`, or not what its maker signed."""


class CheckpointError(ArtifactError):
    """A checkpoint is truncated, foreign, or of another architecture or class count."""


class OnnxFileError(ArtifactError):
    """An ONNX file is unreadable or was not written by ``fcn-deploy export``."""


class UnfitNetworkError(OnnxFileError):
    """A sound ONNX file holds a network that a backend does not compute; others do."""


class EngineError(ArtifactError):
    """An engine is damaged, or was built for another release, GPU or shape."""


class BatchShapeError(EngineError):
    """An engine or a network does not take batches of this shape; it stays usable for others."""


class MissingExtraError(FcnDeployError):
    """What a command needs beyond the runtime is not installed.

    Args:
        what: what cannot be done without it, e.g. ``serving over HTTP``.
        extra: the extra of this package that brings it.
        error: what Python said when it was imported.
        otherwise: what is possible without it, to stand behind the repair; None: nothing.
    """

    def __init__(
        self, what: str, extra: str, error: ImportError, otherwise: str | None = None
    ) -> None:
        install = install_command(extra)
        super().__init__(
            cannot_import(what, error), install if otherwise is None else f"{install}{otherwise}"
        )
        self.extra = extra


def cannot_import(what: str, error: ImportError) -> str:
    """Return that something needs a package which Python does not import.

    Args:
        what: as for :class:`MissingExtraError`.
        error: what Python said; its words are added unless the package is just not there.
    """
    if error.name is None:
        return f"{what} needs a package that cannot be imported ({error})"
    why = "" if isinstance(error, ModuleNotFoundError) else f" ({error})"
    return f"{what} needs {error.name.partition('.')[0]}, which cannot be imported{why}"


class ArchitectureError(FcnDeployError):
    """An architecture is unknown, or its pretrained weights cannot be had."""


class BackendError(FcnDeployError):
    """A backend, execution provider or device asked for by name cannot be had here."""


class CudaError(BackendError):
    """A call of the CUDA runtime failed."""


class InputError(FcnDeployError, ValueError):
    """A runner or a command was given values it cannot work on."""


class DeviceMemoryError(FcnDeployError):
    """The GPU has not enough free memory; nothing was run, and the runner stays usable."""


class BuildError(FcnDeployError):
    """TensorRT refused the network or built another engine than asked for; none was left."""

    exit_code = 1


class TrainingError(FcnDeployError):
    """The training left the numbers, or lost a process; the last whole checkpoint stays."""


class LostProcessError(TrainingError):
    """Another of the processes that train together has ended."""


class TrainingStoppedError(TrainingError):
    """Ctrl-C or the system asked for an end; the state was saved to go on from."""

    exit_code = 130


class MeasurementError(FcnDeployError):
    """A measurement ended without figures."""


class MaskMismatchError(MeasurementError):
    """The masks that were timed are wrong: no repeat of that case counts."""


class ExportError(FcnDeployError):
    """The exported graph failed its self-check; no file was left."""

    exit_code = 1
