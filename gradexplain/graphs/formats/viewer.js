"use strict";
// Draws the graph as boxes in boxes; a fold opens in its place. Nothing is read from outside the file.
// Returns what a page does with it. A page of steps `around` the graph scrolls by the wheel, writes on its lines and into
// its boxes itself, and is told what was clicked; where there is none, a box that was clicked tells of itself.
function drawGraph({texts, sheets, levels, sizes, notes}, stage, around = null) {
  const byId = id => document.getElementById(id);
  const BAR = 20, EDGE = 12, TRACK = 7, STUB = 10, ARROW = 7, BEND = 6, LEGIBLE = 1.2;

  levels.forEach((level, number) => {
    level.boxes = level.boxes.map(([kind, title, lines, about, opens, edge, nodes], k) => {
      if (opens >= 0) levels[opens].outside = {number, k};
      return {kind, title: texts[title], lines: lines.map(t => texts[t]), about: texts[about], opens, edge, nodes};
    });
    level.lines = level.lines.map(([kind, tip, text, width, edge, slot]) =>
      ({kind, tip: texts[tip], text: text.map(t => texts[t]), width, edge, slot}));
  });
  const isPort = box => box.kind === "in" || box.kind === "out";
  const isOpen = box => box.opens >= 0 && levels[box.opens].open;

  // -------------------------------------------------------------------------------------------------------- places
  // A sheet's places hold while its folds are shut. Where one opens, what stands right of its middle moves right, what
  // stands left of it moves left, and its row grows. That keeps the order of everything, so nothing comes to lie on
  // anything else; a line whose ends no longer meet turns once more, on a track of its own between two rows.

  function placed(number) {
    const level = levels[number], sheet = sheets[level.sheet];
    const inner = level.boxes.map(box => isOpen(box) ? placed(box.opens) : null);
    const boxes = sheet.boxes.map(([x, y, w, h, row], k) =>
      ({k, row, was: {x, y, w, h}, own: level.boxes[k], inner: inner[k], ...(inner[k] ? frameSize(inner[k], w) : {w, h})}));
    const shift = shifts(boxes);
    for (const b of boxes) {
      b.by = shift(b.was.x + b.was.w / 2);
      b.x = b.was.x + b.was.w / 2 + b.by - b.w / 2;
    }
    const tracks = sheet.rows.map(() => []);
    const lines = sheet.lines.map((line, k) => turned(line, level.lines[k], boxes, sheet.rows, shift, tracks));
    tracks.forEach(ordered);
    const rows = heights(sheet.rows, boxes, tracks);
    const down = y => {
      const row = rows.findLastIndex(r => r.was[0] <= y);
      if (row < 0) return y;
      const {was: [from, to], from: start, to: stop} = rows[row];
      return y >= to ? stop + y - to : start + (y - from) * (stop - start) / (to - from);
    };
    for (const b of boxes) b.y = (rows[b.row].from + rows[b.row].to - b.h) / 2;
    for (const line of lines) {
      line.turns = line.turns.map((turn, i) => i % 2 === 0 ? turn : typeof turn === "number" ? down(turn)
        : rows[turn.row + 1].from - STUB - TRACK * (tracks[turn.row].length - turn.track - 0.5));
      line.at = line.at && [line.near < 0 ? line.at[0] + shift(line.at[0]) : line.turns[line.near], down(line.at[1])];
      line.points = pointsOf(line, boxes);
    }
    const spots = boxes.flatMap(b => [b.x, b.x + b.w]).concat(lines.flatMap(l => l.points.map(p => p[0])));
    const left = Math.min(...spots, shift(0)), right = Math.max(...spots, sheet.size[0] + shift(sheet.size[0]));
    return {number, boxes, lines, left, w: right - left, h: down(sheet.size[1]), frames: sheet.frames};
  }

  const ports = (level, kind) => level.boxes.filter(b => b.kind === kind).length;

  function frameSize(inner, least) {
    const level = levels[inner.number], title = level.outside && levels[level.outside.number].boxes[level.outside.k].title;
    const entry = inner.boxes.find(b => b.own.kind === "in"), count = ports(level, "in");
    const off = entry ? entry.x + entry.w / 2 - inner.left - inner.w / 2 : 0;
    const aside = count === 1 && Math.abs(off) < inner.w / 8 ? off : 0;
    const w = Math.max(inner.w + 2 * Math.abs(aside), least, title.length * 7 + 10) + 2 * EDGE;
    inner.top = BAR + TRACK * (count + 0.5);
    inner.start = (w - inner.w) / 2 - inner.left - aside;
    return {w, h: inner.top + inner.h + TRACK * (ports(level, "out") + 0.5) + EDGE / 2};
  }

  // Returns how far a place moves: as far as the folds that opened need on either side, the widest first, so that folds
  // above each other share their room.
  function shifts(boxes) {
    const jumps = [];
    const need = (at, side, far, room) => {
      const there = jumps.filter(j => side > 0 ? j.side > 0 ? at <= j.at && j.at < far : at < j.at && j.at <= far
        : j.side < 0 ? far < j.at && j.at <= at : far <= j.at && j.at < at);
      const missing = room - there.reduce((sum, j) => sum + j.by, 0);
      if (missing > 0) jumps.push({at, side, by: missing});
    };
    for (const b of boxes.filter(b => b.inner).sort((a, b) => (b.w - b.was.w) - (a.w - a.was.w))) {
      const middle = b.was.x + b.was.w / 2, room = (b.w - b.was.w) / 2;
      need(middle, 1, b.was.x + b.was.w, room);
      need(middle, -1, b.was.x, room);
    }
    return x => jumps.reduce((sum, j) =>
      sum + (j.side > 0 ? (x > j.at + 0.3 ? j.by : 0) : (x < j.at - 0.3 ? -j.by : 0)), 0);
  }

  // Returns a line's turns where its ends are now: upright and level stretches in turn, new level ones still as tracks.
  function turned([tail, head, turns, at, ends], own, boxes, rows, shift, tracks) {
    const from = boxes[tail], to = boxes[head], last = turns.length - 1;
    const line = {tail, head, own, ends, at, near: at ? turns.findIndex((t, i) => i % 2 === 0 && Math.abs(t - at[0]) < 1) : -1};
    if (own.kind === "again") return {...line, turns};
    const within = y => rows.some(([top, bottom]) => top - 1 < y && y < bottom + 1);
    const gapOf = i => !within(turns[i]) ? rows.findLastIndex(([, bottom]) => bottom <= turns[i])
      : i === 1 ? from.row : i === last - 1 ? to.row - 1 : rows.findLastIndex(([top]) => top <= turns[i]);
    const end = (box, x) => isPort(box.own) ? box.x + box.w / 2 : x + box.by;
    const found = [end(from, turns[0])];
    const go = (gap, x) => {
      const before = found[found.length - 1];
      if (Math.abs(before - x) < (isPort(from.own) || isPort(to.own) ? 3 : 0.5)) return;
      found.push(tracked(gap, before, x), x);
    };
    const tracked = (gap, start, stop) => {
      const track = {row: gap, from: start, to: stop};
      tracks[gap].push(track);
      return track;
    };
    const inFirst = last > 0 ? gapOf(1) === from.row : to.row === from.row + 1;
    if (!inFirst) go(from.row, turns[0] + shift(turns[0]));
    for (let i = 1; i < last; i += 2) {
      const x = i + 1 < last || gapOf(i) !== to.row - 1 ? turns[i + 1] + shift(turns[i + 1]) : end(to, turns[last]);
      found.push(within(turns[i]) ? tracked(gapOf(i), found[found.length - 1], x) : turns[i], x);
    }
    go(to.row - 1, end(to, turns[last]));
    if (found.length === 1 && isPort(to.own)) found[0] = end(to, turns[last]);
    return {...line, turns: found};
  }

  // Gives the tracks between two rows an order in which lines that go one way do not cross.
  function ordered(tracks) {
    const leftward = tracks.filter(t => t.to < t.from).sort((a, b) => a.from - b.from);
    const rightward = tracks.filter(t => t.to >= t.from).sort((a, b) => b.from - a.from);
    [...leftward, ...rightward].forEach((t, k) => { t.track = k; });
  }

  function heights(rows, boxes, tracks) {
    let from = rows.length ? rows[0][0] : 0;
    return rows.map((was, row) => {
      const tallest = Math.max(was[1] - was[0], ...boxes.filter(b => b.row === row).map(b => b.h));
      const found = {was, from, to: from + tallest};
      if (row + 1 < rows.length) from += tallest + rows[row + 1][0] - was[1] + TRACK * tracks[row].length;
      return found;
    });
  }

  function pointsOf(line, boxes) {
    const from = boxes[line.tail], to = boxes[line.head], {turns} = line;
    const start = from.inner ? from.y + from.h : isPort(from.own) ? from.y + from.h / 2 : from.y + line.ends[0] - from.was.y;
    const stop = to.inner ? to.y : isPort(to.own) ? to.y + to.h / 2 : to.y + line.ends[1] - to.was.y;
    const points = [[turns[0], start]];
    for (let i = 1; i < turns.length; i += 2) points.push([turns[i - 1], turns[i]], [turns[i + 1], turns[i]]);
    return [...points, [turns[turns.length - 1], stop]];
  }

  // ------------------------------------------------------------------------------------------------------ painting

  const made = (name, attributes, ...inside) => {
    const element = document.createElementNS("http://www.w3.org/2000/svg", name);
    for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
    element.append(...inside);
    return element;
  };
  // How wide a text is, as it was when places were given: asking the browser would have it lay out all of the drawing.
  const wide = said => sizes.letter * [...said].reduce((sum, letter) => sum + (letter > "\u2e7f" ? 2 : 1), 0);
  // Keeps free what is behind a text that stands on lines: a line that meets it would read as a minus.
  const ground = (x, y, width) => made("rect", {class: "page", x: round(x - 4), y: round(y - sizes.line + 3.5), width: round(width + 8), height: sizes.line});
  const titled = (x, y, said) => [ground(x, y, wide(said)), text("f", x, y, said)];
  const labelled = (x, y, said) => [ground(x - wide(said) / 2, y, wide(said)), text("l", x, y, said)];
  const text = (kind, x, y, said, more = {}) => made("text", {class: kind, x: round(x), y: round(y), ...more}, said);
  const tip = said => made("title", {}, said);
  const round = x => Math.round(x * 10) / 10;
  const at = ([x, y]) => `${round(x)} ${round(y)}`;
  const towards = ([x, y], [to_x, to_y], room) => {
    const far = Math.hypot(to_x - x, to_y - y) || 1;
    return [x + (to_x - x) * room / far, y + (to_y - y) * room / far];
  };

  function path(points, own, arrow) {
    const ends = points.filter((p, i) => !i || Math.hypot(p[0] - points[i - 1][0], p[1] - points[i - 1][1]) > 0.05);
    if (ends.length < 2) return [];
    const goal = ends[ends.length - 1], before = ends[ends.length - 2];
    if (arrow) ends[ends.length - 1] = towards(goal, before, ARROW - 1);
    const steps = [`M${at(ends[0])}`];
    for (let i = 1; i + 1 < ends.length; i++) {
      const far = j => Math.hypot(ends[j][0] - ends[i][0], ends[j][1] - ends[i][1]) / 2;
      const room = Math.min(BEND, far(i - 1), far(i + 1));
      steps.push(`L${at(towards(ends[i], ends[i - 1], room))}Q${at(ends[i])} ${at(towards(ends[i], ends[i + 1], room))}`);
    }
    const style = own.width ? {style: `stroke-width:${own.width}`} : {};
    const line = made("path", {class: `line ${own.kind}`, ...style, d: `${steps.join("")}L${at(ends[ends.length - 1])}`}, tip(own.tip));
    if (!arrow) return [line];
    const [x, y] = towards(goal, before, ARROW), dx = (goal[1] - y) / 2, dy = (goal[0] - x) / 2;
    return [line, made("path", {class: "a", d: `M${at(goal)}L${at([x - dx, y + dy])}L${at([x + dx, y - dy])}Z`})];
  }

  // Returns the place half way along.
  function middle(points) {
    const far = points.slice(1).map(([x, y], k) => Math.hypot(x - points[k][0], y - points[k][1]));
    let left = far.reduce((sum, one) => sum + one, 0) / 2;
    const k = far.findIndex(one => (left -= one) <= 0);
    return k < 0 ? points[0] : towards(points[k + 1], points[k], -left);
  }

  // Returns where a text may stand on a line, the best place first: one that turns passes others on its way, and is
  // known for sure only where it leaves its box and where it ends.
  function anchorsOf(points, at) {
    const [[x, y], [to_x, to_y]] = [points[0], points[points.length - 1]], room = sizes.line / 2 + 2;
    const [own, first, last] = [at || middle(points), [x, y + room], [to_x, to_y - ARROW - room]];
    return points.every(point => point[0] === x) ? [own, first, last] : [first, own, last];
  }

  let spots = new Map(), anchors = new Map();

  function painted(content, dx, dy, out) {
    const level = levels[content.number], moved = ([x, y]) => [x + dx, y + dy];
    for (const b of content.boxes) {
      if (isPort(b.own)) continue;
      const x = b.x + dx, y = b.y + dy, key = `${content.number}:${b.k}`;
      spots.set(key, {x, y, w: b.w, h: b.h});
      (b.inner ? frame : box)(b, x, y, key, out);
      if (b.inner) {
        painted(b.inner, x + b.inner.start, y + b.inner.top, out);
        connected(b, x, y, content, dx, out);
      }
    }
    for (const line of content.lines) {
      const to = content.boxes[line.head];
      const drawn = path(line.points.map(moved), line.own, !to.inner && to.own.kind !== "out");
      const name = `${content.number}:${content.lines.indexOf(line)}`;
      for (const part of drawn) Object.assign(part.dataset, {level: content.number, line: name});
      out.lines.push(...drawn);
      anchors.set(name, anchorsOf(line.points.map(moved), line.at && moved(line.at)));
      if (!around) line.own.text.forEach((said, k) =>
        out.labels.push(...labelled(line.at[0] + dx, line.at[1] + dy + 4 + sizes.line * (k - (line.own.text.length - 1) / 2), said)));
    }
    for (const [title, x, y, w, h] of content.frames) {
      out.frames.push(made("rect", {class: "frame", rx: 8, x: x + dx, y: y + dy, width: w, height: h}));
      out.labels.push(...titled(x + dx + 8, y + dy + 14, title));
    }
  }

  // Draws on, inside a frame, the lines that pass its border.
  function connected(b, x, y, {number, lines}, dx, out) {
    const inner = b.inner, left = x + inner.start, top = y + inner.top;
    for (const kind of ["in", "out"]) {
      const tracks = inner.boxes.filter(port => port.own.kind === kind).flatMap(port => {
        const line = lines.find(l => l.own.edge === port.own.edge);
        if (!line) return [];
        const outer = line.turns[kind === "in" ? line.turns.length - 1 : 0] + dx, own = left + port.x + port.w / 2;
        return [{port, line, outer, own, from: kind === "in" ? outer : own, to: kind === "in" ? own : outer}];
      });
      ordered(tracks);
      for (const {port, line, outer, own, track} of tracks) {
        const level = TRACK * (track + 0.5), inside = [own, top + port.y + port.h / 2];
        const [border, turn] = kind === "in" ? [y, y + BAR + level] : [y + b.h, top + inner.h + level];
        const points = [[outer, border], [outer, turn], [own, turn], inside];
        const drawn = path(kind === "in" ? points : points.reverse(), line.own, false);
        for (const part of drawn) part.dataset.line = `${number}:${lines.indexOf(line)}`;
        out.lines.push(...drawn);
      }
    }
  }

  // The drawing is one stop of the tab key, at the box that was reached last; the arrow keys go on from there.
  const reached = (key, open) =>
    ({"data-n": key, tabindex: -1, role: "button", ...(open === null ? {} : {"aria-expanded": open})});

  function box(b, x, y, key, out) {
    const {kind, title, lines, about, opens} = b.own, middle = {"text-anchor": "middle"};
    const shown = made("g", {class: `${kind} box${opens >= 0 ? " opens" : ""}`, ...reached(key, opens < 0 ? null : false)}, tip(about),
      made("rect", {class: "b", rx: 5, x: round(x), y: round(y), width: b.w, height: b.h}),
      text("t", x + b.w / 2, y + sizes.head, title, middle));
    lines.forEach((line, k) => shown.append(text("", x + sizes.pad, y + sizes.head + sizes.line * (k + 1), line)));
    if (opens >= 0) shown.append(text("sign", x + b.w - 9, y + b.h - 4, "+"));
    out.boxes.push(shown);
  }

  function frame(b, x, y, key, out) {
    const {title, about} = b.own, area = {x: round(x), y: round(y), width: round(b.w)};
    out.frames.push(made("rect", {class: "frame ground", rx: 8, ...area, height: round(b.h)}));
    out.bars.push(made("g", {class: "bar", ...reached(key, true)}, tip(about),
      made("rect", {class: "edge", rx: 8, ...area, height: round(b.h)}),
      made("rect", {class: "grip", rx: 8, ...area, height: BAR}), ...titled(x + 8, y + 14, `− ${title}`)));
  }

  // ---------------------------------------------------------------------------------------------------------- view

  let scene = null, view = null, held = null, chosen = null;
  let stop = null; // the box that the tab key leads to
  let drawnBoxes = new Map(), drawnLines = new Map(), boxesSeen = new Map();
  const svg = () => stage.firstElementChild, paper = () => svg().firstElementChild;
  const shown = key => drawnBoxes.get(key);
  function apply() {
    const size = `0 0 ${view.w} ${view.h}`;  // were the place in it, each step would lay out every text again
    if (svg().getAttribute("viewBox") !== size) svg().setAttribute("viewBox", size);
    paper().setAttribute("transform", `translate(${-view.x} ${-view.y})`);
    const more = {left: scene.left - view.x, right: view.x + view.w - scene.left - scene.w, above: -view.y, below: view.y + view.h - scene.h};
    stage.classList.toggle("more", Object.values(more).some(room => room < 0));
    for (const [side, room] of Object.entries(more)) stage.style.setProperty(`--${side}`, room < 0 ? "1.4rem" : "0px");
  }

  function show() {
    const out = {frames: [], lines: [], bars: [], boxes: [], labels: []};
    spots = new Map();
    anchors = new Map();
    scene = placed(0);
    painted(scene, 0, 0, out);
    drawnBoxes = new Map([...out.bars, ...out.boxes].map(box => [box.dataset.n, box]));
    drawnLines = new Map();
    for (const part of out.lines) drawnLines.set(part.dataset.line, [...(drawnLines.get(part.dataset.line) || []), part]);
    boxesSeen = new Map();
    if (!drawnBoxes.has(stop)) stop = drawnBoxes.keys().next().value;
    if (stop) shown(stop).setAttribute("tabindex", 0);
    const parts = [...out.frames, ...out.lines, ...out.bars, ...out.boxes, ...out.labels];
    stage.replaceChildren(made("svg", {class: "g"}, made("g", {}, ...parts)));
    if (view) apply();
    if (chosen && shown(chosen)) shown(chosen).classList.add("chosen");
    if (around) around.painted();
  }

  // Shows the whole graph; of one that is large, as much as can be read, if it is to be `legible`.
  function fit(legible = false) {
    const room = 16, across = (scene.w + 2 * room) / stage.clientWidth, down = (scene.h + 2 * room) / stage.clientHeight;
    const scale = Math.min(Math.max(0.8, across, down), legible ? LEGIBLE : Infinity);
    view = {w: stage.clientWidth * scale, h: stage.clientHeight * scale, y: -room};
    if (scene.h < view.h) view.y = (scene.h - view.h) / 2;
    view.x = scene.w + room < view.w ? scene.left + (scene.w - view.w) / 2 : start(room);
    apply();
  }

  // Returns from where a drawing is shown that is wider than there is room: from its left, if what comes first is there.
  function start(room) {
    const first = [...spots.values()].reduce((one, other) => other.y < one.y ? other : one);
    const last = scene.left + scene.w + room - view.w, shift = first.x + first.w + room - view.w;
    return Math.min(Math.max(scene.left - room, shift), last);
  }

  // Opens a fold or folds it again; it stays where it is on the screen, unless part of it would be outside.
  function toggle(key) {
    const [number, k] = key.split(":").map(Number), {opens} = levels[number].boxes[k];
    if (opens < 0) return;
    const before = spots.get(key);
    levels[opens].open = !levels[opens].open;
    show();
    const after = spots.get(key);
    if (before && after) {
      view.x += after.x + after.w / 2 - before.x - before.w / 2;
      view.y += after.y - before.y;
      if (levels[opens].open) {
        view.x = between(view.x, after.x - 16, after.x + after.w + 16 - view.w);
        view.y = between(view.y, after.y - 16, after.y + after.h + 16 - view.h);
      }
      apply();
    }
  }

  const between = (at, one, other) => Math.min(Math.max(at, Math.min(one, other)), Math.max(one, other));

  function choose(key) {
    stage.querySelectorAll(".chosen").forEach(other => other.classList.remove("chosen"));
    chosen = key;
    if (around) {
      if (key && shown(key)) around.chosen(nodesIn(...key.split(":").map(Number)));
      return;
    }
    const details = byId("details");
    if (!key || !shown(key)) { details.textContent = notes.join("\n\n"); return; }
    shown(key).classList.add("chosen");
    const [number, k] = key.split(":").map(Number);
    details.textContent = levels[number].boxes[k].about;
  }

  function reveal(number, k) {
    for (let at = number; levels[at].outside; at = levels[at].outside.number) levels[at].open = true;
    const key = `${number}:${k}`;
    show();
    choose(key);
    centre(key);
  }

  function centre(key) {
    const spot = spots.get(key);
    view.x = spot.x + spot.w / 2 - view.w / 2;
    view.y = spot.y + spot.h / 2 - view.h / 2;
    apply();
  }

  const inside = number => levels[number].outside
    ? `${inside(levels[number].outside.number)} › ${levels[levels[number].outside.number].boxes[levels[number].outside.k].title}` : "";
  const keyOf = event => { const g = event.target.closest("[data-n]"); return g ? g.dataset.n : null; };

  stage.addEventListener("click", event => {
    if (held && held.far) return;
    const key = keyOf(event);
    if (key) toggle(key);
    choose(key);
  });
  stage.addEventListener("pointerdown", event => { held = {x: event.clientX, y: event.clientY, down: true, far: false}; });
  window.addEventListener("pointerup", () => { if (held) held.down = false; });
  stage.addEventListener("pointermove", event => {
    if (!held || !held.down) return;
    const dx = event.clientX - held.x, dy = event.clientY - held.y, scale = view.w / stage.clientWidth;
    if (!held.far && Math.hypot(dx, dy) < 4) return;
    view.x -= dx * scale;
    view.y -= dy * scale;
    held = {...held, x: event.clientX, y: event.clientY, far: true};
    apply();
  });
  stage.addEventListener("wheel", event => {
    if (around && !event.ctrlKey) return;
    event.preventDefault();
    const factor = Math.exp(event.deltaY / 600), scale = view.w / stage.clientWidth, corner = stage.getBoundingClientRect();
    const x = view.x + (event.clientX - corner.left) * scale, y = view.y + (event.clientY - corner.top) * scale;
    view = {x: x - (x - view.x) * factor, y: y - (y - view.y) * factor, w: view.w * factor, h: view.h * factor};
    apply();
  }, {passive: false});
  stage.addEventListener("keydown", event => {
    const key = keyOf(event), by = {ArrowUp: -1, ArrowDown: 1}[event.key];
    if (!key || !(by || ["Enter", " "].includes(event.key))) return;
    event.preventDefault();
    if (by) return step(key, by);
    toggle(key);
    choose(key);
    shown(key).focus();
  });
  // Returns where a box is, of an open fold where its title is.
  function headOf(key) {
    const spot = spots.get(key);
    return shown(key).matches(".bar") ? {...spot, w: Math.min(spot.w, 160), h: BAR} : spot;
  }
  // Goes on to the box above or below in reading order.
  function step(key, by) {
    const order = [...spots].sort(([, one], [, other]) => one.y - other.y || one.x - other.x).map(([own]) => own);
    const next = order[order.indexOf(key) + by];
    if (next) shown(next).focus();
  }
  stage.addEventListener("focusin", event => {
    const key = keyOf(event);
    if (!key) return;
    if (stop && shown(stop)) shown(stop).setAttribute("tabindex", -1);
    shown(stop = key).setAttribute("tabindex", 0);
    if (event.target.matches(":focus-visible")) bring([headOf(key)]);
  });
  const foldAll = () => {
    levels.forEach((level, number) => { level.open = number === 0; });
    show();
    choose(null);
    fit();
  };
  window.addEventListener("resize", () => {
    if (!stage.clientWidth || !stage.clientHeight) return;
    if (!view.w) return fit(true); // it had no size when it began
    view.h = view.w * stage.clientHeight / stage.clientWidth;
    apply();
  });

  // -------------------------------------------------------------------------------- where the nodes and edges are drawn

  // The boxes in which each node stands, by its number.
  const homes = new Map();
  levels.forEach((level, number) => level.boxes.forEach((box, k) =>
    box.nodes.forEach(node => homes.set(node, [...(homes.get(node) || []), [number, k]]))));

  const nodesIn = (number, k) => {
    const box = levels[number].boxes[k];
    return box.opens < 0 ? box.nodes : levels[box.opens].boxes.flatMap((_, inner) => nodesIn(box.opens, inner));
  };

  // Returns the box in which one is to be seen: itself, or the outermost fold around it that is shut.
  function seen(number, k) {
    let key = `${number}:${k}`;
    for (let at = levels[number].outside && number; at && levels[at].outside; at = levels[at].outside.number)
      if (!levels[at].open) key = `${levels[at].outside.number}:${levels[at].outside.k}`;
    return key;
  }

  // Returns the lines along which a line comes, from its origin on, and the box that it comes from.
  function course(number, k) {
    const level = levels[number], name = `${number}:${k}`, tail = sheets[level.sheet].lines[k][0], box = level.boxes[tail];
    if (box.kind === "in") {
      const outer = level.outside.number, before = levels[outer].lines.findIndex(line => line.edge === box.edge);
      const found = before < 0 ? {lines: [], box: null} : course(outer, before);
      return {...found, lines: [...found.lines, name]};
    }
    if (box.opens < 0) return {lines: [name], box};
    const inner = levels[box.opens], port = inner.boxes.findIndex(b => b.kind === "out" && b.edge === level.lines[k].edge);
    const last = sheets[inner.sheet].lines.findIndex(line => line[1] === port);
    if (port < 0 || last < 0) return {lines: [name], box};
    const found = course(box.opens, last);
    return {...found, lines: [...found.lines, name]};
  }

  // Returns the lines of an edge, from its producer to its consumer.
  const courses = new Map();
  function linesOf(producer, consumer, slot) {
    const key = `${producer}:${consumer}:${slot}`;
    if (courses.has(key)) return courses.get(key);
    const found = (homes.get(consumer) || []).flatMap(([number, head]) => sheets[levels[number].sheet].lines
      .flatMap((line, k) => line[1] === head ? [{...course(number, k), slot: levels[number].lines[k].slot}] : [])
      .filter(way => way.box && way.box.nodes.includes(producer)));
    const way = found.find(way => way.slot === slot) || found[0];
    courses.set(key, way ? way.lines : []);
    return courses.get(key);
  }

  // -------------------------------------------------------------------------------------------------------- tools

  byId("board").hidden = false;
  const {search, hits, fit: whole, nearer, farther, fold_all} =
    Object.fromEntries(["search", "hits", "fit", "nearer", "farther", "fold_all"].map(id => [id, byId(id)]));
  search.addEventListener("input", () => {
    const word = search.value.trim().toLowerCase(), found = [];
    levels.forEach((level, number) => level.boxes.forEach((one, k) => {
      if (word && found.length < 50 && !isPort(one) && one.about.toLowerCase().includes(word)) found.push([number, k, one]);
    }));
    hits.replaceChildren(...found.map(([number, k, one]) => {
      const link = document.createElement("button");
      link.type = "button";
      link.textContent = one.title + inside(number);
      link.addEventListener("click", () => reveal(number, k));
      return link;
    }));
  });
  search.addEventListener("keydown", event => { if (event.key === "Enter" && hits.firstElementChild) hits.firstElementChild.click(); });
  const zoom = factor => {
    view = {x: view.x + view.w * (1 - factor) / 2, y: view.y + view.h * (1 - factor) / 2, w: view.w * factor, h: view.h * factor};
    apply();
  };
  whole.addEventListener("click", () => fit());
  nearer.addEventListener("click", () => zoom(1 / 1.3));
  farther.addEventListener("click", () => zoom(1.3));
  fold_all.addEventListener("click", foldAll);
  fold_all.hidden = levels.length < 2;
  window.addEventListener("beforeprint", () => fit());

  show();
  choose(null);
  fit(true);
  function boxesOf(node) {
    if (!boxesSeen.has(node))
      boxesSeen.set(node, [...new Set((homes.get(node) || []).map(home => seen(...home)))].map(shown).filter(Boolean));
    return boxesSeen.get(node);
  }
  return {
    made, paper, wide, labelled, boxesOf, linesOf,
    drawn: name => drawnLines.get(name) || [],
    anchors: name => anchors.get(name),
    follow(node, others) {
      bring([node, ...others].flatMap(one => (homes.get(one) || []).slice(0, 1)).map(home => spots.get(seen(...home))));
    },
  };

  // Brings the first of some boxes into view, where it is not, with the others if there is room for all.
  function bring(found) {
    if (!found.length) return;
    const [x, y] = ["x", "y"].map(side => Math.min(...found.map(one => one[side])));
    const all = {x, y, w: Math.max(...found.map(one => one.x + one.w)) - x, h: Math.max(...found.map(one => one.y + one.h)) - y};
    const spot = all.w + 32 < view.w && all.h + 32 < view.h ? all : found[0];
    const near = (from, room, start, size, first, whole) => {
      if (start >= from + 12 && start + size <= from + room - 12) return from;
      const least = first - 16, most = first + whole + 16 - room, middle = start + size / 2 - room / 2;
      return most < least ? (least + most) / 2 : Math.min(Math.max(middle, least), most);
    };
    view.x = near(view.x, view.w, spot.x, spot.w, scene.left, scene.w);
    view.y = near(view.y, view.h, spot.y, spot.h, 0, scene.h);
    apply();
  }
}
