"""The lens: pushes against closed forms worked here, a run's pairs where its file has them, and the file written."""

from __future__ import annotations

import os

import numpy as np
import pytest

from minordpo.cli import main
from minordpo.errors import InputError
from minordpo.lens import drawing
from minordpo.lens.drawing import shared_strength
from minordpo.lens.gradients import (
    conditions,
    main_hyperparameter,
    plane_of,
    push,
    push_over,
    variants,
)
from minordpo.lens.lens import lens
from minordpo.objectives import OBJECTIVES, Spec, resolve

N = 100
# Places of a plane of log-ratios in nats: the four quadrants, and both axes.
PLACES = np.array([(5.0, 20.0), (-30.0, 12.0), (-8.0, -25.0), (40.0, -3.0), (0.0, -7.0), (6.0, 0.0)])
W, L = PLACES.T


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def pushes(name, chosen=W, rejected=L, length=N, **hyper):
    objective = resolve(name, hyper)
    pushed = push(objective, plane_of(objective, length), np.asarray(chosen), np.asarray(rejected))
    return pushed.chosen, pushed.rejected


# ---- what is drawn: coefficients ----
def test_dpos_push_is_the_papers_coefficient_up_and_down():
    # Equation 4: f(β, margin) = β σ(−β margin), on both responses.
    chosen, rejected = pushes("dpo", beta=0.2)
    assert chosen == pytest.approx(0.2 * sigmoid(-0.2 * (W - L)))
    assert rejected == pytest.approx(-0.2 * sigmoid(-0.2 * (W - L)))


def test_minordpos_push_on_the_rejected_stops_at_the_references_level():
    chosen, rejected = pushes("minordpo", beta=0.1)
    inside = 0.1 * sigmoid(-0.1 * (W - np.maximum(L, 0)))
    assert chosen == pytest.approx(inside)
    assert rejected == pytest.approx(np.where(L > 0, -inside, 0.0))
    assert (rejected[L <= 0] == 0).all()


def test_dpops_push_on_a_chosen_response_that_fell_is_one_and_lambda_times_as_hard():
    chosen, rejected = pushes("dpop", beta=0.1, dpop_lambda=5.0)
    inside = 0.1 * sigmoid(-0.1 * (W - L - 5 * np.maximum(0, -W)))
    assert chosen == pytest.approx(inside * np.where(W < 0, 6, 1))
    assert rejected == pytest.approx(-inside)


def test_ipos_push_turns_round_beyond_its_target():
    # d/dw (w/N − l/N − 1/(2β))² = 2/N (margin/N − 1/(2β)); β = 1 aims at half a nat a token, 50 nats of margin.
    chosen, rejected = pushes("ipo", [40.0, 25.0, 10.0], [-20.0, -25.0, 10.0], beta=1.0)
    assert chosen == pytest.approx([-2 / N * (0.6 - 0.5), 0.0, 2 / N * 0.5])
    assert rejected == pytest.approx(-chosen)


def test_ktos_pushes_do_not_know_each_other():
    # Mean over both responses of 1 − σ(±β logratio), z0 = 0: the slope is β σ(1 − σ) / 2.
    chosen, rejected = pushes("kto", beta=0.1, undesirable_weight=2.0)
    assert chosen == pytest.approx(0.05 * sigmoid(0.1 * W) * sigmoid(-0.1 * W))
    assert rejected == pytest.approx(-0.1 * sigmoid(0.1 * L) * sigmoid(-0.1 * L))


def test_simpos_plane_is_of_log_probs_a_token_at_the_stated_length():
    chosen, rejected = pushes("simpo", [-1.0, -2.0], [-1.5, -0.5], length=40, beta=2.0, gamma=1.0)
    slope = 2 / 40 * sigmoid(-(2 * np.array([0.5, -1.5]) - 1))
    assert chosen == pytest.approx(slope)
    assert rejected == pytest.approx(-slope)


def test_orpos_push_is_the_slope_of_the_log_odds_and_of_imitation():
    w, ll, n, lam = np.array([-1.0, -0.2]), np.array([-0.7, -3.0]), 50, 0.3
    odds = np.log(np.exp(w) / (1 - np.exp(w))) - np.log(np.exp(ll) / (1 - np.exp(ll)))
    chosen, rejected = pushes("orpo", w, ll, length=n, orpo_lambda=lam)
    assert chosen == pytest.approx((1 + lam * sigmoid(-odds) / (1 - np.exp(w))) / n)
    assert rejected == pytest.approx(-lam * sigmoid(-odds) / (1 - np.exp(ll)) / n)


