// The table of runs, answers side by side, and single pairs token by token.
const sorting = { by: null, down: false };
const FORMATS = {
  text: (value) => value || "",
  number,
  rate,
  whole: (value) => (value === null || value === undefined ? "" : String(Math.round(value))),
  signed,
  share: percent,
  health: (value) => value || "",
};

function cell(run, [name, , , kind]) {
  const value = run.cells[name];
  if (name === "run")
    return element(
      "td",
      { title: run.label },
      swatch(run.group),
      ` ${run.label}`,
      run.status === "finished"
        ? null
        : element(
            "span",
            { class: "soft", title: run.error },
            ` (${run.status}${run.error ? `: ${run.error}` : ""})`,
          ),
    );
  const text = FORMATS[kind](value);
  const low = run.cells[`${name}_low`];
  const range =
    kind === "share" && typeof low === "number" && text
      ? ` [${Math.round(100 * low)}, ${Math.round(100 * run.cells[`${name}_high`])}]`
      : "";
  const error = run.cells[`${name}_error`];
  const made = element(
    "td",
    { class: kind === "text" ? "words" : null, title: name === "objective" ? run.settings : null },
    text,
    range ? element("span", { class: "soft" }, range) : null,
    typeof error === "number" ? element("span", { class: "soft" }, ` ± ${number(error)}`) : null,
  );
  if (kind === "health" && text)
    made.replaceChildren(
      element("span", { class: "health", style: { borderColor: `var(--${text}, var(--rule))` } }, text),
    );
  return made;
}

function compare(a, b) {
  const [left, right] = [a.cells[sorting.by], b.cells[sorting.by]];
  const missing = (value) => value === null || value === undefined || value === "";
  if (missing(left) || missing(right)) return missing(left) - missing(right);
  const order = sorting.by.endsWith("health")
    ? data.healths.indexOf(left) - data.healths.indexOf(right)
    : byValue(left, right);
  return sorting.down ? -order : order;
}

function drawTable(room, shown) {
  const sortBy = (name) => {
    Object.assign(sorting, { down: sorting.by === name ? !sorting.down : false, by: name });
    update();
    const focused = [...room.querySelectorAll("th button")].find((each) => each.dataset.column === name);
    if (focused) focused.focus();
  };
  const heads = data.columns.map(([name, head, unit]) =>
    element(
      "th",
      { scope: "col", "aria-sort": sorting.by === name ? (sorting.down ? "descending" : "ascending") : "none" },
      element(
        "button",
        { type: "button", "data-column": name, onclick: () => sortBy(name) },
        head,
        sorting.by === name ? (sorting.down ? " ▼" : " ▲") : "",
      ),
      unit ? element("div", { class: "unit" }, unit) : null,
    ),
  );
  const rows = sorting.by ? [...shown].sort(compare) : shown;
  room.replaceChildren(
    element(
      "div",
      { class: "scroll", tabindex: 0, role: "region", "aria-label": "table of runs" },
      element(
        "table",
        {},
        element("thead", {}, element("tr", {}, ...heads)),
        element(
          "tbody",
          {},
          ...rows.map((run) => element("tr", {}, ...data.columns.map((column) => cell(run, column)))),
        ),
      ),
    ),
  );
  return "";
}

// ---- answers ----
const reading = { source: 0, question: 0, step: null, all: false };
const CARDS = 12;

// The user's own words of a prompt that a template has dressed up: its last long line.
function shortened(text) {
  const lines = text
    .replace(/<\|?[\w/]+\|?>/g, "\n")
    .split("\n")
    .map((line) => line.trim())
    .filter((line) => line.length > 12);
  const line = lines[lines.length - 1] || text.trim();
  return line.length > 90 ? `${line.slice(0, 89)}…` : line;
}

