// The pages that the server draws whole: asks for them again, and changes what has changed; focus and selection stay.

import { ask, askPage, follow } from "./follow.js";

const main = document.getElementById("main");
let selected = "";

const again = follow(async () => {
  const page = await askPage(location.href);
  if ("trouble" in main.dataset) return location.reload(); // it had nothing to show, and has now
  const focused = document.activeElement;
  morph(main, page.getElementById("main"));
  if (!focused?.isConnected) main.focus({ preventScroll: true }); // or the next Tab would start at the top of the page
  document.title = page.title;
  showSelected();
  return main.dataset.live === "true";
});

function morph(old, fresh) {
  if (old.nodeName !== fresh.nodeName) return old.replaceWith(document.importNode(fresh, true));
  if (old.nodeType === Node.TEXT_NODE) {
    if (old.data !== fresh.data) old.data = fresh.data;
    return;
  }
  if (old.nodeType !== Node.ELEMENT_NODE) return;
  for (const { name } of [...old.attributes]) if (name !== "open" && !fresh.hasAttribute(name)) old.removeAttribute(name);
  for (const { name, value } of fresh.attributes) if (old.getAttribute(name) !== value) old.setAttribute(name, value);
  let at = old.firstChild;
  const met = new Set(); // two bars may have one id: what cut an attempt has that of the attempt
  for (const child of [...fresh.childNodes]) {
    const id = child.dataset?.id;
    const known = id === undefined ? at : [...old.children].find((other) => other.dataset.id === id && !met.has(other));
    if (!known || (id === undefined && known.dataset?.id !== undefined)) {
      met.add(old.insertBefore(document.importNode(child, true), at));
      continue;
    }
    met.add(known);
    if (known === at) at = at.nextSibling;
    else old.insertBefore(known, at);
    morph(known, child);
  }
  while (at) {
    const gone = at;
    at = at.nextSibling;
    gone.remove();
  }
}

function showSelected() {
  const lines = [...main.querySelectorAll("[data-of]")];
  let count = 0;
  for (const line of lines) {
    line.hidden = selected !== "" && line.dataset.of !== selected;
    count += !line.hidden;
  }
  for (const bar of main.querySelectorAll("[data-select]")) {
    bar.setAttribute("aria-pressed", String(bar.dataset.select === selected));
  }
  const shown = document.getElementById("shown");
  if (shown) shown.textContent = selected ? `${count} of ${lines.length}, of ${selected.replace(/ [0-9a-f]{32}/, "")}` : "";
}

document.addEventListener("click", async (event) => {
  const button = event.target.closest("button");
  if (!button) return;
  const { select, post, sure } = button.dataset;
  if (select !== undefined) {
    selected = selected === select ? "" : select;
    showSelected();
  }
  if (post === undefined || button.ariaDisabled === "true" || (sure && !confirm(sure))) return;
  button.ariaDisabled = "true"; // it keeps the focus, which a disabled one loses
  try {
    await ask(post, { method: "POST", headers: { "X-Relay-Console": "1" } });
  } catch (error) {
    alert(error.message);
  }
  button.ariaDisabled = null;
  again();
});
