// The list: holds what was loaded, draws what is in view, and asks for the newest page and those in view again.

import { ask, follow, tell } from "./follow.js";

const SPARE = 12; // rows drawn beyond each edge of the view
const NEAR = 60; // so many from the end the next page is fetched
const MOST_AGAIN = 2000; // rows that are loaded again for whoever comes back from a task
const AT_ONCE = 5; // pages that may have come since the last look, before the list starts anew
const MOST = 5000; // rows that are kept where nobody looks further down

const base = document.body.dataset.base;
const form = document.getElementById("filters");
const body = document.querySelector("#tasks tbody");
const table = document.getElementById("tasks");
const line = document.getElementById("line").content.firstElementChild;
const above = spacer();
const below = spacer();
const drawn = new Map(); // the row elements in the page, by task
let known = new Map(); // every row that was loaded, by task
let sorted = [];
let shown = []; // those of them that the text filter lets through
let filters = chosen(); // as they were chosen last; another object whenever the list starts anew
let following = null; // the token of the page after the last one loaded
let ahead = 0; // of this clock, the console's, in seconds
let isLoading = false;
let inView = [];
let left = history.state; // how many rows there were, and where, when a task was opened from among them

const order = (a, b) => b.created - a.created || (a.id < b.id ? 1 : a.id > b.id ? -1 : 0);
const now = () => Date.now() / 1000 + ahead;

function spacer() {
  const row = document.createElement("tr");
  row.className = "space";
  row.setAttribute("aria-hidden", "true");
  return row;
}

async function page(token, isFew = false) {
  const mine = filters;
  const query = new URLSearchParams(filters);
  if (isFew) query.set("few", "1");
  if (token) query.set("page_token", token);
  const answer = await ask(`${base}rows?${query}`);
  if (mine !== filters) throw Object.assign(new Error("the list has started anew"), { status: 0 });
  ahead = answer.now - Date.now() / 1000;
  return answer;
}

function chosen() {
  const names = ["state", "queue", "rule", "label"].filter((name) => form[name].value);
  return new URLSearchParams(names.map((name) => [name, form[name].value]));
}

function startAnew(wanted) {
  filters = new URLSearchParams(wanted);
  known = new Map();
  following = null; // a page of the list as it was would leave a hole in the one to come
}

// A page is the truth about its stretch of the list: what is in it is as it says, what is missing from it is gone.
function merge(rows, token, next) {
  const ids = new Set();
  for (const row of rows) {
    ids.add(row.id);
    row.token = token ?? row.token ?? known.get(row.id)?.token;
    row.text = [row.id, row.state, row.queue, row.method, row.url, row.labels, row.reason].join(" ").toLowerCase();
    known.set(row.id, row);
  }
  const [first, last] = [rows[0], rows.at(-1)];
  for (const row of known.values()) {
    if (ids.has(row.id)) continue;
    const isBelow = !last || order(row, last) > 0;
    const isAbove = token && first && order(row, first) < 0 && row.token !== token;
    if (isBelow ? next === null && (last || !token || row.token === token) : !isAbove) known.delete(row.id);
  }
  sorted = [...known.values()].sort(order);
  // The rows that newer ones have pushed off the first page are on the page that comes after it now.
  if (!token && next) for (const row of sorted.slice(rows.length, rows.length + 200)) row.token ??= next;
  if (sorted.at(-1) === last || !last) following = next;
  sift();
}

async function look() {
  try {
    await lookAtTop();
    while (left && following && sorted.length < Math.min(left.rows, MOST_AGAIN)) await loadPage();
    const tokens = new Set(inView.map((row) => row.token).filter(Boolean));
    for (const token of [...tokens].slice(0, 2)) {
      const { rows, next } = await page(token);
      merge(rows, token, next);
    }
    mistake("");
  } catch (error) {
    if (error.status === 422) mistake(error.message);
    else if (error.status !== 0) throw error;
  }
  draw();
  if (left) scrollTo(0, left.top);
  left = null;
  return true;
}

async function lookAtTop() {
  let { rows, next } = await page(undefined, known.size > 0); // again and again: few rows cost the relay little
  for (let count = 1; known.size && next && !rows.some((row) => known.has(row.id)); count += 1) {
    if (count === AT_ONCE) {
      startAnew(filters);
      break;
    }
    const more = await page(next);
    for (const row of more.rows) row.token = next;
    rows = rows.concat(more.rows);
    next = more.next;
  }
  merge(rows, undefined, next);
  forgetFar();
}

// What is far below the view comes back when somebody scrolls there.
function forgetFar() {
  const far = sorted[MOST];
  if (!far?.token || isLoading || shown !== sorted || shown.indexOf(inView.at(-1)) > MOST - 2 * NEAR) return;
  for (const row of sorted.splice(MOST)) known.delete(row.id);
  following = far.token;
}

async function loadPage() {
  const token = following;
  const { rows, next } = await page(token);
  merge(rows, token, next);
  following = next;
}

async function loadMore() {
  if (isLoading || !following) return;
  isLoading = true;
  try {
    await loadPage();
  } catch {
    return; // the next look says what is wrong
  } finally {
    isLoading = false;
  }
  draw();
}

