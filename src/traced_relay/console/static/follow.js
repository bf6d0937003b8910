// Polls the console and shows the state of the connection. A hidden page does not poll.

const INTERVAL = 2000; // milliseconds
const INTERVAL_AFTER_END = 20000; // another client may redrive the task
const REFUSALS = [401, 403, 404];
const TIMEOUT = 15000;
const connection = document.getElementById("connection");
const errorBanner = document.getElementById("error");
let lastUpdate = new Date();

export async function fetchJson(path, options = {}) {
  const response = await fetch(path, { ...options, signal: AbortSignal.timeout(TIMEOUT) }).catch(() => {
    throw new Error("the console cannot be reached");
  });
  const content = await response.json().catch(() => ({}));
  if (!response.ok) throw Object.assign(new Error(content.trouble ?? response.statusText), { status: response.status });
  return content;
}

// XMLHttpRequest returns a parsed document, so no text is ever assigned as HTML.
export function fetchPage(path) {
  return new Promise((resolve, reject) => {
    const request = new XMLHttpRequest();
    request.open("GET", path);
    request.responseType = "document";
    request.timeout = TIMEOUT;
    request.onerror = request.ontimeout = () => reject(new Error("the console cannot be reached"));
    request.onload = () => {
      const reason = request.response?.querySelector(".empty .reason")?.textContent;
      if (request.status === 200) resolve(request.response);
      else reject(Object.assign(new Error(reason ?? request.statusText), { status: request.status }));
    };
    request.send();
  });
}

// Calls `update` now and every 2 s, or every 20 s while it returns false. Returns a function that updates at once.
export function follow(update) {
  let timer = 0;
  let isUpdating = false;
  let isRequested = false;
  async function poll() {
    clearTimeout(timer);
    isRequested = isUpdating;
    if (isUpdating || document.hidden) return;
    isUpdating = true;
    let isLive = true;
    try {
      isLive = await update();
      lastUpdate = new Date();
      showError("");
      setText(connection, isLive ? "live" : "ended");
    } catch (error) {
      const isRefusal = REFUSALS.includes(error.status);
      showError((isRefusal ? `the relay refused: ${error.message}` : error.message) + dataAge());
      setText(connection, isRefusal ? "refused" : "offline");
    }
    connection.dataset.status = connection.textContent;
    isUpdating = false;
    if (isRequested) poll();
    else timer = setTimeout(poll, isLive ? INTERVAL : INTERVAL_AFTER_END);
  }
  document.addEventListener("visibilitychange", poll);
  poll();
  return poll;
}

function dataAge() {
  const isEmpty = document.querySelector("main[data-error]") !== null;
  return isEmpty ? "" : `; data as of ${lastUpdate.toISOString().slice(11, 19)} UTC`;
}

// Screen readers announce every change of these elements, so equal text is not written again.
export function setText(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

function showError(text) {
  setText(errorBanner, text);
  errorBanner.hidden = !text;
}

document.addEventListener("click", async (event) => {
  const button = event.target.closest("[data-copy]");
  if (!button) return;
  const source = document.getElementById(button.dataset.copy);
  const before = button.textContent;
  try {
    await navigator.clipboard.writeText(source.textContent);
    button.textContent = "Copied";
  } catch {
    getSelection().selectAllChildren(source);
    button.textContent = "Selected";
  }
  setTimeout(() => (button.textContent = before), 1500);
});
