// The task list: keeps the loaded rows, renders those in view, and polls the newest page and the pages in view.

import { fetchJson, follow, setText } from "./follow.js";

const OVERSCAN = 12; // rows rendered beyond each edge of the view
const PREFETCH = 60; // the next page is fetched this many rows before the end
const MAX_RELOADED = 2000; // rows reloaded on the way back from a task
const MAX_NEW_PAGES = 5; // new pages since the last update, before the list is reset
const MAX_ROWS = 5000; // rows kept above the view

const base = document.body.dataset.base;
const form = document.getElementById("filters");
const body = document.querySelector("#tasks tbody");
const table = document.getElementById("tasks");
const template = document.getElementById("row").content.firstElementChild;
const above = spacer();
const below = spacer();
const rendered = new Map(); // row elements in the page, by task
let known = new Map(); // all loaded rows, by task
let sorted = [];
let matching = []; // sorted rows that match the text filter
let filters = chosenFilters(); // a new object after each reset of the list
let nextToken = null; // token of the page after the last loaded one
let clockOffset = 0; // the console's clock minus this one, in seconds
let isLoading = false;
let inView = [];
let previous = history.state; // row count and scroll position when a task was opened

const order = (a, b) => b.created - a.created || (a.id < b.id ? 1 : a.id > b.id ? -1 : 0);
const now = () => Date.now() / 1000 + clockOffset;

function spacer() {
  const row = document.createElement("tr");
  row.className = "space";
  row.setAttribute("aria-hidden", "true");
  return row;
}

async function fetchRows(token, isFew = false) {
  const current = filters;
  const query = new URLSearchParams(filters);
  if (isFew) query.set("few", "1");
  if (token) query.set("page_token", token);
  const response = await fetchJson(`${base}rows?${query}`);
  if (current !== filters) throw Object.assign(new Error("the filters have changed"), { status: 0 });
  clockOffset = response.now - Date.now() / 1000;
  return response;
}

function chosenFilters() {
  const names = ["state", "queue", "rule", "label"].filter((name) => form[name].value);
  return new URLSearchParams(names.map((name) => [name, form[name].value]));
}

function reset(newFilters) {
  filters = new URLSearchParams(newFilters);
  known = new Map();
  nextToken = null; // a page of the old list would leave a gap in the new one
}

// A page is authoritative for its range: its rows replace known ones, and known rows missing from it are deleted.
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
  // Rows that newer ones have pushed off the first page are now on the second one.
  if (!token && next) for (const row of sorted.slice(rows.length, rows.length + 200)) row.token ??= next;
  if (sorted.at(-1) === last || !last) nextToken = next;
  filterRows();
}

async function update() {
  try {
    await updateFirstPage();
    while (previous && nextToken && sorted.length < Math.min(previous.rows, MAX_RELOADED)) await loadPage();
    const tokens = new Set(inView.map((row) => row.token).filter(Boolean));
    for (const token of [...tokens].slice(0, 2)) {
      const { rows, next } = await fetchRows(token);
      merge(rows, token, next);
    }
    showFilterError("");
  } catch (error) {
    if (error.status === 422) showFilterError(error.message);
    else if (error.status !== 0) throw error;
  }
  render();
  if (previous) scrollTo(0, previous.top);
  previous = null;
  return true;
}

async function updateFirstPage() {
  let { rows, next } = await fetchRows(undefined, known.size > 0); // polled with a short page, which costs the relay little
  for (let count = 1; known.size && next && !rows.some((row) => known.has(row.id)); count += 1) {
    if (count === MAX_NEW_PAGES) {
      reset(filters);
      break;
    }
    const more = await fetchRows(next);
    for (const row of more.rows) row.token = next;
    rows = rows.concat(more.rows);
    next = more.next;
  }
  merge(rows, undefined, next);
  dropDistantRows();
}

// Rows far below the view are loaded again on scrolling.
function dropDistantRows() {
  const first = sorted[MAX_ROWS];
  if (!first?.token || isLoading || matching !== sorted || matching.indexOf(inView.at(-1)) > MAX_ROWS - 2 * PREFETCH) return;
  for (const row of sorted.splice(MAX_ROWS)) known.delete(row.id);
  nextToken = first.token;
}

async function loadPage() {
  const token = nextToken;
  const { rows, next } = await fetchRows(token);
  merge(rows, token, next);
  nextToken = next;
}

async function loadMore() {
  if (isLoading || !nextToken) return;
  isLoading = true;
  try {
    await loadPage();
  } catch {
    return; // the next update shows the error
  } finally {
    isLoading = false;
  }
  render();
}

