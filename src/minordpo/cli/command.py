"""How a command is declared, and the arguments that several commands take."""

from __future__ import annotations

import argparse
import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

Argument = tuple[str, dict[str, Any]]


def argument(
    name: str, help: str | Callable[[], str] | None = None, *, default: Any = None, **options: Any
) -> Argument:
    """An argument with the options of `ArgumentParser.add_argument`; a number or path as default is its type too.

    A `help` that is a function is called when the command is asked for.
    """
    if isinstance(default, int | float | Path):
        options.setdefault("type", type(default))
    return name, {"help": help, "default": default, **options}


def flag(name: str, help: str, **options: Any) -> Argument:
    """An option without a value, False unless it is given."""
    return name, {"help": help, "action": "store_true", **options}


FOLDERS = argument(
    "folders",
    "run folder, folder of run folders, sweep's output, or an evaluation of such runs",
    nargs="+",
    type=Path,
    metavar="DIR",
)
ALLOW_CODE = flag("--allow-code", "import an objective.name of the form package.module:function")
DTYPE = argument("--dtype", "type of the weights", choices=("float32", "bfloat16"), default="float32")


@dataclass(frozen=True, kw_only=True)
class Command:
    """A function as a command. Its docstring is what `--help` says, with `<name>` where `parts` has a text for it.

    `run` gets each argument as a keyword, imports what is slow to import, and may return an exit status. `parts` may
    import too: it is called only when this command is asked for. `goes_on` tells from the arguments how a user goes on
    after an interrupt; an empty text stands for not at all.
    """

    run: Callable[..., int | None]
    help: str
    arguments: Sequence[Argument]
    parts: Callable[[], Mapping[str, str]] = dict
    goes_on: Callable[[Mapping[str, Any]], str] = lambda options: ""

    @property
    def name(self) -> str:
        """The name of the function."""
        return self.run.__name__

    def texts(self) -> tuple[str, str]:
        """Return the text that --help prints before the arguments, and the examples that it prints after them."""
        text, heading, examples = inspect.cleandoc(self.run.__doc__ or "").partition("Examples:\n")
        for name, part in self.parts().items():
            text = text.replace(f"<{name}>", part)
        return text.rstrip(), heading + examples


def command(
    help: str, *arguments: Argument, **options: Any
) -> Callable[[Callable[..., int | None]], Command]:
    """Make a command of a function; `options` are those of `Command`."""
    return lambda run: Command(run=run, help=help, arguments=arguments, **options)


@dataclass(frozen=True, kw_only=True)
class CommandGroup:
    """A command whose first argument names one of several others."""

    name: str
    help: str
    description: str
    commands: Sequence[Command]
    metavar: str = "COMMAND"


class Parser(argparse.ArgumentParser):
    """A parser that asks its command for texts and arguments when they are needed, and not before."""

    def __init__(self, *, command: Command | None = None, **options: Any) -> None:
        super().__init__(formatter_class=argparse.RawDescriptionHelpFormatter, **options)
        self.command = command

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Parse the arguments; the arguments of the command are declared first."""
        if self.command is not None and self.get_default("command") is None:
            self.set_defaults(command=self.command)
            for name, options in self.command.arguments:
                told = options["help"]
                said = told().replace("%", "%%") if callable(told) else told
                self.add_argument(name, **options | {"help": said})
        return super().parse_known_args(args, namespace)

    def format_help(self) -> str:
        """Return the text of --help, with the description and the examples of the command."""
        if self.command is not None:
            self.description, self.epilog = self.command.texts()
        return super().format_help()

    def add_commands(self, commands: Sequence[Command | CommandGroup], metavar: str = "COMMAND") -> None:
        """Take one of the commands as the first argument."""
        below = self.add_subparsers(required=True, metavar=metavar)
        for each in commands:
            if isinstance(each, Command):
                below.add_parser(each.name, help=each.help, command=each)
            else:
                group = below.add_parser(each.name, help=each.help, description=each.description)
                group.add_commands(each.commands, each.metavar)
