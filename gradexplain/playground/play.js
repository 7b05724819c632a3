// The controls of the page: what its reader asks is sent to the server, whose answer is shown; nothing is computed here
// but where a number lies on a picture.
const config = JSON.parse(document.getElementById("config").textContent);
const words = config.words;
const $ = (id) => document.getElementById(id);
const say = (key, data = {}) => words[key].replace(/\{(\w+)\}/g, (_, name) => data[name]);
const OPTIONS = Object.keys(config.named.options);
// A number, in the brackets of its shape, and what may follow it: its type.
const NUMBER = /^\s*(\[*)\s*([-+]?(?:\d+\.?\d*|\.\d+)(?:e[-+]?\d+)?)\s*(\]*(?:\s*:\s*(?:float|bfloat|double|half)\w*)?)\s*$/i;

// ---- state: the texts of the fields ----------------------------------------------------------------------------------

/** Texts by names that are their reader's: no name finds what every object of JavaScript has (`constructor`). */
const byName = (texts) => Object.assign(Object.create(null), texts);
const copied = (state) => ({ target: state.target, inputs: byName(state.inputs), options: { ...state.options } });
let state = fromLink() || copied(config.named);
let names = Object.keys(state.inputs);
const remembered = byName(state.inputs); // what inputs were that an edit left out

function fromLink() {
  try {
    const read = JSON.parse(decodeURIComponent(host.kept));
    const texts = [read.target, ...Object.values(read.inputs), ...Object.values(read.options)];
    if (!texts.every((text) => typeof text === "string")) return null;
    const options = { ...config.named.options };
    for (const name of OPTIONS) if (name in read.options) options[name] = read.options[name];
    return { target: read.target, inputs: byName(read.inputs), options };
  } catch {
    return null;
  }
}

const toLink = () => encodeURIComponent(JSON.stringify(state));

// ---- asking ----------------------------------------------------------------------------------------------------------

let asked = 0, shown = 0, waiting = null, flying = null, began = 0;

/** Asks now; while a thing is dragged, each answer is awaited (but not for long), so that the page follows. */
function ask(dragged = false) {
  clearTimeout(waiting);
  host.keep(toLink());
  if (dragged && flying && performance.now() - began < 400) {
    waiting = setTimeout(() => ask(true), 30);
    return;
  }
  send();
}

function later(ms) {
  clearTimeout(waiting);
  waiting = setTimeout(ask, ms);
}

async function send() {
  const serial = ++asked;
  began = performance.now();
  const mine = (flying = {});
  const slow = setTimeout(() => tell(say("working")), 300);
  try {
    const response = await host.post("/answer", JSON.stringify(state), words);
    if (serial <= shown || response.newer) return;
    shown = serial;
    show(response);
  } catch (fault) {
    if (serial === asked) tell(fault.message || say("gone"), true);
  } finally {
    clearTimeout(slow);
    if (flying === mine) flying = null;
  }
}

function tell(text, bad = false) {
  $("status").textContent = text;
  $("status").classList.toggle("fault", bad);
}

// ---- showing ---------------------------------------------------------------------------------------------------------

function show(answer) {
  clearFaults();
  if (answer.names) {
    names = answer.names;
    drawInputs();
  }
  if (answer.missing) {
    for (const name of answer.missing) state.inputs[name] = remembered[name] ?? "1";
    drawInputs();
    return ask();
  }
  $("shown").classList.toggle("old", Boolean(answer.fault));
  if (answer.fault) {
    fault(answer.field, answer.fault);
    return tell(say("kept"));
  }
  if (began) tell(say("answered", { seconds: ((performance.now() - began) / 1000).toFixed(2) }));
  page = answer.page;
  open(page);
  readOut(answer);
  figure = answer.figure;
  if (figure) state.options.ends = figure.ends.flat().join(",");
  $("no-figure").textContent = answer.no_figure || "";
  $("descent").hidden = !figure;
  drawFigure();
  host.keep(toLink());
}