function filterRows() {
  const words = form.text.value.toLowerCase().split(/\s+/).filter(Boolean);
  matching = words.length ? sorted.filter((row) => words.every((word) => row.text.includes(word))) : sorted;
}

function render() {
  if (!above.isConnected) body.replaceChildren(above, below); // replaces the rows rendered by the server
  const height = body.querySelector("tr:not(.space)")?.getBoundingClientRect().height || 44;
  const top = Math.max(0, -body.getBoundingClientRect().top);
  const first = Math.max(0, Math.min(Math.floor(top / height) - OVERSCAN, matching.length - 1));
  const end = Math.min(matching.length, Math.ceil((top + innerHeight) / height) + OVERSCAN);
  inView = matching.slice(first, end);
  const ids = new Set(inView.map((row) => row.id));
  for (const [id, element] of rendered) {
    if (ids.has(id)) continue;
    element.remove();
    rendered.delete(id);
  }
  above.style.height = `${first * height}px`;
  below.style.height = `${(matching.length - end) * height}px`;
  let at = above;
  for (const [index, row] of inView.entries()) {
    const element = rendered.get(row.id) ?? template.cloneNode(true);
    rendered.set(row.id, element);
    fill(element, row, first + index);
    if (at.nextSibling !== element) at.after(element);
    at = element;
  }
  table.setAttribute("aria-rowcount", matching.length + 1);
  document.getElementById("empty").hidden = matching.length > 0 || nextToken !== null;
  showCount();
  if (end > matching.length - PREFETCH) loadMore();
}

function showCount() {
  const loaded = `${sorted.length.toLocaleString("en")} loaded${nextToken ? ", more below" : ""}`;
  const text = form.text.value.trim() ? `${matching.length.toLocaleString("en")} match, of ${loaded}` : loaded;
  setText(document.getElementById("count"), text);
}

function fill(element, row, index) {
  element.setAttribute("aria-rowindex", index + 2);
  const texts = { ...row, duration: duration(row), age: wholeSeconds(now() - row.created) };
  for (const field of element.querySelectorAll("[data-field]")) {
    const name = field.dataset.field;
    if (name === "link") field.href = `${base}tasks/${encodeURIComponent(row.id)}`;
    else if (field.textContent !== String(texts[name])) field.textContent = texts[name];
    if (name === "state") field.dataset.state = row.state;
  }
}

function duration(row) {
  if (row.ended) return row.total === null ? "not due" : readable(row.total);
  if (row.due > now() && row.attempt === 0) return `in ${wholeSeconds(row.due - now())}`;
  return `${wholeSeconds(now() - Math.max(row.created, row.due))} …`;
}

// For durations that change on the page: no unit below seconds, as in task_rows.py.
function wholeSeconds(seconds) {
  return seconds < 60 ? `${Math.floor(Math.max(0, seconds))} s` : readable(seconds);
}

// As in formats/durations.py.
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

function showFilterError(text) {
  const element = document.getElementById("filter-error");
  setText(element, text);
  element.hidden = !text;
}

function saveFilters() {
  const query = new URLSearchParams([...new FormData(form)].filter(([, value]) => value));
  history.replaceState(null, "", query.size ? `?${query}` : location.pathname);
}

form.addEventListener("input", (event) => {
  if (event.target.name !== "text") return;
  filterRows();
  render();
  saveFilters();
});
form.addEventListener("change", (event) => {
  if (event.target.name === "text") return;
  reset(chosenFilters());
  saveFilters();
  poll();
});
body.addEventListener("click", (event) => {
  if (event.target.closest("a")) history.replaceState({ rows: sorted.length, top: scrollY }, "");
});
form.addEventListener("submit", (event) => event.preventDefault());
addEventListener("scroll", render, { passive: true });
addEventListener("resize", render);

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
  else if (event.key === "j" || (isInList && event.key === "ArrowDown")) moveFocus(1);
  else if (event.key === "k" || (isInList && event.key === "ArrowUp")) moveFocus(-1);
  else return;
  event.preventDefault();
});

function moveFocus(by) {
  const row = document.activeElement.closest("#tasks tbody tr");
  const index = row ? +row.getAttribute("aria-rowindex") - 2 + by : 0;
  const target = matching[Math.max(0, Math.min(index, matching.length - 1))];
  rendered.get(target?.id)?.querySelector("a").focus();
}

const poll = follow(update);
