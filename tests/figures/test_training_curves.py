"""Figures are looked at through their matplotlib objects, and through the bytes of the file."""

import json
import os
import struct
import subprocess
import sys

import matplotlib
import numpy as np
import pytest

from minordpo.errors import InputError
from minordpo.figures import canvas, training_curves
from minordpo.figures.training_curves import read_curves, reward_figure, smooth

NAMES = ("chosen", "rejected", "margin")


def train_row(step, chosen, rejected):
    values = zip(NAMES, (chosen, rejected, chosen - rejected), strict=True)
    return {"step": step, "loss": 0.5} | {f"logratios/{name}": value for name, value in values}


def eval_row(step, chosen, rejected):
    row = train_row(step, chosen, rejected)
    return {"step": step} | {f"eval_{name}": value for name, value in row.items() if name != "step"}


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def run_of(folder, name, steps, chosen, rejected):
    """A run whose log-ratios go straight from zero to the given ends, with one held-out row at its end."""
    rows = [train_row(s, chosen * s / steps, rejected * s / steps) for s in range(1, steps + 1)]
    return write(
        folder / f"{name}.jsonl", [{"step": 0, "event": "start"}, *rows, eval_row(steps, chosen, rejected)]
    )


@pytest.fixture
def drawn(monkeypatch):
    """The figures that were written, as matplotlib objects."""
    seen, original = [], canvas.write_figure

    def remember(figure, out, **options):
        original(figure, out, **options)
        seen.append(figure)

    monkeypatch.setattr(canvas, "write_figure", remember)
    return seen


def curves_on(axis):
    """(x, y) of the lines that are drawn as lines, without the one at zero."""
    lines = [line for line in axis.get_lines() if line.get_linestyle() != "None"]
    return [line.get_xydata().T for line in lines if list(line.get_xdata()) != [0, 1]]


def dots_on(axis):
    lines = [line for line in axis.get_lines() if line.get_marker() == "o"]
    return [line.get_xydata().tolist() for line in lines if len(line.get_xdata())]


def legend_texts(figure):
    return [text.get_text() for legend in figure.legends for text in legend.get_texts()]


def size_of(png):
    return struct.unpack(">II", png.read_bytes()[16:24])


def test_the_three_panels_show_each_step_and_the_held_out_pairs(tmp_path, drawn):
    rows = [
        {"event": "start", "step": 0},
        train_row(1, 0.0, 0.0),
        train_row(2, 1.5, -0.5),
        eval_row(2, 1.25, -0.75),
        {"step": 2, "learning_rate": 1e-5},
        train_row(3, 2.0, -4.0),
    ]
    reward_figure(write(tmp_path / "metrics.jsonl", rows), tmp_path / "out.png", title="What it says")
    (figure,) = drawn
    chosen, rejected, margin = figure.axes
    assert [axis.get_title(loc="left") for axis in figure.axes] == list(training_curves.PANELS.values())
    for axis, ys in ((chosen, [0, 1.5, 2]), (rejected, [0, -0.5, -4]), (margin, [0, 2, 6])):
        ((xs, drawn_ys),) = curves_on(axis)
        assert (xs.tolist(), drawn_ys.tolist()) == ([1, 2, 3], ys)
        assert axis.get_xlabel() == "optimizer step"
        assert axis.get_ylim() == chosen.get_ylim()
        assert any(line.get_ydata() == [0, 0] for line in axis.get_lines())
    assert [dots_on(axis) for axis in figure.axes] == [[[[2, 1.25]]], [[[2, -0.75]]], [[[2, 2.0]]]]
    assert "nats per response" in chosen.get_ylabel()
    assert "What it says" in [text.get_text() for text in figure.texts]
    assert legend_texts(figure) == ["held-out pairs"]


def test_rows_count_by_their_step_and_the_later_of_one_step_wins(tmp_path):
    rows = [train_row(3, 3.0, 0.0), train_row(1, 1.0, 0.0), train_row(3, 4.0, 0.0)]
    curves = read_curves(write(tmp_path / "metrics.jsonl", rows))
    assert curves.steps == [1, 3]
    assert curves.batches["chosen"] == {"x": [1, 3], "y": [1.0, 4.0]}
    assert curves.held_out == {}


@pytest.mark.parametrize(("steps", "lines"), [(1, 1), (60, 1), (61, 2)])
def test_a_run_is_smoothed_above_sixty_steps(tmp_path, drawn, steps, lines):
    reward_figure(run_of(tmp_path, "run", steps, 8.0, -3.0), tmp_path / "out.png", title="A run")
    (figure,) = drawn
    assert [len(curves_on(axis)) for axis in figure.axes] == [lines] * 3
    smoothed = ["each logged step", "mean of 5 of them"] if lines == 2 else []
    assert legend_texts(figure) == [*smoothed, "held-out pairs"]


