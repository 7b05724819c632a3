// Draws every source with mermaid and writes down what is on the picture.
mermaid.initialize({startOnLoad: false, securityLevel: "strict"});
(async () => {
  const found = [];
  for (const [k, source] of sources.entries()) {
    try {
      const {svg} = await mermaid.render("m" + k, source);
      const page = new DOMParser().parseFromString(svg, "text/html");
      found.push({
        nodes: page.querySelectorAll(".node").length,
        edges: page.querySelectorAll(".edgePaths path").length,
        labels: [...page.querySelectorAll(".node .nodeLabel")].map(n => n.innerHTML),
      });
    } catch (fault) { found.push({fault: String(fault)}); }
  }
  document.body.innerHTML = "<pre id=found></pre>";
  document.getElementById("found").textContent = JSON.stringify(found);
})();