function sift() {
  const words = form.text.value.toLowerCase().split(/\s+/).filter(Boolean);
  shown = words.length ? sorted.filter((row) => words.every((word) => row.text.includes(word))) : sorted;
}

function draw() {
  if (!above.isConnected) body.replaceChildren(above, below); // in place of what the server drew
  const height = body.querySelector("tr:not(.space)")?.getBoundingClientRect().height || 44;
  const top = Math.max(0, -body.getBoundingClientRect().top);
  const first = Math.max(0, Math.min(Math.floor(top / height) - SPARE, shown.length - 1));
  const end = Math.min(shown.length, Math.ceil((top + innerHeight) / height) + SPARE);
  inView = shown.slice(first, end);
  const ids = new Set(inView.map((row) => row.id));
  for (const [id, element] of drawn) {
    if (ids.has(id)) continue;
    element.remove();
    drawn.delete(id);
  }
  above.style.height = `${first * height}px`;
  below.style.height = `${(shown.length - end) * height}px`;
  let at = above;
  for (const [index, row] of inView.entries()) {
    const element = drawn.get(row.id) ?? line.cloneNode(true);
    drawn.set(row.id, element);
    fill(element, row, first + index);
    if (at.nextSibling !== element) at.after(element);
    at = element;
  }
  table.setAttribute("aria-rowcount", shown.length + 1);
  document.getElementById("empty").hidden = shown.length > 0 || following !== null;
  count();
  if (end > shown.length - NEAR) loadMore();
}

function count() {
  const loaded = `${sorted.length.toLocaleString("en")} loaded${following ? ", more below" : ""}`;
  const text = form.text.value.trim() ? `${shown.length.toLocaleString("en")} match, of ${loaded}` : loaded;
  tell(document.getElementById("count"), text);
}

function fill(element, row, index) {
  element.setAttribute("aria-rowindex", index + 2);
  const texts = { ...row, lasted: lasted(row), age: coarse(now() - row.created) };
  for (const place of element.querySelectorAll("[data-f]")) {
    const name = place.dataset.f;
    if (name === "link") place.href = `${base}tasks/${encodeURIComponent(row.id)}`;
    else if (place.textContent !== String(texts[name])) place.textContent = texts[name];
    if (name === "state") place.dataset.state = row.state;
  }
}

function lasted(row) {
  if (row.ended) return row.total === null ? "not due" : readable(row.total);
  if (row.due > now() && row.attempt === 0) return `in ${coarse(row.due - now())}`;
  return `${coarse(now() - Math.max(row.created, row.due))} …`;
}

// Lengths that change while they are looked at: no finer than seconds. As listed.py has it.
function coarse(seconds) {
  return seconds < 60 ? `${Math.floor(Math.max(0, seconds))} s` : readable(seconds);
}

// As lengths.py has it.
function readable(given) {
  const seconds = Math.max(0, given);
  if (seconds < 0.9995) return `${+(seconds * 1000).toFixed(seconds < 0.00995 ? 1 : 0)} ms`;
  if (seconds < 59.95) return `${seconds.toFixed(seconds < 9.995 ? 2 : 1)} s`;
  const whole = Math.round(seconds);
  const [size, name, part, partName] = [
    [86400, "d", 3600, "h"],
    [3600, "h", 60, "m"],
    [60, "m", 1, "s"],
  ].find(([least]) => whole >= least);
  const rest = String(Math.floor((whole % size) / part)).padStart(2, "0");
  return `${Math.floor(whole / size)}${name} ${rest}${partName}`;
}

function mistake(text) {
  const place = document.getElementById("mistake");
  tell(place, text);
  place.hidden = !text;
}

function remember() {
  const query = new URLSearchParams([...new FormData(form)].filter(([, value]) => value));
  history.replaceState(null, "", query.size ? `?${query}` : location.pathname);
}

form.addEventListener("input", (event) => {
  if (event.target.name !== "text") return;
  sift();
  draw();
  remember();
});
form.addEventListener("change", (event) => {
  if (event.target.name === "text") return;
  startAnew(chosen());
  remember();
  again();
});
body.addEventListener("click", (event) => {
  if (event.target.closest("a")) history.replaceState({ rows: sorted.length, top: scrollY }, "");
});
form.addEventListener("submit", (event) => event.preventDefault());
addEventListener("scroll", draw, { passive: true });
addEventListener("resize", draw);

addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  const field = event.target.closest("input, select");
  if (event.key === "Escape" && field?.name === "text") {
    field.value = "";
    field.dispatchEvent(new Event("input", { bubbles: true }));
  }
  if (field) return;
  const isInList = body.contains(document.activeElement);
  if (event.key === "/") form.text.focus();
  else if (event.key === "j" || (isInList && event.key === "ArrowDown")) step(1);
  else if (event.key === "k" || (isInList && event.key === "ArrowUp")) step(-1);
  else return;
  event.preventDefault();
});

function step(by) {
  const row = document.activeElement.closest("#tasks tbody tr");
  const index = row ? +row.getAttribute("aria-rowindex") - 2 + by : 0;
  const wanted = shown[Math.max(0, Math.min(index, shown.length - 1))];
  drawn.get(wanted?.id)?.querySelector("a").focus();
}

const again = follow(look);
