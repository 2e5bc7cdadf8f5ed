"use strict";
/** What is taken out of the page: plots as SVG, numbers as CSV. */
const exporting = (() => {
  const escaped = (text) => String(text).replace(/[&<>"]/g, (c) => ({ "&": "&amp;", "<": "&lt;", ">": "&gt;", '"': "&quot;" })[c]);
  const tag = (name, attributes, content = "") =>
    `<${name}${Object.entries(attributes).map(([key, value]) => ` ${key}="${escaped(value)}"`).join("")}>${content}</${name}>`;
  const text = (x, y, content, more = {}) => tag("text", { x, y, ...more }, escaped(content));

  const SIZE = { width: 520, height: 340 };
  const LEGEND = { row: 16, column: 250 };
  const RADIUS = 4;
  const GREY = "#555";

  /** A point: a circle, or a polygon of corners in radii. */
  function point([x, y], corners, paint) {
    if (corners.length === 0) return tag("circle", { cx: x, cy: y, r: RADIUS, ...paint });
    return tag("polygon", { points: corners.map(([right, down]) => `${x + RADIUS * right},${y + RADIUS * down}`).join(" "), ...paint });
  }

  /** A line, with a gap where there is no number; steps go on at their left end's height. */
  function line(points, draw, paint) {
    let [path, pen] = ["", "M"];
    points.forEach((at) => {
      if (at === null) { pen = "M"; return; }
      path += draw === "steps" && pen === "L" ? `H${at[0]}V${at[1]}` : `${pen}${at[0]},${at[1]}`;
      pen = "L";
    });
    return tag("path", { d: path, fill: "none", "stroke-width": 1.5, ...paint });
  }

  function series({ xs, ys, colour, draw, marker = [], silent }, place) {
    const points = xs.map((x, i) => ys[i] === null ? null : place(x, ys[i]));
    if (draw === "line" || draw === "steps") return line(points, draw, { stroke: colour, ...(silent && { "stroke-opacity": 0.7 }) });
    const paint = draw === "full" ? { fill: colour } : { fill: "none", stroke: colour, "stroke-width": 1.5 };
    return points.filter((at) => at !== null).map((at) => point(at, marker, paint)).join("");
  }

  /** A plot as it is shown: its scales and marks are those of `u`, the plot on the page. */
  function svg({ u, title, remark, names, series: all, x, y }) {
    const nRows = Math.ceil(names.length / 2);
    const box = { left: 58, top: 34 + nRows * LEGEND.row, right: SIZE.width - 14, bottom: SIZE.height + nRows * LEGEND.row - 44 };
    const along = (scale, value) => {
      const { min, max, distr } = u.scales[scale];
      const on = distr === 3 ? Math.log : (v) => v;
      return (on(value) - on(min)) / (on(max) - on(min));
    };
    const round = (v) => Math.round(v * 100) / 100;
    const place = (vx, vy) => [
      round(box.left + along("x", vx) * (box.right - box.left)),
      round(box.bottom - along("y", vy) * (box.bottom - box.top)),
    ];
    // The marks that uPlot has chosen; the vendored version keeps them under these names.
    const marks = (axis) => axis._splits.map((value, i) => [value, axis._values[i]]).filter(([value, label]) => value !== null && label);
    const parts = [tag("rect", { width: "100%", height: "100%", fill: "#fff" })];
    for (const [value, label] of marks(u.axes[0])) {
      const [at] = place(value, u.scales.y.min);
      parts.push(tag("line", { x1: at, x2: at, y1: box.top, y2: box.bottom, stroke: "#e4e4e4" }));
      parts.push(text(at, box.bottom + 15, label, { "text-anchor": "middle", fill: GREY }));
    }
    for (const [value, label] of marks(u.axes[1])) {
      const [, at] = place(u.scales.x.min, value);
      parts.push(tag("line", { x1: box.left, x2: box.right, y1: at, y2: at, stroke: "#e4e4e4" }));
      parts.push(text(box.left - 6, at + 4, label, { "text-anchor": "end", fill: GREY }));
    }
    const middle = [(box.left + box.right) / 2, (box.top + box.bottom) / 2];
    parts.push(text(middle[0], box.bottom + 34, x, { "text-anchor": "middle", fill: GREY }));
    parts.push(text(14, middle[1], y, { "text-anchor": "middle", fill: GREY, transform: `rotate(-90 14 ${middle[1]})` }));
    parts.push(tag("text", { x: 12, y: 18, "font-weight": "bold" }, `${escaped(title)} ${tag("tspan", { fill: GREY, "font-weight": "normal" }, escaped(remark))}`));
    names.forEach(({ name, colour, corners }, i) => {
      const [left, top] = [18 + (i % 2) * LEGEND.column, 36 + Math.floor(i / 2) * LEGEND.row];
      parts.push(corners ? point([left, top - 4], corners, { fill: colour }) : tag("line", { x1: left - 6, x2: left + 6, y1: top - 4, y2: top - 4, stroke: colour, "stroke-width": 2 }));
      parts.push(text(left + 10, top, name.length > 38 ? `${name.slice(0, 37)}\u2026` : name));
    });
    parts.push(...all.map((one) => series(one, place)));
    const [width, height] = [SIZE.width, SIZE.height + nRows * LEGEND.row];
    const head = { xmlns: "http://www.w3.org/2000/svg", viewBox: `0 0 ${width} ${height}`, width, height, "font-family": "sans-serif", "font-size": 12, fill: "#222" };
    return tag("svg", head, parts.join("\n"));
  }

  const field = (value) => /[",\r\n]/.test(value) ? `"${value.replaceAll('"', '""')}"` : value;
  const csv = (rows) => rows.map((row) => row.map((value) => field(String(value ?? ""))).join(",") + "\r\n").join("");

  /** The numbers of a plot, a row for each point. */
  function points({ series: all, x, y }) {
    const rows = all.filter(({ silent }) => !silent).flatMap(({ label, xs, ys }) => xs.map((value, i) => [label, value, ys[i]]));
    return csv([["series", x, y], ...rows]);
  }

  /** The rows of a table that are shown; numbers with all their digits. */
  function table(element) {
    const cells = (row) => [...row.cells].filter((cell) => cell.querySelector("i") === null && !cell.hasAttribute("aria-label"));
    const head = cells(element.tHead.rows[0]).map((cell) => cell.dataset.name ?? cell.textContent);
    const rows = [...element.tBodies[0].rows].filter((row) => !row.hidden);
    return csv([head, ...rows.map((row) => cells(row).map((cell) => cell.dataset.number === undefined ? cell.textContent : Number(cell.dataset.number)))]);
  }

  function save(name, type, content) {
    const link = document.createElement("a");
    link.href = URL.createObjectURL(new Blob([content], { type }));
    link.download = name;
    link.click();
    // The browser has begun to read by then.
    setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
  }

  /** A button that saves what `content` gives. */
  function button(label, name, type, content) {
    const element = document.createElement("button");
    element.type = "button";
    element.className = "save";
    element.textContent = label;
    element.title = `Save ${name}`;
    element.addEventListener("click", () => save(name, type, content()));
    return element;
  }

  const fileName = (...parts) => parts.join("-").replace(/[^\w.+-]+/g, "_");
  const ofPlot = (kind, plot) => [
    button("SVG", `${fileName(kind, plot.title)}.svg`, "image/svg+xml", () => svg(plot)),
    button("CSV", `${fileName(kind, plot.title)}.csv`, "text/csv", () => points(plot)),
  ];
  const ofTable = (name, element) => button("CSV", `${name}.csv`, "text/csv", () => table(element));
  return { svg, ofPlot, ofTable };
})();
