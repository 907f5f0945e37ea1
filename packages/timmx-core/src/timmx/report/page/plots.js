// Draws the plots of a report from their embedded data, in the colors of the theme and the available width.
const LIGHT = {
  paper: "#ffffff", ink: "#1b2430", soft: "#566273", line: "#d9dfe7", raised: "#f5f7fa",
  // The color-blind safe palette of Okabe and Ito, without yellow and black.
  marks: ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#7a7a7a"],
  right: [[0, "#eef4fb"], [0.5, "#7fb2dd"], [1, "#0b559f"]],
  wrong: [[0, "#fff0e0"], [0.5, "#f5a45c"], [1, "#b23c00"]],
};
const DARK = {
  paper: "#14171c", ink: "#e4e8ee", soft: "#9aa6b5", line: "#343b46", raised: "#1d2229",
  marks: ["#4aa8e0", "#f08040", "#2cc295", "#e09ac4", "#f0b840", "#8fd0f5", "#a8a8a8"],
  right: [[0, "#17273a"], [0.5, "#2a6aa8"], [1, "#8cc8ff"]],
  wrong: [[0, "#33231a"], [0.5, "#b5601f"], [1, "#ffb870"]],
};
const SYMBOLS = ["circle", "diamond", "square", "triangle-up"];
const SIGNS = ["●", "◆", "■", "▲"]; // of the legend
const NARROW = 500; // below this width, as on a phone, a drag scrolls the page and does not zoom the plot
const MANY = 100; // from this number of marks on, they have no names
const TICKS = {
  percent: { tickformat: "~%" },
  ms: { ticksuffix: " ms", tickformat: "~r" },
  s: { ticksuffix: " s", tickformat: "~r" },
  db: { ticksuffix: " dB" },
  bytes: { ticksuffix: "B", tickformat: "~s" },
  number: {},
  text: {},
};
const DRAW = { scatter, boxes, bars, matrix };
const ROW = 30; // pixels of height for one box or bar

const plots = [...document.querySelectorAll(".plot")].map((place) => ({
  place,
  keys: [...place.parentElement.querySelectorAll(".key")],
  data: JSON.parse(place.parentElement.querySelector(".plot-data").textContent),
}));

function draw(theme, width) {
  for (const plot of plots) {
    const room = Math.max(200, Math.floor(width || plot.place.clientWidth));
    const left = new Set(plot.keys.filter((key) => key.ariaPressed === "false").map((key) => Number(key.dataset.color)));
    const { traces, layout } = DRAW[plot.data.type](plot.data, theme, room, left);
    for (const key of plot.keys) {
      const number = Number(key.dataset.color), sign = key.querySelector("i");
      sign.textContent = SIGNS[Math.floor(number / theme.marks.length) % SIGNS.length];
      sign.style.color = theme.marks[number % theme.marks.length];
    }
    const base = {
      width: room,
      paper_bgcolor: theme.paper, plot_bgcolor: theme.paper, showlegend: false, dragmode: room < NARROW ? false : "zoom",
      font: { family: getComputedStyle(document.body).fontFamily, size: 13, color: theme.ink },
      hoverlabel: { bgcolor: theme.raised, bordercolor: theme.line, font: { color: theme.ink }, align: "left" },
    };
    Plotly.react(plot.place, traces, { ...base, ...layout }, {
      displayModeBar: room < NARROW ? false : "hover", displaylogo: false, modeBarButtonsToRemove: ["select2d", "lasso2d", "autoScale2d"],
    });
  }
}

// Escapes names, because Plotly interprets some tags and entities in texts.
function plain(text) {
  return text.replaceAll("&", "&amp;").replaceAll("<", "&lt;").replaceAll(">", "&gt;");
}

// Shortens long names in the middle, because file names differ at their ends.
function short(name, most) {
  const letters = [...name];
  if (letters.length <= most) return plain(name);
  const end = Math.floor((most - 1) / 2);
  return plain(letters.slice(0, most - 1 - end).join("") + "…" + letters.slice(-end).join(""));
}

