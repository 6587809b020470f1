// The page of all cameras: their newest pictures, what they do, and what can be done with them.
// All text goes in as text: nothing the server says becomes markup.

const LIST_MS = 1000;
const PICTURE_MS = 1000;
const SAID_MS = 8000;
const MOODS = { playing: "good", starting: "wait", connecting: "wait", waiting: "wait", failed: "bad", paused: "off", ended: "off" };
const STATES = { playing: "Live", starting: "Starting", connecting: "Connecting", waiting: "Reconnecting", failed: "Failed", paused: "Paused", ended: "Ended" };

const at = (id) => document.getElementById(id);
const cards = new Map(); // name -> { root, parts, state, loading, at }
let lost = true;
let saidUntil = 0;

if (location.search) history.replaceState(null, "", location.pathname); // the token stays a secret

const put = (element, text) => {
  if (element.textContent !== text) element.textContent = text;
};
const rate = (value) => (value == null ? "–" : Number(value).toFixed(1));
const percent = (share) => `${Math.round(100 * share)} %`;
const address = (name, rest = "") => `cameras/${encodeURIComponent(name)}/${rest}`;

function say(text, wrong = false) {
  put(at("said"), text);
  at("said").hidden = !text;
  at("said").classList.toggle("error", wrong);
  saidUntil = performance.now() + SAID_MS;
}

// --- What can be done -----------------------------------------------------------------------

/** Sends an order; returns its answer, or null after saying why it failed. */
async function order(method, path, body = {}, failed = (why) => say(why, true)) {
  try {
    const answer = await fetch(`api/${path}`, { method, headers: { "Content-Type": "application/json" }, body: JSON.stringify(body) });
    const text = await answer.text();
    if (answer.ok) return text ? JSON.parse(text) : {};
    let why = text.trim();
    try {
      why = JSON.parse(text).error ?? why;
    } catch { /* plain text says it too */ }
    failed(why || `the server answers ${answer.status}`);
  } catch {
    failed("the server does not answer");
  }
  return null;
}

async function act(name, what) {
  const { root } = cards.get(name);
  for (const button of root.querySelectorAll("button")) button.disabled = true;
  await order("POST", `cameras/${encodeURIComponent(name)}/${what}`);
  await look();
  for (const button of root.querySelectorAll("button")) button.disabled = false;
}

function remove(name) {
  const dialog = at("removing");
  put(at("removing-title"), `Remove ${name}?`);
  dialog.returnValue = "";
  dialog.onclose = async () => {
    if (dialog.returnValue !== "remove") return;
    if (await order("DELETE", `cameras/${encodeURIComponent(name)}`)) say(`${name} is removed`);
    look();
  };
  dialog.showModal();
}

const form = at("adding").querySelector("form");
function openForm() {
  put(at("adding-said"), "");
  at("adding").showModal();
}
form.addEventListener("submit", async (event) => {
  event.preventDefault();
  const entries = [...new FormData(form)].map(([key, value]) => [key, value.trim()]);
  const camera = Object.fromEntries(entries.filter(([, value]) => value));
  const done = await order("POST", "cameras", camera, (why) => put(at("adding-said"), why));
  if (!done) return;
  form.reset();
  at("adding").close();
  look();
});
form.querySelector(".close").addEventListener("click", () => at("adding").close());
at("add").addEventListener("click", openForm);
at("reload").addEventListener("click", async () => {
  const answer = await order("POST", "reload");
  if (answer) say(`The file is read again: ${answer.changed}`);
  look();
});
document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || event.target.closest?.("dialog, input")) return;
  if (event.key === "a") openForm();
});

// --- What is shown --------------------------------------------------------------------------

function newCard(name) {
  const root = at("card").content.firstElementChild.cloneNode(true);
  const find = (selector) => root.querySelector(selector);
  for (const link of [find(".picture"), find("h2 a")]) link.href = address(name);
  put(find("h2 a"), name);
  find(".picture").setAttribute("aria-label", `Open ${name}`);
  find("img").alt = `The newest picture of ${name}`;
  find(".snapshot").href = address(name, "snapshot.png");
  const card = { root, state: "", picture: false, loading: false, at: 0 };
  find(".pause").addEventListener("click", () => act(name, card.state === "paused" ? "resume" : "pause"));
  find(".restart").addEventListener("click", () => act(name, "restart"));
  find(".remove").addEventListener("click", () => remove(name));
  cards.set(name, card);
  return card;
}