def test_slics_push_is_all_or_nothing_in_sums():
    chosen, rejected = pushes("slic", [-100.0, -100.0, -100.0], [-99.0, -100.5, -101.5], delta=1.0)
    assert chosen.tolist() == [1, 1, 0]
    assert rejected.tolist() == [-1, -1, 0]


def test_rrhfs_push_is_imitation_and_the_violations_of_two_responses():
    chosen, rejected = pushes("rrhf", [-1.0, -2.0], [-2.0, -1.0], length=20)
    assert chosen == pytest.approx([1, 1 + 1 / 20])
    assert rejected == pytest.approx([0, -1 / 20])


def test_cringes_push_is_that_of_tokens_alike_with_alternatives_as_likely():
    # Imitation pushes a token by gate/N; Cringe of a gap of 0 has slope ½, of which α gate/N is kept.
    chosen, rejected = pushes(
        "pairwise_cringe", [-100.0, -60.0], [-90.0, -120.0], alpha=0.5, temperature=10.0
    )
    gate = sigmoid(-np.array([-10.0, 60.0]) / 10)
    assert chosen == pytest.approx(gate / N)
    assert rejected == pytest.approx(-0.5 * 0.5 * gate / N)


def test_cringe_is_the_same_however_many_pairs_are_computed_at_once():
    objective = resolve("pairwise_cringe", {})
    plane = plane_of(objective, 3000)  # so long that few pairs fit in memory together
    chosen, rejected = np.linspace(-3050, -2950, 37), np.linspace(-2950, -3040, 37)
    together = push(objective, plane, chosen, rejected)
    alone = [push(objective, plane, chosen[i : i + 1], rejected[i : i + 1]) for i in range(37)]
    assert together.chosen == pytest.approx(np.concatenate([each.chosen for each in alone]))
    assert together.rejected == pytest.approx(np.concatenate([each.rejected for each in alone]))


def test_sft_leaves_the_rejected_response_alone_everywhere():
    objective = resolve("sft", {})
    pushed = push_over(objective, plane_of(objective, 25))
    assert pushed.chosen == pytest.approx(np.full((160, 160), 1 / 25))
    assert (pushed.rejected == 0).all()


def test_a_weighted_sum_pushes_by_the_sum_of_its_terms():
    chosen, rejected = pushes("minordpo + 0.5*sft", beta=0.1)
    alone, rejected_alone = pushes("minordpo", beta=0.1)
    assert chosen == pytest.approx(alone + 0.5 / N)
    assert rejected == pytest.approx(rejected_alone)


@pytest.mark.parametrize("length", [1, 7, 100])
def test_a_sum_with_log_odds_is_finite_on_its_whole_plane(length):
    objective = resolve("dpo + 0.1*orpo", {})
    assert np.isfinite(push_over(objective, plane_of(objective, length)).strength).all()


@pytest.mark.parametrize("name", sorted(OBJECTIVES))
def test_every_objective_has_a_finite_plane_and_curves(name):
    objective = resolve(name, {})
    plane = plane_of(objective, N)
    pushed = push_over(objective, plane)
    assert pushed.chosen.shape == (160, 160)
    assert np.isfinite(pushed.strength).all()
    assert pushed.strength.any()
    for each in variants(objective, []):
        along = push(each, plane, *plane.on_line(plane.margins()))
        assert np.isfinite(along.strength).all()


def test_the_cells_of_a_plane_lie_where_their_picture_is_drawn():
    objective = resolve("minordpo", {"beta": 0.1})
    plane = plane_of(objective, N)
    centres, pushed = plane.centres(), push_over(objective, plane)
    assert (centres[0], centres[-1]) == pytest.approx((-60 + 0.375, 60 - 0.375))
    chosen, rejected = pushes("minordpo", [centres[10]], [centres[140]], beta=0.1)
    assert pushed.chosen[140, 10] == chosen[0]
    assert pushed.rejected[140, 10] == rejected[0]