function axis(about, theme, room) {
  return {
    title: { text: short(about.title, Math.floor(room / 9)), font: { size: 13, color: theme.soft } },
    type: about.log ? "log" : "linear", ...TICKS[about.kind], automargin: true, zeroline: false,
    gridcolor: theme.line, linecolor: theme.line, tickfont: { color: theme.soft },
  };
}

// Ticks of a logarithmic axis: 1, 2, 5 times powers of ten, or only powers of ten if there is not enough room.
function logTicks(about, low, high, width) {
  if (!about.log) return {};
  const steps = (digits) => {
    const found = [];
    for (let power = Math.floor(low); power <= high; power++) {
      for (const digit of digits) {
        const exponent = power + Math.log10(digit);
        if (exponent >= low && exponent <= high) found.push(Number(`${digit}e${power}`));
      }
    }
    return found;
  };
  const all = steps([1, 2, 5]);
  const ticks = all.length * 55 <= width ? all : steps([1]);
  return ticks.length > 1 ? { tickvals: ticks } : {};
}

// Names of horizontal boxes and bars, the first on top: at the left, or above each if there is little room.
function rows(names, theme, room) {
  const above = room < 500 && names.some((name) => name.length > 12);
  const side = {
    tickvals: names.map((_, i) => i), ticktext: names.map((name) => short(name, 34)), showticklabels: !above,
    range: [names.length - 0.5, above ? -0.8 : -0.5], automargin: true, zeroline: false, showgrid: false, fixedrange: true,
    ticks: "outside", ticklen: above ? 0 : 6, tickcolor: theme.paper, tickfont: { color: theme.ink },
  };
  const annotations = (above ? names : []).map((name, i) => ({
    xref: "paper", x: 0, y: i, xanchor: "left", yanchor: "middle", yshift: ROW * 0.65, showarrow: false,
    text: short(name, Math.floor(room / 7.5)), font: { size: 12, color: theme.ink },
  }));
  return { side, annotations, height: (above ? 1.7 : 1) * ROW };
}

