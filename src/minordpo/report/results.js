// Scores per β (Figure 6 of the paper), reward against KL, and health over time.
const MEASURES = {
  verified_passed: "pass the verifier",
  verified_win_rate: "win against the first model",
  verified_score: "mean score of the verifier",
  flexible_accuracy: "right by the last number",
  strict_accuracy: "right by the asked line",
  retention_accuracy: "retained off the task",
  asked_format: "in the asked format",
  looping: "end in a loop",
  stopped: "end by themselves",
};
// All others are shares.
const isShare = (measure) => measure !== "verified_score";
const sayMeasure = (measure) => (isShare(measure) ? percent : number);
const scores = { measure: null, questions: 0 };
const against = { y: null };
const looks = { measure: Object.keys(data.looks)[0] };

// [share, low, high] of a run, or null.
function scoreOf(run, measure, questions) {
  if (measure === "retention_accuracy") {
    const { cells } = run;
    return cells.retention_accuracy === null || cells.retention_accuracy === undefined
      ? null
      : [cells.retention_accuracy, cells.retention_accuracy_low, cells.retention_accuracy_high];
  }
  const own = data.evaluations[questions] && data.evaluations[questions].runs[run.id];
  return own ? own[measure] : null;
}
const baseScore = (measure) => {
  const base = data.evaluations[scores.questions] && data.evaluations[scores.questions].base;
  return (base && base[measure]) || null;
};
const baseSaid = (measure, [, low, high]) => {
  const { worlds } = data.evaluations[scores.questions].base;
  const range = `${sayMeasure(measure)(low)} to ${sayMeasure(measure)(high)}`;
  return worlds ? `mean of ${worlds} worlds, ${range}` : `95 % interval ${range}`;
};
// The untuned model's score stands at 0, whatever the axis below it is.
const untuned = ([y, low, high], said) => ({
  label: "base",
  color: "var(--ink)",
  dots: true,
  hollow: true,
  line: false,
  points: [{ x: 0, y, low, high, text: `untuned model\n${said}` }],
});
const measuresThere = () =>
  Object.keys(MEASURES).filter((measure) => data.runs.some((run) => scoreOf(run, measure, scores.questions)));

const evaluateHint = () =>
  how(
    "No answers of these runs were scored. Score them and the untuned model, and name EVALUATION as a further folder of this report:",
    "minordpo evaluate BASE RUN… --task gsm8k --out EVALUATION",
  );

function scoreChart(shown, rateValue, measure, domain) {
  const told = sayMeasure(measure);
  const runs = shown.filter((run) => run.rate === rateValue && scoreOf(run, measure, scores.questions));
  const betas = [...new Set(runs.map((run) => run.beta))].sort((a, b) => (a === null) - (b === null) || a - b);
  const base = baseScore(measure);
  const ticks = [[0, "0"], ...betas.map((beta, at) => [at + 1, beta === null ? "none" : String(beta)])];
  const objectives = [...new Set(runs.map((run) => run.objective))];
  const lines = objectives.map((objective, at) => {
    const shift = objectives.length > 1 ? (at / (objectives.length - 1) - 0.5) * 0.3 : 0;
    return byGroup(runs.filter((run) => run.objective === objective)).map(([group, own]) => {
      const found = own.map((run) => scoreOf(run, measure, scores.questions));
      const shares = found.map(([share]) => share);
      const mean = shares.reduce((sum, each) => sum + each, 0) / shares.length;
      const [low, high] = own.length > 1 ? [Math.min(...shares), Math.max(...shares)] : found[0].slice(1);
      const range =
        own.length > 1
          ? `mean of ${own.length} seeds, ${told(low)} to ${told(high)}`
          : `95 % interval ${told(low)} to ${told(high)}`;
      return {
        label: data.groups[group].label,
        color: `var(--group-${group})`,
        dots: true,
        line: false,
        points: [
          {
            x: betas.indexOf(own[0].beta) + 1 + shift,
            y: mean,
            low,
            high,
            text: `${own.length > 1 ? data.groups[group].label : own[0].label}\n${told(mean)} (${range})`,
          },
        ],
      };
    });
  });
  // A line through one objective's β shows the trend; colours stay those of the settings.
  const trends = lines
    .filter((each) => each.length > 1)
    .map((each) => ({
      label: "",
      color: each[0].color,
      thin: true,
      points: each.map(({ points: [point] }) => ({ ...point, low: null, high: null })).sort((a, b) => a.x - b.x),
    }));
  const all = [...trends, ...lines.flat()];
  if (base)
    all.push(untuned(base, `${told(base[0])} (${baseSaid(measure, base)})`));
  return chart({
    title: `learning rate ${rate(rateValue)}`,
    series: all,
    x: { label: "β (0: the untuned model)", domain: [-0.4, betas.length + 0.6], ticks },
    y: {
      label: isShare(measure) ? `${MEASURES[measure]} (%)` : MEASURES[measure],
      format: isShare(measure) ? (value) => number(100 * value) : number,
      domain,
    },
  });
}

