// Log-ratios by step (Figures 2 to 5 of the paper), and how much push is left (Figure 1).
const PANELS = { chosen: "Chosen responses", rejected: "Rejected responses", margin: "Margin: chosen − rejected" };
const ROWS = { both: ["objective", "rate"], rate: ["rate"], none: [] };
const rewards = { rows: "none", oneScale: false };

const KEYS = 14;

// The runs by group, in the order of the groups.
function byGroup(runs) {
  const groups = new Map();
  for (const run of runs) groups.set(run.group, [...(groups.get(run.group) || []), run]);
  return [...groups].sort(([a], [b]) => a - b);
}

// One line a group: its only run, or mean and range of its runs at the steps that all of them have (that reached them).
function groupCurve(group, runs, pick) {
  const curves = runs.map((run) => pick(run.curves)).filter(Boolean);
  if (!curves.length) return null;
  const values = new Map();
  for (const curve of curves) curve.x.forEach((x, at) => values.set(x, [...(values.get(x) || []), curve.y[at]]));
  const reached = (x) => curves.filter((curve) => curve.x[curve.x.length - 1] >= x).length;
  const points = [...values]
    .filter(([x, ys]) => ys.length === reached(x))
    .sort(([a], [b]) => a - b)
    .map(([x, ys]) => ({
      x,
      ys,
      y: ys.reduce((sum, each) => sum + each, 0) / ys.length,
      low: Math.min(...ys),
      high: Math.max(...ys),
    }));
  const label = runs.length === 1 ? runs[0].label : data.groups[group].label;
  for (const point of points) {
    const range =
      point.ys.length > 1
        ? ` (mean of ${point.ys.length} seeds, ${signed(point.low)} to ${signed(point.high)})`
        : "";
    point.text = `${label}\nstep ${point.x}: ${signed(point.y)}${range}`;
  }
  return { label, color: `var(--group-${group})`, dash: data.groups[group].dash || null, points };
}

function curveSeries(runs, name) {
  return byGroup(runs).flatMap(([group, own]) => {
    const line = groupCurve(group, own, (curves) => curves.train[name]);
    const held = groupCurve(group, own, (curves) => curves.eval[name]);
    if (held) for (const point of held.points) point.text = point.text.replace("step", "held out, step");
    return [line, held && { ...held, line: false, dots: true }].filter(Boolean);
  });
}

// What colours stand for: each setting, or of many the parts that a setting is made of.
function keys(groups) {
  if (groups.length > KEYS) return keysByPart(groups);
  return element(
    "p",
    {},
    ...groups.map((group) => element("span", { class: "key" }, swatch(group), data.groups[group].label)),
  );
}

function keysByPart(groups) {
  const runs = groups.map((group) => data.runs.find((run) => run.group === group));
  const hues = new Map();
  for (const run of runs) hues.set(run.objective, [...(hues.get(run.objective) || []), run]);
  const parts = [...hues].map(([objective, own]) => {
    const betas = own
      .map((run) => run.beta)
      .filter((beta) => beta !== null)
      .sort((a, b) => a - b);
    const shades = new Set(betas).size > 1 ? `, light to dark β ${betas[0]} to ${betas[betas.length - 1]}` : "";
    return element(
      "span",
      { class: "key" },
      swatch(own[Math.floor(own.length / 2)].group, false),
      objective + shades,
    );
  });
  const dashes = new Map(runs.map((run) => [run.rate, run.group]));
  const lines = [...dashes]
    .sort(([a], [b]) => a - b)
    .map(([each, group]) =>
      element("span", { class: "key" }, swatch(group, true, "var(--soft)"), `learning rate ${rate(each)}`),
    );
  return element("p", {}, ...(hues.size > 1 ? parts : []), ...(lines.length > 1 ? lines : []));
}

const lastOf = (run, name) => {
  const curve = run.curves.eval[name] || run.curves.train[name];
  return curve ? curve.y[curve.y.length - 1] : null;
};

function rowsOfRewards(shown) {
  const rows = new Map();
  for (const run of shown) {
    if (!Object.keys(run.curves.train).length) continue;
    const key = JSON.stringify([run.curves.kind, ...ROWS[rewards.rows].map((name) => run[name])]);
    rows.set(key, [...(rows.get(key) || []), run]);
  }
  return [...rows.values()];
}

