"""A user's own objective: a function given in Python, or named in a file; bound, tried and checked as built-in ones."""

from __future__ import annotations

import inspect
import re
import sys
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from helpers.objective_cases import answer, responses, two
from minordpo.errors import InputError
from minordpo.objectives import OBJECTIVES, PairLogps, ResponseLogps, Spec, gradient, recorded, resolve
from minordpo.objectives.own import RESERVED
from minordpo.objectives.spec import LABELLED, PAIRS, NotNegative
from minordpo.train.trainer import PreferenceTrainer

PROMPTS = [two(1.0, 2.0), two(-3.0, 0.5), two(0.0, 0.0)]


def tilted(logps: PairLogps, *, beta: float = 0.1, tilt: NotNegative = 1.0, sharp: bool = False) -> Tensor:
    """−log σ(β (chosen_logratio − tilt · rejected_logratio)).

    Source: nobody, 2026.
    """
    return -logsigmoid(beta * (logps.chosen_logratios - tilt * logps.rejected_logratios))


# ---- what is read from it ----
def test_a_function_is_an_objective_of_its_name_with_its_keyword_hyperparameters():
    objective = resolve(tilted, {"beta": 1, "tilt": 0.5})
    assert str(objective) == "tilted, beta 1, tilt 0.5, sharp false"
    assert (objective.beta, objective.reference, objective.data) == (1.0, True, {"pairs"})
    (term,) = objective.terms
    assert term.spec.formula == "−log σ(β (chosen_logratio − tilt · rejected_logratio))."
    assert (term.spec.source, term.spec.assumes) == ("nobody, 2026", "")


def test_its_losses_and_coefficients_are_those_of_dpo_where_its_formula_is():
    logps = responses(PROMPTS)
    found, expected = (
        gradient(each, logps) for each in (resolve(tilted, {"beta": 0.3}), resolve("dpo", {"beta": 0.3}))
    )
    torch.testing.assert_close(found.losses, expected.losses, rtol=0, atol=0)
    torch.testing.assert_close(found.sequences, expected.sequences, rtol=0, atol=0)


def either(logps: PairLogps) -> Tensor:
    chosen = logps.chosen_logps if logps.ref_chosen_logps is None else logps.chosen_logratios
    return -chosen - 0 * logps.rejected_logps


@pytest.mark.parametrize(
    ("function", "reference", "axes"),
    [
        (lambda logps: logps.rejected_logratios - logps.chosen_logratios, True, None),
        (lambda logps: logps.rejected_logps - logps.chosen_logps, False, "sums"),
        (lambda logps: logps.rejected_mean_logps - logps.chosen_mean_logps, False, "means"),
        (lambda logps: -logps.chosen_logps / logps.chosen_tokens, False, "means"),
        (either, True, None),
    ],
)
def test_whether_it_needs_the_reference_is_seen_by_trying(function, reference, axes):
    objective = resolve(function, {})
    assert objective.reference is reference
    assert axes in (None, objective.terms[0].spec.axes)


def test_a_spec_says_itself_what_its_function_needs():
    def labelled(logps: ResponseLogps, *, beta: float = 1.0) -> Tensor:
        return -(beta * logps.logratios)[logps.best]

    objective = resolve(Spec(labelled, PAIRS | LABELLED, undesirable=False), {"beta": 2})
    assert (objective.data, objective.undesirable, objective.reference) == (
        {"pairs", "labelled"},
        False,
        True,
    )
    assert objective(responses([[answer([-1.0], [-3.0])]])).tolist() == [-4.0]
    assert not resolve(Spec(lambda logps: -logps.chosen_logps, reference=False), {}).reference
    assert resolve(OBJECTIVES["dpo"], {"beta": 0.2}) == resolve("dpo", {"beta": 0.2})


def test_annotations_that_only_a_type_checker_can_read_do_not_matter():
    def typed(logps: NowhereDefined, *, beta: float = 1, on: bool = True) -> NowhereDefined:  # noqa: F821 # no such name is meant
        return -beta * logps.chosen_logps

    assert resolve(typed, {"beta": 0.5}).hyper == {"beta": 0.5, "on": True}
    with pytest.raises(InputError, match=r"objective\.on is 1, but must be true or false"):
        resolve(typed, {"on": 1})