function drawScores(room, shown) {
  const measures = measuresThere();
  if (!measures.length) {
    room.replaceChildren(evaluateHint());
    return "";
  }
  if (!measures.includes(scores.measure)) [scores.measure] = measures;
  const { measure } = scores;
  const asked = data.evaluations[scores.questions];
  const scored = shown.filter((run) => scoreOf(run, measure, scores.questions));
  const rates = [...new Set(scored.map((run) => run.rate))].sort((a, b) => a - b);
  const groups = byGroup(scored).map(([group]) => group);
  // One scale for all rates, so that their panels can be compared.
  const ends = [...scored.map((run) => scoreOf(run, measure, scores.questions)), baseScore(measure) || []].flat();
  const whole = extent(ends, false);
  const domain = isShare(measure) ? whole.map((each, at) => (at ? Math.min(1, each) : Math.max(0, each))) : whole;
  room.replaceChildren(
    element(
      "p",
      { class: "controls" },
      chooser(
        "Measure of answers",
        measures.map((each) => [each, MEASURES[each]]),
        measure,
        (value) => {
          scores.measure = value;
          update();
        },
      ),
      data.evaluations.length > 1
        ? chooser(
            "Questions",
            data.evaluations.map((each, at) => [at, each.title]),
            scores.questions,
            (value) => {
              scores.questions = Number(value);
              update();
            },
          )
        : null,
    ),
    asked && asked.verifier ? element("p", { class: "soft" }, asked.title) : "",
    keys(groups),
    element("div", { class: "panels" }, ...rates.map((each) => scoreChart(scored, each, measure, domain))),
    baseScore(measure) || measure === "retention_accuracy"
      ? ""
      : how(
          "The untuned model is not among the answers; add it with",
          "minordpo evaluate BASE RUN… --out EVALUATION",
        ),
  );
  const means = byGroup(scored).map(([group, own]) => {
    const shares = own.map((run) => scoreOf(run, measure, scores.questions)[0]);
    return {
      share: shares.reduce((sum, each) => sum + each, 0) / shares.length,
      said: own.length > 1 ? data.groups[group].label : own[0].label,
      seeds: own.length > 1 ? ` (mean of ${own.length} seeds)` : "",
    };
  });
  const best = means.reduce((top, each) => (top && top.share >= each.share ? top : each), null);
  const [base] = baseScore(measure) || [null];
  return best
    ? `Highest measured: ${best.said}, ${sayMeasure(measure)(best.share)}${best.seeds}${base === null ? "" : `; the untuned model ${sayMeasure(measure)(base)}`}.`
    : "";
}

// ---- reward against KL ----
const REWARDS = {
  margin: {
    label: "held-out margin (nats)",
    of: (run) => {
      const y = lastOf(run, "margin");
      return y === null ? null : [y, null, null];
    },
  },
  chosen: {
    label: "held-out chosen log-ratio (nats)",
    of: (run) => {
      const y = lastOf(run, "chosen");
      return y === null ? null : [y, null, null];
    },
  },
  ranked: {
    label: "held-out pairs ranked right (%)",
    share: true,
    of: (run) => {
      const y = lastOf(run, "ranked");
      return y === null ? null : [y, null, null];
    },
  },
};
for (const [measure, label] of Object.entries(MEASURES))
  REWARDS[measure] = {
    label: isShare(measure) ? `${label} (%)` : label,
    share: isShare(measure),
    measure,
    of: (run) => scoreOf(run, measure, scores.questions),
  };

// One run with its interval and standard error; runs that differ by their seed alone as means and ranges.
function againstPoint(group, own, reward, format) {
  const kls = own.map((run) => run.cells.kl_per_sequence);
  const found = own.map((run) => reward.of(run));
  const ys = found.map(([y]) => y);
  const mean = (values) => values.reduce((sum, each) => sum + each, 0) / values.length;
  const [run] = own;
  const [x, y] = [mean(kls), mean(ys)];
  let [, low, high] = found[0];
  let [left, right, spread] = [undefined, undefined, ""];
  if (own.length > 1) {
    [low, high] = [Math.min(...ys), Math.max(...ys)];
    [left, right] = [Math.min(...kls), Math.max(...kls)];
    spread = ` (mean of ${own.length} seeds, ${number(left)} to ${number(right)})`;
  } else if (typeof run.cells.kl_per_sequence_error === "number") {
    const error = run.cells.kl_per_sequence_error;
    [left, right, spread] = [x - error, x + error, ` ± ${number(error)}`];
  }
  const label = own.length > 1 ? data.groups[group].label : run.label;
  return {
    label,
    color: color(run),
    dots: true,
    line: false,
    points: [
      {
        x,
        y,
        low,
        high,
        ...(left === undefined ? {} : { left, right }),
        text: `${label}\nKL ${number(x)}${spread} nats a sequence\n${reward.label}: ${format(y)}${own.length > 1 ? ` (${format(low)} to ${format(high)})` : ""}`,
      },
    ],
  };
}