def test_the_zero_regions_are_the_half_plane_of_minordpo_and_the_won_corner_of_hinge():
    plane = plane_of(resolve("minordpo", {}), N)
    across, up = np.meshgrid(plane.centres(), plane.centres())
    minor, hinge, dpo = (
        push_over(resolve(name, {"beta": 0.1}), plane) for name in ("minordpo", "hinge", "dpo")
    )
    assert ((minor.rejected == 0) == (up < 0)).all()
    assert (minor.chosen != 0).all()
    assert ((hinge.rejected == 0) == (across - up > 10)).all()
    assert ((hinge.chosen == 0) == (across - up > 10)).all()
    assert (dpo.rejected != 0).all()
    assert (dpo.chosen != 0).all()


def test_what_an_objective_is_a_function_of_decides_the_axes():
    kinds = {name: plane_of(resolve(name, {}), N).kind for name in OBJECTIVES}
    assert {name for name, kind in kinds.items() if kind == "means"} == {"simpo", "orpo", "sft", "rrhf"}
    assert {name for name, kind in kinds.items() if kind == "sums"} == {"slic", "pairwise_cringe"}
    assert plane_of(resolve("slic + 0.1*minordpo", {}), N).kind == "logratios"


def test_sums_lie_about_a_nat_a_token_and_never_above_certainty():
    plane = plane_of(resolve("pairwise_cringe", {}), 100)
    assert (plane.low, plane.high) == (-160, -40)
    assert plane_of(resolve("pairwise_cringe", {}), 10).high == pytest.approx(-0.5)
    assert plane_of(resolve("slic", {"delta": 2.0}), 100).high == -80


def test_the_drawing_says_what_it_takes_for_granted():
    def said(name):
        objective = resolve(name, {})
        return conditions(objective, plane_of(objective, N))

    assert said("dpo") == ""
    assert said("kto") == "z0 = 0"
    assert said("ipo") == said("dpo_nll") == said("simpo") == "responses of 100 tokens"
    assert "two responses a prompt" in said("rrhf")
    assert "each rejected one as likely as its alternative" in said("pairwise_cringe")
    assert "π_ref gives each response -100 nats" in said("dpo + 0.1*orpo")


def test_curves_are_drawn_for_five_values_of_the_main_hyperparameter_the_planes_first():
    def values(name, betas=(), **hyper):
        objective = resolve(name, hyper)
        return [each.hyper[main_hyperparameter(objective)] for each in variants(objective, betas)]

    assert values("dpo") == [0.1, 0.02, 0.05, 0.2, 0.5]
    assert values("orpo", orpo_lambda=0.3) == [0.3, 0.06, 0.15, 0.6, 1.5]
    assert values("slic", delta=0.0) == [0.0]
    assert values("dpo", [0.4, 0.1, 0.4], beta=0.4) == [0.4, 0.1]
    assert variants(resolve("sft", {}), [0.1])[0].name == "sft"


# ---- the picture ----
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


def test_the_picture_holds_the_numbers_of_the_closed_forms(tmp_path, drawn):
    lens(tmp_path / "a.png", objectives=["dpo", "minordpo"], betas=["0.2", "0.05"])
    for (plane, chosen, rejected), minor in zip(panels(drawn[0]), (False, True), strict=True):
        assert plane.get_xlabel() == "chosen: log π/π_ref (nats)"
        assert (plane.get_xlim(), plane.get_ylim()) == ((-60, 60), (-60, 60))
        curves = [line for line in chosen.get_lines() if len(line.get_xdata()) > 2]
        assert [line.get_label() for line in curves] == ["0.05", "0.2 (plane)"]
        down = [line for line in rejected.get_lines() if len(line.get_xdata()) > 2]
        for beta, up_curve, down_curve in zip((0.05, 0.2), curves, down, strict=True):
            margin = up_curve.get_xdata()
            seen = margin / 2 + np.maximum(margin / -2, 0) * -1 if minor else margin
            assert up_curve.get_ydata() == pytest.approx(beta * sigmoid(-beta * seen))
            expected = np.where(margin < 0, 1, 0) if minor else 1
            assert down_curve.get_ydata() == pytest.approx(expected * up_curve.get_ydata())