function answerCard(answer, shown) {
  const runs = answer.runs.filter((run) => isShown(data.runs[run]));
  const before = answer.when === "before";
  const name = before
    ? `before training${answer.runs.length && runs.length < shown.length ? ` (${runs.map((run) => data.runs[run].label).join(", ")})` : ""}`
    : `${data.runs[answer.runs[0]].label}${answer.when === "after" ? "" : `, ${answer.when}`}`;
  const facts = [
    plural(answer.tokens, "token"),
    answer.stopped ? null : "ran into the limit",
    answer.right === null ? null : answer.right ? "right" : "wrong",
    answer.verdict ? `verifier: ${answer.verdict}` : null,
  ].filter(Boolean);
  return element(
    "article",
    { class: "card", style: { borderTopColor: before ? "var(--soft)" : color(data.runs[answer.runs[0]]) } },
    element("h3", {}, before ? null : swatch(data.runs[answer.runs[0]].group), ` ${name}`),
    element("p", { class: "text", tabindex: 0 }, answer.text || "(empty)"),
    element("p", { class: "soft" }, facts.join(", ")),
  );
}

function drawAnswers(room, shown) {
  if (!data.answers.length) {
    room.replaceChildren(
      how("These runs kept no answers; let them answer held-out prompts with", "data.eval=32 samples.prompts=8"),
    );
    return "";
  }
  const source = data.answers[reading.source];
  const question = source.questions[reading.question];
  const steps = [...new Set(question.answers.map((answer) => answer.step))]
    .sort((a, b) => a - b)
    .filter((step) => step > 0);
  const looked = source.key === "probes" && steps.length > 0;
  if (!looked || !steps.includes(reading.step)) reading.step = steps[steps.length - 1];
  // Runs look at their text at steps of their own: of each the last look up to the chosen step.
  const latest = new Map();
  for (const answer of question.answers)
    if (looked && answer.step > 0 && answer.step <= reading.step) latest.set(answer.runs[0], answer);
  const wanted = question.answers.filter(
    (answer) =>
      (!answer.runs.length || answer.runs.some((run) => isShown(data.runs[run]))) &&
      (answer.when === "before" || !looked || latest.get(answer.runs[0]) === answer),
  );
  wanted.sort((a, b) => (b.when === "before") - (a.when === "before") || a.runs[0] - b.runs[0]);
  const choose = (changes) => {
    Object.assign(reading, changes);
    drawAnswers(room, shownRuns());
  };
  const move = (by) =>
    choose({ question: (reading.question + by + source.questions.length) % source.questions.length });
  const cut = reading.all ? wanted : wanted.slice(0, CARDS);
  room.replaceChildren(
    element(
      "p",
      { class: "controls" },
      chooser(
        "Answers to",
        data.answers.map((each, at) => [at, each.title]),
        reading.source,
        (value) => choose({ source: Number(value), question: 0, step: null }),
      ),
      chooser(
        "Question",
        source.questions.map((each, at) => [at, `${at + 1}. ${shortened(each.text)}`]),
        reading.question,
        (value) => choose({ question: Number(value) }),
      ),
      element("button", { type: "button", onclick: () => move(-1) }, "previous"),
      element("button", { type: "button", onclick: () => move(1) }, "next"),
      looked
        ? chooser(
            "At step",
            steps.map((step) => [step, String(step)]),
            reading.step,
            (value) => choose({ step: Number(value) }),
          )
        : null,
    ),
    element("blockquote", { tabindex: 0 }, question.text),
    question.reference === null ? "" : element("p", { class: "soft" }, `The right answer: ${question.reference}`),
    element("div", { class: "cards" }, ...cut.map((answer) => answerCard(answer, shown))),
    cut.length < wanted.length
      ? element(
          "p",
          {},
          element(
            "button",
            { type: "button", onclick: () => choose({ all: true }) },
            `Show all ${wanted.length} answers`,
          ),
        )
      : "",
  );
  return "";
}

// ---- pairs ----
const paired = { pair: 0 };

