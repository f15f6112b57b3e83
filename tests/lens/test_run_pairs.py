"""The lens with a run: pairs are drawn where responses.jsonl has them, and a broken file is named."""

from __future__ import annotations

import json
from itertools import pairwise

import numpy as np
import pytest

from minordpo.errors import InputError
from minordpo.lens import drawing
from minordpo.lens.lens import lens
from minordpo.lens.run_pairs import read_run_responses


@pytest.fixture
def drawn(monkeypatch):
    """The figures that were written, as matplotlib objects."""
    seen, original = [], drawing.write_figure

    def remember(figure, out):
        original(figure, out)
        seen.append(figure)

    monkeypatch.setattr(drawing, "write_figure", remember)
    return seen


def panels(figure):
    """Of each objective: its plane, then the curves of chosen and rejected."""
    planes = [axis for axis in figure.axes if axis.images]
    curves = [axis for axis in figure.axes if "pushed" in axis.get_title(loc="left")]
    return [(plane, *curves[2 * i : 2 * i + 2]) for i, plane in enumerate(planes)]


def line(step, split, places, *, rows=None):
    """Pairs whose reference log-probs are −100 and −90 nats, of 50 and 45 tokens."""
    return {
        "step": step,
        "split": split,
        "rows": rows or list(range(len(places))),
        "logratios": [list(place) for place in places],
        "logps": [[place[0] - 100, *place[1:-1], place[-1] - 90] for place in places],
        "tokens": [[50, *[60] * (len(place) - 2), 45] for place in places],
    }


def without(row, name):
    return {key: value for key, value in row.items() if key != name}


def write_run(folder, lines, config="objective: {name: minordpo, beta: 0.05}"):
    folder.mkdir(exist_ok=True)
    (folder / "config.yaml").write_text(config)
    text = "".join((each if isinstance(each, str) else json.dumps(each)) + "\n" for each in lines)
    (folder / "responses.jsonl").write_text(text)
    return folder


FALLING = [
    line(1, "train", [(0.0, 0.0), (0.5, -0.5)], rows=[7, 9]),
    line(2, "eval", [(-4.0, -6.0), (-2.0, -8.0)]),
    line(2, "train", [(-10.0, -20.0)], rows=[3]),
    line(4, "eval", [(-12.0, -30.0), (-20.0, -26.0)]),
]


def test_held_out_pairs_are_paths_from_the_start_and_training_pairs_are_dots(tmp_path):
    moves = read_run_responses(write_run(tmp_path / "run", FALLING)).moves("logratios")
    assert moves.dots.tolist() == [[1, 0, 0], [1, 0.5, -0.5], [2, -10, -20]]
    first, second = (path.tolist() for path in moves.paths)
    assert first == [[0, 0, 0], [2, -4, -6], [4, -12, -30]]
    assert second == [[0, 0, 0], [2, -2, -8], [4, -20, -26]]
    assert moves.mean_path().tolist() == [[0, 0, 0], [2, -3, -7], [4, -16, -28]]
    assert moves.last_step == 4


def test_a_measured_step_zero_is_taken_as_it_was_measured(tmp_path):
    run = write_run(tmp_path / "run", [line(0, "eval", [(0.01, -0.02)]), line(3, "eval", [(1.0, 2.0)])])
    (path,) = read_run_responses(run).moves("logratios").paths
    assert path.tolist() == [[0, 0.01, -0.02], [3, 1, 2]]


def test_no_start_is_made_up_where_another_model_was_the_reference(tmp_path):
    config = "model: {path: x, reference: other}\nobjective: {name: dpo}"
    run = write_run(tmp_path / "run", FALLING, config)
    assert [path[0, 0] for path in read_run_responses(run).moves("logratios").paths] == [2, 2]


def test_log_probs_a_token_start_where_the_reference_has_them(tmp_path):
    responses = read_run_responses(write_run(tmp_path / "run", FALLING))
    first = responses.moves("means").paths[0]
    assert first == pytest.approx(
        np.array([(0, -2, -2), (2, -104 / 50, -96 / 45), (4, -112 / 50, -120 / 45)])
    )
    assert responses.moves("sums").paths[0].tolist() == [[0, -100, -90], [2, -104, -96], [4, -112, -120]]
    assert responses.moves("means").limits("means", -6.0, 0.0) == (-3, 0)


def test_of_ranked_responses_the_best_and_the_worst_are_drawn(tmp_path):
    run = write_run(tmp_path / "run", [line(1, "train", [(3.0, 99.0, -5.0)])])
    assert read_run_responses(run).moves("logratios").dots.tolist() == [[1, 3, -5]]


def test_a_plane_is_as_wide_as_a_run_needs_and_an_outlier_is_counted(tmp_path, drawn):
    places = [(-0.3 * i / 10, -4.0) for i in range(99)]
    run = write_run(tmp_path / "run", [line(1, "train", [*places, (-900.0, -4.0)])])
    moves = read_run_responses(run).moves("logratios")
    assert moves.limits("logratios", -60.0, 60.0) == (-5, 5)
    lens(tmp_path / "a.png", run=run)
    (plane, *_), *_ = panels(drawn[0])
    assert "1 of 100 places lie outside" in [text.get_text() for text in plane.texts]


