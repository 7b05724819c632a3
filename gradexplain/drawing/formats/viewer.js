"use strict";
// Shows one page of the graph at a time: a fold opens as a page of its own. Nothing is read from outside the file.
(() => {
  const pages = JSON.parse(document.getElementById("pages").textContent);
  const stage = document.getElementById("stage");
  const details = document.getElementById("details");
  const trail = document.getElementById("trail");
  const search = document.getElementById("search");
  const hits = document.getElementById("hits");
  let page = 0, view = null, held = null;

  const svg = () => stage.querySelector("svg");
  const apply = () => svg().setAttribute("viewBox", `${view.x} ${view.y} ${view.w} ${view.h}`);
  const boxes = () => [...stage.querySelectorAll("g[data-n]")];

  function show(number, node) {
    page = number;
    stage.replaceChildren(document.getElementById(`page${number}`).content.cloneNode(true));
    fit();
    path();
    details.textContent = pages[number].notes.join("\n");
    for (const box of boxes()) if (box.dataset.n in pages[page].opens) box.classList.add("opens");
    if (node !== undefined) choose(boxes().find(box => Number(box.dataset.n) === node));
  }

  function fit() {
    const drawing = svg(), width = Number(drawing.getAttribute("width")), height = Number(drawing.getAttribute("height"));
    drawing.removeAttribute("width");
    drawing.removeAttribute("height");
    const scale = Math.max(1, width / stage.clientWidth);
    view = {x: 0, y: 0, w: stage.clientWidth * scale, h: stage.clientHeight * scale};
    view.x = Math.min(0, (width - view.w) / 2);
    apply();
  }

  function path() {
    const up = [];
    for (let at = page; at !== null; at = pages[at].parent) up.unshift(at);
    trail.replaceChildren(...up.map(at => {
      const link = document.createElement("button");
      link.textContent = pages[at].title;
      link.onclick = () => show(at);
      return link;
    }));
  }

  function choose(box) {
    boxes().forEach(other => other.classList.toggle("chosen", other === box));
    if (!box) return;
    details.textContent = box.querySelector("title").textContent;
    const at = box.getBBox();
    if (at.y < view.y || at.y + at.height > view.y + view.h) view.y = at.y - view.h / 3;
    if (at.x < view.x || at.x + at.width > view.x + view.w) view.x = at.x - view.w / 3;
    apply();
  }

  const open = box => { if (box && box.dataset.n in pages[page].opens) show(pages[page].opens[box.dataset.n]); };
  const close = () => { if (pages[page].parent !== null) show(pages[page].parent); };
  const boxOf = event => event.target.closest ? event.target.closest("g[data-n]") : null;

  stage.addEventListener("click", event => choose(boxOf(event)));
  stage.addEventListener("dblclick", event => open(boxOf(event)));
  stage.addEventListener("pointerdown", event => { held = {x: event.clientX, y: event.clientY}; });
  window.addEventListener("pointerup", () => { held = null; });
  stage.addEventListener("pointermove", event => {
    if (!held) return;
    const scale = view.w / stage.clientWidth;
    view.x -= (event.clientX - held.x) * scale;
    view.y -= (event.clientY - held.y) * scale;
    held = {x: event.clientX, y: event.clientY};
    apply();
  });
  stage.addEventListener("wheel", event => {
    event.preventDefault();
    const factor = Math.exp(event.deltaY / 600), scale = view.w / stage.clientWidth;
    const x = view.x + event.offsetX * scale, y = view.y + event.offsetY * scale;
    view = {x: x - (x - view.x) * factor, y: y - (y - view.y) * factor, w: view.w * factor, h: view.h * factor};
    apply();
  }, {passive: false});
  window.addEventListener("keydown", event => {
    if (event.key === "Escape") close();
    if (event.key === "Enter" && event.target !== search) open(stage.querySelector(".chosen"));
  });
  search.addEventListener("input", () => {
    const word = search.value.trim().toLowerCase();
    const found = [];
    pages.forEach((one, number) => one.nodes.forEach(([node, text]) => {
      if (word && found.length < 50 && text.toLowerCase().includes(word)) found.push([number, node, text]);
    }));
    hits.replaceChildren(...found.map(([number, node, text]) => {
      const link = document.createElement("button");
      link.textContent = text.split("\n")[0] + (number ? ` — ${pages[number].title}` : "");
      link.onclick = () => show(number, node);
      return link;
    }));
  });
  window.addEventListener("resize", apply);
  show(0);
})();
