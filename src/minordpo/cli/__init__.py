"""The command line, one module a command. A command imports what it needs when it runs, so that `--help` is quick."""

from __future__ import annotations

import errno
import logging
import os
import sys
import warnings
from collections.abc import Sequence

from minordpo.cli import data, demo, evaluate, export, lens, loop, paper, report, score, sweep, train
from minordpo.cli.command import Parser
from minordpo.config.build import at_home
from minordpo.errors import InputError, TrainingStopped
from minordpo.version import __version__

COMMANDS = (
    *(train.train, loop.loop, sweep.sweep, score.score, evaluate.evaluate, report.report),
    *(lens.lens, export.export, data.DATA, demo.demo, paper.PAPER),
)
MOVED = {"claims": "paper claims"}  # commands that have another name now


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; 0 where it worked, 2 where the user can correct something, 1 where training stopped."""
    argv = sys.argv[1:] if argv is None else argv
    if argv and argv[0] in MOVED:
        return _fail(f"minordpo {argv[0]} is now minordpo {MOVED[argv[0]]}, with the same arguments")
    parser = Parser(
        prog="minordpo",
        description="Tune language models on preference pairs without breaking them.",
        epilog="Start with `minordpo demo`; each command explains itself with --help.",
    )
    parser.add_argument("--version", action="version", version=f"minordpo {__version__}")
    parser.add_commands(COMMANDS)
    arguments, more = parser.parse_known_args(argv)
    options = vars(arguments)
    command = options.pop("command")
    # Overrides may stand behind options too, which argparse does not see.
    strangers = [each for each in more if each.startswith("-") or "=" not in each]
    if more and (strangers or "overrides" not in options):
        parser.error(f"unrecognized arguments: {' '.join(strangers or more)}")
    if more:
        options["overrides"] += more
    _quiet_libraries()
    try:
        return command.run(**{name: at_home(value) for name, value in options.items()}) or 0
    except InputError as error:
        return _fail(" ".join(str(error).split()))
    except KeyboardInterrupt:
        further = command.goes_on(options)
        return _fail(f"stopped{f'; {further}' if further else ''}", status=130)
    except BrokenPipeError:  # the reader, head for instance, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:
        if error.errno != errno.ENAMETOOLONG:
            raise
        return _fail(f"the name {str(error.filename)[:80]}… is too long for this system")
    except TrainingStopped as error:
        return _fail(str(error), status=1)


def _fail(said: str, status: int = 2) -> int:
    print(f"minordpo: {said}", file=sys.stderr)
    return status


def _quiet_libraries() -> None:
    """Keep libraries' chatter off the terminal; minordpo itself says what the user must know."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    for library in ("transformers", "torchao", "torch.utils._pytree"):
        logging.getLogger(library).setLevel(logging.ERROR)
    for category in (UserWarning, FutureWarning):
        warnings.filterwarnings(
            "ignore", category=category, module=r"(transformers|peft|accelerate|torch)\b.*"
        )
