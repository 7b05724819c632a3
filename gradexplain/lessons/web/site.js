// A page of the course: code is copied, exercises are judged, what is done is remembered in this browser, and figures
// walk over positions that torch has computed. Nothing is asked of the network.
(() => {
  const { words, lessons } = JSON.parse(document.getElementById("data").textContent);
  const say = (key, values = {}) => words[key].replace(/\{(\w+)\}/g, (_, name) => values[name]);
  const all = (selector) => [...document.querySelectorAll(selector)];

  function made(name, attributes = {}, ...inside) {
    const one = document.createElement(name);
    for (const [key, value] of Object.entries(attributes)) one.setAttribute(key, value);
    one.append(...inside);
    return one;
  }

  // ---- code ----------------------------------------------------------------------------------------------------------

  for (const code of all("pre.code")) {
    const button = made("button", { type: "button" }, words.copy), text = code.textContent;
    button.addEventListener("click", async () => {
      try {
        await navigator.clipboard.writeText(text);
        button.textContent = words.copied;
      } catch { // not allowed here: what is selected is copied by hand
        getSelection().selectAllChildren(code);
      }
    });
    const box = made("div", { class: "code-box" });
    code.replaceWith(box);
    box.append(code, button);
  }

  // ---- what was done: the right exercises of each lesson that was begun ----------------------------------------------

  const KEY = "gradexplain-course";
  let kept = true, done = {};
  try {
    const read = JSON.parse(localStorage.getItem(KEY) || "{}");
    for (const name of lessons) if (read && Array.isArray(read[name])) done[name] = read[name];
  } catch { // nothing is kept here, or by something else
    kept = false;
  }

  function keep() {
    try {
      localStorage.setItem(KEY, JSON.stringify(done));
    } catch {
      kept = false;
    }
    if (here && parent !== window) parent.postMessage({ kind: "done", lesson: here.dataset.lesson, right: done[here.dataset.lesson], of: Number(here.dataset.count) }, "*");
    showDone();
  }

  function showDone() {
    let whole = 0;
    for (const one of all("li[data-lesson]")) {
      const right = done[one.dataset.lesson], count = Number(one.dataset.count), ready = right && right.length >= count;
      whole += Boolean(ready);
      one.querySelector(".state").textContent = ready ? words.done : right ? say("some", { done: right.length, count }) : "";
      const box = document.querySelector(`svg [data-lesson="${one.dataset.lesson}"]`);
      box.classList.toggle("done", Boolean(ready));
      box.classList.toggle("begun", Boolean(right));
    }
    const place = document.getElementById("progress"), forget = document.getElementById("forget");
    if (place) place.textContent = kept ? say("progress", { done: whole, count: lessons.length }) : words.not_kept;
    if (forget) forget.hidden = !Object.keys(done).length;
  }

  const here = document.querySelector("article[data-lesson]");
  const forget = document.getElementById("forget");
  if (forget) forget.addEventListener("click", () => { done = {}; keep(); });
  addEventListener("pageshow", (event) => { if (event.persisted) location.reload(); });
  showDone();
  const atlas = document.querySelector(".atlas");
  if (atlas) { // the course begins in the middle of its map
    const first = atlas.querySelector("a").getBoundingClientRect(), box = atlas.getBoundingClientRect();
    atlas.scrollLeft = first.left - box.left - (box.width - first.width) / 2;
  }

  // Around a lesson, the live page remembers what was done, and plays with what a figure shows.
  if (here) {
    done[here.dataset.lesson] ||= [];
    if (parent === window) keep();
    else {
      addEventListener("message", ({ source, data }) => {
        if (source !== parent || data?.kind !== "done" || !Array.isArray(data.right)) return;
        done[here.dataset.lesson] = [...new Set([...done[here.dataset.lesson], ...data.right])];
        for (const form of all("form.exercise")) form.classList.toggle("done", done[here.dataset.lesson].includes(Number(form.dataset.number)));
        for (const button of all(".live button.play")) button.hidden = !data.plays;
      });
      parent.postMessage({ kind: "lesson", lesson: here.dataset.lesson }, "*");
    }
  }

  // ---- exercises: judged as answers.py does --------------------------------------------------------------------------

  const DIGITS = "\\d+(?:_\\d+)*";
  const NUMBER = new RegExp(`^[-+]?(?:${DIGITS}\\.?(?:${DIGITS})?|\\.${DIGITS})(?:e[-+]?${DIGITS})?$`, "i");
  const WORDS = { true: 1, false: 0, inf: Infinity, infinity: Infinity, nan: NaN };

  function numberOf(token) {
    const [, sign, word] = /^([-+]?)(\w+)$/.exec(token.toLowerCase()) || [];
    if (word in WORDS && !(sign && /^[tf]/.test(word))) return sign === "-" ? -WORDS[word] : WORDS[word];
    const number = NUMBER.test(token) ? Number(token.replaceAll("_", "")) : Infinity;
    return Number.isFinite(number) ? number : null;
  }

  /** Numbers that were written out, nested as they are; null where the text is anything else. */
  function written(text) {
    const lists = [[]], open = [];
    let may = true, comma = false;
    for (const [, token] of text.matchAll(/\s*([[\](),]|[^\s[\](),]+)/g)) {
      if (token === "]" || token === ")") {
        if (open.pop() !== token) return null;
        lists.pop();
        may = false;
      } else if (token === ",") {
        if (may) return null;
        may = true;
        comma ||= !open.length;
      } else if (!may) {
        return null;
      } else if (token === "[" || token === "(") {
        const inner = [];
        lists.at(-1).push(inner);
        lists.push(inner);
        open.push(token === "[" ? "]" : ")");
      } else {
        const number = numberOf(token);
        if (number === null) return null;
        lists.at(-1).push(number);
        may = false;
      }
    }
    if (open.length || !lists[0].length) return null;
    return comma || lists[0].length !== 1 ? lists[0] : lists[0][0];
  }

  const shapeOf = (value) => Array.isArray(value) ? [value.length, ...(value.length ? shapeOf(value[0]) : [])] : [];
  const even = (value) => !Array.isArray(value) || value.every((one) => String(shapeOf(one)) === String(shapeOf(value[0])) && even(one));

  /** Whether an answer is right; null where numbers are asked for and it holds none. */
  function judged(text, { word, shape, ends }) {
    text = text.normalize("NFKC").replaceAll("\u2212", "-");
    if (word !== undefined) return text.replace(/\s+/g, "").toLowerCase() === word;
    const value = written(text);
    if (value === null || !even(value)) return null;
    const flat = [value].flat(Infinity);
    const alike = String(shapeOf(value)) === String(shape) || (flat.length === 1 && ends.length === 1);
    return alike && ends.every(([low, high], k) => low <= flat[k] && flat[k] <= high);
  }

  for (const form of all("form.exercise")) {
    const number = Number(form.dataset.number), accepted = JSON.parse(atob(form.dataset.accepted));
    const field = form.querySelector("input"), said = form.querySelector(".said");
    form.classList.toggle("done", done[here.dataset.lesson].includes(number));
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      const right = judged(field.value, accepted);
      said.textContent = words[right === null ? "no_number" : right ? "right" : "not_right"];
      said.className = `said ${right ? "good" : right === null ? "unsure" : "bad"}`;
      if (!right || done[here.dataset.lesson].includes(number)) return;
      done[here.dataset.lesson].push(number);
      form.classList.add("done");
      keep();
    });
  }

  // ---- live figures --------------------------------------------------------------------------------------------------

  function shown(value) {
    if (value === null) return "–";
    const size = Math.abs(value), text = size && (size >= 1e5 || size < 1e-3) ? value.toExponential(4) : String(Number(value.toPrecision(6)));
    return text.replaceAll("-", "−");
  }
  const number = (name, value) => made("b", { "data-name": name, "data-value": String(value) }, shown(value));
  const told = (name, value, kind = "") => made("span", { class: kind }, `${name} = `, number(name, value));

  /** A row of the controls: a slider over so many positions; `text` says what a position is. */
  function slider(controls, name, last, at, text, moved) {
    const id = `control-${all(".live input").length}`, input = made("input", { type: "range", id, min: 0, max: last, step: 1 });
    input.value = at;
    const say = () => input.setAttribute("aria-valuetext", text(Number(input.value)));
    input.addEventListener("input", () => { say(); moved(); });
    controls.append(made("label", { for: id }, name), input);
    say();
    return {
      get at() { return Number(input.value); },
      set at(place) { input.value = place; say(); },
    };
  }

  /** Axes on a picture, as wide as there is room: where numbers lie on it, and back. */
  function axes(svg, [left, right], [bottom, top], { square = false, text } = {}) {
    const width = Math.max(220, Math.min(svg.parentElement.clientWidth, square ? 380 : 560)), height = square ? width - 20 : Math.round(Math.min(320, width * 0.62));
    const across = width - EDGE.left - EDGE.right, tall = height - EDGE.top - EDGE.bottom;
    svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
    Object.assign(svg.style, { width: `${width}px`, height: `${height}px` });
    const x = (value) => EDGE.left + ((value - left) / (right - left)) * across;
    const y = (value) => height - EDGE.bottom - ((value - bottom) / (top - bottom)) * tall;
    const back = (px, py) => [left + ((px - EDGE.left) / across) * (right - left), bottom + ((height - EDGE.bottom - py) / tall) * (top - bottom)];
    const clip = `inside-${all(".live svg").indexOf(svg)}`;
    const paint = (inside, over = []) => svg.replaceChildren(
      element("clipPath", { id: clip }, element("rect", { x: EDGE.left, y: EDGE.top, width: across, height: tall })),
      ...grid(x, y, [left, right], [bottom, top], width, height, text),
      element("g", { "clip-path": `url(#${clip})` }, ...inside), ...over);
    return { x, y, back, paint, width, height };
  }

  const dot = (cx, cy, kind = "point", r = 8) => element("circle", { class: kind, cx, cy, r });
  const nearest = (numbers, wanted) => numbers.reduce((best, one, k) => Math.abs(one - wanted) < Math.abs(numbers[best] - wanted) ? k : best, 0);
  const widened = (low, high) => [low - 0.06 * (high - low || 1), high + 0.06 * (high - low || 1)];
  const arrow = (x, y, dx, dy, kind, size = 9) => {
    const long = Math.hypot(dx, dy) || 1, [ux, uy] = [dx / long, dy / long], [tx, ty] = [x + dx, y + dy], half = size / 2.2;
    return [element("line", { class: kind, x1: x, y1: y, x2: tx - ux * size * 0.6, y2: ty - uy * size * 0.6 }),
      element("path", { class: kind === "tangent" ? "head" : "tip", d: `M${tx} ${ty}L${tx - size * ux - half * uy} ${ty - size * uy + half * ux}L${tx - size * ux + half * uy} ${ty - size * uy - half * ux}Z` })];
  };

  /** Calls `moved` with where in a picture's numbers the pointer drags. */
  function dragged(svg, place, moved) {
    let held = false;
    const move = (event) => {
      const box = svg.getBoundingClientRect();
      moved(...place().back(event.clientX - box.left, event.clientY - box.top));
    };
    svg.addEventListener("pointerdown", (event) => {
      if (event.button !== 0) return;
      held = true;
      svg.setPointerCapture(event.pointerId);
      move(event);
    });
    svg.addEventListener("pointermove", (event) => { if (held) move(event); });
    for (const kind of ["pointerup", "pointercancel"]) svg.addEventListener(kind, () => { held = false; });
  }

  const FIGURES = {
    curve({ variable, x, y, slopes, start, window: [low, high] }, { controls, svg, tell }) {
      const at = slider(controls, variable, x.length - 1, start, (k) => shown(x[k]), draw);
      let place = null;
      function draw() {
        const k = at.at, height = y[k], slope = slopes[k];
        place = axes(svg, [x[0], x.at(-1)], widened(low, high));
        const along = (px) => place.y(height + slope * (px - x[k])), known = height !== null && slope !== null;
        place.paint([
          element("path", { class: "second", d: lineOf(x, slopes, place.x, place.y) }),
          element("path", { class: "curve", d: lineOf(x, y, place.x, place.y) }),
          ...(known ? [element("line", { class: "tangent", x1: place.x(x[0]), x2: place.x(x.at(-1)), y1: along(x[0]), y2: along(x.at(-1)) }), dot(place.x(x[k]), place.y(slope), "visited", 4)] : []),
        ], known ? [dot(place.x(x[k]), place.y(height))] : []);
        tell(told(variable, x[k]), told(words.value, height, "curve"), told(words.slope, slope, "second"));
      }
      dragged(svg, () => place, (px) => { at.at = nearest(x, px); draw(); });
      return draw;
    },

    descent({ variable, rates, start, points, exact, losses, factors, x, y }, { controls, svg, tell, beside }) {
      const at = slider(controls, words.rate, rates.length - 1, start, (k) => String(rates[k]), draw);
      function draw() {
        const k = at.at, place = axes(svg, [x[0], x.at(-1)], widened(Math.min(...y), Math.max(...y)));
        const visited = points[k].map((one, step) => [place.x(one), place.y(losses[k][step])]);
        place.paint([
          element("path", { class: "curve", d: lineOf(x, y, place.x, place.y) }),
          element("polyline", { class: "path", points: visited.map((one) => one.map((v) => Math.max(-1e5, Math.min(1e5, v)).toFixed(1))).join(" ") }),
          ...visited.slice(1).map(([cx, cy]) => dot(cx, cy, "visited", 3.5)), dot(...visited[0], "point", 6),
        ]);
        tell(told(words.rate, rates[k]), told(words.factor, factors[k]));
        const rows = points[k].map((one, step) => made("tr", {}, made("td", {}, String(step)), made("td", {}, number(`${variable}${step}`, one)),
          made("td", {}, number(`exact${step}`, exact[k][step])), made("td", {}, shown(one - exact[k][step]))));
        const heads = [words.step, words.torch_point, words.closed, words.off].map((head) => made("th", { scope: "col" }, head));
        beside.replaceChildren(made("table", {}, made("thead", {}, made("tr", {}, ...heads)), made("tbody", {}, ...rows)));
      }
      return draw;
    },

    "step-error"({ steps, types, start }, { controls, svg, tell }) {
      const id = "dtype", choice = made("select", { id }, ...types.map((one, k) => made("option", { value: k }, one.dtype)));
      choice.addEventListener("change", draw);
      controls.append(made("label", { for: id }, words.type), choice);
      const at = slider(controls, words.size, steps.length - 1, start, (k) => shown(steps[k]), draw);
      const log = (value) => value > 0 ? Math.log10(value) : null, logs = steps.map(log);
      let place = null;
      function draw() {
        const k = at.at, { forward, central, automatic, best } = types[choice.value];
        const lines = [forward, central].map((one) => one.map(log)), known = [...lines.flat(), log(automatic)].filter((one) => one !== null);
        place = axes(svg, [logs[0], logs.at(-1)], [Math.floor(Math.min(...known)), Math.ceil(Math.max(...known))], { text: (value) => `1e${value}`.replace("-", "−") });
        const { x, y } = place, edge = x(logs[best.forward]), flat = log(automatic);
        const inside = [element("rect", { class: "shade", x: EDGE.left, width: Math.max(0, edge - EDGE.left), y: 0, height: place.height }),
          element("path", { class: "curve", d: lineOf(logs, lines[0], x, y) }), element("path", { class: "second", d: lineOf(logs, lines[1], x, y) })];
        if (flat !== null) inside.push(element("line", { class: "flat", x1: x(logs[0]), x2: x(logs.at(-1)), y1: y(flat), y2: y(flat) }));
        inside.push(element("line", { class: "axis", x1: x(logs[k]), x2: x(logs[k]), y1: 0, y2: place.height }));
        place.paint(inside, lines.filter((one) => one[k] !== null).map((one, n) => dot(x(logs[k]), y(one[k]), n ? "visited" : "point", n ? 5 : 7)));
        const rules = k < best.forward ? "rules_rounding" : k > best.forward ? "rules_formula" : "best";
        tell(told("h", steps[k]), told(words.forward, forward[k], "curve"), told(words.central, central[k], "second"), told(words.automatic, automatic, "flat"), made("span", { class: "rules" }, words[rules]));
      }
      dragged(svg, () => place, (px) => { at.at = nearest(logs, px); draw(); });
      return draw;
    },

    surface(figure, { controls, svg, tell, beside }) {
      const { variables, x, y, heights, gradient: [across, up], start } = figure, ends = [[x[0], x.at(-1)], [y[0], y.at(-1)]];
      const at = variables.map((name, n) => slider(controls, name, x.length - 1, start[n], (k) => shown(x[k]), draw));
      const turn = slider(controls, words.turn, 72, 65, (k) => `${k * 5}°`, draw);
      const solid = element("svg", { role: "img" });
      beside.append(solid);
      const known = heights.flat().filter((one) => one !== null), [low, high] = [Math.min(...known), Math.max(...known)];
      const steepest = Math.max(...across.flat().map((one, k) => Math.hypot(one, up.flat()[k])));
      let place = null;
      function draw() {
        const [i, j] = at.map((one) => one.at), [gx, gy, z] = [across[j][i], up[j][i], heights[j][i]];
        place = axes(svg, ...ends, { square: true });
        const long = (0.3 * place.width) / steepest, [px, py] = [place.x(x[i]), place.y(y[j])], norm = Math.hypot(gx, gy);
        const inside = ticks(low, high, 9).map((level) => element("path", { class: "level", d: contour(figure, level, place.x, place.y) }));
        for (let b = 4; b < y.length - 1; b += 8) for (let a = 4; a < x.length - 1; a += 8) inside.push(...arrow(place.x(x[a]), place.y(y[b]), across[b][a] * long * 0.5, -up[b][a] * long * 0.5, "arrow", 5));
        if (norm) inside.push(element("line", { class: "flat", x1: px - 60 * gy / norm, y1: py - 60 * gx / norm, x2: px + 60 * gy / norm, y2: py + 60 * gx / norm }), ...arrow(px, py, gx * long, -gy * long, "tangent"));
        place.paint(inside, [dot(px, py)]);
        tell(told(variables[0], x[i]), told(variables[1], y[j]), told(words.height, z), told(`∂/∂${variables[0]}`, gx), told(`∂/∂${variables[1]}`, gy), made("span", {}, `${words.length} = ${shown(norm)}`));
        drawSolid(i, j, z, gx, gy);
      }
      /** The surface from the side, with the tangent plane; what is drawn here is shown in numbers beside it. */
      function drawSolid(i, j, z, gx, gy) {
        const width = place.width, angle = (turn.at * 5 * Math.PI) / 180, [cos, sin] = [Math.cos(angle), Math.sin(angle)], unit = width / 6.4;
        const on = (a, b, c) => [width / 2 + unit * (a * cos - b * sin), width * 0.7 + 0.4 * unit * (a * sin + b * cos) - (0.42 * width * (c - low)) / (high - low || 1)];
        const line = (points) => `M${points.map((one) => one.map((v) => v.toFixed(1)).join(" ")).join("L")}`;
        const mesh = [];
        for (let k = 0; k < x.length; k += 4) mesh.push(line(y.map((one, b) => on(x[k], one, heights[b][k]))), line(x.map((one, a) => on(one, y[k], heights[k][a]))));
        const corners = [[-0.6, -0.6], [0.6, -0.6], [0.6, 0.6], [-0.6, 0.6]].map(([a, b]) => on(x[i] + a, y[j] + b, z + gx * a + gy * b));
        const tip = on(x[i] + gx * 0.25, y[j] + gy * 0.25, z + (gx * gx + gy * gy) * 0.25), from = on(x[i], y[j], z);
        solid.setAttribute("viewBox", `0 0 ${width} ${width * 0.9}`);
        solid.setAttribute("aria-label", svg.getAttribute("aria-label"));
        Object.assign(solid.style, { width: `${width}px`, height: `${width * 0.9}px` });
        solid.replaceChildren(element("path", { class: "mesh", d: mesh.join(""), opacity: 0.6 }), element("path", { class: "plane", d: `${line(corners)}Z` }),
          ...(gx || gy ? arrow(...from, tip[0] - from[0], tip[1] - from[1], "tangent") : []), dot(...from, "point", 6));
      }
      svg.style.touchAction = "none";
      dragged(svg, () => place, (px, py) => { at[0].at = nearest(x, px); at[1].at = nearest(y, py); draw(); });
      return draw;
    },
  };
  const HOW = { curve: "how_curve", descent: "how_descent", "step-error": "how_step", surface: "how_surface" };

  /** What a figure shows now, as the live page takes it. */
  function played({ kind, expression, variable, variables = [variable], points, at }, place) {
    const shownNow = (name) => place.querySelector(`output [data-name="${name}"]`)?.dataset.value;
    const inputs = Object.fromEntries(variables.map((name) => [name, shownNow(name) ?? points?.[0][0] ?? at]));
    return { target: expression, inputs, lr: kind === "descent" ? shownNow(words.rate) : undefined };
  }

  for (const place of all(".live")) {
    const data = JSON.parse(place.querySelector("script").textContent), { kind } = data;
    const parts = { controls: made("div", { class: "controls" }), output: made("output", { "aria-live": "polite" }), svg: element("svg", { role: "img" }), beside: made("div", { class: "wide" }) };
    const heading = made("p", { class: "try" }, made("strong", {}, words.try, data.expression ? ": " : ""), data.expression ? made("code", {}, data.expression) : "");
    place.hidden = false;
    place.setAttribute("aria-label", heading.textContent);
    const play = made("button", { type: "button", class: "play", hidden: "" }, words.play);
    play.addEventListener("click", () => parent.postMessage({ kind: "play", ...played(data, place) }, "*"));
    if (data.expression) heading.append(" ", play);
    place.append(heading, made("p", {}, words[HOW[kind]]), parts.controls, parts.output, made("div", { class: "both" }, made("div", { class: "picture" }, parts.svg), parts.beside));
    if (kind === "curve" || kind === "step-error") parts.beside.remove();
    parts.tell = (...numbers) => {
      parts.output.replaceChildren(...numbers);
      parts.svg.setAttribute("aria-label", say("plot", { text: numbers.map((one) => one.textContent).join(", ") }));
    };
    const draw = FIGURES[kind](data, parts);
    draw();
    new ResizeObserver(draw).observe(place);
  }
})();