function showCard(camera) {
  const card = cards.get(camera.name) ?? newCard(camera.name);
  const { root } = card;
  const part = (selector) => root.querySelector(selector);
  const mood = MOODS[camera.state] ?? "wait";
  Object.assign(card, { state: camera.state, picture: camera.picture });
  root.dataset.mood = mood;
  part(".state").dataset.mood = mood;
  put(part(".state"), STATES[camera.state] ?? camera.state);
  const retry = camera.retry_in_s ? `next attempt in ${Math.ceil(camera.retry_in_s)} s` : "";
  put(part(".veil b"), STATES[camera.state] ?? camera.state);
  put(part(".veil small"), [camera.why, retry].filter(Boolean).join("; "));
  put(part(".size"), camera.size ? camera.size.replace("x", "×") : "");
  put(part(".fps"), !camera.fps_out ? "–" : `${rate(camera.fps_out)} of ${rate(camera.fps_in)} / s`);
  const { p50, p95 } = camera.latency_ms ?? {};
  put(part(".latency"), p50 == null ? "–" : `${Math.round(p50)} ms`);
  part(".latency").title = p95 == null ? "" : `95th percentile ${Math.round(p95)} ms`;
  const made = camera.adaptive;
  const instead = camera.state === "playing" ? (camera.running ?? "–") : "–";
  put(part(".tiles"), made ? `${rate(made.tiles_per_s)} / s` : instead);
  part(".shares").hidden = !made;
  if (made) {
    for (const [kind, share] of [["model", made.fresh], ["carried", made.carried], ["bicubic", made.bicubic]]) {
      part(`.shares .${kind}`).style.width = `${100 * share}%`;
    }
    part(".shares").setAttribute("aria-label", `model ${percent(made.fresh)}, carried ${percent(made.carried)}, bicubic ${percent(made.bicubic)}`);
  }
  const outputs = camera.sinks.map((sink) => `${sink.name} (${sink.state})`).join(", ");
  put(part(".sinks"), outputs ? `to ${outputs}` : "");
  part(".sinks").hidden = !outputs;
  const faults = camera.sinks.map((sink) => sink.error).filter(Boolean);
  const trouble = [camera.note, ...faults].filter(Boolean).join("; ");
  put(part(".trouble"), trouble);
  part(".trouble").hidden = !trouble;
  put(part(".pause"), camera.state === "paused" ? "Resume" : "Pause");
  showPicture(camera.name, card);
  return root;
}

/** Loads the newest picture, unless the last one is still on its way or nothing new can be there. */
function showPicture(name, card) {
  const moves = card.state === "playing" || !card.at;
  if (!card.picture || card.loading || !moves || performance.now() - card.at < PICTURE_MS - 100) return;
  const next = new Image();
  card.loading = true;
  next.onload = () => {
    const shown = card.root.querySelector("img");
    shown.src = next.src;
    shown.hidden = false;
    card.loading = false;
    card.at = performance.now();
  };
  next.onerror = () => {
    card.loading = false;
  };
  next.src = address(name, `thumbnail.jpg?at=${Date.now()}`);
}

function showAll({ cameras, file_faulty: faulty }) {
  const roots = cameras.map(showCard);
  const names = new Set(cameras.map((camera) => camera.name));
  for (const [name, card] of cards) {
    if (!names.has(name)) {
      card.root.remove();
      cards.delete(name);
    }
  }
  const list = at("cameras");
  if (roots.some((root, n) => list.children[n] !== root)) list.append(...roots);
  at("none").hidden = cameras.length > 0;
  const playing = cameras.filter((camera) => camera.state === "playing");
  const wanted = cameras.filter((camera) => !["paused", "ended"].includes(camera.state));
  at("state").dataset.mood = playing.length === wanted.length ? "good" : "wait";
  put(at("state"), `${playing.length} of ${cameras.length} live`);
  const fps = playing.reduce((sum, camera) => sum + (camera.fps_out ?? 0), 0);
  at("rate").hidden = !playing.length;
  put(at("rate"), `${fps.toFixed(0)} frames / s`);
  document.title = `${playing.length} of ${cameras.length} live · streamdiffvsr`;
  if (faulty && at("said").hidden) say("The configuration file is wrong now: an earlier one is in use.", true);
}

let looking = false;
async function look() {
  if (looking) return;
  looking = true;
  try {
    const answer = await fetch("api/cameras");
    lost = !answer.ok;
    if (answer.ok) showAll(await answer.json());
    else refused(answer.status);
  } catch {
    lost = true;
    refused(0);
  }
  looking = false;
  document.body.classList.toggle("lost", lost);
  if (performance.now() > saidUntil) say("");
}

function refused(status) {
  at("state").dataset.mood = "bad";
  const unknown = status === 401 || status === 403;
  put(at("state"), unknown ? "Not allowed" : "Server lost");
  if (unknown) say("The server wants its token: open the address that it has printed.", true);
  document.title = `${at("state").textContent} · streamdiffvsr`;
}

setInterval(() => document.hidden || look(), LIST_MS);
document.addEventListener("visibilitychange", () => document.hidden || look());
look();
