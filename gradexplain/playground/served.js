// How a page of the server asks it, and where its state is kept: in its address. The token stays in this tab alone, and
// never in a link.
const KEY = "gradexplain-token";
const PAGE = crypto.randomUUID();
const given = new URLSearchParams(location.search).get("token");
if (given) sessionStorage.setItem(KEY, given);
const token = sessionStorage.getItem(KEY);
history.replaceState(null, "", "/" + location.hash);

const host = {
  get kept() { return location.hash.slice(1); },
  keep(text) { history.replaceState(null, "", "#" + text); },
  link: (text) => location.origin + "/#" + text,
  /** Asks the server; throws a sentence where it does not answer. */
  async post(path, body, words) {
    let response;
    try {
      response = await fetch(path, {
        method: "POST", body, headers: { Authorization: "Bearer " + token, "X-Page": PAGE, "Content-Type": "application/json" },
      });
    } catch {
      throw new Error(words.gone);
    }
    if (!response.ok) throw new Error((await response.text()).trim());
    return response.json();
  },
};
