// A chart: lines, dots, ranges and bands over two axes, with a pointer or arrow keys to read single values.
// spec: {title, x: {label, ticks, domain, whole, root}, y: {label, domain, format}, zero, series: [{label, color, dash, dots, line, points}]}
// point: {x, y, low, high, left, right, text}; low to high is drawn as a band along a line, as a whisker at a dot.
let clips = 0;
const MARGIN = { left: 52, right: 10, top: 8, bottom: 38 };

function niceTicks(low, high, count) {
  const rough = (high - low) / Math.max(1, count);
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map((each) => each * power).find((each) => each >= rough * 0.999);
  const ticks = [];
  for (let at = Math.ceil(low / step - 1e-9) * step; at <= high + step * 1e-6; at += step)
    ticks.push(Number(at.toPrecision(12)));
  return ticks;
}

// Of a root scale, which shows one nat beside a hundred; what errors put below zero stays below it.
const root = (x) => Math.sign(x) * Math.sqrt(Math.abs(x));

function rootTicks(low, high, count) {
  const ticks = [0];
  for (let power = -4; power < 9; power += 1)
    for (const each of [1, 2, 5].map((digit) => digit * 10 ** power))
      if (each >= low && each <= high && root(each) - root(ticks.at(-1)) >= (root(high) - root(low)) / count)
        ticks.push(Number(each.toPrecision(1)));
  return ticks;
}

function extent(values, zero) {
  let [low, high] = values.length ? [Math.min(...values), Math.max(...values)] : [0, 1];
  if (zero) [low, high] = [Math.min(low, 0), Math.max(high, 0)];
  const room = (high - low) * 0.05 || Math.abs(high) * 0.1 || 1;
  return [low - room, high + room];
}

const heights = (series) =>
  series
    .flatMap((each) => each.points.flatMap((point) => [point.y, point.low, point.high]))
    .filter((y) => typeof y === "number");
const widths = (series) =>
  series
    .flatMap((each) => each.points.flatMap((point) => [point.x, point.left, point.right]))
    .filter((x) => typeof x === "number");

function chart(spec) {
  const tip = element("div", { class: "tip", role: "status" });
  const room = element("div");
  const figure = element(
    "figure",
    { class: "chart" },
    spec.title ? element("h3", {}, spec.title) : null,
    room,
    tip,
  );
  let before = 0;
  new ResizeObserver(() => {
    const width = Math.round(room.clientWidth);
    if (width && width !== before) {
      before = width;
      room.replaceChildren(plot(spec, width, figure, tip));
    }
  }).observe(room);
  return figure;
}

function plot(spec, width, figure, tip) {
  const height = spec.height || 230;
  const [scaled, unscaled] = spec.x.root ? [root, (x) => x * Math.abs(x)] : [(x) => x, (x) => x];
  const [x0, x1] = spec.x.domain || extent(widths(spec.series).map(scaled), false).map(unscaled);
  const [y0, y1] = spec.y.domain || extent(heights(spec.series), spec.zero);
  const share = (x) => (scaled(x) - scaled(x0)) / (scaled(x1) - scaled(x0));
  const across = (x) => MARGIN.left + share(x) * (width - MARGIN.left - MARGIN.right);
  const up = (y) => height - MARGIN.bottom - ((y - y0) / (y1 - y0)) * (height - MARGIN.top - MARGIN.bottom);
  const svg = drawn("svg", {
    viewBox: `0 0 ${width} ${height}`,
    height,
    tabindex: 0,
    role: "img",
    "aria-label": `${spec.title || ""}: ${spec.y.label} against ${spec.x.label}. Arrow keys read single values.`,
  });
  svg.append(...axes(spec, { x0, x1, y0, y1, across, up, width, height }));
  const marks = [];
  // Of an enlarged chart curves leave the room; what is outside is neither drawn nor read.
  const clip = `clip-${(clips += 1)}`;
  svg.append(
    drawn(
      "clipPath",
      { id: clip },
      drawn("rect", {
        x: MARGIN.left - 5,
        y: MARGIN.top - 5,
        width: width - MARGIN.left - MARGIN.right + 10,
        height: height - MARGIN.top - MARGIN.bottom + 10,
      }),
    ),
  );
  const inside = drawn("g", { "clip-path": `url(#${clip})` });
  for (const each of spec.series) inside.append(...series(each, across, up, marks));
  svg.append(inside);
  const cursor = drawn("circle", { class: "cursor", r: 6, visibility: "hidden" });
  svg.append(cursor);
  read(
    svg,
    spec,
    marks.filter((mark) => mark.y >= MARGIN.top - 5 && mark.y <= height - MARGIN.bottom + 5),
    cursor,
    tip,
    width,
  );
  return svg;
}

function axes(spec, { x0, x1, y0, y1, across, up, width, height }) {
  const made = [];
  const format = spec.y.format || number;
  for (const y of niceTicks(y0, y1, 5)) {
    made.push(
      drawn("line", { class: "tick", x1: MARGIN.left, x2: width - MARGIN.right, y1: up(y), y2: up(y) }),
      drawn("text", { x: MARGIN.left - 5, y: up(y) + 4, "text-anchor": "end" }, format(y)),
    );
  }
  const wide = (spec.x.root ? rootTicks : niceTicks)(x0, x1, Math.max(2, Math.floor(width / 70)));
  const whole = spec.x.whole ? wide.filter(Number.isInteger) : wide;
  for (const [x, text] of spec.x.ticks || whole.map((tick) => [tick, number(tick)])) {
    if (x >= x0 && x <= x1)
      made.push(drawn("text", { x: across(x), y: height - MARGIN.bottom + 14, "text-anchor": "middle" }, text));
  }
  if (spec.zero && y0 < 0 && y1 > 0)
    made.push(drawn("line", { class: "zero", x1: MARGIN.left, x2: width - MARGIN.right, y1: up(0), y2: up(0) }));
  made.push(
    drawn("line", { class: "axis", x1: MARGIN.left, x2: MARGIN.left, y1: MARGIN.top, y2: height - MARGIN.bottom }),
  );
  made.push(
    drawn(
      "text",
      { x: (MARGIN.left + width - MARGIN.right) / 2, y: height - 6, "text-anchor": "middle" },
      spec.x.label,
    ),
  );
  const middle = (MARGIN.top + height - MARGIN.bottom) / 2;
  made.push(
    drawn(
      "text",
      { x: 11, y: middle, transform: `rotate(-90 11 ${middle})`, "text-anchor": "middle" },
      spec.y.label,
    ),
  );
  return made;
}