def test_a_runs_pairs_are_drawn_where_they_were_over_the_objective_it_had(tmp_path, drawn):
    run = write_run(tmp_path / "run", FALLING)
    lens(tmp_path / "a.png", run=run)
    (figure,) = drawn
    ((plane, *_),) = panels(figure)
    dots = [each for each in plane.collections if type(each).__name__ == "PathCollection"]
    assert dots[0].get_offsets().tolist() == [[0, 0], [0.5, -0.5], [-10, -20]]
    paths = [each for each in plane.collections if type(each).__name__ == "LineCollection"]
    joined = [np.array([segment.tolist() for segment in each.get_segments()]) for each in paths]
    assert joined[0].tolist() == [[[0, 0], [-4, -6]], [[-4, -6], [-12, -30]]]
    assert all((one[1] == other[0]).all() for each in joined for one, other in pairwise(each))
    texts = " ".join(text.get_text() for text in figure.texts)
    assert "Run run: how its pairs moved" in texts
    assert "minordpo, beta 0.05" in texts
    low, high = plane.get_xlim()
    assert low < -30
    assert high == -low


def test_an_objective_named_beside_a_run_has_its_own_defaults(tmp_path, drawn):
    lens(tmp_path / "a.png", run=write_run(tmp_path / "run", FALLING), objectives=["dpo"])
    assert "dpo, beta 0.1" in " ".join(text.get_text() for text in drawn[0].texts)


def test_a_hyperparameter_goes_to_every_objective_of_the_picture_that_has_it(tmp_path, drawn):
    lens(tmp_path / "a.png", objectives=["dpo + 0.1*simpo", "sft", "cdpo"], betas=["0.3"])
    texts = [text.get_text() for text in drawn[0].texts]
    assert {"dpo + 0.1*simpo, beta 0.3, gamma 1", "cdpo, beta 0.3, label_smoothing 0.1"} <= set(texts)


def test_a_run_without_a_reference_can_be_seen_over_an_objective_without_one(tmp_path, drawn):
    run = write_run(tmp_path / "run", [without(each, "logratios") for each in FALLING])
    lens(tmp_path / "a.png", run=run, objectives=["simpo"])
    assert len(drawn) == 1
    with pytest.raises(InputError, match=r"responses\.jsonl has no logratios, but the plane of an objective"):
        lens(tmp_path / "b.png", run=run)


GOOD = line(1, "train", [(0.0, 0.0)])


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        ('{"step": 2, "spl', r"line 2 of .*responses\.jsonl is not JSON"),
        (GOOD | {"step": "2"}, "line 2 of .* has step='2', but a step from 0 is needed"),
        (GOOD | {"step": -1}, "line 2 of .* has step=-1, but a step from 0 is needed"),
        (GOOD | {"split": "test"}, "line 2 of .* has split='test', but train or eval is needed"),
        (GOOD | {"rows": 3}, "line 2 of .* has no list of rows"),
        (
            without(GOOD, "logps"),
            "line 2 of .* has no logps, but logps and tokens are needed",
        ),
        (without(GOOD, "tokens"), "line 2 of .* has no tokens, but"),
        (GOOD | {"rows": [1, 2]}, "line 2 of .* has logratios of another number of prompts than rows"),
        (
            GOOD | {"logratios": [[0.0, None]]},
            "line 2 of .* has logratios that are not a list of finite numbers",
        ),
        (
            GOOD | {"logps": [[0.0, float("nan")]]},
            "line 2 of .* has logps that are not a list of finite numbers",
        ),
        (GOOD | {"logps": [-3.0]}, "line 2 of .* has logps that are not a list of finite numbers"),
        (GOOD | {"tokens": [[5, 0]]}, r"line 2 of .* has tokens=\[5, 0\], but numbers from 1"),
        (
            GOOD | {"logratios": [[0.5]], "logps": [[-3.0]], "tokens": [[4]]},
            "line 2 of .* has single, labelled responses, but the lens draws pairs",
        ),
    ],
)
def test_a_broken_line_of_a_run_is_named(tmp_path, broken, message):
    run = write_run(tmp_path / "run", [GOOD, broken])
    with pytest.raises(InputError, match=message):
        lens(tmp_path / "a.png", run=run)
    assert not (tmp_path / "a.png").exists()


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (None, r"config\.yaml does not exist\. A run config in YAML is needed"),
        ("model: {path: x}", r"config\.yaml has no objective\.name, but --run needs one"),
        ("- 1", r"config\.yaml holds a list of 1, but sections of keys are needed"),
        ("objective: {name: [1", r"config\.yaml is not valid YAML"),
        ("objective: {name: dpoo}", "'dpoo', which is no objective"),
    ],
)
def test_a_run_whose_config_names_no_objective_is_refused(tmp_path, config, message):
    run = write_run(tmp_path / "run", [GOOD], config or "")
    if config is None:
        (run / "config.yaml").unlink()
    with pytest.raises(InputError, match=message):
        lens(tmp_path / "a.png", run=run)


def test_a_folder_that_is_no_run_and_an_empty_run_are_refused(tmp_path):
    with pytest.raises(
        InputError, match=r"has no responses\.jsonl, but --run needs what training writes there"
    ):
        lens(tmp_path / "a.png", objectives=["dpo"], run=tmp_path)
    with pytest.raises(InputError, match=r"responses\.jsonl is empty, but pairs of a run are needed"):
        lens(tmp_path / "a.png", run=write_run(tmp_path / "run", []))