# ---- hyper-parameters ----
@pytest.mark.parametrize(
    ("hyper", "message"),
    [
        (
            {"tlit": 1.0},
            r"objective tilted has no hyper-parameter 'tlit' \(did you mean tilt\?\)\. It has: beta",
        ),
        ({"tilt": -1}, r"objective\.tilt is -1, but must be a number at least 0"),
        ({"beta": float("nan")}, r"objective\.beta is nan, but must be a number"),
        ({"beta": "much"}, r"objective\.beta is 'much', but must be a number"),
        ({"sharp": 1}, r"objective\.sharp is 1, but must be true or false"),
    ],
)
def test_its_hyperparameters_are_checked_as_those_of_the_built_in_ones(hyper, message):
    with pytest.raises(InputError, match=message):
        resolve(tilted, hyper)


def no_place(*, beta: float = 1.0) -> Any: ...
def by_place(logps: PairLogps, beta: float = 1.0) -> Any: ...
def no_default(logps: PairLogps, *, beta: float) -> Any: ...
def of_text(logps: PairLogps, *, mode: str = "sum") -> Any: ...
def any_keyword(logps: PairLogps, **hyper: float) -> Any: ...
def nothing() -> Any: ...
def taken(logps: PairLogps, *, dropout: float = 0.1) -> Any: ...


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (
            no_place,
            r"objective no_place takes \(\*, beta: .*log-probs by place are needed.* Write it as def my_loss",
        ),
        (nothing, r"objective nothing takes \(\) -> .*, but log-probs by place are needed"),
        (
            by_place,
            r"by_place takes \(logps: .*, beta: .*hyper-parameters behind \* with a number, true or false",
        ),
        (no_default, r"no_default takes \(logps: .*, \*, beta: 'float'\)"),
        (of_text, r"of_text takes \(logps: .*, \*, mode: 'str' = 'sum'\)"),
        (max, r"objective max takes \(\), but log-probs by place are needed"),
        (any_keyword, r"any_keyword takes \(logps: .*, \*\*hyper: 'float'\)"),
        (taken, "taken has a hyper-parameter 'dropout', which is also a setting of the trainer"),
        (dict, "objective dict is of type type, but a name or a function"),
        (Spec(by_place, LABELLED), r"by_place takes \(logps"),
        (Spec(tilted, LABELLED), "the Spec of objective tilted leaves out pairs"),
        (Spec(tilted, alternatives=True), r"has alternatives and no hyper-parameter top_k"),
    ],
)
def test_what_cannot_be_an_objective_is_refused_with_the_form_that_can(given, message):
    with pytest.raises(InputError, match=message):
        resolve(given, {})


def test_every_argument_of_the_trainer_is_refused_as_the_name_of_a_hyperparameter():
    parameters = inspect.signature(PreferenceTrainer.__init__).parameters.values()
    assert {p.name for p in parameters if p.kind is not p.VAR_KEYWORD} | {"name"} == RESERVED


# ---- what it returns ----
def mean(logps: PairLogps) -> Any:
    return -logps.chosen_logratios.mean()


def column(logps: PairLogps) -> Any:
    return -logps.chosen_logratios[:, None]


def plain_number(logps: PairLogps) -> Any:
    return 0.5


def constant(logps: PairLogps) -> Any:
    return torch.zeros_like(logps.chosen_logps)


def detached(logps: PairLogps) -> Any:
    return -logps.chosen_logratios.detach()


def whole(logps: PairLogps) -> Any:
    return (logps.chosen_logratios > 0).long()


def elsewhere(logps: PairLogps) -> Any:
    return torch.ones(len(logps.chosen_logps), requires_grad=True) * 2