function series(each, across, up, marks) {
  const made = [];
  const { points } = each;
  const spread = points.filter((point) => typeof point.low === "number" && point.low !== point.high);
  if (each.line !== false && spread.length > 1 && !each.dots) {
    const there = spread.map((point) => `${across(point.x)},${up(point.high)}`);
    const back = spread.map((point) => `${across(point.x)},${up(point.low)}`).reverse();
    made.push(drawn("polygon", { points: [...there, ...back].join(" "), fill: each.color, "fill-opacity": 0.16 }));
  }
  if (each.dots) {
    for (const point of spread)
      made.push(
        drawn("line", {
          x1: across(point.x),
          x2: across(point.x),
          y1: up(point.low),
          y2: up(point.high),
          stroke: each.color,
          "stroke-width": 1.5,
        }),
      );
    for (const point of points.filter((one) => typeof one.left === "number"))
      made.push(
        drawn("line", {
          x1: across(point.left),
          x2: across(point.right),
          y1: up(point.y),
          y2: up(point.y),
          stroke: each.color,
          "stroke-width": 1.5,
        }),
      );
  }
  if (each.line !== false && points.length > 1) {
    const path = points
      .map((point, at) => `${at ? "L" : "M"}${across(point.x).toFixed(1)},${up(point.y).toFixed(1)}`)
      .join("");
    made.push(
      drawn("path", {
        d: path,
        fill: "none",
        stroke: each.color,
        "stroke-width": each.thin ? 1 : 1.9,
        "stroke-dasharray": each.dash || null,
        "stroke-linejoin": "round",
      }),
    );
  }
  const dots = each.dots || points.length === 1;
  for (const point of points) {
    const mark = { x: across(point.x), y: up(point.y), point, each };
    marks.push(mark);
    if (dots)
      made.push(
        drawn("circle", {
          cx: mark.x,
          cy: mark.y,
          r: 4,
          fill: each.hollow ? "var(--paper)" : each.color,
          stroke: each.hollow ? each.color : "var(--paper)",
          "stroke-width": each.hollow ? 2 : 1,
        }),
      );
  }
  return made;
}

// Pointer: the nearest mark. Keys: left and right along a series, up and down to the next one, Escape to leave.
function read(svg, spec, marks, cursor, tip, width) {
  let at = -1;
  const format = spec.y.format || number;
  const tell = (place) => {
    at = place;
    const mark = marks[place];
    cursor.setAttribute("visibility", mark ? "visible" : "hidden");
    if (!mark) {
      tip.textContent = "";
      return;
    }
    cursor.setAttribute("cx", mark.x);
    cursor.setAttribute("cy", mark.y);
    const { point } = mark;
    tip.textContent = point.text || `${mark.each.label}\n${spec.x.label} ${number(point.x)}: ${format(point.y)}`;
    const box = svg.getBoundingClientRect();
    const top = svg.parentNode.offsetTop + mark.y * (box.height / (spec.height || 230));
    tip.style.top = `${top + 12}px`;
    tip.style.left = mark.x < width / 2 ? `${mark.x + 10}px` : "auto";
    tip.style.right = mark.x < width / 2 ? "auto" : `${width - mark.x + 10}px`;
  };
  svg.addEventListener("pointermove", (event) => {
    const box = svg.getBoundingClientRect();
    const [x, y] = [event.clientX - box.left, event.clientY - box.top];
    let best = -1;
    let nearest = 40 ** 2;
    marks.forEach((mark, place) => {
      const distance = (mark.x - x) ** 2 + (mark.y - y) ** 2;
      if (distance < nearest) [best, nearest] = [place, distance];
    });
    tell(best);
  });
  svg.addEventListener("pointerleave", () => tell(-1));
  svg.addEventListener("blur", () => tell(-1));
  svg.addEventListener("keydown", (event) => {
    const steps = { ArrowRight: 1, ArrowLeft: -1 };
    if (event.key === "Escape") tell(-1);
    else if (event.key in steps && marks.length) tell((at + steps[event.key] + marks.length) % marks.length);
    else if ((event.key === "ArrowDown" || event.key === "ArrowUp") && marks.length)
      tell(nextSeries(marks, at, event.key === "ArrowDown"));
    else return;
    event.preventDefault();
  });
}

function nextSeries(marks, at, forward) {
  const all = [...new Set(marks.map((mark) => mark.each))];
  const here = Math.max(0, all.indexOf((marks[at] || marks[0]).each));
  const next = all[(here + (forward ? 1 : all.length - 1)) % all.length];
  const x = (marks[at] || marks[0]).x;
  let best = -1;
  marks.forEach((mark, place) => {
    if (mark.each === next && (best < 0 || Math.abs(mark.x - x) < Math.abs(marks[best].x - x))) best = place;
  });
  return best;
}
