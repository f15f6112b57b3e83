"""Folders of `minordpo evaluate` → the scores of each run and of the untuned model, by set of questions."""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from minordpo.errors import InputError
from minordpo.evaluate.verified_tables import verifier_in_words
from minordpo.report.find import Found
from minordpo.run_folder import names
from minordpo.sweep.results import INTERVAL, SHARES, answers_row, readable

SCORES = tuple(name for name in SHARES if name != "empty")
VERIFIED = ("verified_passed", "verified_win_rate", "verified_score")
_MEANS = ("repeated_4grams", "mean_tokens")
_KL = ("per_sequence", "per_sequence_error", "per_token", "per_token_error")
_FILLED = (
    *(*_MEANS, *(f"{name}{end}" for name in SCORES for end in INTERVAL)),
    *(f"kl_{name}" for name in _KL),
)
# The settings of an evaluation that change its answers, with what they are unless told.
_HOW = {"prompt": "", "max_new_tokens": 0, "plain_text": False, "temperature": 0.0, "dtype": "float32"}


def refuse_shared(run: Path) -> None:
    """Raise InputError if other models than the run's answered in the evaluation inside its folder."""
    folder = run / names.EVALUATION
    if (folder / names.RESULTS).exists() and len(read_results(folder)["models"]) > 1:
        raise InputError(
            f"{folder} holds answers of several models, but inside a run folder they are taken for the run's own. Move "
            "it out of the run folder, and name it as a further DIR"
        )


@dataclass(frozen=True)
class Owner:
    """Whose model it was: a run's, by its place, or the model that runs were tuned from."""

    label: str  # in the evaluation
    run: int | None


