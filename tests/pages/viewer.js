// Uses the viewer as a reader would and writes down what happens, in the page's title.
const said = {}, stage = document.getElementById("stage");
const at = () => [stage.querySelector("svg").getAttribute("viewBox"), stage.querySelector("svg > g").getAttribute("transform")].join();
const boxes = () => [...stage.querySelectorAll("g.box")];
const named = word => boxes().find(g => g.querySelector(".t").textContent === word);
const frame = word => [...stage.querySelectorAll("g.bar")].find(g => g.textContent.includes(`− ${word}`));
const shown = () => boxes().map(g => g.querySelector(".t").textContent);
const arrows = () => stage.querySelectorAll("path.a").length;
const rectangle = g => g.getBoundingClientRect(), middle = g => [rectangle(g).x + rectangle(g).width / 2, rectangle(g).y];
const inside = g => rectangle(g).x >= rectangle(stage).x && rectangle(g).right <= rectangle(stage).right
  && rectangle(g).y >= rectangle(stage).y;
const fire = (where, kind, x = 50, y = 50) => {
  const Event = kind.startsWith("pointer") ? PointerEvent : MouseEvent;
  where.dispatchEvent(new Event(kind, {bubbles: true, clientX: x, clientY: y}));
};
said.first = shown().length;
fire(named("layers.3"), "click");
said.details = document.getElementById("details").textContent.includes("module layers.3");
said.one = [!named("layers.3"), !!frame("layers.3"), shown().length];
fire(named("layers.3.self_attn"), "click");
said.within = [!!frame("layers.3.self_attn"), !!named("layers.4"), shown().length];
fire(named("layers.7"), "click");
said.two = [!!frame("layers.3"), !!frame("layers.7"), shown().length];
said.inside = inside(frame("layers.7"));
fire(frame("layers.7"), "click");
fire(frame("layers.3.self_attn"), "click");
const place = middle(frame("layers.3"));
fire(frame("layers.3"), "click");
said.still = middle(named("layers.3")).every((x, i) => Math.abs(x - place[i]) <= 1);
said.again = [!!named("layers.3"), shown().length];
named("layers.5").dispatchEvent(new KeyboardEvent("keydown", {key: "Enter", bubbles: true}));
said.keyboard = !!frame("layers.5");
let before = at();
stage.dispatchEvent(new WheelEvent("wheel", {deltaY: -300, bubbles: true, cancelable: true}));
said.zoom = at() !== before;
before = at();
fire(stage, "pointerdown", 10, 10);
fire(stage, "pointermove", 90, 60);
fire(window, "pointerup");
said.pan = at() !== before;
fire(frame("layers.5"), "click");
said.dragged = !!frame("layers.5");  // the end of a drag is no click
fire(stage, "pointerdown", 10, 10);
fire(window, "pointerup");
const search = document.getElementById("search");
search.value = "layers.9.linear1.weight";
search.dispatchEvent(new Event("input"));
said.hidden = !frame("layers.9");
document.querySelector("#hits button:last-child").click();
const found = stage.querySelector(".chosen").getBoundingClientRect(), room = stage.getBoundingClientRect();
said.found = [!!frame("layers.9"), !!frame("layers.9.linear1"), found.x > room.x && found.right < room.right,
  document.getElementById("details").textContent.includes("layers.9.linear1.weight")];
document.getElementById("fold_all").click();
said.folded = shown().length;
document.title = JSON.stringify(said);