function fault(field, sentence) {
  const place = $(field + "-fault") || $("target-fault");
  const control = $(field) || $("target");
  place.textContent = sentence;
  control.setAttribute("aria-invalid", "true");
  control.setAttribute("aria-describedby", place.id);
  const folded = control.closest("details");
  if (folded) folded.open = true;
}

function clearFaults() {
  for (const place of document.querySelectorAll("main .fault:not(#status)")) place.textContent = "";
  for (const control of document.querySelectorAll("[aria-invalid]")) {
    control.removeAttribute("aria-invalid");
    control.removeAttribute("aria-describedby");
  }
}

function readOut(answer) {
  const parts = [];
  const [name, value] = answer.output;
  if (value !== null) parts.push(["value", `${name} = ${value}`]);
  for (const [input, text] of Object.entries(answer.gradients)) parts.push(["gradient", `∂${answer.scalar}/∂${input} = ${text}`]);
  parts.push(["verdict", say(answer.verdict.replace(" ", "_"))]);
  $("readout").replaceChildren(...parts.map(([kind, text]) => {
    const span = document.createElement("span");
    span.className = kind;
    span.textContent = text;
    return span;
  }));
}

// ---- the explanation's own page, in a frame that can do nothing but show it ------------------------------------------

let page = "", frame = null, step = null, scrolled = 0;
// What is added to the page in the frame: where it was scrolled to is kept over an edit.
const BRIDGE = `<script>addEventListener("scroll",()=>parent.postMessage({kind:"scroll",y:scrollY},"*"),{passive:true});
addEventListener("message",(e)=>{if(e.source===parent&&e.data&&e.data.kind==="scroll")scrollTo(0,e.data.y)});
<\/script>`;

function open(html) {
  for (const old of document.querySelectorAll("iframe.next")) old.remove();
  const next = document.createElement("iframe");
  next.title = words.explanation;
  next.className = "next";
  next.setAttribute("sandbox", "allow-scripts");
  const end = html.lastIndexOf("</body>");
  next.addEventListener("load", () => {
    if (!next.srcdoc || !next.isConnected || !next.classList.contains("next")) return; // an empty one loads as well
    next.contentWindow.postMessage({ kind: "scroll", y: scrolled }, "*");
    const old = frame;
    frame = next;
    next.className = "now";
    if (old) old.className = "past";
    if (old) setTimeout(() => old.remove(), 60); // until the new one is painted
  });
  $("shown").append(next);
  void next.offsetWidth; // the page in it finds its size when it begins
  next.srcdoc = html.slice(0, end) + BRIDGE + html.slice(end);
}

addEventListener("message", (event) => {
  const data = event.data;
  const ours = [...document.querySelectorAll("iframe")].find((one) => one.contentWindow === event.source);
  if (!ours || typeof data !== "object" || data === null) return;
  if (ours === lessonFrame) return heard(data);
  if (data.kind === "ready" && step !== null) ours.contentWindow.postMessage({ kind: "step", step }, "*");
  if (ours !== frame) return;
  if (data.kind === "step" && Number.isFinite(data.step)) step = data.step;
  if (data.kind === "scroll" && Number.isFinite(data.y)) scrolled = data.y;
});

// ---- a lesson, over the explanation: what is done in it is remembered here, for all ports of this machine's servers ----

const COURSE = "gradexplain-course";
const titles = new Map([...document.querySelectorAll("#lesson option")].map((option) => [option.value, option.textContent]));
let lesson = "", lessonFrame = null;

/** The exercises that were right, and how many there are, by lesson. */
function done() {
  try {
    const kept = document.cookie.split("; ").find((one) => one.startsWith(COURSE + "="));
    return byName(JSON.parse(decodeURIComponent(kept.slice(COURSE.length + 1))));
  } catch {
    return byName({});
  }
}

function markDone() {
  const known = done();
  for (const option of document.querySelectorAll("#lesson option")) {
    const { right, of } = known[option.value] || {};
    option.textContent = (right && right.length >= of ? "✓ " : "") + titles.get(option.value);
  }
}