def gather_evaluations(found: Found, runs: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The scores by set of questions, that of most runs first; the runs' empty cells are filled from them, KL too.

    Worlds that differ by their seed ask each model other questions of one kind: they are one set, and their untuned
    models one. What verifiers say is in a set for each of them, and fills the cells of the one that most runs have.
    """
    sets: dict[str, _Asked] = {}
    for folder in own_first(found):
        results = read_results(folder)
        settings = results["settings"]
        owners = list(owned(found, folder, results))
        world = _world_that_asks(found, settings, owners)
        what = settings["questions_digest"] if world is None else [world, settings["questions"]]
        verifier = results["verifier"] and {**results["verifier"], "spec": ""}
        key = json.dumps([what, *how_asked(settings), verifier], sort_keys=True)
        scored_by = results["verifier"] and verifier_in_words(results["verifier"])
        asked = sets.setdefault(key, _Asked(str(settings["questions"]), scored_by))
        asked.digests.add(settings["questions_digest"])
        for owner, model in owners:
            measures = _finite(answers_row(model))
            scores = _scores(measures) | verified(model)
            if owner.run is None:
                asked.bases.setdefault(settings["questions_digest"], {"label": owner.label, **scores})
                continue
            first = asked.runs.setdefault(str(owner.run), scores)
            if "kl" in scores:
                first.setdefault("kl", scores["kl"])
            cells = runs[owner.run]["cells"]  # what the run's own folder does not say is filled in
            cells |= {
                name: measures[name]
                for name in _FILLED
                if measures.get(name) is not None and cells.get(name) is None
            }
    ordered = sorted(sets.values(), key=lambda each: -len(each.runs))
    _fill_verified(next((each for each in ordered if each.scored_by and each.runs), None), runs)
    return [each.told() for each in ordered]


def _fill_verified(asked: _Asked | None, runs: Sequence[dict[str, Any]]) -> None:
    """The cells of what one verifier says; what several say is not comparable."""
    for place, scores in asked.runs.items() if asked is not None else ():
        for name in VERIFIED:
            if scores.get(name):
                ends = (f"{name}{end}" for end in INTERVAL)
                runs[int(place)]["cells"] |= dict(zip(ends, scores[name], strict=True))


def verified(model: Mapping[str, Any]) -> dict[str, list[float]]:
    """What a verifier says of a model in results.json: each measure with the ends of its interval."""
    said = model.get("verified") or {}
    found = {}
    for name, mean in (("passed", "share"), ("win_rate", "share"), ("score", "mean")):
        if each := said.get(name):
            ends = (each[mean] if each[end] is None else each[end] for end in ("low", "high"))
            found[f"verified_{name}"] = [each[mean], *ends]
    return found


@dataclass
class _Asked:
    """Questions of one kind: who answered them, and how."""

    title: str
    scored_by: str | None = None  # the verifier, in words
    digests: set[str] = field(default_factory=set)
    bases: dict[str, dict[str, Any]] = field(default_factory=dict)  # untuned models, by digest of questions
    runs: dict[str, dict[str, Any]] = field(default_factory=dict)

    def told(self) -> dict[str, Any]:
        """As the report shows it."""
        worlds = f" in each of {len(self.digests)} worlds" if len(self.digests) > 1 else ""
        scored = f", scored by {self.scored_by}" if self.scored_by else ""
        return {
            "title": self.title + worlds + scored,
            "verifier": self.scored_by,
            "base": _mean(list(self.bases.values())),
            "runs": self.runs,
        }


def _mean(bases: Sequence[dict[str, Any]]) -> dict[str, Any] | None:
    """One untuned model as it is, of several the means, shares with their range in place of an interval."""
    if len(bases) < 2:
        return bases[0] if bases else None
    mean: dict[str, Any] = {"label": bases[0]["label"], "worlds": len(bases)}
    for name in _MEANS:
        mean[name] = statistics.fmean(each[name] for each in bases)
    for name in (*SCORES, *VERIFIED):
        shares = [each[name][0] for each in bases if each.get(name)]
        if len(shares) < len(bases):
            continue
        mean[name] = [statistics.fmean(shares), min(shares), max(shares)]
    return mean


def _world_that_asks(
    found: Found, settings: Mapping[str, Any], owners: Sequence[tuple[Owner, dict[str, Any]]]
) -> dict[str, Any] | None:
    """The micro world whose own questions these are, without its seed; None where it asks nothing."""
    for owner, model in owners:
        for place, run in enumerate(found.runs):
            base = Path(str(run.config["model"].get("path"))) if run.config else Path()
            its = place == owner.run if owner.run is not None else base == Path(str(model["path"]))
            if its and run.world is not None and Path(str(settings["task"])).parent.name == base.parent.name:
                return {name: each for name, each in run.world.items() if name != "seed"}
    return None


def own_first(found: Found) -> list[Path]:
    """The evaluations, those within run folders first: they are what further ones do not replace."""
    folders = {run.folder.resolve() for run in found.runs}
    return sorted(found.evaluations, key=lambda each: each.resolve().parent not in folders)


def how_asked(settings: Mapping[str, Any]) -> list[Any]:
    """What the answers to the same questions depend on beside the model."""
    return [settings[name] for name in _HOW]


def read_results(folder: Path) -> dict[str, Any]:
    """results.json of an evaluation; raise InputError if it cannot be read."""
    file = folder / names.RESULTS
    with readable(file, "Run the same `minordpo evaluate` again, or leave the folder out"):
        results = json.loads(file.read_text(encoding="utf-8"))
        settings, models = dict(results["settings"]), dict(results["models"])
        needed = ("questions", "questions_digest", "prompt", "max_new_tokens")
        kept = {name: settings[name] for name in needed} | {"task": settings.get("task")}
        kept |= {name: settings.get(name, usual) for name, usual in _HOW.items() if name not in kept}
        return {"settings": kept, "models": models, "verifier": results.get("verifier")}


def owned(found: Found, folder: Path, results: Mapping[str, Any]) -> Iterator[tuple[Owner, dict[str, Any]]]:
    """The models of an evaluation that are a run's or what one was tuned from.

    What stands in a run folder is that run's, for a copy of it names the original's model. Others are told by their
    path; where folders were moved since, by the run's name.
    """
    places = {run.folder.resolve(): place for place, run in enumerate(found.runs)}
    called = [each.name for each in places]
    own = places.get(folder.resolve().parent)
    bases = {model_named(str(run.config["model"].get("path"))) for run in found.runs if run.config}
    for label, model in results["models"].items():
        path = Path(str(model["path"]))
        its = own if own is not None or path.name != names.MODEL else places.get(path.resolve().parent)
        if its is None and model_named(str(path)) not in bases:
            if path.name != names.MODEL or path.exists() or called.count(path.parent.name) != 1:
                continue
            its = called.index(path.parent.name)
        yield Owner(label, its), model


def model_named(path: str) -> Path:
    """What a path names, as two that name the same model: a run folder stands for the model in it."""
    named = Path(path).resolve()
    return named.parent if named.name == names.MODEL else named


def _finite(measures: dict[str, Any]) -> dict[str, Any]:
    """A model that gives no numbers is at no distance, and JSON has no NaN."""
    kl = {name: value for name, value in measures.items() if name.startswith("kl_") and value is not None}
    return measures if all(map(math.isfinite, kl.values())) else measures | dict.fromkeys(kl)


def _scores(measures: Mapping[str, Any]) -> dict[str, Any]:
    """The measures of `answers_row` as the report shows them."""
    kl = {name: measures[f"kl_{name}"] for name in (*_KL, "cut")}
    return {
        "of": measures["questions"],
        **{name: measures[name] for name in _MEANS},
        **{name: [measures[f"{name}{end}"] for end in INTERVAL] for name in SCORES if name in measures},
        **({"kl": kl} if set(kl.values()) != {None} else {}),
    }
