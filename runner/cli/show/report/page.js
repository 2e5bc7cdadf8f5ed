"use strict";
(() => {
  const began = performance.now();
  const { groups, saes, density_first_log10, density_bins_per_decade } =
    JSON.parse(document.getElementById("plots").textContent);
  const rows = [...document.querySelectorAll("#results tbody tr")];
  let plots = [];

  // Colours: the same SAE has the same in all plots and in the table.

  const PALETTE = ["#4c8bf5", "#f28e2b", "#3aa757", "#e15759", "#a06cd5", "#1fa2a8", "#d6a419", "#e377a2", "#9c755f", "#7f8a99"];
  // Beyond the palette, hues by the golden angle are far from their predecessors'.
  const colour = (index) => PALETTE[index] ?? `hsl(${(index * 137.508) % 360} 60% 55%)`;
  // Of several kinds, each has a hue and a marker, and its SAEs have shades of that hue.
  const kinds = [...new Set(saes.map((sae) => sae.kind))];
  const shade = (hex, index, n) => {
    const share = n > 1 ? 0.9 * index / (n - 1) - 0.45 : 0;
    const parts = [1, 3, 5].map((at) => parseInt(hex.slice(at, at + 2), 16));
    return `rgb(${parts.map((x) => Math.round(x + (share > 0 ? 255 - x : x) * share)).join(" ")})`;
  };
  const kindColour = (kind) => PALETTE[kinds.indexOf(kind) % PALETTE.length];
  for (const group of groups) {
    group.saes.forEach((sae, index) => { saes[sae].colour = colour(index); });
    if (kinds.length < 2) continue;
    for (const kind of kinds) {
      const own = group.saes.filter((sae) => saes[sae].kind === kind);
      own.forEach((sae, index) => { saes[sae].colour = shade(kindColour(kind), index, own.length); });
    }
  }
  for (const row of rows) {
    row.querySelector("i").style.background = saes[row.dataset.sae].colour;
  }

  // The table.

  const value = (cell) => cell.dataset.number === undefined ? null : Number(cell.dataset.number);
  const compare = (a, b) => {
    const [x, y] = [value(a), value(b)];
    if (x !== null && y !== null) return x - y;
    return a.textContent.localeCompare(b.textContent, "en", { numeric: true });
  };

  function sort(header, column) {
    const descending = header.getAttribute("aria-sort") === "ascending";
    for (const other of header.parentNode.children) other.removeAttribute("aria-sort");
    header.setAttribute("aria-sort", descending ? "descending" : "ascending");
    const sign = descending ? -1 : 1;
    const order = (a, b) => {
      const [x, y] = [a.children[column], b.children[column]];
      // What has no value comes last either way.
      const missing = (x.textContent === "") - (y.textContent === "");
      return missing || sign * compare(x, y);
    };
    document.querySelector("#results tbody").append(...rows.sort(order));
  }
  document.querySelectorAll("#results th button").forEach((button) => {
    const header = button.parentNode;
    button.addEventListener("click", () => sort(header, header.cellIndex));
  });

  const texts = new Map(rows.map((row) => [row, [...row.children].map((cell) => cell.textContent).join(" ").toLowerCase()]));
  function filter(text) {
    const words = text.toLowerCase().split(/\s+/).filter(Boolean);
    const shown = new Set();
    let count = 0;
    for (const row of rows) {
      row.hidden = !words.every((word) => texts.get(row).includes(word));
      if (!row.hidden) shown.add(Number(row.dataset.sae));
      count += !row.hidden;
    }
    const ids = new Set([...shown].map((sae) => String(saes[sae].sae_id)));
    for (const row of document.querySelectorAll("#kinds tbody tr")) row.hidden = !row.dataset.saeIds.split(" ").some((id) => ids.has(id));
    document.getElementById("n-shown").textContent = `${count} of ${rows.length}`;
    return shown;
  }

  // Plots. A series is {label, colour, xs, ys, draw, width?, marker?, silent?}; each has xs of its own (uPlot's mode 2).

  const css = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  const short = (x) => x === 0 ? "0" : Math.abs(x) >= 1e5 || Math.abs(x) < 1e-3 ? x.toExponential(1) : String(Number(x.toPrecision(4)));
  const count = (x) => Intl.NumberFormat("en", { notation: "compact", maximumFractionDigits: 2 }).format(x);

  /** How the kinds are marked: a character for the legend, and corners around a point in radii; a circle has none. */
  const MARKERS = [
    ["\u25cf", []],
    ["\u25a0", [[-0.9, -0.9], [0.9, -0.9], [0.9, 0.9], [-0.9, 0.9]]],
    ["\u25b2", [[0, -1.2], [1.1, 0.9], [-1.1, 0.9]]],
    ["\u25c6", [[0, -1.3], [1.3, 0], [0, 1.3], [-1.3, 0]]],
    ["\u25bc", [[0, 1.2], [1.1, -0.9], [-1.1, -0.9]]],
    ["\u25b6", [[1.2, 0], [-0.9, 1.1], [-0.9, -1.1]]],
  ];
  const markerOf = (kind) => MARKERS[kinds.indexOf(kind) % MARKERS.length];

  function outline(ctx, corners, x, y, radius) {
    ctx.beginPath();
    if (corners.length === 0) ctx.arc(x, y, radius, 0, 2 * Math.PI);
    corners.forEach(([right, down]) => ctx.lineTo(x + radius * right, y + radius * down));
    ctx.closePath();
  }

  function points(filled, corners) {
    return (u, index) => {
      const [xs, ys] = u.data[index];
      const radius = 4.5 * devicePixelRatio;
      const { ctx } = u;
      ctx.save();
      ctx.lineWidth = 1.5 * devicePixelRatio;
      ctx.strokeStyle = ctx.fillStyle = u.series[index].stroke();
      for (let i = 0; i < xs.length; i++) {
        outline(ctx, corners, u.valToPos(xs[i], "x", true), u.valToPos(ys[i], "y", true), radius);
        filled ? ctx.fill() : ctx.stroke();
      }
      ctx.restore();
      return null;
    };
  }
  const DRAW = { line: uPlot.paths.linear(), steps: uPlot.paths.stepped({ align: 1 }) };
  const drawing = (draw, corners = []) => DRAW[draw] ?? points(draw === "full", corners);

  /** What a legend of SAEs has room for. */
  const N_NAMED = 16;

  /** Names for a legend: the kinds that are shown if the page has several, otherwise the SAEs if they are few. */
  function legend(shown, isLine = false) {
    if (kinds.length > 1) {
      return kinds.filter((kind) => shown.some((sae) => sae.kind === kind))
        .map((kind) => ({ name: kind, colour: kindColour(kind), glyph: isLine ? "\u2501" : markerOf(kind)[0], corners: isLine ? null : markerOf(kind)[1] }));
    }
    if (shown.length > N_NAMED) return [];
    return shown.map((sae) => ({ name: sae.label, colour: sae.colour, glyph: isLine ? "\u2501" : "\u25cf", corners: isLine ? null : [] }));
  }

  function legendElement(names) {
    const element = document.createElement("div");
    element.className = "legend";
    for (const { name, colour, glyph } of names) {
      const [mark, entry] = [document.createElement("b"), document.createElement("span")];
      mark.textContent = glyph;
      mark.style.color = colour;
      entry.append(mark, " ", name);
      element.append(entry);
    }
    return element;
  }

  function range(log, fromZero) {
    return (u, min, max) => {
      if (min === null || max === null) return [log ? 1 : 0, log ? 10 : 1];
      if (log) return [min / log, max * log];
      const pad = 0.06 * (max - min || Math.abs(max) || 1);
      return [fromZero ? 0 : min - pad, max + pad];
    };
  }

  function axis(label, format, more) {
    const colour = (name) => () => css(name);
    return {
      label, labelSize: 22, labelFont: "12px system-ui", font: "12px system-ui",
      stroke: colour("--muted"), grid: { stroke: colour("--grid"), width: 1 }, ticks: { stroke: colour("--grid"), width: 1, size: 4 },
      values: (u, splits) => splits.map((x) => x === null ? "" : format(x)), ...more,
    };
  }

  /** Where L0 may stand on a logarithmic axis: powers of two, and what lies between where there are few. */
  function l0Splits(u, index, min, max) {
    const steps = max / min < 8 ? [1, 1.5] : [1];
    const splits = [];
    for (let power = 2 ** Math.floor(Math.log2(min)); power <= max; power *= 2) {
      splits.push(...steps.map((step) => power * step).filter((x) => x >= min && x <= max));
    }
    return splits;
  }

  /** Where other numbers may: few a decade if there are many decades, more if there is less than one. */
  function logSplits(u, index, min, max) {
    const decades = Math.log10(max / min);
    const steps = decades > 4 ? [1] : decades > 1 ? [1, 2, 5] : [1, 1.2, 1.5, 2, 2.5, 3, 4, 5, 6, 7, 8, 9];
    const splits = [];
    for (let power = 10 ** Math.floor(Math.log10(min)); power <= max; power *= 10) {
      splits.push(...steps.map((step) => Number((power * step).toPrecision(3))).filter((x) => x >= min && x <= max));
    }
    return splits;
  }

  const scaleOf = (log, more) => ({ time: false, ...more, ...(log && { distr: 3, log: 10 }) });
  const logAxis = (log, splits) => log && { splits, filter: (u, shown) => shown };

  /** A series without what a logarithmic axis cannot show. */
  const shownOn = ({ x, y }) => (series) => {
    const isShown = (i) => !(x && series.xs[i] <= 0) && !(y && series.ys[i] !== null && series.ys[i] <= 0);
    const kept = series.xs.map((_, i) => i).filter(isShown);
    return { ...series, xs: kept.map((i) => series.xs[i]), ys: kept.map((i) => series.ys[i]) };
  };

  function head(title, remark, names) {
    const caption = document.createElement("figcaption");
    const small = document.createElement("small");
    small.textContent = remark;
    caption.append(title, " ", small);
    return [caption, ...(names.length > 0 ? [legendElement(names)] : [])];
  }

  function plot(section, title, remark, all, { x, y, names = [], xSplits = logSplits, fromZero = false, xFromZero = false, xFormat = short, yFormat = short }) {
    const log = logsOf(section);
    const series = all.map(shownOn(log)).filter(({ xs }) => xs.length > 0);
    if (series.length === 0) return;
    const figure = document.createElement("figure");
    figure.append(...head(title, remark, names));
    section.querySelector(".plots").append(figure);
    const size = () => ({ width: Math.max(200, figure.clientWidth - 20), height: 260 });
    const options = {
      mode: 2, ...size(), padding: [10, 12, 0, 0],
      legend: { show: false },
      cursor: { x: false, y: false, points: { show: false }, dataIdx: () => null, drag: { x: true, y: true, setScale: true } },
      scales: {
        x: scaleOf(log.x, { range: range(log.x && 1.25, xFromZero) }),
        y: scaleOf(log.y, { range: range(log.y && 1.1, fromZero) }),
      },
      axes: [axis(x, xFormat, { size: 30, ...logAxis(log.x, xSplits) }), axis(y, yFormat, { size: 58, ...logAxis(log.y, logSplits) })],
      series: [{}, ...series.map(({ label, colour, draw, marker, width = 1.5, fill }) => ({
        label, stroke: () => colour, fill: fill && (() => fill), width, paths: drawing(draw, marker),
        points: { show: false }, facets: [{ scale: "x", auto: true }, { scale: "y", auto: true }],
      }))],
    };
    const u = new uPlot(options, [null, ...series.map(({ xs, ys }) => [xs, ys])], figure);
    const resize = new ResizeObserver(() => { if (u.width !== size().width) u.setSize(size()); });
    resize.observe(figure);
    hover(u, figure, series, (i, j) => `${x} ${xFormat(series[i].xs[j])}, ${y} ${yFormat(series[i].ys[j])}`);
    const drawn = { u, title, remark, names, series, x, y, resize, figure };
    figure.querySelector("figcaption").append(...exporting.ofPlot(section.dataset.plot, drawn));
    plots.push(drawn);
  }

  /** Shows the point that is nearest to the pointer, if it is near. */
  function hover(u, figure, series, words) {
    const tip = document.createElement("div");
    tip.className = "tip";
    tip.hidden = true;
    figure.append(tip);
    u.over.addEventListener("pointerleave", () => { tip.hidden = true; });
    u.over.addEventListener("pointermove", (event) => {
      let [best, at] = [30 ** 2, null];
      series.forEach(({ xs, ys, silent }, i) => xs.forEach((x, j) => {
        if (silent || ys[j] === null) return;
        const [left, top] = [u.valToPos(x, "x"), u.valToPos(ys[j], "y")];
        const distance = (left - event.offsetX) ** 2 + (top - event.offsetY) ** 2;
        if (distance < best) [best, at] = [distance, { i, j, left, top }];
      }));
      tip.hidden = at === null;
      if (at === null) return;
      const name = document.createElement("b");
      name.textContent = series[at.i].label;
      tip.replaceChildren(name, document.createElement("br"), words(at.i, at.j));
      const [over, box] = [u.over.getBoundingClientRect(), figure.getBoundingClientRect()];
      const left = over.left - box.left + at.left + 12;
      tip.style.left = `${Math.max(0, Math.min(left, box.width - tip.offsetWidth - 4))}px`;
      tip.style.top = `${over.top - box.top + at.top + 14}px`;
    });
  }

  const has = (...values) => values.every((x) => x !== null);

  function scatter(shown, y) {
    return shown.filter((sae) => has(sae.l0, sae[y]) && sae.l0 > 0).map((sae) => ({
      label: named(sae), colour: kinds.length > 1 ? kindColour(sae.kind) : sae.colour, marker: markerOf(sae.kind)[1],
      xs: [sae.l0], ys: [sae[y]], draw: y !== "fvu" || sae.on_frontier ? "full" : "hollow",
    }));
  }

  const named = (sae) => kinds.length > 1 ? `${sae.label}: ${sae.kind}` : sae.label;

  /** A line for each kind, through the SAEs that no other of that kind beats. */
  function kindLines(shown, y) {
    return kinds.map((kind) => {
      const best = shown.filter((sae) => sae.kind === kind && sae.best_of_kind && sae.l0 > 0 && has(sae[y])).sort((a, b) => a.l0 - b.l0);
      const colour = kinds.length > 1 ? kindColour(kind) : "#8b93a0";
      return { label: kind, colour, xs: best.map((sae) => sae.l0), ys: best.map((sae) => sae[y]), draw: "line", silent: true };
    }).filter(({ xs }) => xs.length > 1);
  }

  function curves(shown, key) {
    return shown.filter((sae) => sae[key].some((y) => y !== null))
      .map((sae) => ({ label: named(sae), colour: sae.colour, xs: sae.tokens, ys: sae[key], draw: sae[key].length > 1 ? "line" : "full" }));
  }

  /** Percent of the latents of all SAEs in each bin, from the first bin to the last that is not empty. */
  function histogram(shown) {
    const known = shown.filter((sae) => sae.density.length > 0);
    if (known.length === 0) return null;
    const bins = known[0].density.map((_, bin) => known.reduce((sum, sae) => sum + sae.density[bin], 0));
    const n = known.reduce((sum, sae) => sum + sae.num_latents, 0);
    const fired = bins.reduce((sum, x) => sum + x, 0);
    const first = Math.max(0, bins.findIndex((x) => x > 0));
    const last = bins.findLastIndex((x) => x > 0);
    const edges = bins.slice(first, last + 2);
    const xs = Array.from({ length: last - first + 2 }, (_, i) => density_first_log10 + (first + i) / density_bins_per_decade);
    const ys = xs.map((_, i) => i > last - first ? 0 : 100 * edges[i] / n);
    return { never: 100 * (n - fired) / n, xs, ys };
  }

  const KINDS = {
    frontier(section, group, shown) {
      const all = scatter(shown, "fvu");
      const remark = group.held_out ? "held out" : "in training";
      if (all.length > 0) plot(section, group.title, remark, [...kindLines(shown, "fvu"), ...all], { x: "L0", y: "FVU", xSplits: l0Splits, names: legend(shown) });
    },
    recovered(section, group, shown) {
      const all = scatter(shown, "ce_recovered");
      const lines = kinds.length > 1 ? kindLines(shown, "ce_recovered") : [];
      if (all.length > 0) plot(section, group.title, "held out", [...lines, ...all], { x: "L0", y: "CE recovered", xSplits: l0Splits, names: legend(shown) });
    },
    fvu(section, group, shown) {
      const all = curves(shown, "fvu_curve");
      if (all.length > 0) plot(section, group.title, "", all, { x: "tokens", y: "FVU", xFromZero: true, xFormat: count, names: legend(shown, true) });
    },
    dead(section, group, shown) {
      const all = curves(shown, "dead_curve");
      if (all.length > 0) plot(section, group.title, "", all, { x: "tokens", y: "dead %", fromZero: true, xFromZero: true, xFormat: count, names: legend(shown, true) });
    },
    density(section, group, shown) {
      const all = histogram(shown);
      if (all === null || all.xs.length < 2) return;
      const bars = { label: group.title, colour: PALETTE[0], fill: PALETTE[0] + "55", xs: all.xs, ys: all.ys, draw: "steps" };
      plot(section, group.title, `${all.never.toFixed(1)} % never fired`, [bars], { x: "log10 of firing density", y: "% of latents", fromZero: true });
    },
  };

  function draw(shown) {
    for (const { u, resize, figure } of plots) {
      resize.disconnect();
      u.destroy();
      figure.remove();
    }
    plots = [];
    for (const section of document.querySelectorAll("[data-plot]")) {
      section.hidden = false;
      for (const group of groups) {
        const some = group.saes.filter((sae) => shown.has(sae)).map((sae) => saes[sae]);
        if (some.length > 0) KINDS[section.dataset.plot](section, group, some);
      }
      section.hidden = section.querySelector("figure") === null;
    }
  }

  // Logarithmic axes: those of L0 from the beginning, others at a click.

  function logsOf(section) {
    const isOn = (axis) => section.querySelector(`input[name=log-${axis}]`)?.checked ?? false;
    return { x: isOn("x"), y: isOn("y") };
  }

  function logBox(section, axis, checked) {
    const [label, input] = [document.createElement("label"), document.createElement("input")];
    Object.assign(input, { type: "checkbox", name: `log-${axis}`, defaultChecked: checked, autocomplete: "off" });
    input.addEventListener("change", () => draw(filter(box.value)));
    label.append(input, ` log ${axis} axis`);
    return label;
  }

  for (const section of document.querySelectorAll("[data-plot]")) {
    const axes = { frontier: { x: true, y: false }, recovered: { x: true }, fvu: { x: false, y: false }, dead: { x: false, y: false }, density: { y: false } }[section.dataset.plot];
    const boxes = document.createElement("div");
    boxes.className = "axes";
    boxes.append(...Object.entries(axes).map(([axis, checked]) => logBox(section, axis, checked)));
    section.querySelector(".plots").before(boxes);
  }

  // On paper: plots as vectors, in the colours of paper, and nothing folded.

  let folded = [];
  addEventListener("beforeprint", () => {
    for (const drawn of plots) {
      const paper = document.createElement("div");
      paper.className = "paper";
      paper.innerHTML = exporting.svg(drawn);
      drawn.figure.append(paper);
    }
    folded = [...document.querySelectorAll("details:not([open])")];
    for (const details of folded) details.open = true;
  });
  addEventListener("afterprint", () => {
    for (const paper of document.querySelectorAll(".paper")) paper.remove();
    for (const details of folded) details.open = false;
  });

  document.querySelectorAll("table[data-csv]").forEach((table) => {
    table.parentNode.before(exporting.ofTable(table.dataset.csv, table));
  });

  const box = document.getElementById("filter");
  let waiting;
  box.addEventListener("input", () => {
    clearTimeout(waiting);
    waiting = setTimeout(() => draw(filter(box.value)), 150);
  });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => plots.forEach(({ u }) => u.redraw()));

  // A browser keeps the text of a box over a reload.
  draw(filter(box.value));
  // uPlot draws in microtasks, which were asked for before this one.
  queueMicrotask(() => { document.documentElement.dataset.drawnMs = (performance.now() - began).toFixed(0); });
})();