async function teach() {
  const name = state.options.lesson;
  if (name === lesson || !$("lesson")) return;
  lesson = name;
  $("lesson-fault").textContent = "";
  if (lessonFrame) lessonFrame.remove();
  lessonFrame = null;
  if (!name) return;
  tell(say("lesson_runs"));
  try {
    const found = await host.post("/lesson", JSON.stringify({ lesson: name }), words);
    if (lesson !== name || found.newer) return;
    tell("");
    if (found.fault) throw new Error(found.fault);
    lessonFrame = document.createElement("iframe");
    lessonFrame.className = "taught";
    lessonFrame.title = titles.get(name);
    lessonFrame.setAttribute("sandbox", "allow-scripts allow-forms");
    lessonFrame.srcdoc = found.page;
    $("shown").append(lessonFrame);
  } catch (fault) {
    tell("");
    lesson = "";
    $("lesson-fault").textContent = fault.message;
  }
}

/** What a lesson says: that it is there, what was right in it, or that its figure is to be played with. */
function heard(data) {
  if (data.kind === "lesson") {
    const { right = [] } = done()[lesson] || {};
    lessonFrame.contentWindow.postMessage({ kind: "done", right, plays: true }, "*");
  } else if (data.kind === "done" && Array.isArray(data.right) && data.right.every(Number.isInteger) && Number.isInteger(data.of)) {
    const kept = { ...done(), [lesson]: { right: data.right, of: data.of } };
    document.cookie = `${COURSE}=${encodeURIComponent(JSON.stringify(kept))}; max-age=31536000; samesite=strict; path=/`;
    markDone();
  } else if (data.kind === "play" && typeof data.target === "string") {
    state.target = data.target;
    state.inputs = byName(Object.fromEntries(Object.entries(data.inputs).map(([name, value]) => [name, String(value)])));
    state.options = { ...config.named.options, lesson, lr: String(data.lr ?? "") };
    names = Object.keys(state.inputs);
    drawFields();
    ask();
    $("target").scrollIntoView({ block: "nearest" });
  }
}

// ---- fields ----------------------------------------------------------------------------------------------------------

const decimals = (step) => Math.max(0, Math.ceil(-Math.log10(step) - 1e-9));
const rounded = (value, step) => Number((Math.round(value / step) * step).toFixed(decimals(step)));

/** A step by which a thing that is `span` long is dragged: a power of ten, of which there are a hundred or more. */
const stepOf = (span) => 10 ** Math.floor(Math.log10(span / 100) + 1e-9);

function numberOf(name) {
  const read = NUMBER.exec(state.inputs[name] || "");
  return read ? Number(read[2]) : null;
}

/** Puts a number where one stands in a field, in the shape and type that are there. */
function put(name, value) {
  const [, before, , after] = NUMBER.exec(state.inputs[name] || "") || [null, "", "", ""];
  state.inputs[name] = before + value + after;
}

function setNumber(name, value) {
  put(name, value);
  drawInputs();
  ask(true);
}

function reachOf(value) {
  const wanted = Math.max(2, 2 * Math.abs(value)), power = 10 ** Math.floor(Math.log10(wanted));
  return [1, 2, 5, 10].map((k) => k * power).find((reach) => reach >= wanted);
}

function drawInputs() {
  const rows = new Map([...$("inputs").children].map((row) => [row.dataset.name, row]));
  for (const [name, row] of rows) if (!names.includes(name)) row.remove();
  for (const name of Object.keys(state.inputs)) {
    remembered[name] = state.inputs[name];
    if (!names.includes(name)) delete state.inputs[name];
  }
  for (const name of names) {
    if (!(name in state.inputs)) continue;
    const row = rows.get(name) || newInput(name);
    if ($("inputs").children[names.indexOf(name)] !== row) $("inputs").insertBefore(row, $("inputs").children[names.indexOf(name)] || null);
    const text = $("inputs." + name), slider = $("slider." + name), value = numberOf(name);
    if (text.value !== state.inputs[name]) text.value = state.inputs[name];
    row.classList.toggle("number", value !== null);
    slider.hidden = value === null;
    if (value === null) continue;
    if (!slider.dataset.held) {
      const ends = figure ? figure.ends[figure.variables.indexOf(name)] : null;
      const reach = ends ? null : Math.max(reachOf(value), value >= +slider.min && value <= +slider.max ? +slider.max : 0);
      [slider.min, slider.max] = ends || [-reach, reach];
      slider.step = stepOf(slider.max - slider.min);
    }
    slider.value = value;
  }
}

