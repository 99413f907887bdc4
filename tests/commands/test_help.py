"""What `--help` says: sections in the order of the work, and each option in a sentence."""

import re
from collections.abc import Iterator

import click
import pytest

from fcn_deploy import cli
from tests.command_line import FcnDeploy


def commands(group: click.Group = cli.fcn_deploy) -> Iterator[click.Command]:
    for command in group.commands.values():
        if isinstance(command, click.Group):
            yield from commands(command)
        else:
            yield command


OPTIONS = {
    f"{command.name} {param.opts[-1]}": param
    for command in commands()
    for param in command.params
    if isinstance(param, click.Option)
}


def test_the_commands_stand_in_sections_in_the_order_of_the_work(fcn_deploy: FcnDeploy) -> None:
    shown = fcn_deploy("--help").out
    titles = re.findall(r"^(\w[\w ]*):$", shown, re.MULTILINE)
    sections = ["Data", "Train", "Export", "Prove", "Use", "Hand over", "This machine"]
    assert titles == ["Options", *sections]
    names = re.findall(r"^  ([a-z]+)  +[A-Z]", shown.partition("Data:")[2], re.MULTILINE)
    assert " ".join(names) == (
        "scenes data train import export build parity evaluate bench predict serve report package "
        "ship bundle verify doctor"
    )
    assert sorted(names) == sorted(cli.fcn_deploy.commands)
    assert "..." not in shown.partition("Data:")[2]  # no sentence is cut off


@pytest.mark.parametrize("option", OPTIONS)
def test_the_help_of_an_option_is_a_sentence_and_a_default_as_it_is_typed(option: str) -> None:
    text = OPTIONS[option].help or ""
    assert re.match(r"[A-Z]\w+,? ", text), text
    assert text.endswith("."), text
    assert len(text.split()) >= 5, text
    assert not re.match(r"(Default|Overrides|Of)\b", text), text
    # What is no value click sets in brackets of its own: [default: (320x480)].
    assert not isinstance(OPTIONS[option].show_default, str)


def test_a_group_without_a_command_gives_its_help(fcn_deploy: FcnDeploy) -> None:
    alone, asked = fcn_deploy("data"), fcn_deploy("data", "--help")
    assert (alone.code, alone.err) == (0, "")
    assert alone.out == asked.out
    assert "check" in alone.out
