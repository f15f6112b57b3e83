// The page from top to bottom.
paintGroups();
fillFilters();
document.getElementById("facts").textContent =
  `${plural(data.runs.length, "run")}, ${plural(data.groups.length, "setting")}; minordpo ${data.minordpo}. One colour stands for one setting all over the page; point at a chart, or focus it and use the arrow keys, to read values.`;
rewardsSection();
pushSection();
section(
  "scores",
  "Scores by β",
  "What answers are worth, with 95 % intervals over questions, or the range over seeds where a setting ran with several; β = 0 is the untuned model.",
  drawScores,
);
section("against", "Reward against KL", "How far a model went from the reference, and what for.", drawAgainst);
section(
  "health",
  "Health over time",
  "What the monitor called each run, and what it saw in its answers to fixed prompts.",
  drawHealth,
);
section(
  "runs",
  "Runs",
  "Log-ratios, margin and ranking are of held-out pairs at the end; press a heading to sort.",
  drawTable,
);
section("answers", "Answers to the same question", "", drawAnswers);
section("pairs", "Single pairs, token by token", "", drawPairs);
document
  .getElementById("said")
  .append(
    ...data.said.map((text) => element("p", {}, text)),
    element("p", {}, "The figures of this page stand in figures/ beside it as PNG and SVG."),
  );
update();
