"use strict";
// What pages draw curves and contours with; where a number lies on a picture is all that is computed here.
const SVG = "http://www.w3.org/2000/svg";
const EDGE = { left: 44, right: 10, top: 12, bottom: 24 };

function element(name, attributes, ...inside) {
  const made = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.append(...inside);
  return made;
}

function ticks(low, high, most) {
  const rough = (high - low) / most, power = 10 ** Math.floor(Math.log10(rough));
  const apart = [1, 2, 5, 10].map((k) => k * power).find((k) => k >= rough);
  const found = [];
  for (let k = Math.ceil(low / apart - 1e-9); k * apart <= high + 1e-9 * apart; k++) found.push(Number((k * apart).toPrecision(12)));
  return found;
}

const tickText = (value) => (Math.abs(value) >= 1e5 || (value !== 0 && Math.abs(value) < 1e-3) ? value.toExponential(0) : String(value)).replace("-", "−");

function grid(x, y, [left, right], [bottom, top], width, height, text = tickText) {
  const parts = [];
  for (const value of ticks(left, right, width / 70)) {
    parts.push(element("line", { class: value === 0 ? "axis" : "grid", x1: x(value), x2: x(value), y1: EDGE.top, y2: height - EDGE.bottom }));
    parts.push(element("text", { x: x(value), y: height - 8, "text-anchor": "middle" }, text(value)));
  }
  for (const value of ticks(bottom, top, height / 50)) {
    parts.push(element("line", { class: value === 0 ? "axis" : "grid", x1: EDGE.left, x2: width - EDGE.right, y1: y(value), y2: y(value) }));
    parts.push(element("text", { x: EDGE.left - 6, y: y(value) + 4, "text-anchor": "end" }, text(value)));
  }
  return parts;
}

/** The line through points, broken where a number is missing. */
function lineOf(xs, ys, x, y) {
  let line = "", drawing = false;
  xs.forEach((at, k) => {
    if (ys[k] !== null) line += `${drawing ? "L" : "M"}${x(at).toFixed(2)} ${y(ys[k]).toFixed(2)}`;
    drawing = ys[k] !== null;
  });
  return line;
}

/** The line of one level: in each cell of the grid, straight between the places where its edges cross the level. */
function contour(figure, level, x, y) {
  let line = "";
  for (let j = 0; j + 1 < figure.y.length; j++) {
    for (let i = 0; i + 1 < figure.x.length; i++) {
      const corners = [[i, j], [i + 1, j], [i + 1, j + 1], [i, j + 1]].map(([a, b]) => [x(figure.x[a]), y(figure.y[b]), figure.heights[b][a]]);
      if (corners.some((corner) => corner[2] === null)) continue;
      const cuts = [];
      corners.forEach((one, k) => {
        const other = corners[(k + 1) % 4];
        if (one[2] > level === other[2] > level) return;
        const t = (level - one[2]) / (other[2] - one[2]);
        cuts.push(`${(one[0] + t * (other[0] - one[0])).toFixed(1)} ${(one[1] + t * (other[1] - one[1])).toFixed(1)}`);
      });
      for (let k = 0; k + 1 < cuts.length; k += 2) line += `M${cuts[k]}L${cuts[k + 1]}`;
    }
  }
  return line;
}