def broken(logps: PairLogps) -> Any:
    return logps.chosen_logratios / logps.no_such_thing  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (
            mean,
            r"objective mean returned a tensor of shape \(\) for 5 pairs, but a loss for each .* shape \(5,\)",
        ),
        (column, r"objective column returned a tensor of shape \(5, 1\) for 5 pairs"),
        (plain_number, "objective plain_number returned a value of type float for 5 pairs"),
        (constant, "objective constant returned a tensor without a gradient"),
        (detached, "objective detached returned a tensor without a gradient"),
        (whole, r"objective whole returned a tensor of torch\.int64"),
        (
            elsewhere,
            "objective elsewhere returned losses that have no gradient with respect to the responses",
        ),
        (
            broken,
            r"objective broken raised AttributeError on line \d+ of test_own\.py: .*no_such_thing.* Correct the",
        ),
    ],
)
def test_what_a_function_returns_is_tried_before_anything_else(function, message):
    with pytest.raises(InputError, match=message) as caught:
        resolve(function, {})
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("default", [float("nan"), float("inf"), 10**400], ids=["nan", "inf", "huge"])
def test_a_default_that_is_no_finite_number_is_refused(default):
    def odd(logps: PairLogps, *, a=default) -> Tensor:
        return -logps.chosen_logratios

    with pytest.raises(InputError, match=r"hyper-parameters behind \* with a number"):
        resolve(odd, {})


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("import sys; sys.exit(0)", "importing leaves raised SystemExit: 0. Correct the module"),
        (
            "def __getattr__(name): raise ValueError('no')",
            "importing leaves raised ValueError: no. Correct the module",
        ),
    ],
)
def test_a_module_that_would_end_the_command_is_told_of(tmp_path, monkeypatch, text, said):
    (tmp_path / "leaves.py").write_text(text, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "leaves", raising=False)
    with pytest.raises(InputError, match=said):
        resolve("leaves:loss", {}, allow_code=True)
    sys.modules.pop("leaves", None)


def test_a_loss_that_pairs_change_for_each_other_is_refused_since_steps_are_cut_into_rows():
    def centred(logps: PairLogps) -> Tensor:
        return -(logps.chosen_logratios - logps.chosen_logratios.mean())

    with pytest.raises(
        InputError, match="objective centred gives a pair another loss when other pairs stand"
    ):
        resolve(centred, {})


def test_a_result_is_checked_in_every_step_too():
    def squeezed(logps: PairLogps) -> Tensor:
        return -logps.chosen_logratios.squeeze()

    def fragile(logps: PairLogps) -> Tensor:
        if len(logps.chosen_logps) == 3:
            raise KeyError("three\nof them")
        return -logps.chosen_logratios

    one = responses(PROMPTS[:1])
    with pytest.raises(InputError, match=r"objective squeezed returned a tensor of shape \(\) for 1 pairs"):
        gradient(resolve(squeezed, {}), one)
    with pytest.raises(InputError, match=r"objective fragile raised KeyError on line \d+ of test_own\.py"):
        gradient(resolve(fragile, {}), responses(PROMPTS))
    assert gradient(resolve(fragile, {}), one).losses.tolist() == [-1.0]


def test_it_is_tried_with_a_gradient_where_gradients_are_off():
    with torch.no_grad():
        assert resolve(tilted, {}).reference


def test_a_full_memory_is_passed_on_so_that_the_step_can_make_room():
    def full(logps: PairLogps) -> Tensor:
        raise torch.OutOfMemoryError("no room")

    with pytest.raises(torch.OutOfMemoryError, match="no room"):
        resolve(full, {})


def test_losses_that_are_not_finite_are_left_to_stop_the_run_as_those_of_built_in_ones_are():
    objective = resolve(lambda logps: logps.chosen_logratios.log(), {})
    assert gradient(objective, responses(PROMPTS)).losses.isnan().tolist() == [False, True, False]