def bands_on(axis):
    """Colour, first and last place of each band across the panel."""
    spans = [patch for patch in axis.patches if patch.get_height() == 1.0]
    return [
        (matplotlib.colors.to_hex(s.get_facecolor()), s.get_x(), s.get_x() + s.get_width()) for s in spans
    ]


def test_what_the_monitor_said_is_a_band_from_its_step_to_the_next_change(tmp_path, drawn):
    def says(step, health):
        return {"step": step, "event": "health", "health": health, "was": "healthy", "why": "…"}

    rows = [train_row(step, -step, -2 * step) for step in range(1, 31)]
    rows += [
        says(5, "displaced"),
        says(12, "healthy"),
        says(20, "collapsed"),
        {"step": 30, "event": "rollback", "to": 0},
    ]
    reward_figure(write(tmp_path / "m.jsonl", rows), tmp_path / "f.png", title="A run")
    wanted = [
        (training_curves.BANDS["displaced"], 4.5, 12.5),
        (training_curves.BANDS["collapsed"], 19.5, 30.5),
    ]
    for axis in drawn[0].axes:
        assert bands_on(axis) == [(color, pytest.approx(a), pytest.approx(b)) for color, a, b in wanted]
    assert legend_texts(drawn[0]) == ["displaced", "collapsed"]


def test_a_run_that_was_always_healthy_has_no_bands(tmp_path, drawn):
    rows = [train_row(step, step, -step) for step in range(1, 31)]
    reward_figure(write(tmp_path / "m.jsonl", rows), tmp_path / "f.png", title="A run")
    assert [bands_on(axis) for axis in drawn[0].axes] == [[], [], []]


def test_a_smoothed_value_is_the_mean_of_those_around_it():
    values = np.array([0.0, 3.0, 0.0, 3.0, 6.0, 3.0, 0.0])
    assert smooth(values, 3)[1:-1] == pytest.approx([1, 2, 3, 4, 3])
    assert smooth(values, 1).tolist() == values.tolist()
    # The line through (0, 0), (1, 3), (2, 0) is level at 1; through (4, 6), (5, 3), (6, 0) it ends at 0.
    assert smooth(values, 3)[[0, -1]] == pytest.approx([1, 0])


def test_smoothing_leaves_a_straight_line_straight_to_its_ends():
    line = 3.0 - 0.25 * np.arange(101)
    assert smooth(line, 21) == pytest.approx(line)


def test_smoothing_takes_noise_away():
    noise = np.random.default_rng(0).normal(size=400)
    assert smooth(noise, 21).std() < 0.4 * noise.std()


def test_a_title_is_drawn_as_it_stands(tmp_path, drawn):
    title = r"$\frac{1$ and _x_ for $5 or $6" + " many words" * 12
    reward_figure(run_of(tmp_path, "run", 3, 1.0, -1.0), tmp_path / "out.png", title=title)
    assert title in [text.get_text().replace("\n", " ") for text in drawn[0].texts]


def test_legend_title_and_panels_do_not_overlap(tmp_path, drawn):
    run = run_of(tmp_path, "run", 80, 4.0, -4.0)
    changes = enumerate(["displaced", "inaccurate", "collapsing", "collapsed"], 20)
    with run.open("a", encoding="utf-8") as file:
        for step, health in changes:
            file.write(json.dumps({"step": step, "event": "health", "health": health}) + "\n")
    reward_figure(run, tmp_path / "out.png", title="A title of many words " * 9)
    (figure,) = drawn
    renderer = figure.canvas.get_renderer()
    (title,) = (text.get_window_extent(renderer) for text in figure.texts)
    panels = [axis.get_tightbbox(renderer) for axis in figure.axes]
    (legend,) = (each.get_window_extent(renderer) for each in figure.legends)
    assert len(legend_texts(figure)) == 7
    assert figure.bbox.y1 >= title.y1
    assert title.y0 >= legend.y1 - 8  # pixels: a legend has a margin of its own
    assert legend.y0 >= max(panel.y1 for panel in panels) - 8
    assert min(panel.y0 for panel in panels) >= 0
    assert max(legend.x1, title.x1) <= figure.bbox.x1


def test_the_same_data_gives_the_same_bytes_whatever_the_users_settings(tmp_path):
    metrics, outs = run_of(tmp_path, "run", 70, 5.0, -2.0), [tmp_path / f"{i}.png" for i in range(3)]
    reward_figure(metrics, outs[0], title="A run")
    with matplotlib.rc_context(
        {"lines.linewidth": 9, "font.size": 20, "savefig.dpi": 30, "axes.facecolor": "k"}
    ):
        reward_figure(metrics, outs[1], title="A run")
    reward_figure(run_of(tmp_path, "other", 70, 5.0, -2.1), outs[2], title="A run")
    first, again, other = (out.read_bytes() for out in outs)
    assert first == again
    assert first != other
    assert b"tEXt" not in first
    assert b"tIME" not in first