function newInput(name) {
  const row = document.createElement("div");
  row.className = "input";
  row.dataset.name = name;
  const label = document.createElement("label");
  label.textContent = name;
  label.htmlFor = "inputs." + name;
  const text = document.createElement("input");
  Object.assign(text, { type: "text", id: "inputs." + name, spellcheck: false, autocapitalize: "off" });
  const slider = document.createElement("input");
  Object.assign(slider, { type: "range", id: "slider." + name, min: 0, max: 0, step: "any" });
  slider.setAttribute("aria-label", say("drag", { name }));
  const place = document.createElement("p");
  Object.assign(place, { className: "fault", id: "inputs." + name + "-fault" });
  place.setAttribute("role", "alert");
  text.addEventListener("input", () => {
    state.inputs[name] = text.value;
    drawInputs();
    later(60);
  });
  text.addEventListener("keydown", (event) => nudge(event, name));
  slider.addEventListener("input", () => {
    slider.dataset.held = "yes";
    setNumber(name, Number(slider.value));
  });
  slider.addEventListener("change", () => {
    delete slider.dataset.held;
    drawInputs();
    ask();
  });
  const both = document.createElement("div");
  both.className = "both";
  both.append(text, slider);
  row.append(label, both, place);
  return row;
}

/** Makes the number at the caret larger or smaller by the arrow keys: by one of its last digits, ten with Shift. */
function nudge(event, name) {
  if (event.key !== "ArrowUp" && event.key !== "ArrowDown") return;
  const field = event.target, caret = field.selectionStart;
  for (const found of field.value.matchAll(/[-+]?(?:\d+\.?\d*|\.\d+)(?![\w.]*\()/g)) {
    if (caret < found.index || caret > found.index + found[0].length) continue;
    event.preventDefault();
    const digits = (found[0].split(".")[1] || "").length;
    const by = 10 ** -digits * (event.shiftKey ? 10 : 1) * (event.key === "ArrowUp" ? 1 : -1);
    const text = (Number(found[0]) + by).toFixed(digits);
    state.inputs[name] = field.value.slice(0, found.index) + text + field.value.slice(found.index + found[0].length);
    drawInputs();
    field.setSelectionRange(caret, caret);
    ask(true);
    return;
  }
}

for (const name of OPTIONS.filter((name) => $(name))) {
  $(name).addEventListener("input", () => {
    state.options[name] = $(name).value;
    later(60);
  });
}

$("target").addEventListener("input", () => {
  state.target = $("target").value;
  later(60);
});
$("form").addEventListener("submit", (event) => {
  event.preventDefault();
  ask();
});

function drawFields() {
  $("target").value = state.target;
  for (const name of OPTIONS) if ($(name)) $(name).value = state.options[name];
  drawInputs();
  teach();
}

addEventListener("hashchange", () => {
  const read = fromLink();
  if (!read) return;
  state = read;
  names = Object.keys(state.inputs);
  drawFields();
  ask();
});

// ---- the figure ------------------------------------------------------------------------------------------------------

let figure = null;

let scale = null; // of the figure that is drawn: from pixels to numbers

function drawFigure() {
  $("figure").hidden = !figure;
  if (!figure) return;
  const plot = $("plot"), flat = figure.variables.length === 2;
  const width = Math.max(240, Math.min(plot.parentElement.clientWidth, flat ? 400 : Infinity)), across = width - EDGE.left - EDGE.right;
  const [[left, right], [bottom, top]] = flat ? figure.ends : [figure.ends[0], heights()];
  const up = flat ? (across * (top - bottom)) / (right - left) : Math.min(330, Math.max(170, width * 0.56));
  const height = Math.round(Math.min(600, up) + EDGE.top + EDGE.bottom), tall = height - EDGE.top - EDGE.bottom;
  plot.setAttribute("viewBox", `0 0 ${width} ${height}`);
  Object.assign(plot.style, { width: width + "px", height: height + "px" });
  const x = (value) => EDGE.left + ((value - left) / (right - left)) * across;
  const y = (value) => height - EDGE.bottom - ((value - bottom) / (top - bottom)) * tall;
  scale = {
    x, y,
    back: (px, py) => [left + ((px - EDGE.left) / across) * (right - left), bottom + ((height - EDGE.bottom - py) / tall) * (top - bottom)],
  };
  const held = document.activeElement === plot.querySelector(".point");
  const inside = element("clipPath", { id: "inside" }, element("rect", { x: EDGE.left, y: EDGE.top, width: across, height: tall }));
  plot.replaceChildren(
    element("defs", {}, inside),
    ...grid(x, y, [left, right], [bottom, top], width, height),
    ...axisNames(width, height),
    element("g", { "clip-path": "url(#inside)" }, ...(flat ? contourParts(x, y) : curveParts(x, y, left, right)), ...pathParts(x, y)),
    point(x(figure.at[0]), y(flat ? figure.at[1] : figure.value)),
  );
  if (held) plot.querySelector(".point").focus({ preventScroll: true });
}

/** The names of the variables, at the ends of their axes. */
function axisNames(width, height) {
  const [across, up] = figure.variables, shortened = (name) => (name.length > 12 ? `${name.slice(0, 11)}…` : name);
  const right = element("text", { class: "name", x: width - EDGE.right - 4, y: height - EDGE.bottom - 6, "text-anchor": "end" }, shortened(across));
  return up ? [right, element("text", { class: "name", x: EDGE.left + 5, y: EDGE.top + 13 }, shortened(up))] : [right];
}

/** The heights that are shown: those of the curve and of the point, with a margin. */
function heights() {
  const low = Math.min(figure.window[0], figure.value), high = Math.max(figure.window[1], figure.value);
  const margin = 0.06 * (high - low) || 1;
  return [low - margin, high + margin];
}

function curveParts(x, y, left, right) {
  const along = (at) => y(figure.value + figure.gradient[0] * (at - figure.at[0]));
  return [
    element("path", { class: "curve", d: lineOf(figure.x, figure.y, x, y) }),
    element("line", { class: "tangent", x1: x(left), x2: x(right), y1: along(left), y2: along(right) }),
  ];
}

/** The contours at round levels, the higher the stronger, and the direction of the gradient. */
function contourParts(x, y) {
  const known = figure.heights.flat().filter((height) => height !== null).sort((a, b) => a - b);
  const part = (p) => known[Math.round(p * (known.length - 1))];
  const levels = known.length && part(0.98) > part(0.02) ? ticks(part(0.02), part(0.98), 10) : [];
  const parts = levels.map((level, k) => {
    const line = element("path", { class: "level", d: contour(figure, level, x, y), opacity: 0.35 + (0.65 * (k + 1)) / levels.length });
    line.append(element("title", {}, tickText(level)));
    return line;
  });
  const [gx, gy] = figure.gradient, norm = Math.hypot(gx, gy);
  if (norm > 0) {
    const [px, py] = [x(figure.at[0]), y(figure.at[1])], [ux, uy] = [gx / norm, -gy / norm];
    const [tx, ty] = [px + 56 * ux, py + 56 * uy];
    parts.push(element("line", { class: "tangent", x1: px, y1: py, x2: tx - 6 * ux, y2: ty - 6 * uy }));
    parts.push(element("path", { class: "head", d: `M${tx} ${ty}L${tx - 11 * ux - 5 * uy} ${ty - 11 * uy + 5 * ux}L${tx - 11 * ux + 5 * uy} ${ty - 11 * uy - 5 * ux}Z` }));
  }
  return parts;
}

function pathParts(x, y) {
  const places = (figure.descent || []).map((visited) => [x(visited[0]), y(visited[1])]);
  const shown = places.filter(([, py]) => Math.abs(py) < 1e5);
  if (!shown.length) return [];
  const line = element("polyline", { class: "path", points: shown.map((place) => place.map((v) => v.toFixed(1)).join(",")).join(" ") });
  return [line, ...shown.slice(1).map(([cx, cy]) => element("circle", { class: "visited", cx, cy, r: 3 }))];
}

function point(cx, cy) {
  const at = figure.variables.map((name, k) => `${name} = ${figure.at[k]}`).join(", ");
  return element("circle", {
    class: "point", cx, cy, r: 8, tabindex: 0, role: "slider", "aria-label": say("drag", { name: figure.variables.join(", ") }),
    "aria-valuemin": figure.ends[0][0], "aria-valuemax": figure.ends[0][1], "aria-valuenow": figure.at[0],
    "aria-valuetext": say("point", { at, gradient: figure.gradient.join(", ") }),
  });
}

/** Takes the point to a place in numbers, within what is shown. */
function moveTo(place) {
  figure.variables.forEach((name, k) => {
    const [low, high] = figure.ends[k];
    put(name, rounded(Math.min(high, Math.max(low, place[k])), stepOf(high - low)));
  });
  drawInputs();
  ask(true);
}

const whereNow = () => figure.variables.map((name, k) => numberOf(name) ?? figure.at[k]);

$("plot").addEventListener("pointerdown", (event) => {
  if (!figure || event.button !== 0) return;
  $("plot").setPointerCapture(event.pointerId);
  $("plot").classList.add("dragged");
  drag(event);
  event.preventDefault();
  $("plot").querySelector(".point").focus({ preventScroll: true });
});
$("plot").addEventListener("pointermove", (event) => {
  if ($("plot").classList.contains("dragged")) drag(event);
});
for (const kind of ["pointerup", "pointercancel"]) {
  $("plot").addEventListener(kind, () => $("plot").classList.remove("dragged"));
}

function drag(event) {
  const box = $("plot").getBoundingClientRect(), view = $("plot").viewBox.baseVal;
  moveTo(scale.back(((event.clientX - box.left) / box.width) * view.width, ((event.clientY - box.top) / box.height) * view.height));
}

const WAYS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowDown: [0, -1], ArrowUp: [0, 1], PageDown: [0, -10], PageUp: [0, 10] };
$("plot").addEventListener("keydown", (event) => {
  const way = WAYS[event.key];
  if (!figure || !way) return;
  event.preventDefault();
  const flat = figure.variables.length === 2, by = event.shiftKey ? 10 : 1;
  const ways = flat ? way : [way[0] + way[1]];
  moveTo(whereNow().map((value, k) => value + ways[k] * by * stepOf(figure.ends[k][1] - figure.ends[k][0])));
});

