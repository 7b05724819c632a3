"use strict";
// Steps through both passes of a computation: the operator lights up in the graph, values flow in on its edges, its
// equations stand beside it. Whatever is the user's is set as text, and nothing is read from outside the file.
(() => {
  const byId = id => document.getElementById(id);
  const {words, nodes, moments, tensors, inputs, findings, code, scalar, output, seed, graph: drawing} =
    JSON.parse(byId("data").textContent);
  const last = moments.length - 1, still = matchMedia("(prefers-reduced-motion: reduce)");
  const say = (key, values = {}) => words[key].replace(/\{(\w+)\}/g, (all, name) => name in values ? values[name] : all);

  function made(name, attributes, ...inside) {
    const element = document.createElement(name);
    for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
    element.append(...inside.filter(part => part !== null));
    return element;
  }

  // Returns running text with its code spans.
  const prose = text => text.split(/`([^`\n]+)`/).map((part, k) => k % 2 ? made("code", {}, part) : part);

  // -------------------------------------------------------------------------------------------------------- numbers

  // Returns a number in so many significant digits, as the page's text has it: with fewer it is exact.
  function numberText(value, digits = 5) {
    if (typeof value !== "number") return /j\)?$/.test(value) ? complexText(value, digits) : String(value);
    if (Number.isInteger(value) && Math.abs(value) < 1e9) return String(value);
    const sign = value < 0 ? "-" : "", size = Math.abs(value);
    const rounded = halfToEven(size, digits), exponent = Number(rounded.split("e")[1]), exact = Number(rounded) === size;
    const fixed = decimals => decimal(rounded, exponent, decimals);
    const bare = shown => shown.includes(".") ? shown.replace(/\.?0+$/, "") : shown;
    if (exponent >= -4 && exponent < digits) {
      const decimals = digits - 1 - exponent;
      return sign + (exact ? bare(fixed(decimals)) : decimals ? fixed(decimals) : size.toFixed(1));
    }
    if (exact && size >= 1e-5 && size < 1e9) return sign + bare(fixed(Math.max(digits - 1 - exponent, 0)));
    const mantissa = exact ? bare(rounded.split("e")[0]) : rounded.split("e")[0];
    return `${sign}${mantissa}e${exponent < 0 ? "-" : "+"}${String(Math.abs(exponent)).padStart(2, "0")}`;
  }

  // Returns a complex number, which comes as Python writes it, with both its parts in so many digits.
  function complexText(value, digits) {
    const parts = value.replace(/[()j]/g, "").split(/(?<=[^e])(?=[-+])/);
    const [real, imaginary] = (parts.length < 2 ? ["0", ...parts] : parts)
      .map(part => Number.isFinite(Number(part)) ? numberText(Number(part), digits) : part.replace("+", ""));
    return `${real}${imaginary.startsWith("-") ? "" : "+"}${imaginary}j`;
  }

  // JavaScript rounds what lies between two numbers up, Python to the even one.
  function halfToEven(size, digits) {
    const [all, exponent] = size.toExponential(60).replace(".", "").split("e");
    const between = /^50*$/.test(all.slice(digits)) && Number(all[digits - 1]) % 2 === 0;
    return between ? `${all[0]}.${all.slice(1, digits)}e${exponent}` : size.toExponential(digits - 1);
  }

  function decimal(rounded, exponent, decimals) {
    const all = rounded.split("e")[0].replace(".", "");
    const padded = exponent < 0 ? "0".repeat(-exponent) + all : all.padEnd(exponent + 1, "0");
    const point = exponent < 0 ? 1 : exponent + 1;
    return decimals ? `${padded.slice(0, point)}.${padded.slice(point).padEnd(decimals, "0")}` : padded.slice(0, point);
  }

  const size = tensor => tensor.shape.reduce((product, n) => product * n, 1);
  const shapeText = shape => `(${shape.join(", ")}${shape.length === 1 ? "," : ""})`;
  const gradientName = name => `∂${scalar}/∂${name}`;

  // Returns what stands behind a value's name for one of its elements.
  function suffix(shape, flat) {
    if (!shape.length) return "";
    const index = [];
    for (const n of [...shape].reverse()) { index.unshift(flat % n); flat = Math.floor(flat / n); }
    return `[${index.join(", ")}]`;
  }

  // Returns a tensor in a few letters: whole where it is short.
  const briefs = new Map();
  function brief(number, room = 24) {
    if (number === null) return "–";
    const key = `${number}:${room}`;
    if (!briefs.has(key)) briefs.set(key, shortened(number, room));
    return briefs.get(key);
  }

  function shortened(number, room) {
    const tensor = tensors[number];
    const nested = (shape, from) => shape.length === 0 ? numberText(tensor.elements[from], 4)
      : `[${Array.from({length: shape[0]}, (_, i) =>
        nested(shape.slice(1), from + i * shape.slice(1).reduce((a, b) => a * b, 1))).join(", ")}]`;
    const whole = tensor.elements && size(tensor) <= 12 ? nested(tensor.shape, 0) : "";
    if (whole && whole.length <= room) return whole;
    const [low, high] = endsOf(tensor), spoilt = spoiltIn(tensor).findIndex(count => count > 0);
    const ends = low === null ? "" : low === high ? numberText(low, 3) : `${numberText(low, 3)} … ${numberText(high, 3)}`;
    const said = spoilt < 0 ? ends : `${ends} ${["nan", "inf"][spoilt]}`.trim();
    return said && said.length <= room ? said : shapeText(tensor.shape);
  }

  // Returns the smallest and the largest element, of those that are finite.
  function endsOf(tensor) {
    if (!tensor.elements) return [tensor.low, tensor.high];
    const real = tensor.elements.filter(value => typeof value === "number");
    return real.length ? [Math.min(...real), Math.max(...real)] : [null, null];
  }

  // Returns how many elements are nan, and how many are infinite.
  function spoiltIn({elements, nan = 0, inf = 0}) {
    const count = (...texts) => elements.filter(value => texts.includes(value)).length;
    return elements ? [count("nan"), count("inf", "-inf")] : [nan, inf];
  }

  const numberSpan = (value, name, step, tag = "span", kind = "n") =>
    made(tag, {class: kind, "data-value": String(value), "data-name": name, "data-step": step}, numberText(value));

  // Returns a tensor: its elements where they are few, else a map of them. `asked` is told of an element that is touched.
  function tensorOf(number, name, step, asked = null) {
    if (number === null) return made("span", {class: "quiet"}, words.none);
    const tensor = tensors[number];
    if (large(number)) return summary(tensor, name, step, asked);
    const columns = tensor.shape.length ? tensor.shape[tensor.shape.length - 1] : 1;
    const grid = made("span", {class: `tensor ${["one", "vector"][tensor.shape.length] || ""}`, style: `--columns:${columns}`,
      ...(columns > 3 && !asked ? {tabindex: 0} : {})});
    tensor.elements.forEach((value, flat) => {
      const own = suffix(tensor.shape, flat), full = name + own;
      const shown = numberSpan(value, full, step, asked ? "button" : "span", asked ? "n ask" : "n");
      if (asked) {
        shown.type = "button";
        shown.setAttribute("aria-label", `${full} = ${numberText(value)}`);
        askable(shown, () => asked(own));
      }
      grid.append(shown);
    });
    return grid;
  }

  function askable(element, ask) {
    element.addEventListener("pointerenter", ask);
    element.addEventListener("focus", ask);
    element.addEventListener("click", ask);
  }

  const large = number => number !== null && (!tensors[number].elements || size(tensors[number]) > 12);

  function summary(tensor, name, step, asked) {
    const box = made("div", {class: "large"}), count = size(tensor), whole = tensor.elements;
    const real = whole ? whole.filter(v => typeof v === "number") : [];
    const [low, high] = endsOf(tensor);
    const norm = whole ? Math.hypot(...real) : tensor.norm;
    const fields = {dtype: tensor.dtype, shape: shapeText(tensor.shape), norm: numberText(norm)};
    const ends = low === null ? say("large_plain", fields) : say("large", {...fields, low: "\u0001", high: "\u0002"});
    const said = made("p", {class: "quiet"});
    for (const part of ends.split(/(\u0001|\u0002)/)) said.append(part === "\u0001" ? numberSpan(low, `min ${name}`, step)
      : part === "\u0002" ? numberSpan(high, `max ${name}`, step) : part);
    box.append(said);
    const spoilt = spoiltIn(tensor);
    if (spoilt[0] + spoilt[1]) box.append(made("p", {class: "bad"}, say("not_finite", {nan: spoilt[0], inf: spoilt[1]})));
    if (count && (whole ? real.length : tensor.map)) box.append(mapOf(tensor, name, step, asked));
    return box;
  }

  // ----------------------------------------------------------------------------------------------------------- maps

  // Returns the colour of a share of the largest magnitude, and of what is not finite.
  const hue = part => part === null ? [208, 0, 111, 255] : [...(part < 0 ? [20, 110, 220] : [225, 95, 0]), Math.abs(part) * 255];

  // Returns how so many matrices of a tensor stand side by side, so that their cells are as large as can be.
  function tiled(count, rows, columns) {
    const ways = Array.from({length: count}, (_, k) => k + 1).filter(across => count % across === 0).map(across => {
      const down = count / across, cell = Math.min(321 / (across * (columns + 1)), 221 / (down * (rows + 1)));
      return {across, down, cell: Math.max(2, Math.min(14, Math.floor(cell)))};
    });
    return ways.reduce((best, way) => way.cell > best.cell ? way : best);
  }

  // Returns a map of a large tensor: a cell an element, or a block of them, with its legend; one cell is read at a time.
  function mapOf(tensor, name, step, asked) {
    const {map, elements} = tensor, blocks = !elements;
    const columns = blocks ? map.columns : tensor.shape[tensor.shape.length - 1] || 1;
    const rows = blocks ? map.rows : size(tensor) / columns;
    const bytes = blocks ? Uint8Array.from(atob(map.cells), c => c.charCodeAt(0)) : null;
    const limit = blocks ? map.limit : Math.max(...elements.filter(v => typeof v === "number").map(Math.abs));
    const part = k => blocks ? (bytes[k] === 255 ? null : (bytes[k] - 127) / 127)
      : typeof elements[k] === "number" ? (limit ? elements[k] / limit : 0) : null;
    const tile = blocks || tensor.shape.length < 3 ? rows : tensor.shape[tensor.shape.length - 2];
    const {across, down, cell} = tiled(rows / tile, tile, columns);
    const placeOf = k => {
      const row = Math.floor(k / columns), own = Math.floor(row / tile);
      return [own % across * (columns + 1) + k % columns, Math.floor(own / across) * (tile + 1) + row % tile];
    };
    const [wide, tall] = [across * (columns + 1) - 1, down * (tile + 1) - 1];
    const canvas = made("canvas", {width: wide, height: tall, style: `width:${wide * cell}px`, tabindex: 0, role: "img"});
    canvas.setAttribute("aria-label", `${name} ${shapeText(tensor.shape)}`);
    const ink = canvas.getContext("2d"), dots = ink.createImageData(wide, tall);
    for (let k = 0; k < rows * columns; k++) {
      const [x, y] = placeOf(k);
      dots.data.set(hue(part(k)), 4 * (y * wide + x));
    }
    ink.putImageData(dots, 0, 0);
    const paint = (k, chosen) => {
      const [x, y] = placeOf(k);
      ink.putImageData(dots, 0, 0, x, y, 1, 1);
      if (chosen) { ink.fillStyle = getComputedStyle(canvas).color; ink.fillRect(x, y, 1, 1); }
    };
    const block = blocks ? `${map.block[0]} × ${map.block[1]}` : "";
    const readout = made("p", {class: "readout quiet", "aria-live": "polite"}, blocks ? say("block_map", {block}) : "");
    let at = -1;
    const read = k => {
      if (k === at || k < 0 || k >= rows * columns) return;
      if (at >= 0) paint(at, false);
      paint(at = k, true);
      const row = Math.floor(k / columns), column = k % columns;
      if (blocks) {
        const [tall, wide] = map.block, value = part(k) === null ? "nan/inf" : numberText(part(k) * limit, 2);
        const span = (from, by, end) => `${from * by}:${Math.min(from * by + by, end)}`;
        const ends = [size(tensor) / (tensor.shape[tensor.shape.length - 1] || 1), tensor.shape[tensor.shape.length - 1] || 1];
        const both = [span(row, tall, ends[0]), span(column, wide, ends[1])], flat = tensor.shape.length > 2 ? ".flatten(0, -2)" : "";
        const place = `${flat}[${tensor.shape.length > 1 ? both.join(", ") : both[1]}]`;
        readout.textContent = say("block_cell", {name: name + place, value});
      } else {
        const own = suffix(tensor.shape, k);
        readout.replaceChildren(`${name}${own} = `, numberSpan(elements[k], name + own, step));
        if (asked) asked(own);
      }
      if (blocks && asked) asked(null);
    };
    const under = event => {
      const area = canvas.getBoundingClientRect();
      const x = Math.floor((event.clientX - area.left) / area.width * wide), y = Math.floor((event.clientY - area.top) / area.height * tall);
      const column = x % (columns + 1), row = y % (tile + 1);
      if (x < 0 || y < 0 || x >= wide || y >= tall || column === columns || row === tile) return;
      read(((Math.floor(y / (tile + 1)) * across + Math.floor(x / (columns + 1))) * tile + row) * columns + column);
    };
    canvas.addEventListener("pointermove", under);
    canvas.addEventListener("pointerdown", under);
    canvas.addEventListener("focus", () => read(Math.max(at, 0)));
    canvas.addEventListener("keydown", event => {
      const by = {ArrowLeft: -1, ArrowRight: 1, ArrowUp: -columns, ArrowDown: columns}[event.key];
      if (!by) return;
      event.preventDefault();
      event.stopPropagation();
      read(at + by);
    });
    const bar = made("span", {class: "bar", "aria-hidden": "true"});
    const ends = {low: numberText(-limit, 3), high: numberText(limit, 3)};
    const legend = made("p", {class: "legend", "aria-label": say("legend", ends), role: "note"}, ends.low, bar, ends.high);
    return made("div", {class: "map"}, canvas, legend, readout);
  }

  // ---------------------------------------------------------------------------------------------------------- graph

  const uses = new Map();  // of each node: the edges along which its value goes on
  nodes.forEach((node, consumer) => (node.edges || []).forEach((edge, slot) =>
    uses.set(edge.from, [...(uses.get(edge.from) || []), {consumer, slot, edge}])));
  const noted = new Map(), wrong = new Set();
  for (const {text, nodes: own, wrong: bad} of findings) for (const node of own) {
    noted.set(node, [...(noted.get(node) || []), text]);
    if (bad) wrong.add(node);
  }

  let now = 0, asked = null, view = null;
  view = drawGraph(drawing, byId("stage"), {
    painted: () => { if (view) { painted(); light(); } },
    chosen: own => { if (own.length === 1) goTo(own[0]); },
  });
  const computed = new Map();  // the moment at which each node's value is there
  moments.forEach((moment, k) => { if (moment.kind === "forward") computed.set(moment.node, k); });
  const added = new Map();  // the moments at which something arrives at each value
  moments.forEach((moment, k) => {
    if (moment.kind !== "backward") return;
    const to = nodes[moment.node].edges[moment.slot].from;
    added.set(to, [...(added.get(to) || []), k]);
  });
  const start = moments.findIndex(moment => moment.kind === "seed");

  // Returns the gradient of a node's value as far as it has arrived at a moment.
  function gradientAt(node, step) {
    if (start >= 0 && moments[start].node === node) return step >= start ? nodes[node].gradient : null;
    const arrivals = added.get(node) || [], arrived = arrivals.findLast(k => k <= step);
    if (arrived === undefined) return null;
    return arrived === arrivals[arrivals.length - 1] ? nodes[node].gradient : moments[arrived].sum;
  }

  const isAlone = box => !box.classList.contains("opens") && !box.classList.contains("bar");

  // Paints what stays while the drawing does: the marks of what was found, and where each box has its numbers.
  let rows = new Map(), folds = new Map(), lit = [], taken = [];
  function painted() {
    [rows, folds] = [new Map(), new Map()];
    lit = [];
    const said = new Map(), bad = new Set();
    nodes.forEach((node, number) => {
      for (const box of view.boxesOf(number)) {
        if (isAlone(box)) rows.set(box, written(box, node));
        else if (computed.has(number)) folds.set(box, [...(folds.get(box) || []), number]);
        if (noted.has(number)) said.set(box, [...(said.get(box) || []), ...noted.get(number)]);
        if (wrong.has(number)) bad.add(box);
      }
    });
    for (const [box, inside] of folds) folds.set(box, foldAt(box, inside));
    for (const box of bad) box.classList.add("bad");
    view.paper().append(...[...said].map(([box, texts]) => badge(box, [...new Set(texts)], bad.has(box))));
  }

  // Paints the graph as it is at this moment: what is known by now, what is at work, and the way that was asked for.
  function light(step = now) {
    const stage = byId("stage"), flows = view.made("g", {class: "flows"});
    unlit();
    stage.querySelectorAll(".flows").forEach(old => old.remove());
    stage.classList.toggle("asking", asked !== null);
    view.paper().append(flows);
    nodes.forEach((node, number) => {
      const there = node.leaf || computed.get(number) <= step;
      for (const box of view.boxesOf(number)) if (rows.has(box)) rows.get(box)(there, gradientAt(number, step));
    });
    for (const show of folds.values()) show(step);
    if (asked) trailed(flows); else moved(flows);
  }

  // Returns what shows a fold as it is at a moment: its value is that of its last operator.
  function foldAt(box, inside) {
    const from = Math.min(...inside.map(node => computed.get(node)));
    const last = inside.reduce((one, other) => computed.get(other) > computed.get(one) ? other : one);
    const [value, gradient] = ["= ", "∂ "].map(start =>
      [...box.querySelectorAll("text")].filter(text => text.textContent.startsWith(start)));
    const hide = (texts, hidden) => texts.forEach(text => text.classList.toggle("later", hidden));
    return step => {
      box.classList.toggle("ahead", from > step);
      hide(value, computed.get(last) > step);
      hide(gradient, gradientAt(last, step) === null);
    };
  }

  function unlit() {
    for (const part of lit) part.classList.remove("now", "next", "trail", "on", "against", "path");
    lit = [];
    taken = [];
  }
  const shine = (part, kind) => { part.classList.add(kind); lit.push(part); };

  // Returns what writes into a box what is known of its value and of its gradient. A sum on its way may be longer than
  // the gradient that the box was made for: it is set closer, where that is enough.
  function written(box, node) {
    const texts = [...box.querySelectorAll("text:not(.t):not(.sign)")];
    const own = texts.slice(texts.length - (node.value !== null) - (node.gradient !== null));
    const [value, gradient] = node.value === null ? [null, own[0]] : own;
    const wide = Number(box.querySelector(".b").getAttribute("width")) - 14, room = Math.floor(wide * 1.12 / view.wide("0"));
    const write = (text, said) => {
      if (!text || text.textContent === said) return;
      text.textContent = said;
      if (view.wide(said) > wide) text.setAttribute("textLength", wide);
      else text.removeAttribute("textLength");
      text.setAttribute("lengthAdjust", "spacingAndGlyphs");
    };
    let before = [];  // most boxes stay as they are from step to step
    return (there, arrived) => {
      if (before[0] === there && before[1] === arrived) return;
      before = [there, arrived];
      box.classList.toggle("ahead", !there);
      write(value, there ? `= ${brief(node.value, room - 2)}` : "");
      if (node.gradient !== null) write(gradient, arrived === null ? "" : `∂ ${brief(arrived, room - 2)}`);
    };
  }

  function badge(box, texts, bad) {
    const area = box.querySelector(".b, .grip");
    const [x, y, width] = ["x", "y", "width"].map(side => Number(area.getAttribute(side)));
    return view.made("g", {class: bad ? "badge wrong" : "badge"}, view.made("title", {}, texts.join("\n")),
      view.made("circle", {cx: x + width, cy: y, r: 8}),
      view.made("text", {x: x + width, y: y + 4, "text-anchor": "middle"}, bad ? "✗" : "!"));
  }

  function moved(flows) {
    const moment = moments[now];
    if (moment.node < 0) return;
    for (const box of view.boxesOf(moment.node)) shine(box, "now");
    if (moment.kind === "forward") {
      nodes[moment.node].edges.forEach((edge, slot) => flow(flows, edge.from, moment.node, slot, "on", brief(nodes[edge.from].value)));
    } else if (moment.kind === "backward") {
      const edge = nodes[moment.node].edges[moment.slot];
      for (const box of view.boxesOf(edge.from)) shine(box, "next");
      flow(flows, edge.from, moment.node, moment.slot, "against", `∂ ${brief(edge.value)}`);
    }
  }

  // Lights the lines of an edge and writes on them what goes along, which a dot carries.
  function flow(flows, producer, consumer, slot, way, text) {
    const lines = view.linesOf(producer, consumer, slot).flatMap(name => view.drawn(name).map(part => [name, part]));
    for (const [, part] of lines) shine(part, way);
    const stretches = lines.filter(([, part]) => part.classList.contains("line"));
    if (!stretches.length) return;
    label(flows, stretches[stretches.length - 1][0], text);
    if (still.matches) return;
    for (const [, part] of stretches) {
      const dot = view.made("circle", {class: "dot", r: 4});
      const motion = view.made("animateMotion", {dur: "0.7s", begin: "indefinite", fill: "freeze", calcMode: "linear",
        keyTimes: "0;1", keyPoints: way === "against" ? "1;0" : "0;1", path: part.getAttribute("d")});
      motion.addEventListener("endEvent", () => dot.remove());
      dot.append(motion);
      flows.append(dot);
      motion.beginElement();
    }
  }

  // Writes on a line, where no other text of this moment stands; where there is no such place, it is read beside the graph.
  function label(flows, line, text) {
    const half = view.wide(text) / 2 + 4;
    const clear = ([x, y]) => taken.every(other => Math.abs(x - other.x) >= half + other.half || Math.abs(y - other.y) >= 14);
    const place = view.anchors(line).find(clear);
    if (!place) return;
    const [x, y] = place;
    taken.push({x, y, half});
    flows.append(...view.labelled(x, y + 4, text));
  }

  function trailed(flows) {
    for (const [number] of asked.parts) for (const box of view.boxesOf(number)) shine(box, "trail");
    const parts = new Map();  // how many elements went along each edge: of several none is written on it
    for (const {edge} of asked.edges) parts.set(edge, (parts.get(edge) || 0) + 1);
    for (const {consumer, slot, edge, part} of asked.edges) {
      for (const name of view.linesOf(edge.from, consumer, slot)) for (const drawn of view.drawn(name)) shine(drawn, "path");
      const sent = part === null || parts.get(edge) > 1 ? null : elementOf(edge.value, part);
      const seen = view.linesOf(edge.from, consumer, slot).filter(name => view.drawn(name).length).pop();
      if (!seen || sent === null) continue;
      label(flows, seen, `∂ ${numberText(sent, 4)}`);
    }
  }

  // ---------------------------------------------------------------------------------------------- what made an element

  function elementOf(number, part) {
    const tensor = number === null ? null : tensors[number];
    if (!tensor || !tensor.elements) return null;
    const flat = tensor.elements.findIndex((_, k) => suffix(tensor.shape, k) === part);
    return flat < 0 ? null : tensor.elements[flat];
  }

  // Returns the edges along which an element of a gradient came, with the elements that came; null where that is unknown.
  function trail(node, part) {
    const parts = new Map([[node, new Set([part])]]), edges = [], waiting = [[node, part]];
    while (waiting.length) {
      const [at, own] = waiting.pop();
      for (const {consumer, slot, edge} of uses.get(at) || []) {
        if (edge.value === null) continue;
        const through = own === null ? undefined : edge.through[own];
        if (through && !through.length) continue;
        edges.push({consumer, slot, edge, part: own});
        for (const next of through || [null]) {
          const known = parts.get(consumer) || parts.set(consumer, new Set()).get(consumer);
          if (!known.has(next)) { known.add(next); waiting.push([consumer, next]); }
        }
      }
    }
    const place = new Map(moments.map((moment, k) => [`${moment.node}:${moment.slot}`, k]));
    edges.sort((a, b) => place.get(`${a.consumer}:${a.slot}`) - place.get(`${b.consumer}:${b.slot}`));
    return {parts, edges, step: k => place.get(k)};
  }

  function ask(input, part) {
    if (input.node === null) return;
    asked = trail(input.node, part);
    light();
    const full = gradientName(input.name) + (part || "");
    const list = made("ol", {class: "equations"});
    for (const {consumer, slot, edge, part: own} of asked.edges) {
      const label = `→ ${edge.to}${own || ""}`, step = asked.step(`${consumer}:${slot}`);
      const known = own === null ? null : edge.equations.find(equation => equation[0] === label);
      const sent = own === null ? null : elementOf(edge.value, own);
      list.append(made("li", {}, made("span", {class: "quiet"}, `${nodes[consumer].label} `),
        known ? equationOf(known, step) : made("code", {}, `${label}`, ...(sent === null ? [] : [": ", numberSpan(sent, label, step)]))));
    }
    const sums = (added.get(input.node) || []).flatMap(k => moments[k].sums.filter(sum => sum[0] === full).map(sum => [sum, k]));
    for (const [sum, k] of sums) list.append(made("li", {}, equationOf(sum, k)));
    const whole = asked.edges.some(({part: own}) => own === null);
    byId("asked").replaceChildren(
      made("h3", {}, say("made", {name: full})), list,
      ...(whole ? [made("p", {class: "quiet"}, words.made_whole)] : []), checksOf(input));
  }

  function checksOf(input) {
    if (!input.checks.length) return made("p", {}, words.not_checked);
    const list = made("ul", {class: "checks"});
    for (const check of input.checks) {
      const said = check.worst ? say("check", check) : `${check.mark} ${check.oracle}`;
      list.append(made("li", {}, said, ...(check.reason ? prose(` — ${check.reason}`) : [])));
    }
    return made("div", {}, made("h4", {}, words.checked), list);
  }

  function unask() {
    if (asked === null) return;
    asked = null;
    light();
  }

  // ----------------------------------------------------------------------------------------------------- one moment

  const equationOf = ([label, expression, relation, result, value], step) =>
    made("code", {}, `${label}: ${expression} ${relation} `,
      made("span", {class: "n", "data-value": String(value), "data-name": label, "data-step": step}, result));
  const equationsOf = (equations, step) => equations.length
    ? made("ul", {class: "equations"}, ...equations.map(equation => made("li", {}, equationOf(equation, step)))) : null;
  const row = (key, ...inside) => inside.every(part => part === null) ? [] : [made("dt", {}, key), made("dd", {}, ...inside)];
  const named = (name, tensor, step) => made("div", {class: "named"}, made("code", {}, `${name} =`), tensorOf(tensor, name, step));

  function told(moment, step) {
    const node = nodes[moment.node];
    if (moment.kind === "inputs") {
      const shown = nodes.filter(one => one.leaf && one.value !== null).slice(0, 12);
      return {head: words.inputs_head, said: words.inputs_said, rows: row("", ...shown.map(one => named(one.name, one.value, step)))};
    }
    if (moment.kind === "forward") return {
      head: say("forward_head", {name: node.head}), place: node.place, notes: noted.get(moment.node),
      rows: [
        ...row(words.flows_in, ...[...new Set(node.edges.map(edge => edge.from))].map(from =>
          named(nodes[from].name, nodes[from].value, step))),
        ...row(words.rule, made("code", {}, node.rule || words.no_rule)),
        ...row(words.makes, equationsOf(node.equations, step), named(node.name, node.value, step)),
      ],
    };
    if (moment.kind === "seed") return {
      head: words.seed_head, said: say("seed_said", {scalar, name: output}),
      rows: row("", named(gradientName(output), seed, step)),
    };
    const edge = node.edges[moment.slot], to = gradientName(edge.to), left = moment.count - moment.place;
    const again = moment.count === 1 && !moment.apart && large(moment.sum);  // the map stands above
    const after = moment.apart ? words.apart : left ? say("waits", {count: left}) : say("whole", {scalar, name: edge.to});
    return {
      head: say("backward_head", {from: node.head, to: edge.to}), place: node.place, notes: noted.get(moment.node),
      rows: [
        ...row(words.arrives, named(gradientName(node.name), node.gradient, step)),
        ...row(words.rule, made("code", {}, edge.rule || words.no_rule)),
        ...row(words.sends, equationsOf(edge.equations, step), named(`→ ${edge.to}`, edge.value, step)),
        ...row(say("sum", {name: edge.to}), moment.count > 1 ? made("p", {}, say("arrival", moment)) : null,
          equationsOf(moment.sums, step), again ? null : named(to, moment.sum, step), made("p", {class: "quiet"}, after)),
      ],
    };
  }

  function show() {
    const moment = moments[now], step = told(moment, now);
    byId("slider").value = now;
    byId("slider").setAttribute("aria-valuetext", step.head);
    byId("count").textContent = say("count", {step: now, last});
    byId("back").disabled = now === 0;
    byId("next").disabled = now === last;
    byId("step").replaceChildren(
      made("h2", {}, step.head), ...(step.place ? [made("p", {class: "quiet"}, step.place)] : []),
      ...(step.notes || []).map(text => made("p", {class: "note"}, ...prose(text))),
      ...(step.said ? [made("p", {}, step.said)] : []), made("dl", {}, ...step.rows));
    byId("step").dataset.kind = moment.kind;
    byId("said").textContent = `${say("count", {step: now, last})}. ${step.head}`;
    const line = moment.node < 0 ? null : nodes[moment.node].line;
    for (const other of document.querySelectorAll("#listing .now")) {
      other.classList.remove("now");
      other.querySelector("code").replaceChildren(other.querySelector("code").textContent);
    }
    const ran = line && byId(`line-${line[0]}-${line[1]}`);
    if (ran) {
      ran.classList.add("now");
      marked(ran.querySelector("code"), line[2]);
    }
    if (moment.node >= 0) view.follow(moment.node, othersOf(moment));
    light();
  }

  // Returns the nodes that an operator works with at a moment.
  function othersOf({kind, node, slot}) {
    const {edges = []} = nodes[node];
    return kind === "forward" ? edges.map(edge => edge.from) : kind === "backward" ? [edges[slot].from] : [];
  }

  // Marks the part of a line that ran, where it stands there once.
  function marked(line, part) {
    const text = line.textContent, at = text.indexOf(part);
    if (!part || at < 0 || text.indexOf(part, at + 1) >= 0) return;
    line.replaceChildren(text.slice(0, at), made("mark", {}, part), text.slice(at + part.length));
  }

  function go(step) {
    const next = Math.max(0, Math.min(last, Math.round(Number(step))));
    if (!Number.isFinite(next)) return;
    asked = null;
    const changed = next !== now;
    now = next;
    show();
    if (changed && framed) parent.postMessage({kind: "step", step: now}, "*");
  }

  // Goes to the step of a node: in the pass in which the reader is.
  function goTo(node) {
    const back = moments[now].kind === "backward" || moments[now].kind === "seed";
    const arrivals = added.get(node) || [];
    const step = nodes[node].leaf ? (back && arrivals.length ? arrivals[arrivals.length - 1] : 0)
      : back ? moments.findIndex(moment => moment.kind === "backward" && moment.node === node) : computed.get(node);
    stop();
    go(step >= 0 ? step : computed.get(node) || 0);
  }

  // ------------------------------------------------------------------------------------------------ around the graph

  function listing() {
    code.forEach(({file, lines}, number) => {
      const list = made("div", {class: "lines", role: "list"});
      let before = null;
      for (const [line, text] of lines) {
        const ran = nodes.flatMap((node, k) => node.line && node.line[0] === number && node.line[1] === line ? [k] : []);
        const shown = [made("span", {class: "number", "aria-hidden": "true"}, String(line)), made("code", {}, text || " ")];
        const one = ran.length ? made("button", {type: "button", id: `line-${number}-${line}`}, ...shown) : made("div", {}, ...shown);
        if (before !== null && line > before + 1) list.append(made("div", {class: "gap", "aria-hidden": "true"}, "⋮"));
        before = line;
        if (ran.length) {
          one.addEventListener("click", () => goTo(ran[0]));
          const over = lit => ran.forEach(node => view.boxesOf(node).forEach(box => box.classList.toggle("hovered", lit)));
          for (const event of ["pointerenter", "focus"]) one.addEventListener(event, () => over(true));
          for (const event of ["pointerleave", "blur"]) one.addEventListener(event, () => over(false));
        }
        list.append(made("div", {role: "listitem", class: "line"}, one));
      }
      byId("listing").append(made("h2", {}, words.code, file ? `: ${file}` : ""), list);
    });
  }

  // Lights the line of a box under the pointer.
  function lineOf(event, lit) {
    const box = event.target.closest && event.target.closest("[data-n]");
    if (!box) return;
    nodes.forEach((node, number) => {
      if (!node.line || !view.boxesOf(number).includes(box)) return;
      const line = byId(`line-${node.line[0]}-${node.line[1]}`);
      if (line) line.classList.toggle("hovered", lit);
    });
  }

  function listInputs() {
    const list = made("div", {class: "inputs"});
    for (const input of inputs) {
      const gradient = input.gradient === null ? made("span", {class: "quiet"}, words.not_reached)
        : tensorOf(input.gradient, gradientName(input.name), last, part => ask(input, part));
      list.append(made("div", {class: "input", role: "group", "aria-label": input.name},
        made("code", {class: "own"}, input.name),
        made("div", {class: "both"},
          made("div", {}, made("p", {class: "quiet"}, words.value), tensorOf(input.value, input.name, 0)),
          made("div", {}, made("p", {class: "quiet"}, words.gradient), gradient))));
      for (const part of input.wrong) list.lastChild.querySelector(`[data-name="${CSS.escape(gradientName(input.name) + part)}"]`)?.classList.add("wrong");
    }
    const folded = inputs.length > 8;
    const shown = folded ? made("details", {}, made("summary", {}, made("h2", {}, words.values)), list) : list;
    byId("values").append(...(folded ? [] : [made("h2", {}, words.values)]), shown,
      made("div", {id: "asked", role: "region", "aria-live": "polite", "aria-label": words.gradient}));
    list.addEventListener("pointerleave", unask);
    list.addEventListener("focusout", unask);
  }

  // --------------------------------------------------------------------------------------------------------- controls

  let playing = null;
  function stop() {
    clearInterval(playing);
    playing = null;
    byId("play").textContent = words.play;
    byId("play").setAttribute("aria-pressed", "false");
  }
  function play() {
    if (playing !== null) { stop(); return; }
    if (now === last) go(0);
    byId("play").textContent = words.pause;
    byId("play").setAttribute("aria-pressed", "true");
    playing = setInterval(() => { go(now + 1); if (now === last) stop(); }, 1400);
  }

  const framed = parent !== window;
  byId("back").addEventListener("click", () => { stop(); go(now - 1); });
  byId("next").addEventListener("click", () => { stop(); go(now + 1); });
  byId("play").addEventListener("click", play);
  byId("slider").addEventListener("input", () => { stop(); go(byId("slider").value); });
  document.addEventListener("keydown", event => {
    const by = {ArrowLeft: -1, ArrowRight: 1}[event.key];
    if (!by || event.altKey || event.ctrlKey || event.metaKey || event.target.closest("input, select, textarea, canvas")) return;
    event.preventDefault();
    stop();
    go(now + by);
  });
  for (const [event, lit] of [["pointerover", true], ["pointerout", false], ["focusin", true], ["focusout", false]])
    byId("stage").addEventListener(event, found => lineOf(found, lit));
  // On paper both passes are done, and nothing is at work.
  window.addEventListener("beforeprint", () => {
    asked = null;
    light(last);
    byId("stage").querySelector(".flows").remove();
    unlit();
  });
  window.addEventListener("afterprint", () => light());
  window.addEventListener("message", event => {
    if (framed && event.source === parent && event.data && event.data.kind === "step") { stop(); go(event.data.step); }
  });

  listing();
  listInputs();
  painted();
  show();
  if (framed) parent.postMessage({kind: "ready"}, "*");
})();