def test_arrows_of_minordpo_lie_flat_below_the_references_level_and_dpos_do_not(tmp_path, drawn):
    lens(tmp_path / "a.png", objectives=["dpo", "minordpo"])
    for (plane, *_), minor in zip(panels(drawn[0]), (False, True), strict=True):
        (arrows,) = [each for each in plane.collections if type(each).__name__ == "Quiver"]
        below = arrows.Y < 0
        assert below.any()
        assert (arrows.U > 0).all()
        assert (arrows.V[~below] < 0).all()
        assert (arrows.V[below] == 0).all() if minor else (arrows.V[below] < 0).all()
        words = [text.get_text() for text in plane.texts]
        assert ("no push on the rejected" in words) is minor
        assert {"start", "the aim", "both fell", "margin 0"} <= set(words)


def test_a_line_marks_where_the_push_turns_round(tmp_path, drawn):
    # The push of cdpo is 0 where σ(−β margin) = ε: at a margin of log((1 − ε)/ε)/β, 22 nats.
    lens(tmp_path / "a.png", objectives=["cdpo", "dpo"])
    (turning, *_), (steady, *_) = panels(drawn[0])
    (line,) = [each for each in turning.collections if type(each).__name__ == "QuadContourSet"]
    places = line.get_paths()[0].vertices
    assert places[:, 0] - places[:, 1] == pytest.approx(np.full(len(places), 10 * np.log(9)), abs=0.1)
    assert "the push turns" in [text.get_text() for text in turning.texts]
    assert "the push turns" not in [text.get_text() for text in steady.texts]


def test_planes_share_a_colour_scale_unless_their_pushes_are_too_far_apart(tmp_path, drawn):
    assert shared_strength([0.1, 0.5, 0.2]) == 0.5
    assert shared_strength([0.1, 0.7]) is None
    lens(tmp_path / "a.png", objectives=["dpo", "hinge"])
    lens(tmp_path / "b.png", objectives=["dpo", "dpop"])
    together, apart = ([plane.images[0].get_clim()[1] for plane, *_ in panels(each)] for each in drawn)
    assert together == pytest.approx([0.1 * 2**0.5] * 2)
    assert apart == pytest.approx([0.1 * 2**0.5, np.hypot(5.1, 0.1)], rel=1e-3)
    notes = [" ".join(text.get_text() for text in figure.texts).replace("\n", " ") for figure in drawn]
    assert "All planes share one colour scale" in notes[0]
    assert "a colour scale of its own" in notes[1]


def test_texts_and_panels_of_six_objectives_do_not_overlap(tmp_path, drawn):
    names = ["pairwise_cringe", "kto", "orpo", "robust", "minordpo + 0.1*sft", "cdpo"]
    lens(tmp_path / "a.png", objectives=names)
    (figure,) = drawn
    renderer = figure.canvas.get_renderer()
    texts = [text.get_window_extent(renderer) for text in figure.texts if text.get_text()]
    legends = [legend.get_window_extent(renderer) for legend in figure.legends]
    axes = [axis.get_tightbbox(renderer) for axis in figure.axes]
    boxes = [*texts, *legends, *axes]
    assert len(boxes) > 6 * 7
    for i, one in enumerate(boxes):
        assert one.x0 >= 0
        assert one.x1 <= figure.bbox.x1
        assert one.y0 >= 0
        assert one.y1 <= figure.bbox.y1
        for other in boxes[i + 1 :]:
            width = min(one.x1, other.x1) - max(one.x0, other.x0)
            height = min(one.y1, other.y1) - max(one.y0, other.y0)
            assert width <= 4 or height <= 6, (one, other)  # pixels: boxes of text include air


@pytest.mark.parametrize("ending", ["png", "svg"])
def test_the_same_command_gives_the_same_bytes(tmp_path, ending):
    for name, beta in (("a", "0.1"), ("b", "0.1"), ("c", "0.2")):
        lens(tmp_path / f"{name}.{ending}", objectives=["minordpo"], betas=[beta])
    first, again, other = ((tmp_path / f"{name}.{ending}").read_bytes() for name in "abc")
    assert first == again
    assert first != other
    assert first.startswith(b"\x89PNG" if ending == "png" else b"<?xml")