// Marks of the groups in `left` are left out. The axes stay as they are.
function scatter(data, theme, room, left) {
  const height = room < 700 ? 360 : 440;
  const margin = { l: 60, r: 16, t: 38, b: 52 };
  const inside = { width: room - margin.l - margin.r, height: height - margin.t - margin.b };
  const low = (p) => p.low ?? p.y, high = (p) => p.high ?? p.y;
  const x = range(data.points.map((p) => p.x), data.points.map((p) => p.x), data.x.log);
  const y = range(data.points.map(low), data.points.map(high), data.y.log);
  if (data.y.kind === "percent" && !data.y.log && data.points.every((p) => low(p) >= 0 && high(p) <= 1)) { // fractions are in 0 to 1
    [y[0], y[1]] = [Math.max(0, y[0]), Math.min(1, y[1])];
  }
  const across = (value) => (value - x[0]) / (x[1] - x[0]) * inside.width;
  const down = (value) => (y[1] - value) / (y[1] - y[0]) * inside.height;
  const onX = (value) => (data.x.log ? Math.log10(value) : value), onY = (value) => (data.y.log ? Math.log10(value) : value);
  const placed = data.points.filter((p) => !left.has(p.color)).map((p) => ({
    ...p, label: short(p.name, room < 500 ? 18 : 34), at: onX(p.x), height: onY(p.y),
    left: across(onX(p.x)), top: down(onY(p.y)), whisker: [down(onY(high(p))), down(onY(low(p)))],
  }));
  const color = (p) => theme.marks[p.color % theme.marks.length];
  const symbol = (p) => SYMBOLS[Math.floor(p.color / theme.marks.length) % SYMBOLS.length] + (p.hollow ? "-open" : "");
  const hover = (p) => `<b>${plain(p.name)}</b><br>` + p.lines.map(([a, b]) => `${plain(a)}: ${plain(b)}`).join("<br>") + "<extra></extra>";
  const traces = placed.length < MANY ? placed.map((p) => ({
    type: "scatter", mode: "markers", x: [p.x], y: [p.y], cliponaxis: false, // a mark at 100 % is not cut off
    error_y: p.low === null ? undefined : {
      type: "data", symmetric: false, array: [p.high - p.y], arrayminus: [p.y - p.low], thickness: 1, width: 4, color: color(p),
    },
    marker: {
      size: p.diameter, color: color(p), opacity: 0.8, line: { width: p.hollow ? 2 : 1.5, color: p.hollow ? color(p) : theme.paper },
      symbol: symbol(p),
    },
    hovertemplate: hover(p),
  })) : [...new Set(placed.map((p) => p.color))].map((number) => { // one trace per mark would take seconds
    const own = placed.filter((p) => p.color === number);
    return {
      type: "scatter", mode: "markers", x: own.map((p) => p.x), y: own.map((p) => p.y), hovertemplate: own.map(hover),
      marker: { size: own[0].diameter, color: color(own[0]), opacity: 0.7, line: { width: 1, color: theme.paper }, symbol: own.map(symbol) },
    };
  });
  const names = (placed.length < MANY ? labels(placed, inside) : []).map(({ point, dx, dy, gap }) => ({
    x: point.at, y: point.height, text: point.label, font: { size: 12, color: theme.ink }, bgcolor: theme.paper + "b0", borderpad: 0,
    ax: dx, ay: dy, showarrow: true, arrowhead: 0, arrowwidth: 1, standoff: point.diameter / 2,
    arrowcolor: gap > 0 ? theme.soft : "rgba(0,0,0,0)", // a line to a name at a distance from its mark
  }));
  const above = { // the title of the vertical axis, written horizontally
    xref: "paper", yref: "paper", x: 0, y: 1, xanchor: "left", yanchor: "bottom", xshift: -margin.l + 12, yshift: 8,
    text: short(data.y.title, 60), showarrow: false, font: { size: 13, color: theme.soft },
  };
  return {
    traces,
    layout: {
      height, margin, annotations: [above, ...names], hovermode: "closest",
      xaxis: { ...axis(data.x, theme, room), ...logTicks(data.x, ...x, inside.width), range: x, automargin: false },
      yaxis: { ...axis(data.y, theme, room), ...logTicks(data.y, ...y, inside.height * 2), title: undefined, range: y, automargin: false },
    },
  };
}

// The range of an axis, with room for marks and names; as logarithms for a logarithmic axis.
function range(lows, highs, log, share = 0.14) {
  let low = Math.min(...lows), high = Math.max(...highs);
  if (log) [low, high] = [Math.log10(low), Math.log10(high)];
  const pad = high > low ? share * (high - low) : Math.abs(high) * 0.1 || 1;
  return [low - pad, high + pad];
}

