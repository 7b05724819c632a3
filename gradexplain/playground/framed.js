// How a page in a frame asks what is around it, which hands the question on to the kernel of a notebook. Nothing is kept.
const PATIENCE = 20000;
const asking = new Map();
let questions = 0;
addEventListener("message", ({ source, data }) => {
  if (source !== parent || !data || data.kind !== "answer" || !asking.has(data.serial)) return;
  asking.get(data.serial)(data.text);
  asking.delete(data.serial);
});

const host = {
  kept: "",
  keep() {},
  link: null,
  /** Asks the kernel, which answers between its cells; throws a sentence where it does not for long. */
  async post(_, body, words) {
    const serial = ++questions;
    const text = await new Promise((resolve) => {
      asking.set(serial, resolve);
      setTimeout(resolve, PATIENCE, null);
      parent.postMessage({ kind: "ask", serial, body }, "*");
    });
    if (typeof text !== "string") throw new Error(words.kernel_gone);
    return JSON.parse(text);
  },
};