function zoom(factor) {
  state.options.ends = figure.ends.map(([low, high], k) => {
    const middle = factor < 1 ? figure.at[k] : (low + high) / 2, half = ((high - low) / 2) * factor;
    return [middle - half, middle + half].map((end) => Number(end.toPrecision(6)));
  }).flat().join(",");
  ask();
}
$("nearer").addEventListener("click", () => zoom(0.5));
$("farther").addEventListener("click", () => zoom(2));
new ResizeObserver(drawFigure).observe($("figure"));

// ---- link, saving, and a file that changes ---------------------------------------------------------------------------

$("link").addEventListener("click", async () => {
  const link = host.link(toLink());
  try {
    await navigator.clipboard.writeText(link);
    tell(say("copied"));
  } catch {
    prompt(words.link, link);
  }
});

$("save").addEventListener("click", () => {
  if (!page) return;
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([page], { type: "text/html" }));
  link.download = "gradexplain.html";
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10000);
});

async function follow() {
  let last = null;
  for (;;) {
    await new Promise((done) => setTimeout(done, 1000));
    if (document.hidden) continue;
    try {
      const { changed } = await host.post("/changed", "", words);
      if (last !== null && changed && changed !== last && state.target === config.named.target) ask();
      if (changed) last = changed;
    } catch {
      tell(say("gone"), true);
    }
  }
}

if ($("lesson")) $("lesson").addEventListener("change", teach);
$("link").hidden = !host.link;
markDone();
drawFields();
if (config.first) show(config.first);
else ask();
if (config.watches) follow();
