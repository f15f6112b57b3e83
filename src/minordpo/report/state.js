// The data, what is shown of it, and how values are written. Text of the data reaches the page as text nodes only.
const data = JSON.parse(document.getElementById("data").textContent);
data.runs.forEach((run, place) => {
  run.id = place;
});
const state = { off: {}, hidden: new Set(), marked: null };
const redraws = [];

function element(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) made.addEventListener(name.slice(2), value);
    else if (name === "style") Object.assign(made.style, value);
    else if (value !== null && value !== false) made.setAttribute(name, value === true ? "" : value);
  }
  made.append(...children.filter((child) => child !== null && child !== undefined));
  return made;
}

function drawn(tag, attributes = {}, ...children) {
  const made = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) if (value !== null) made.setAttribute(name, value);
  made.append(...children);
  return made;
}

// ---- how values are written ----
const signs = (text) => text.replace("-", "−");
function number(value) {
  if (value === null || value === undefined) return "";
  const size = Math.abs(value);
  if (size !== 0 && (size < 0.001 || size >= 1e6)) return signs(value.toExponential(1).replace("e+", "e"));
  const digits = size >= 100 ? 0 : size >= 10 ? 1 : size >= 1 ? 2 : 3;
  return signs(String(Number(value.toFixed(digits))));
}
const signed = (value) => (value === null || value === undefined ? "" : (value > 0 ? "+" : "") + number(value));
const percent = (value) =>
  value === null || value === undefined ? "" : `${signs((100 * value).toFixed(1).replace(/\.0$/, ""))} %`;
function rate(value) {
  if (value === null || value === undefined) return "";
  return value >= 0.01 ? String(value) : value.toExponential().replace("e+", "e");
}
const plural = (count, one) => `${count} ${one}${count === 1 ? "" : "s"}`;

// ---- which runs are shown ----
const facets = [
  { key: "objective", name: "objective", of: (run) => run.objective || "unknown" },
  { key: "beta", name: "β", of: (run) => (run.beta === null ? "none" : String(run.beta)) },
  { key: "rate", name: "learning rate", of: (run) => rate(run.rate) || "unknown" },
  { key: "seed", name: "seed", of: (run) => (run.seed === null ? "unknown" : String(run.seed)) },
  { key: "health", name: "health at the end", of: (run) => run.cells.health || "not watched" },
  { key: "status", name: "status", of: (run) => run.status },
];
const byValue = (a, b) => Number(a) - Number(b) || (a < b ? -1 : a > b ? 1 : 0);
for (const facet of facets) {
  facet.values = [...new Set(data.runs.map(facet.of))].sort(byValue);
  state.off[facet.key] = new Set();
}
const isShown = (run) =>
  !state.hidden.has(run.group) && facets.every((facet) => !state.off[facet.key].has(facet.of(run)));
const shownRuns = () => data.runs.filter(isShown);
const color = (run) => `var(--group-${run.group})`;
const dash = (run) => data.groups[run.group].dash || null;

function update() {
  const shown = shownRuns();
  document.getElementById("count").textContent = `${shown.length} of ${data.runs.length}`;
  for (const redraw of redraws) redraw(shown);
}

function paintGroups() {
  const rules = (name) => data.groups.map((group, place) => `--group-${place}:${group[name]}`).join(";");
  document.head.append(
    element("style", {}, `:root{${rules("light")}} @media (prefers-color-scheme: dark){:root{${rules("dark")}}}`),
  );
}

function swatch(group, dashed = true, stroke = `var(--group-${group})`) {
  const line = drawn("line", {
    x1: 0,
    x2: 24,
    y1: 6,
    y2: 6,
    stroke,
    "stroke-width": 4,
    "stroke-dasharray": (dashed && data.groups[group].dash) || null,
  });
  return drawn("svg", { class: "swatch", viewBox: "0 0 24 12", "aria-hidden": "true" }, line);
}

function toggle(set, value, button) {
  if (!set.delete(value)) set.add(value);
  button.setAttribute("aria-pressed", String(!set.has(value)));
  update();
}

function fillFilters() {
  const place = document.getElementById("facets");
  const chip = (set, value, ...content) =>
    element(
      "button",
      {
        class: "chip",
        type: "button",
        "aria-pressed": "true",
        "data-value": value,
        onclick: (event) => toggle(set, value, event.currentTarget),
      },
      ...content,
    );
  for (const facet of facets) {
    if (facet.values.length < 2) continue;
    place.append(
      element(
        "fieldset",
        { "data-facet": facet.key },
        element("legend", {}, facet.name),
        ...facet.values.map((value) => chip(state.off[facet.key], value, value)),
      ),
    );
  }
  if (data.groups.length > 1) {
    place.append(
      element(
        "fieldset",
        { id: "groups" },
        element("legend", {}, "settings; runs that differ by their seed are one"),
        ...data.groups.map((group, at) => chip(state.hidden, at, swatch(at), group.label)),
      ),
    );
  }
  const all = () => {
    state.hidden.clear();
    for (const set of Object.values(state.off)) set.clear();
    for (const each of place.querySelectorAll(".chip")) each.setAttribute("aria-pressed", "true");
    update();
  };
  if (data.runs.length > 1)
    place.append(element("p", {}, element("button", { type: "button", id: "all", onclick: all }, "Show all")));
  if (window.innerWidth < 860) document.getElementById("filters").open = false;
}

// A <select> with its label; `choices` are [value, text], `choose` gets the value.
function chooser(label, choices, value, choose) {
  const made = element(
    "select",
    { "aria-label": label, onchange: (event) => choose(event.currentTarget.value) },
    ...choices.map(([each, text]) =>
      element("option", { value: each, selected: String(each) === String(value) }, text),
    ),
  );
  return element("label", {}, `${label} `, made);
}

// A section of the page: heading, a line that says what one sees, and a room that is drawn anew when filters change.
function section(id, heading, about, draw) {
  const seen = element("p", { class: "seen" });
  const room = element("div");
  document
    .getElementById("main")
    .append(
      element(
        "section",
        { id },
        element("h2", {}, heading),
        seen,
        about ? element("p", { class: "soft" }, about) : null,
        room,
      ),
    );
  redraws.push((shown) => {
    seen.textContent = draw(room, shown) || "";
  });
}

const how = (text, command) => element("p", { class: "how" }, `${text} `, element("code", {}, command));