// Finds a position for each name near its mark that overlaps no other name or mark, and if possible no whisker.
// Names without room are left out. The offset is from the center of the mark to the center of the name.
function labels(points, inside) {
  const taken = points.map((p) => box(p.left, p.top, p.diameter, p.diameter));
  const whiskers = points.filter((p) => p.low !== null).map((p) => [p.left - 2, p.whisker[0], p.left + 2, p.whisker[1]]);
  const found = [];
  for (const point of [...points].sort((a, b) => a.diameter - b.diameter)) {
    const wide = letters(point.label) * 6.8 + 4, high = 16, r = point.diameter / 2 + 3;
    let best = null;
    for (const gap of points.length > 10 ? [0, 12] : [0, 12, 25, 40, 60, 85, 120]) { // with many marks, only next to them
      for (const [h, v] of [[1, 0], [-1, 0], [0, -1], [0, 1], [1, -1], [1, 1], [-1, -1], [-1, 1]]) {
        const reach = h && v ? 0.6 : 1; // diagonally, the edge of the circle is closer
        const dx = h * ((r + gap) * reach + wide / 2), dy = v * ((r + gap) * reach + high / 2);
        const own = box(point.left + dx, point.top + dy, wide, high);
        if (own[0] < 0 || own[2] > inside.width || own[1] < -8 || own[3] > inside.height) continue;
        if (taken.some((other) => overlap(own, other))) continue;
        const crossed = points.filter((other) => other !== point && [0.2, 0.4, 0.6, 0.8].some((share) =>
          Math.hypot(point.left + share * dx - other.left, point.top + share * dy - other.top) < other.diameter / 2));
        const cost = gap + 20 * whiskers.filter((whisker) => overlap(own, whisker)).length + 40 * crossed.length;
        if (!best || cost < best.cost) best = { point, dx, dy, own, cost, gap };
      }
    }
    if (!best) continue;
    taken.push(best.own);
    found.push(best);
  }
  return found;
}

function letters(text) {
  return text.replace(/&(amp|lt|gt);/g, "x").length;
}

function box(x, y, width, height) {
  return [x - width / 2, y - height / 2, x + width / 2, y + height / 2];
}

function overlap(a, b) {
  return a[0] < b[2] && b[0] < a[2] && a[1] < b[3] && b[1] < a[3];
}

function boxes(data, theme, room) {
  const names = data.boxes.map((b) => b.name), { side, annotations, height } = rows(names, theme, room);
  const all = data.boxes.flatMap((b) => b.values);
  const ends = range([all.reduce((a, b) => Math.min(a, b))], [all.reduce((a, b) => Math.max(a, b))], data.x.log, 0.04);
  const traces = data.boxes.map((b, i) => {
    const color = theme.marks[b.color % theme.marks.length];
    return {
      type: "box", orientation: "h", name: plain(b.name), x: b.values, y0: i, boxpoints: "outliers", width: height > ROW ? 0.36 : 0.55,
      line: { color: color, width: 1.6 }, fillcolor: color + "40", marker: { color: color, size: 4, opacity: 0.6 },
      hoverinfo: "x+name", hoverlabel: { namelength: -1 },
    };
  });
  return {
    traces,
    layout: {
      annotations, height: (height + 6) * names.length + 76, margin: { l: 16, r: 20, t: 12, b: 52 }, hovermode: "closest",
      xaxis: { ...axis(data.x, theme, room), ...logTicks(data.x, ...ends, room - 160), range: ends }, yaxis: side,
    },
  };
}

function bars(data, theme, room) {
  const names = data.bars.map((b) => b.name);
  const many = names.length > 60; // too many for names: shown on hover
  const values = data.bars.map((b) => b.value), places = names.map((_, i) => i);
  const whiskers = {
    type: "data", symmetric: false, thickness: 1.2, width: many ? 0 : 4, color: theme.ink,
    array: data.bars.map((b) => (b.high === null ? null : b.high - b.value)),
    arrayminus: data.bars.map((b) => (b.low === null ? null : b.value - b.low)),
  };
  const whiskered = data.bars.some((b) => b.low !== null);
  const trace = {
    type: "bar", marker: { color: theme.marks[0], opacity: 0.8 },
    hovertemplate: data.bars.map((b) => `<b>${plain(b.name)}</b><br>${plain(b.text)}<extra></extra>`),
  };
  const share = data.x.kind === "percent" && values.every((v) => v >= 0 && v <= 1) ? { range: [0, 1.02] } : {};
  if (many) {
    Object.assign(trace, { x: places, y: values, error_y: whiskered ? whiskers : undefined });
    return {
      traces: [trace],
      layout: {
        height: 380, margin: { l: 16, r: 16, t: 12, b: 24 }, bargap: 0.1, hovermode: "closest",
        xaxis: { showticklabels: false, showgrid: false, zeroline: false },
        yaxis: { ...axis(data.x, theme, room), ...share },
      },
    };
  }
  Object.assign(trace, { orientation: "h", y: places, x: values, error_x: whiskered ? whiskers : undefined });
  const { side, annotations, height } = rows(names, theme, room);
  return {
    traces: [trace],
    layout: {
      annotations, height: height * names.length + 76, margin: { l: 16, r: 20, t: 12, b: 52 }, bargap: height > ROW ? 0.62 : 0.35, hovermode: "closest",
      xaxis: { ...axis(data.x, theme, room), ...share }, yaxis: side,
    },
  };
}