function tokenLine(texts, values, scale, status) {
  const line = element("p", { class: "tokens", tabindex: 0 });
  const shade = values.ratios || values.logps;
  let at = -1;
  const tell = (place) => {
    if (at >= 0) line.children[at].classList.remove("at");
    at = place;
    if (at < 0) {
      status.textContent = "";
      return;
    }
    line.children[at].classList.add("at");
    const ratio = values.ratios ? `log-ratio ${signed(values.ratios[at])}, ` : "";
    status.textContent = `token ${at + 1} ${JSON.stringify(texts[at])}: ${ratio}log-prob ${number(values.logps[at])} nats`;
  };
  texts.forEach((text, place) => {
    const strength = Math.min(1, Math.abs(shade[place]) / scale) * 0.65;
    line.append(
      element(
        "span",
        {
          style: { background: `rgba(var(--${shade[place] > 0 ? "more" : "less"}), ${strength.toFixed(3)})` },
          onpointerenter: () => tell(place),
        },
        text === "\n" ? "⏎\n" : text || "·",
      ),
    );
  });
  line.addEventListener("pointerleave", () => tell(-1));
  line.addEventListener("blur", () => tell(-1));
  line.addEventListener("keydown", (event) => {
    const by = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (!by) return;
    tell((at + by + texts.length) % texts.length);
    event.preventDefault();
  });
  return line;
}

function drawPairs(room, shown) {
  if (!data.pairs.length) {
    room.replaceChildren(
      how("Token by token, pairs are computed with each run's model, once, by", "minordpo report DIR --pairs 6"),
    );
    return "";
  }
  const pair = data.pairs[paired.pair];
  const runs = shown.filter((run) => pair.runs[run.id]);
  const sizes = runs
    .flatMap((run) =>
      ["chosen", "rejected"].flatMap((side) => (pair.runs[run.id][side].ratios || []).map(Math.abs)),
    )
    .sort((a, b) => a - b);
  const scale = Math.max(0.5, sizes[Math.floor(0.97 * (sizes.length - 1))] || 5);
  const status = element("p", { class: "status", role: "status" });
  const side = (run, name) => {
    const values = pair.runs[run.id][name];
    const sum = (values.ratios || values.logps).reduce((total, each) => total + each, 0);
    return [
      element(
        "p",
        { class: "soft" },
        `${name}: ${values.ratios ? `log-ratio ${signed(sum)}` : `log-prob ${number(sum)}`} nats`,
      ),
      tokenLine(pair[name], values, scale, status),
    ];
  };
  room.replaceChildren(
    element(
      "p",
      { class: "controls" },
      chooser(
        "Pair",
        data.pairs.map((each, at) => [at, `${at + 1}. ${shortened(each.prompt)}`]),
        paired.pair,
        (value) => {
          paired.pair = Number(value);
          drawPairs(room, shownRuns());
        },
      ),
      element(
        "span",
        { class: "soft" },
        `−${number(scale)} nats `,
        element("span", { class: "scale" }),
        ` +${number(scale)}: less, more likely than under the reference`,
      ),
    ),
    element("blockquote", { tabindex: 0 }, pair.prompt),
    status,
    element(
      "div",
      { class: "cards" },
      ...runs.map((run) =>
        element(
          "article",
          { class: "card", style: { borderTopColor: color(run) } },
          element("h3", {}, swatch(run.group), ` ${run.label}`),
          ...side(run, "chosen"),
          ...side(run, "rejected"),
        ),
      ),
    ),
  );
  const fell = (run) => (pair.runs[run.id].chosen.ratios || []).reduce((total, each) => total + each, 0) < 0;
  const measured = runs.filter((run) => pair.runs[run.id].chosen.ratios);
  return measured.length
    ? `${measured.filter(fell).length} of ${plural(measured.length, "run")} make this pair's chosen response less likely than the reference does.`
    : "";
}
