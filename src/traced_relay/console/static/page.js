// Pages rendered by the server: fetches them again and patches what changed; focus and selection stay.

import { fetchJson, fetchPage, follow } from "./follow.js";

const main = document.getElementById("main");
let selected = "";

const update = follow(async () => {
  const page = await fetchPage(location.href);
  if ("error" in main.dataset) return location.reload(); // the error is over
  const focused = document.activeElement;
  patch(main, page.getElementById("main"));
  if (!focused?.isConnected) main.focus({ preventScroll: true }); // else the next Tab would start at the top of the page
  document.title = page.title;
  showSelected();
  return main.dataset.live === "true";
});

function patch(old, fresh) {
  if (old.nodeName !== fresh.nodeName) return old.replaceWith(document.importNode(fresh, true));
  if (old.nodeType === Node.TEXT_NODE) {
    if (old.data !== fresh.data) old.data = fresh.data;
    return;
  }
  if (old.nodeType !== Node.ELEMENT_NODE) return;
  for (const { name } of [...old.attributes]) if (name !== "open" && !fresh.hasAttribute(name)) old.removeAttribute(name);
  for (const { name, value } of fresh.attributes) if (old.getAttribute(name) !== value) old.setAttribute(name, value);
  let at = old.firstChild;
  const matched = new Set(); // an interruption has the id of its attempt, so ids are not unique
  for (const child of [...fresh.childNodes]) {
    const id = child.dataset?.id;
    const known = id === undefined ? at : [...old.children].find((other) => other.dataset.id === id && !matched.has(other));
    if (!known || (id === undefined && known.dataset?.id !== undefined)) {
      matched.add(old.insertBefore(document.importNode(child, true), at));
      continue;
    }
    matched.add(known);
    if (known === at) at = at.nextSibling;
    else old.insertBefore(known, at);
    patch(known, child);
  }
  while (at) {
    const removed = at;
    at = at.nextSibling;
    removed.remove();
  }
}

function showSelected() {
  const lines = [...main.querySelectorAll("[data-key]")];
  let count = 0;
  for (const line of lines) {
    line.hidden = selected !== "" && line.dataset.key !== selected;
    count += !line.hidden;
  }
  for (const bar of main.querySelectorAll("[data-select]")) {
    bar.setAttribute("aria-pressed", String(bar.dataset.select === selected));
  }
  const filter = document.getElementById("filter");
  if (filter) filter.textContent = selected ? `${count} of ${lines.length}, only ${selected.replace(/ [0-9a-f]{32}/, "")}` : "";
}

document.addEventListener("click", async (event) => {
  const button = event.target.closest("button");
  if (!button) return;
  const { select, post, confirm: question } = button.dataset;
  if (select !== undefined) {
    selected = selected === select ? "" : select;
    showSelected();
  }
  if (post === undefined || button.ariaDisabled === "true" || (question && !confirm(question))) return;
  button.ariaDisabled = "true"; // a disabled button would lose the focus
  try {
    await fetchJson(post, { method: "POST", headers: { "X-Relay-Console": "1" } });
  } catch (error) {
    alert(error.message);
  }
  button.ariaDisabled = null;
  update();
});