// Colors by the logarithm of the count, so that one confusion is visible next to a hundred correct answers.
function matrix(data, theme, room) {
  const n = data.labels.length, few = n <= 20;
  const layer = (isRight, colorscale) => {
    const cells = data.cells.filter(([row, column]) => (row === column) === isRight);
    const filled = (nothing, value) => {
      const rows = Array.from({ length: n }, () => new Array(n).fill(nothing));
      for (const cell of cells) rows[cell[0]][cell[1]] = value(cell);
      return rows;
    };
    const most = cells.reduce((found, [, , count]) => Math.max(found, count), 5); // a single image never gets the strongest color
    return {
      type: "heatmap", z: filled(null, ([, , count]) => Math.log10(1 + count)), zmin: 0, zmax: Math.log10(1 + most),
      colorscale, showscale: false, xgap: few ? 2 : 0, ygap: few ? 2 : 0, hoverongaps: false,
      hovertext: filled("", ([row, column, count]) =>
        `<b>${count}</b> of class <b>${plain(data.labels[row])}</b><br>predicted as <b>${plain(data.labels[column])}</b>`),
      hovertemplate: "%{hovertext}<extra></extra>",
      ...(few ? { text: filled("", ([, , count]) => String(count)), texttemplate: "%{text}", textfont: { size: 13, weight: 600 } } : {}),
    };
  };
  const side = Math.min(room - 80, few ? Math.max(260, 46 * n) : 640);
  const ticks = {
    tickvals: data.labels.map((_, i) => i), ticktext: data.labels.map((label) => short(label, room < 500 ? 10 : 18)),
    automargin: true, showgrid: false, zeroline: false, tickfont: { color: theme.ink, size: n > 30 ? 10 : 12 },
    ticks: "", showticklabels: side / n >= 9, constrain: "domain",
  };
  const title = (text) => ({ text, standoff: 12, font: { size: 13, color: theme.soft } });
  const frame = { // the border of the matrix, whose corners may be empty
    type: "rect", xref: "x", yref: "y", x0: -0.5, y0: -0.5, x1: n - 0.5, y1: n - 0.5, line: { color: theme.line, width: 1 },
  };
  return {
    traces: [layer(false, theme.wrong), layer(true, theme.right)],
    layout: {
      height: side + 60, margin: { l: 16, r: 16, t: 12, b: 40 }, hovermode: "closest", shapes: [frame],
      xaxis: { ...ticks, title: title("predicted class"), range: [-0.5, n - 0.5] },
      yaxis: { ...ticks, title: title("true class"), range: [n - 0.5, -0.5], scaleanchor: "x" },
    },
  };
}

for (const { keys } of plots) {
  for (const key of keys) {
    key.disabled = false;
    key.addEventListener("click", () => {
      key.ariaPressed = key.ariaPressed === "true" ? "false" : "true";
      redraw();
    });
  }
}

const redraw = () => draw(isDark() ? DARK : LIGHT);
let waiting = 0;
addEventListener("themechange", redraw);
addEventListener("resize", () => {
  cancelAnimationFrame(waiting);
  waiting = requestAnimationFrame(redraw);
});
addEventListener("beforeprint", () => draw(LIGHT, 660)); // within the margins of A4 and Letter
addEventListener("afterprint", redraw);
redraw();
