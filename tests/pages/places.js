// Opens and shuts folds by clicks, as they come from a small generator, and writes down where everything stands each time.
const states = [];
let seed = 7;
const next = count => (seed = (seed * 1103515245 + 12345) % 2147483648) % count;
const area = element => ["x", "y", "width", "height"].map(name => Number(element.getAttribute(name)));
function written() {
  const boxes = [...document.querySelectorAll("#stage g.box")].map(g => ({key: g.dataset.n, area: area(g.querySelector(".b"))}));
  const frames = [...document.querySelectorAll("#stage g.bar")].map(g => ({key: g.dataset.n, area: area(g.querySelector(".edge"))}));
  const lines = [...document.querySelectorAll("#stage path.line")].map(p =>
    ({level: p.dataset.level === undefined ? null : Number(p.dataset.level), path: p.getAttribute("d")}));
  states.push({boxes, frames, lines});
}
written();
for (let step = 0; step < STEPS; step++) {
  const folds = [...document.querySelectorAll("#stage g.opens"), ...(step % 4 ? [] : document.querySelectorAll("#stage g.bar"))];
  if (!folds.length) break;
  folds[next(folds.length)].dispatchEvent(new MouseEvent("click", {bubbles: true}));
  written();
}
document.body.innerHTML = "<pre id=found></pre>";
document.getElementById("found").textContent = JSON.stringify(states);