// The range of the smaller settings where a larger one dwarfs them, as the figure of a run draws it; null where none does.
function zoomed(all) {
  const sizes = new Map();
  for (const each of all)
    sizes.set(each.label, Math.max(sizes.get(each.label) || 0, ...heights([each]).map(Math.abs)));
  const largest = Math.max(...sizes.values());
  const smaller = all.filter((each) => sizes.get(each.label) > 0 && sizes.get(each.label) < largest / 4);
  if (!smaller.some((each) => sizes.get(each.label) < largest / 8)) return null;
  return extent(heights(smaller), true);
}

function rewardRow(runs, domain) {
  const [first] = runs;
  const ratios = first.curves.kind === "logratios";
  const label = ratios ? "log-ratio (nats a response)" : "log-prob (nats a response)";
  const panels = Object.keys(PANELS)
    .map((name) => [name, curveSeries(runs, name)])
    .filter(([, all]) => all.length);
  const own = ratios
    ? extent(
        panels.flatMap(([, all]) => heights(all)),
        true,
      )
    : null;
  const draw = (title, all, y) =>
    chart({
      title,
      series: all,
      zero: ratios,
      x: { label: "optimizer step", whole: true },
      y: { label, domain: y },
    });
  const charts = panels.map(([name, all]) => draw(PANELS[name], all, (ratios && domain) || own));
  const enlarged = ratios && !domain ? zoomed(panels.flatMap(([, all]) => all)) : null;
  if (enlarged) charts.push(...panels.map(([name, all]) => draw(`${PANELS[name]}, enlarged`, all, enlarged)));
  const parts = {
    both: `${first.objective}, learning rate ${rate(first.rate)}`,
    rate: `learning rate ${rate(first.rate)}`,
    none: "all settings",
  };
  const name = parts[rewards.rows] + (ratios ? "" : ", without a reference");
  return element(
    "div",
    { class: "row" },
    element("h3", {}, name),
    keys(byGroup(runs).map(([group]) => group)),
    element("div", { class: "panels" }, ...charts),
  );
}

function drawRewards(room, shown) {
  const rows = rowsOfRewards(shown);
  if (!rows.length) {
    room.replaceChildren(how("No run shown has made a step yet; metrics.jsonl is written by", "minordpo train"));
    return "";
  }
  const ratioRows = rows.filter(([first]) => first.curves.kind === "logratios");
  const domain = rewards.oneScale
    ? extent(
        ratioRows.flatMap((runs) => Object.keys(PANELS).flatMap((name) => heights(curveSeries(runs, name)))),
        true,
      )
    : null;
  const box = (text, checked, change) =>
    element(
      "label",
      {},
      element("input", {
        type: "checkbox",
        checked,
        onchange: (event) => {
          change(event.currentTarget.checked);
          update();
        },
      }),
      ` ${text}`,
    );
  const controls = element(
    "p",
    { class: "controls" },
    data.groups.length > 1
      ? chooser(
          "A row for each",
          [
            ["both", "objective and learning rate"],
            ["rate", "learning rate"],
            ["none", "nothing: all in one"],
          ],
          rewards.rows,
          (value) => {
            rewards.rows = value;
            update();
          },
        )
      : null,
    rows.length > 1
      ? box("one scale for all rows", rewards.oneScale, (on) => {
          rewards.oneScale = on;
        })
      : null,
  );
  room.replaceChildren(controls, ...rows.map((runs) => rewardRow(runs, domain)));
  const ended = shown.filter((run) => run.curves.kind === "logratios" && lastOf(run, "chosen") !== null);
  const below = ended.filter((run) => lastOf(run, "chosen") < 0).length;
  const won = ended.filter((run) => lastOf(run, "margin") > 0).length;
  return ended.length
    ? `${below} of ${plural(ended.length, "run")} end with chosen responses less likely than under the reference; in ${won} the margin is above 0.`
    : "";
}

function rewardsSection() {
  // A row is worth its room where it compares: settings of one objective and rate, which differ by β as a rule.
  const settings = (names) => {
    const rows = new Map();
    for (const run of data.runs) {
      const key = JSON.stringify(names.map((name) => run[name]));
      rows.set(key, (rows.get(key) || new Set()).add(run.group));
    }
    return [...rows.values()];
  };
  const compares = settings(ROWS.both).filter((groups) => groups.size > 1).length;
  if (settings(ROWS.both).length > 1 && compares > 1) rewards.rows = "both";
  else if (settings(ROWS.rate).length > 1 && data.groups.length > 7) rewards.rows = "rate";
  const windows = [...new Set(data.runs.map((run) => run.curves.window))]
    .filter((each) => each > 1)
    .sort((a, b) => a - b);
  section(
    "rewards",
    "Log-ratios while training",
    `log π/π_ref in nats, without β, so that runs of different β compare; 0: as likely as under the reference. Lines are training batches${windows.length ? ` (mean of ${windows.join(" or ")} steps)` : ""}, dots held-out pairs; bands the range over seeds.`,
    drawRewards,
  );
}

