"""``fcn-deploy ship``: from a trained run to a bundle that holds, in one go."""

import sys
from typing import Any

import click

from fcn_deploy.commands.shared.bundle_making import PICTURES, out_option, sign_option
from fcn_deploy.commands.shared.code_options import trust_code_option
from fcn_deploy.commands.shared.console import console
from fcn_deploy.commands.shared.options import PathText, PathType, run_argument
from fcn_deploy.commands.shared.runs import labelled_data, run_from_argument
from fcn_deploy.commands.shared.steps import command_line, path_word, run_step
from fcn_deploy.commands.ship_steps import ALL, CPU, ShipOptions, bundle_file, ship_steps
from fcn_deploy.core.errors import InputError
from fcn_deploy.core.run import Run
from fcn_deploy.core.spec import Product


@click.command()
@run_argument
@click.option(
    "--target", type=click.Choice([ALL, CPU, *(product.value for product in Product)]),
    default=ALL, show_default=True,
    help="Prove and time the backends of this target: all that run here, those of the CPU, or "
    "TensorRT, whose engine is built and carried along.",
)  # fmt: skip
@click.option(
    "--fp16", is_flag=True, help="Ship the half precision network beside the float32 one."
)
@click.option("--int8", is_flag=True, help="Ship the 8-bit network as well.")
@out_option
@click.option(
    "--images", "count", type=click.IntRange(min=1), default=PICTURES, show_default=True,
    metavar="N",
    help="Let so many pictures ride along in the bundle.",
)  # fmt: skip
@click.option(
    "--data", metavar="DIR|synthetic", type=PathText("synthetic", folder=True),
    help="Prove on the validation images of this folder, or of the built-in scenes (`synthetic`); "
    "by default on the run's own.",
)  # fmt: skip
@click.option(
    "--pictures", type=PathType(folder=True), metavar="DIR",
    help="Prove on this folder of pictures, which need no labels.",
)  # fmt: skip
@click.option(
    "--limit", type=click.IntRange(min=1), help="Prove on so many pictures at most, the first ones."
)
@click.option(
    "--quick", is_flag=True,
    help="Time the backends by a quick look: enough to choose one, not to publish.",
)  # fmt: skip
@sign_option
@click.option(
    "--key", "public_key", type=PathType(), metavar="PUB.pem",
    help="Check the signature with this public key.",
)  # fmt: skip
@trust_code_option
def ship(**typed: Any) -> None:
    """Export, prove, time, bundle and verify a run; each step is skipped where it is current.

    Stops at the first step that does not hold, with its exit code. What it runs is printed as it
    would be typed.
    """
    options = ShipOptions(**typed)
    source = _trained(options)
    _require_able(source, options)
    done = skipped = 0
    for step in ship_steps(source, options):
        if (reason := step.current()) is not None:
            console.print(f"current: {step.words()[0]}; {reason}")
            skipped += 1
            continue
        words = step.words()
        if (code := run_step(words)) != 0:
            console.print(f"stopped: `{command_line(words)}` ended with exit code {code}")
            sys.exit(code if code > 0 else 128 - code)
        done += 1
    file = bundle_file(source, options)
    proof = command_line(["verify", path_word(file), "--run"])
    console.print(
        f"{file} can be handed over: `{proof}` proves it on its target "
        f"({done} steps done, {skipped} were current)"
    )


def _trained(options: ShipOptions) -> Run:
    """Return the run, which must be a run directory with something to ship.

    Raises:
        FcnDeployError: there is none.
    """
    source = run_from_argument(options.run)
    if source.named_file is not None or source.bundle is not None:
        raise InputError(f"{source.named_file or source.bundle} is no run", "name a run directory")
    if options.data is not None and options.pictures is not None:
        raise InputError("--data and --pictures exclude each other", "give one of them")
    if not source.has_model():
        source.require_checkpoint()
    return source


def _require_able(source: Run, options: ShipOptions) -> None:
    """Refuse what would end the last steps, minutes later.

    Raises:
        FcnDeployError: the bundle cannot be written or signed, or what proves it is not there.
    """
    from fcn_deploy.bundle.signature import require_signing
    from fcn_deploy.bundle.writer import require_bundle_name
    from fcn_deploy.core.files import probe
    from fcn_deploy.tensorrt.api import choose_product, unavailable_reason

    target = bundle_file(source, options)
    require_bundle_name(target)
    if options.target not in (ALL, CPU):
        if (reason := unavailable_reason(Product(options.target))) is not None:
            raise InputError(f"--target {options.target}: {reason}", "or ship another target")
        taken = choose_product("auto")
        if taken.value != options.target:
            raise InputError(
                f"`--backend trt` takes {taken.value} on this machine, not {options.target}",
                f"ship with --target {taken.value}, or where only {options.target} is installed",
            )
    if options.key is not None:
        require_signing(options.key)
    if options.public_key is not None and not options.public_key.is_file():
        raise InputError(f"no key {options.public_key}", "name the public key, PUB.pem")
    if options.public_key is not None and options.key is None:
        raise InputError("--key checks a signature, and none is made", "add --sign KEY.pem")
    if options.data is None and options.pictures is None:
        labelled_data(source, None, None, "name data with --data DIR, or pictures: --pictures DIR")
    if not target.is_file():  # one that is current may lie where nothing can be written
        probe(target, flags="--out")
