// The live page in a cell of a notebook. What it asks goes to the kernel, one question at a time; of those that wait
// meanwhile the newest is asked next, and the others are told so.
export default {
  render({ model, el }) {
    const frame = document.createElement("iframe");
    frame.className = "gx-live";
    frame.title = "gradexplain play";
    frame.setAttribute("sandbox", "allow-scripts allow-forms allow-downloads");
    frame.srcdoc = model.get("page");
    const view = String(Math.random()); // of several views of one output, each hears its own answers
    let flying = null, waiting = null;

    const reply = (serial, text) => frame.contentWindow?.postMessage({ kind: "answer", serial, text }, "*");
    function send(question) {
      flying = question;
      try {
        model.send({ ...question, view });
      } catch {
        flying = null;
        reply(question.serial, null);
      }
    }
    function asked(event) {
      if (event.source !== frame.contentWindow || event.data?.kind !== "ask") return;
      const question = { serial: event.data.serial, body: event.data.body };
      if (!flying) return void send(question);
      if (waiting) reply(waiting.serial, '{"newer": true}');
      waiting = question;
    }
    function answered(content) {
      if (content.view !== view || content.serial !== flying?.serial) return;
      reply(content.serial, content.text);
      flying = null;
      const next = waiting;
      waiting = null;
      if (next) send(next);
    }

    addEventListener("message", asked);
    model.on("msg:custom", answered);
    el.append(frame);
    return () => {
      removeEventListener("message", asked);
      model.off("msg:custom", answered);
    };
  },
};
