// Asking the console again and again, and saying how that goes. Nothing is asked while nobody looks.

const EVERY = 2000;
const PATIENCE = 15000;
const pulse = document.getElementById("pulse");
const trouble = document.getElementById("trouble");
let lastSeen = new Date();

export async function ask(path, options = {}) {
  const answer = await fetch(path, { ...options, signal: AbortSignal.timeout(PATIENCE) }).catch(() => {
    throw new Error("the console cannot be reached");
  });
  const content = await answer.json().catch(() => ({}));
  if (!answer.ok) throw Object.assign(new Error(content.trouble ?? answer.statusText), { status: answer.status });
  return content;
}

// XMLHttpRequest, because it gives a document: no text ever becomes HTML here.
export function askPage(path) {
  return new Promise((resolve, reject) => {
    const request = new XMLHttpRequest();
    request.open("GET", path);
    request.responseType = "document";
    request.timeout = PATIENCE;
    request.onerror = request.ontimeout = () => reject(new Error("the console cannot be reached"));
    request.onload = () => {
      const said = request.response?.querySelector(".empty .said")?.textContent;
      if (request.status === 200) resolve(request.response);
      else reject(new Error(said ?? request.statusText));
    };
    request.send();
  });
}

// Calls `look` now, and every two seconds as long as it says that there is more to come. Gives back a way to ask at once.
export function follow(look) {
  let timer = 0;
  let isLooking = false;
  let isWanted = false;
  async function again() {
    clearTimeout(timer);
    isWanted = isLooking;
    if (isLooking || document.hidden) return;
    isLooking = true;
    let goesOn = true;
    try {
      goesOn = await look();
      lastSeen = new Date();
      say("");
      tell(pulse, goesOn ? "live" : "ended");
    } catch (error) {
      say(`${error.message}; what you see is of ${lastSeen.toLocaleTimeString()}`);
      tell(pulse, "away");
    }
    pulse.dataset.is = pulse.textContent;
    isLooking = false;
    if (isWanted) again();
    else if (goesOn) timer = setTimeout(again, EVERY);
  }
  document.addEventListener("visibilitychange", again);
  again();
  return again;
}

// A screen reader says what is new in these places: so nothing is written there that stands there already.
export function tell(place, text) {
  if (place.textContent !== text) place.textContent = text;
}

function say(text) {
  tell(trouble, text);
  trouble.hidden = !text;
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