// ---- how much push is left ----
function formulaChart(shown) {
  const { curves, margins } = data.coefficients;
  const ours = shown.filter((run) => run.objective in margins);
  const betas = new Set(ours.map((run) => run.beta));
  // β has no colour of its own, since colours are settings: light to dark in the ink of the page.
  const lines = curves
    .filter((curve) => betas.has(curve.beta))
    .map((curve, at, all) => ({
      label: `β ${curve.beta}`,
      color: `color-mix(in srgb, var(--ink) ${Math.round(35 + (65 * (at + 1)) / all.length)}%, var(--paper))`,
      dash: at % 2 ? "5 3" : null,
      points: curve.x.map((x, place) => ({
        x,
        y: curve.y[place],
        text: `β ${curve.beta}\nmargin ${signed(x)} nats: ${number(curve.y[place])}`,
      })),
    }));
  // dpop's coefficient is 1 + λ times as large where the chosen response is below the reference, so it has no dot.
  const ends = ours
    .filter((run) => run.objective !== "dpop" && run.curves.eval.margin && run.curves.eval.push_chosen)
    .map((run) => {
      const [x, y] = [lastOf(run, "margin"), -lastOf(run, "push_chosen")];
      return {
        label: run.label,
        color: color(run),
        line: false,
        dots: true,
        points: [
          { x, y, text: `${run.label}, held-out pairs at the end\nmargin ${signed(x)} nats, push ${number(y)}` },
        ],
      };
    });
  const keyed = element(
    "p",
    {},
    ...lines.map((line) => element("span", { class: "key" }, `${line.label}: ${line.dash ? "dashed" : "solid"}`)),
  );
  return element(
    "div",
    {},
    chart({
      title: "f(β, margin) = β σ(−β · margin), and where runs ended",
      series: [...lines, ...ends],
      x: { label: "margin (nats)" },
      y: { label: "push on chosen (per nat)" },
    }),
    keyed,
  );
}

function pushCharts(shown, name, title, sign) {
  const all = byGroup(shown)
    .map(([group, runs]) =>
      groupCurve(group, runs, (curves) => {
        const curve = curves.train[name];
        return curve && { x: curve.x, y: curve.y.map((y) => sign * y) };
      }),
    )
    .filter(Boolean);
  const draw = (heading, domain) =>
    chart({
      title: heading,
      series: all,
      zero: true,
      x: { label: "optimizer step", whole: true },
      y: { label: "push (per nat)", domain },
    });
  if (!all.length) return [];
  const enlarged = zoomed(all);
  return [draw(title), ...(enlarged ? [draw(`${title}, enlarged`, enlarged)] : [])];
}

function drawPush(room, shown) {
  const some = shown.some((run) => run.objective in data.coefficients.margins);
  const charts = [
    ...(some ? [formulaChart(shown)] : []),
    ...pushCharts(shown, "push_chosen", "Up, on chosen responses", -1),
    ...pushCharts(shown, "push_rejected", "Down, on rejected responses", 1),
  ];
  room.replaceChildren(element("div", { class: "panels" }, ...charts));
  const left = shown
    .filter(
      (run) =>
        run.objective in data.coefficients.margins && run.objective !== "dpop" && run.curves.train.push_chosen,
    )
    .map((run) => {
      const { y } = run.curves.train.push_chosen;
      return y[0] ? y[y.length - 1] / y[0] : null;
    })
    .filter((each) => each !== null);
  return left.length
    ? `At the end ${percent(Math.min(...left))} to ${percent(Math.max(...left))} of the first step's push on chosen responses is left, of dpo and minordpo.`
    : "";
}

function pushSection() {
  const names = Object.entries(data.coefficients.margins)
    .map(([name, margin]) => `${name}: ${margin}`)
    .join("; ");
  section(
    "push",
    "How much push is left",
    `The coefficient of the gradient, d loss / d log π of a response; the larger β, the sooner it decays. ${names ? `The curve is of each objective's own margin (${names}); dots are means over pairs and need not lie on it.` : ""}`,
    drawPush,
  );
}