def test_a_failed_write_leaves_the_old_picture_and_nothing_else(tmp_path, monkeypatch):
    out = tmp_path / "a.png"
    out.write_bytes(b"old")

    def fail(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(InputError, match=r"a\.png cannot be written: No space left on device"):
        lens(out, objectives=["sft"])
    assert out.read_bytes() == b"old"
    assert [path.name for path in tmp_path.iterdir()] == ["a.png"]


def test_a_function_of_the_users_own_is_drawn_as_itself_and_in_its_spec(tmp_path, drawn):
    def calm(logps, *, calmness: float = 2.0):
        """margin / calm."""
        return (logps.rejected_logratios - logps.chosen_logratios) / calmness

    lens(tmp_path / "a.png", objectives=[calm, Spec(calm, drawn_for="nothing else")], settings=["calmness=4"])
    texts = [text.get_text() for text in drawn[0].texts]
    assert texts.count("calm, calmness 4") == 2
    assert {"margin / calm", "Drawn for: nothing else"} <= set(texts)
    (plane, chosen, _), _ = panels(drawn[0])
    np.testing.assert_allclose(np.asarray(plane.images[0].get_array()), 2**0.5 / 4)
    labels = {line.get_label() for line in chosen.get_lines()}
    assert {"4 (plane)", "0.8", "2", "8", "20"} <= labels


# ---- what the user can correct ----
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"objectives": ["minor_dpo"]}, r"'minor_dpo', which is no objective \(did you mean minordpo\?\)"),
        (
            {"objectives": ["dpo"], "settings": ["bata=1"]},
            r"has a hyper-parameter 'bata' \(did you mean beta\?\)",
        ),
        ({"objectives": ["dpo"], "betas": ["-1"]}, "objective.beta is -1, but must be a number above 0"),
        (
            {"objectives": ["dpo"], "betas": ["0.1", "x"]},
            "objective.beta is 'x', but must be a number above 0",
        ),
        ({"objectives": ["sft"], "betas": ["0.1"]}, "no objective of sft has a hyper-parameter 'beta'"),
        ({"objectives": ["dpo"], "betas": ["0.1"] * 8}, "--beta has 8 values, but 1 to 7"),
        ({"objectives": ["dpo"], "betas": ["[1"]}, "the value '\\[1' is not valid YAML"),
        ({"objectives": ["dpo"], "betas": ["1"], "settings": ["beta=2"]}, "--beta and --set beta=… are both"),
        ({"objectives": ["dpo"], "settings": ["beta"]}, "--set has 'beta', but key=value is needed"),
        ({"objectives": ["dpo"], "settings": ["beta=1", "beta=2"]}, "--set gives beta twice"),
        ({"objectives": ["dpo"], "length": 0}, "--length is 0, but responses of 1 to 10000 tokens"),
        ({"objectives": ["dpo"], "length": 10001}, "--length is 10001, but"),
        ({"objectives": []}, "there are 0 objectives, but a picture holds 1 to 6"),
        ({"objectives": sorted(OBJECTIVES)[:7]}, "there are 7 objectives, but a picture holds 1 to 6"),
    ],
)
def test_what_cannot_be_drawn_is_refused_in_one_line(tmp_path, arguments, message):
    out = tmp_path / "a.png"
    with pytest.raises(InputError, match=message) as caught:
        lens(out, **arguments)
    assert "\n" not in str(caught.value)
    assert not out.exists()


@pytest.mark.parametrize("name", ["a.pdf", "a", "png"])
def test_a_picture_is_a_png_or_an_svg(tmp_path, name):
    with pytest.raises(InputError, match=rf"{name} is not a \.png or \.svg file, but figures are PNG or SVG"):
        lens(tmp_path / name, objectives=["dpo"])


def test_the_command_line_writes_the_picture_and_says_so(tmp_path, capsys):
    out = tmp_path / "figures" / "a.png"
    assert (
        main(
            [
                "lens",
                "--objective",
                "cdpo",
                "--beta",
                "0.3",
                "--set",
                "label_smoothing=0.2",
                "--out",
                str(out),
            ]
        )
        == 0
    )
    assert out.read_bytes().startswith(b"\x89PNG")
    assert capsys.readouterr().out == f"{out}: written\n"


def test_the_command_line_refuses_in_one_line_with_status_two(tmp_path, capsys):
    assert main(["lens", "--objective", "sft", "--beta", "0.1", "--out", str(tmp_path / "a.png")]) == 2
    said = capsys.readouterr().err
    assert said.startswith("minordpo: no objective of sft has a hyper-parameter 'beta'")
    assert said.count("\n") == 1
