"""One loop of a study, in a process of its own: python -m minordpo.paper.loops.one STUDY.yaml PHASE ARM SEED RATE

Of a seed all loops begin with the same answers of its base, which the first one to come draws.
"""

from __future__ import annotations

import dataclasses
import functools
import shutil
import sys
from pathlib import Path
from typing import cast

from minordpo.errors import InputError
from minordpo.evaluate.evaluation import evaluate
from minordpo.generate.text_measures import last_number
from minordpo.onpolicy.loop.config import dump_loop
from minordpo.onpolicy.loop.loop import loop
from minordpo.onpolicy.loop.rounds import Round, write_prompts
from minordpo.onpolicy.sample_files import SampleFiles
from minordpo.onpolicy.sampling import sample
from minordpo.paper.loops.study import Phase, StudyLoop, load_study
from minordpo.paper.worlds.world import make_world
from minordpo.run_folder import names
from minordpo.run_folder.files import read_jsonl, write_jsonl, write_text
from minordpo.run_folder.lock import locked
from minordpo.verify.prompts import read_prompts
from minordpo.verify.verifier import load_verifier


def main(arguments: list[str]) -> None:
    """Run the loop; the same call goes on."""
    study, phase, arm, seed, rate, *overrides = arguments
    loaded = load_study(Path(study), overrides)
    run_one(StudyLoop(study=loaded, phase=cast(Phase, phase), arm_name=arm, seed=int(seed), rate=float(rate)))


def run_one(this: StudyLoop) -> None:
    """Make the world and the base's answers where they are not there, then run the loop.

    Raises:
        InputError: something cannot be used.
    """
    this.shared.mkdir(parents=True, exist_ok=True)
    with locked(this.shared):
        _share(this)
    config = this.config()
    if not (this.folder / names.LOOP_CONFIG).exists():
        _begin_with_shared(this)
    make = None
    if this.arm.beta is not None:
        from minordpo.paper.loops.rloo import rloo_round

        make = functools.partial(rloo_round, beta=this.arm.beta)
    loop(config, make=make)


def _share(this: StudyLoop) -> None:
    """The world, its prompts with right answers, and what its base answers to them and to the questions."""
    done = this.shared / "done"
    if done.exists():
        return
    world = dataclasses.replace(this.study.world, seed=this.seed, pairs=this.study.prompts)
    make_world(this.world, world, quiet=True)
    prompts = this.world / "prompts.jsonl"
    if not prompts.exists():
        pairs = (row for _, row in read_jsonl(this.world / "pairs.jsonl"))
        write_jsonl(
            prompts, ({"prompt": p["prompt"], "answer": str(last_number(p["chosen"]))} for p in pairs)
        )
    config = this.config()
    first = Round(config, 1)
    drawn = this.shared / "prompts.jsonl"
    if not drawn.exists():
        write_prompts(drawn, read_prompts(config.prompts), config, 1)
    sample(
        [config.model],
        config.drawn(1, drawn),
        load_verifier(config.verify, allow_code=False),
        config.pairing(1),
        this.shared / f"{first.name}.jsonl",
        batch_size=config.sampling.batch_size,
        say=lambda _: None,
        may_be_empty=True,
    )
    asked = config.evaluation()
    if asked is not None:
        evaluate(
            [config.model], asked, out=this.shared / names.EVALUATION, batch_size=config.sampling.batch_size
        )
    write_text(done, "")


def _begin_with_shared(this: StudyLoop) -> None:
    """Put the base's answers where the loop looks for them."""
    config = this.config()
    first = Round(config, 1)
    first.pairs.parent.mkdir(parents=True, exist_ok=True)
    shared = SampleFiles(this.shared / f"{first.name}.jsonl")
    own = SampleFiles(first.pairs)
    for source, target in (
        (shared.out, own.out),
        (shared.answers, own.answers),
        (shared.settings, own.settings),
        (shared.report, own.report),
    ):
        shutil.copyfile(source, target)
    first.prompts.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(this.shared / "prompts.jsonl", first.prompts)
    if (this.shared / names.EVALUATION).exists():
        shutil.copytree(this.shared / names.EVALUATION, this.folder / names.EVALUATION, dirs_exist_ok=True)
    write_text(this.folder / names.LOOP_CONFIG, dump_loop(config))  # last: what has it is whole


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except InputError as error:
        sys.exit(f"minordpo: {error}")