# ---- named in a file ----
MODULE = '''
from minordpo.objectives import Spec

def steady(logps, *, beta: float = 0.1, calm: float = 2.0):
    """β (rejected_logratio − chosen_logratio) / calm."""
    return beta * (logps.rejected_logratios - logps.chosen_logratios) / calm

SPEC = Spec(steady, reference=True, varied="calm")
NUMBER = 3
open(__file__ + ".imported", "w").close()
'''


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A package in the current folder whose module says when it is imported."""
    folder = tmp_path / "own_losses"
    folder.mkdir()
    (folder / "__init__.py").write_text("open(__file__ + '.imported', 'w').close()\n")
    (folder / "fine.py").write_text(MODULE)
    (folder / "broken.py").write_text("import own_losses.fine\n1 / 0\n")
    monkeypatch.chdir(tmp_path)
    path = list(sys.path)
    yield folder
    assert sys.path == path
    for name in [each for each in sys.modules if each.partition(".")[0] == "own_losses"]:
        del sys.modules[name]


NAMED = "own_losses.fine:steady"


def test_a_name_in_a_file_is_not_imported_without_leave(package):
    file = re.escape(str(package / "fine.py"))
    message = (
        rf"objective\.name is '{NAMED}', so the module own_losses\.fine \({file}\) would be imported and its steady "
        r"called\. Such code runs only with --allow-code on the command line"
    )
    with pytest.raises(InputError, match=message):
        resolve(NAMED, {"beta": 0.2})
    with pytest.raises(InputError, match="--allow-code"):
        resolve(f"minordpo + 0.1*{NAMED}", {})
    with pytest.raises(InputError, match=r"which is not on sys\.path or in the current folder"):
        resolve("own_losses.missing:steady", {})
    assert not list(package.glob("*.imported"))


def test_with_leave_it_is_an_objective_and_a_term_like_any_other(package):
    objective = resolve(NAMED, {"calm": 4}, allow_code=True)
    assert str(objective) == f"{NAMED}, beta 0.1, calm 4"
    assert objective(responses(PROMPTS)).tolist() == pytest.approx([0.025, 0.0875, 0.0])
    both = resolve(f"dpo + 0.5 * {NAMED}", {"beta": 0.2}, allow_code=True)
    assert both.hyper == {"beta": 0.2, "calm": 2.0}
    expected = resolve("dpo", {"beta": 0.2})(responses(PROMPTS)) + 0.5 * 0.2 / 2 * torch.tensor([1, 3.5, 0])
    torch.testing.assert_close(both(responses(PROMPTS)), expected.double())
    assert resolve("own_losses.fine:SPEC", {}, allow_code=True).terms[0].spec.main == "calm"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "own_losses.fnie:steady",
            r"there is no module own_losses\.fnie on sys\.path or in .*Correct the name",
        ),
        ("no_such_package.x:f", "there is no module no_such_package on sys"),
        (
            "own_losses.fine:stedy",
            r"own_losses\.fine has no stedy \(did you mean steady\?\)\. Correct the name",
        ),
        ("own_losses.broken:f", r"importing own_losses\.broken raised ZeroDivisionError: division by zero"),
        (
            "own_losses.fine:NUMBER",
            "objective own_losses.fine:NUMBER is of type int, but a name or a function",
        ),
        ("own_losses.fine:", "which is no objective"),
    ],
)
def test_a_name_that_leads_to_no_function_is_refused_in_one_line(package, name, message):
    with pytest.raises(InputError, match=message) as caught:
        resolve(name, {}, allow_code=True)
    assert "\n" not in str(caught.value)


def test_what_a_finished_run_was_trained_with_is_read_without_importing_it(package):
    objective = recorded(f"dpo + 0.5*{NAMED}", {"beta": 0.2, "calm": 3})
    assert str(objective) == f"dpo + 0.5*{NAMED}, beta 0.2, calm 3"
    assert objective.beta == 0.2
    with pytest.raises(InputError, match="'mod: f', which is no objective"):
        recorded("mod: f", {})
    assert str(recorded("dpop", {"beta": 0.2})) == "dpop, beta 0.2, dpop_lambda 50"
    with pytest.raises(InputError, match="--allow-code"):
        objective(responses(PROMPTS))
    assert not list(package.glob("*.imported"))