function drawAgainst(room, shown) {
  const has = (run) => typeof run.cells.kl_per_sequence === "number";
  if (!data.runs.some(has)) {
    room.replaceChildren(
      how(
        "KL(π‖π_ref) needs samples of each run. Draw them, and name EVALUATION as a further folder of this report:",
        "minordpo evaluate BASE RUN… --task gsm8k --samples 4 --reference BASE --out EVALUATION",
      ),
    );
    return "";
  }
  const there = Object.keys(REWARDS).filter((name) => data.runs.some((run) => has(run) && REWARDS[name].of(run)));
  if (!there.includes(against.y)) against.y = there.find((name) => REWARDS[name].measure) || there[0];
  const reward = REWARDS[against.y];
  const format = reward.share ? (value) => number(100 * value) : number;
  const all = byGroup(shown.filter((run) => has(run) && reward.of(run))).map(([group, own]) =>
    againstPoint(group, own, reward, format),
  );
  const base = reward.measure ? baseScore(reward.measure) : null;
  if (base)
    all.push(untuned(base, `KL 0\n${reward.label}: ${format(base[0])}`));
  room.replaceChildren(
    element(
      "p",
      { class: "controls" },
      chooser(
        "Reward",
        there.map((each) => [each, REWARDS[each].label]),
        against.y,
        (value) => {
          against.y = value;
          update();
        },
      ),
    ),
    keys(byGroup(shown.filter(has)).map(([group]) => group)),
    chart({
      title: `${reward.label} against KL`,
      height: 320,
      series: all,
      x: { label: "KL(π‖π_ref) of samples (nats a sequence, root scale)", root: true },
      y: { label: reward.label, format },
    }),
  );
  const settings = all.length - (base ? 1 : 0);
  return shown.filter((run) => has(run) && reward.of(run)).length > settings
    ? `${plural(settings, "setting")}; points are means over seeds, whiskers their range.`
    : `${plural(all.length, "model")}; whiskers are 95 % intervals of ${reward.measure && !reward.share ? "scores" : "shares"} and one standard error of KL.`;
}

// ---- health over time ----
function strip(run, last) {
  const began = [[0, "healthy"], ...run.curves.health];
  const watched = run.cells.health !== null;
  const parts = began
    .map(([step, name], at) => [step, at + 1 < began.length ? began[at + 1][0] : run.curves.last_step, name])
    .filter(([from, to], at) => to > from || at === began.length - 1);
  const words = watched ? parts.map(([from, , name]) => `${name} from step ${from}`).join(", ") : "not watched";
  const bar = element(
    "div",
    { class: "strip", role: "img", "aria-label": words, title: words, tabindex: 0 },
    ...(watched ? parts : []).map(([from, to, name]) =>
      element("span", {
        style: {
          left: `${(100 * from) / last}%`,
          width: `max(3px, ${(100 * (to - from)) / last}%)`,
          background: `var(--${name}, var(--rule))`,
        },
      }),
    ),
  );
  return [element("div", { class: "name" }, swatch(run.group), ` ${run.label}`), bar];
}

function drawHealth(room, shown) {
  const watched = shown.filter((run) => run.cells.health);
  const last = Math.max(1, ...shown.map((run) => run.curves.last_step));
  const names = data.healths.filter((name) =>
    watched.some((run) => name === "healthy" || run.curves.health.some(([, each]) => each === name)),
  );
  const legend = element(
    "p",
    {},
    ...names.map((name) =>
      element(
        "span",
        { class: "key" },
        element("span", { class: "swatch", style: { background: `var(--${name})` } }),
        name,
      ),
    ),
  );
  const strips = element(
    "div",
    { class: "strips" },
    ...watched.flatMap((run) => strip(run, last)),
    element("div"),
    element("div", { class: "ends" }, element("span", {}, "step 0"), element("span", {}, `step ${last}`)),
  );
  const parts = watched.length
    ? [legend, strips]
    : [how("No run shown was watched; the monitor is switched on by", "monitor.enabled=true")];
  if (looks.measure) {
    const all = byGroup(shown)
      .map(([group, runs]) => groupCurve(group, runs, (curves) => curves.looks[looks.measure]))
      .filter(Boolean)
      .map((each) => ({ ...each, dots: each.points.length < 20 }));
    parts.push(
      element(
        "p",
        { class: "controls" },
        chooser("The monitor's answers", Object.entries(data.looks), looks.measure, (value) => {
          looks.measure = value;
          update();
        }),
      ),
      chart({
        title: data.looks[looks.measure],
        series: all,
        x: { label: "optimizer step", whole: true },
        y: { label: data.looks[looks.measure].replace(/.*\((.*)\)/, "$1") },
      }),
    );
  }
  room.replaceChildren(...parts);
  const counts = data.healths
    .map((name) => [watched.filter((run) => run.cells.health === name).length, name])
    .filter(([count]) => count);
  return counts.length ? `At the end: ${counts.map(([count, name]) => `${count} ${name}`).join(", ")}.` : "";
}