def test_a_figure_is_a_png_of_150_dots_an_inch(tmp_path):
    out = tmp_path / "figures" / "rewards.png"
    reward_figure(run_of(tmp_path, "run", 5, 1.0, -1.0), out, title="A run")
    content = out.read_bytes()
    assert content.startswith(b"\x89PNG\r\n")
    place = content.index(b"pHYs") + 4
    across, _, unit = struct.unpack(">IIB", content[place : place + 9])
    assert (round(across * 0.0254), unit) == (150, 1)
    assert size_of(out)[0] == 11 * 150
    assert [path.name for path in out.parent.iterdir()] == ["rewards.png"]


def test_a_failed_write_leaves_the_old_figure_and_nothing_else(tmp_path, monkeypatch):
    metrics, out = run_of(tmp_path, "run", 5, 1.0, -1.0), tmp_path / "figures" / "out.png"
    reward_figure(metrics, out, title="The old one")
    old = out.read_bytes()

    def fail(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(InputError, match=r"out\.png cannot be written: No space left on device"):
        reward_figure(metrics, out, title="The new one")
    assert out.read_bytes() == old
    assert [path.name for path in out.parent.iterdir()] == ["out.png"]


def test_drawing_needs_no_display_and_leaves_pyplot_alone(tmp_path):
    metrics = run_of(tmp_path, "run", 5, 1.0, -1.0)
    script = (
        "import sys; from pathlib import Path; from minordpo.figures.training_curves import reward_figure; "
        f"reward_figure(Path({str(metrics)!r}), Path({str(tmp_path / 'out.png')!r}), title='A run'); "
        "sys.exit('matplotlib.pyplot' in sys.modules)"
    )
    environment = {name: value for name, value in os.environ.items() if name != "DISPLAY"}
    subprocess.run([sys.executable, "-c", script], check=True, env=environment)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "has no training step with log-ratios"),
        ("", "has no training step with log-ratios"),
        ('{"step": 1, "event": "start"}\n{"step": 1, "loss": 0.5}\n', "has no training step with log-ratios"),
        (json.dumps(eval_row(1, 1.0, 0.0)), "has no training step with log-ratios"),
        (json.dumps(train_row(1, float("nan"), float("nan"))), "has no training step with log-ratios"),
        ("[1]\n" + json.dumps(train_row(1, 1.0, 0.0)), "line 1 of .* is no row of a step"),
        (json.dumps(train_row(None, 1.0, 0.0)) + "\n{}", "line 1 of .* is no row of a step"),
    ],
)
def test_metrics_that_cannot_be_drawn_are_refused_in_one_line(tmp_path, text, message):
    metrics, out = tmp_path / "metrics.jsonl", tmp_path / "out.png"
    if text is not None:
        metrics.write_text(text, encoding="utf-8")
    with pytest.raises(InputError, match=message) as caught:
        reward_figure(metrics, out, title="A run")
    assert "\n" not in str(caught.value)
    assert not out.exists()


def test_a_figure_that_is_no_png_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"out\.pdf is not a \.png file"):
        reward_figure(run_of(tmp_path, "run", 3, 1.0, -1.0), tmp_path / "out.pdf", title="A run")


def test_a_run_without_a_reference_is_drawn_by_its_log_probs(tmp_path, drawn):
    rows = [
        {"step": s, "loss": 1.0, "logps/chosen": -60.0 + s, "logps/rejected": -80.0 - s} for s in (1, 2, 3)
    ]
    reward_figure(write(tmp_path / "metrics.jsonl", rows), tmp_path / "out.png", title="simpo")
    (figure,) = drawn
    assert figure.axes[0].get_ylabel() == "log-prob\n(nats per response)"
    assert [curves_on(axis)[0][1].tolist() for axis in figure.axes] == [
        [-59, -58, -57],
        [-81, -82, -83],
        [22, 24, 26],
    ]


def test_labelled_responses_have_no_margin_and_steps_without_a_label_no_point_of_it(tmp_path, drawn):
    rows = [
        {"step": 1, "loss": 0.5, "logratios/chosen": 0.5, "logratios/rejected": -1.0},
        {"step": 2, "loss": 0.5, "logratios/chosen": 1.5},
        {"step": 3, "loss": 0.5, "logratios/chosen": 2.5, "logratios/rejected": -3.0},
    ]
    reward_figure(write(tmp_path / "metrics.jsonl", rows), tmp_path / "out.png", title="kto")
    (figure,) = drawn
    assert [axis.get_title(loc="left") for axis in figure.axes] == ["Chosen responses", "Rejected responses"]
    assert [curves_on(axis)[0].tolist() for axis in figure.axes] == [
        [[1, 2, 3], [0.5, 1.5, 2.5]],
        [[1, 3], [-1.0, -3.0]],
    ]
