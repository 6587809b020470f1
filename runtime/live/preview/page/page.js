// The preview page: the connection to the server, the slider, and what is said over the picture.

import { Freshness } from "./freshness.js";
import { isAdaptive, Latency, milliseconds, showChart, showEnds, showFacts, showHeadline, showMade, showStages } from "./numbers.js";
import { bestFormat, Picture, unpack } from "./picture.js";
import { Regions } from "./regions.js";
import { Sound } from "./sound.js";

const SILENT_MS = 5000; // a server that says nothing for this long is gone
const RETRY_MS = [500, 1000, 2000, 4000, 5000];
const ENDED_RETRY_MS = 10_000; // after a session that ended in good order
const STILL_MS = 3000; // without a new picture
const PINGS = 12; // the clock is judged by the quickest answer of this many

const at = (id) => document.getElementById(id);
const latency = new Latency();
const freshness = new Freshness(at("cells"), at("cells-key"));
const regions = new Regions();
const sound = new Sound();
const page = {
  socket: null,
  connected: false,
  refused: false,
  ended: false, // the session, in good order
  attempts: 0,
  retryAt: 0,
  heardAt: 0,
  shownAt: 0,
  format: "",
  status: null,
  canPrefer: false,
  pongs: [],
};

if (location.search) history.replaceState(null, "", location.pathname); // the token stays a secret

// --- The connection -------------------------------------------------------------------------

const send = (message) => page.socket?.readyState === WebSocket.OPEN && page.socket.send(JSON.stringify(message));
const watch = () => {
  picture.reset();
  send({ watch: document.hidden ? "" : page.format, freshness: freshness.wanted, sound: sound.wanted });
};

function connect() {
  const address = new URL("ws", location.href);
  address.protocol = address.protocol.replace("http", "ws");
  const socket = new WebSocket(address);
  socket.binaryType = "arraybuffer";
  page.socket = socket;
  page.heardAt = performance.now();
  let opened = false;
  socket.onopen = () => {
    opened = true;
    Object.assign(page, { connected: true, refused: false, ended: false, attempts: 0, pongs: [] });
    for (let n = 0; n < 4; n += 1) ping();
    sound.restart();
    watch();
    showState();
  };
  socket.onmessage = ({ data }) => {
    page.heardAt = performance.now();
    if (typeof data === "string") return hear(JSON.parse(data));
    const opened = unpack(data);
    if (opened.header.format === "sound") sound.push(data, opened);
    else picture.push(data, opened);
  };
  socket.onclose = ({ reason }) => {
    page.ended ||= reason === "ended";
    if (socket === page.socket) lost(opened);
  };
}

async function lost(wasOpen) {
  page.socket = null;
  page.connected = false;
  const usual = RETRY_MS[Math.min(page.attempts, RETRY_MS.length - 1)];
  const wait = (page.ended ? ENDED_RETRY_MS : usual) * (0.8 + 0.4 * Math.random());
  page.attempts += 1;
  page.retryAt = performance.now() + wait;
  showState();
  setTimeout(connect, wait);
  if (!wasOpen) {
    const answer = await fetch("healthz").catch(() => null); // a refusal looks like no server otherwise
    if (answer) page.ended = false; // another server is there
    page.refused = answer?.status === 401 || answer?.status === 403;
  }
}

function hear(message) {
  if (message.kind === "pong") {
    const now = performance.now();
    page.pongs.push({ trip: now - message.ping, offset: message.now - (now + message.ping) / 2 });
    if (page.pongs.length > PINGS) page.pongs.shift();
  } else if (message.kind === "status") {
    page.status = message.status;
    page.canPrefer = message.can_prefer === true;
    showNumbers();
  }
}

const ping = () => send({ ping: performance.now() });

/** The server's clock minus this page's. */
function clockOffset() {
  const best = page.pongs.reduce((a, b) => (a && a.trip <= b.trip ? a : b), null);
  return best?.offset;
}

// --- The picture ----------------------------------------------------------------------------

const picture = new Picture(at("before"), at("after"), {
  decoded: (number) => send({ shown: number }),
  needsKey: () => send({ key: true }),
  givesUp: () => {
    page.format = "jpeg";
    watch();
  },
  drawn: (header) => {
    const first = !page.shownAt;
    page.shownAt = performance.now();
    if (!header.again) sound.shown(header.seconds, page.shownAt);
    const offset = clockOffset();
    if (offset != null && !header.again) {
      latency.add(page.shownAt + offset - header.captured_ms, header.finished_ms - header.captured_ms);
    }
    freshness.draw(header.freshness);
    regions.resize(header.lr_size);
    const [width, height] = header.hr_size;
    at("picture").style.setProperty("--aspect", width / height);
    const made = header.rung === "bicubic" ? "Bicubic" : "Upscaled";
    text("tag-before", `Input ${header.lr_size.join("×")}`);
    const hr = header.parts.find((part) => part.picture === "hr");
    const smaller = hr.width < width ? `, shown at ${hr.width}×${hr.height}` : "";
    text("tag-after", `${made} ${width}×${height}${smaller}`);
    if (first) showState();
  },
});

function text(id, said) {
  if (at(id).textContent !== said) at(id).textContent = said;
}

// --- What is said ---------------------------------------------------------------------------

const STATES = { playing: "Live", connecting: "Connecting", waiting: "Reconnecting", ended: "Ended", starting: "Starting", paused: "Paused", failed: "Failed" };

function notice() {
  const { status } = page;
  const source = status?.source ?? {};
  if (page.refused) {
    return ["bad", "Not allowed", "The server wants its token: open the address that it has printed."];
  }
  if (!page.connected) {
    if (page.ended) return ["end", "Session ended", "This page goes on when it is started again"];
    if (!page.status) return ["wait", "Connecting", "Looking for the server"];
    const seconds = Math.max(0, Math.ceil((page.retryAt - performance.now()) / 1000));
    return ["bad", "Server lost", seconds ? `Trying again in ${seconds} s` : "Trying again"];
  }
  if (status && status.state !== "playing") {
    const retry = source.retry_in_s ? `next attempt in ${Math.ceil(source.retry_in_s)} s` : "";
    const name = STATES[status.state] ?? status.state;
    return [["ended", "paused"].includes(status.state) ? "end" : "wait", name, [source.error, retry].filter(Boolean).join("; ")];
  }
  if (!page.shownAt) return ["wait", "Live", "Waiting for the first picture"];
  if (performance.now() - page.shownAt > STILL_MS && !document.hidden) {
    return ["wait", "Live", `No new picture for ${Math.round((performance.now() - page.shownAt) / 1000)} s`];
  }
  return ["good", "Live", ""];
}

const SAID = { "Server lost": "The connection to the server is lost", "Session ended": "The session has ended", Reconnecting: "The source is reconnecting", Ended: "The source has ended", Paused: "The camera is paused", Failed: "The camera has failed", Live: "" };

function showState() {
  const [mood, name, detail] = notice();
  at("state").dataset.mood = mood;
  text("state", name);
  const box = at("notice");
  const said = SAID[name] ?? name;
  box.hidden = mood === "good";
  const lines = said ? [said, detail] : [detail, ""];
  lines.forEach((line, n) => {
    if (box.children[n].textContent !== line) box.children[n].textContent = line;
  });
  at("picture").classList.toggle("stale", mood !== "good" && page.shownAt > 0);
  document.body.classList.toggle("lost", !page.connected); // the numbers are old
  at("snapshot").setAttribute("aria-disabled", String(!page.connected || !page.shownAt));
  const fps = page.status?.fps_out;
  const whose = page.status?.camera?.name ?? "streamdiffvsr";
  document.title = mood === "good" && fps != null ? `${Number(fps).toFixed(0)} fps · ${whose}` : `${name} · ${whose}`;
}

/** Names the camera, where the server has several. */
function showName({ camera }) {
  at("all").hidden = !camera;
  if (camera) text("name", camera.name);
}

function showNumbers() {
  const { status } = page;
  showName(status);
  showHeadline(status);
  showStages(status, latency);
  showEnds(status);
  showFacts(status);
  showMade(status);
  at("sound").hidden = !Sound.possible || !status.source?.sound?.length;
  at("tools").hidden = !isAdaptive(status);
  const list = isAdaptive(status) ? (status.adaptive.regions ?? []) : [];
  regions.update(page.canPrefer && isAdaptive(status), list);
  text("transport", { h264: "by WebCodecs", jpeg: "by JPEG" }[page.format] ?? "");
  const summary = latency.summary();
  text("badge", summary ? `${Number(status.fps_out ?? 0).toFixed(0)} fps · ${milliseconds(summary.p50)} ms` : "");
  showState();
}

// --- The slider -----------------------------------------------------------------------------

let split = 50;

function slide(percent) {
  split = Math.min(100, Math.max(0, percent));
  at("picture").style.setProperty("--split", `${split}%`);
  const rounded = Math.round(split);
  at("divider").setAttribute("aria-valuenow", rounded);
  at("divider").setAttribute("aria-valuetext", `${rounded} % input, ${100 - rounded} % upscaled`);
  at("tag-before").classList.toggle("off", split < 12);
  at("tag-after").classList.toggle("off", split > 88);
}

function follow(event) {
  const box = at("picture").getBoundingClientRect();
  slide((100 * (event.clientX - box.left)) / box.width);
}

at("picture").addEventListener("pointerdown", (event) => {
  if (event.button !== 0) return;
  at("picture").setPointerCapture(event.pointerId);
  at("divider").focus({ preventScroll: true, focusVisible: false });
  follow(event);
  event.preventDefault();
});
at("picture").addEventListener("pointermove", (event) => {
  if (at("picture").hasPointerCapture(event.pointerId)) follow(event);
});
at("divider").addEventListener("keydown", (event) => {
  const step = event.shiftKey ? 10 : 2;
  const to = { ArrowLeft: split - step, ArrowDown: split - step, ArrowRight: split + step, ArrowUp: split + step,
    PageDown: split - 20, PageUp: split + 20, Home: 0, End: 100 }[event.key];
  if (to === undefined || event.ctrlKey || event.metaKey || event.altKey) return;
  slide(to);
  event.preventDefault();
});

// --- Buttons and clocks ---------------------------------------------------------------------

function toggleFullscreen() {
  if (document.fullscreenElement) document.exitFullscreen();
  else at("stage").requestFullscreen().catch(() => {});
}

function toggleFreshness() {
  freshness.want(!freshness.wanted);
  at("show-cells").setAttribute("aria-pressed", String(freshness.wanted));
  send({ freshness: freshness.wanted });
}

function toggleSound() {
  sound.want(!sound.wanted);
  at("sound").setAttribute("aria-pressed", String(sound.wanted));
  send({ sound: sound.wanted });
}

at("sound").addEventListener("click", toggleSound);
at("show-cells").addEventListener("click", toggleFreshness);
at("fullscreen").hidden = !document.fullscreenEnabled;
at("fullscreen").addEventListener("click", toggleFullscreen);
document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || event.repeat) return;
  if (event.target.closest?.("dialog")) return; // letters are input there
  if (event.key === "Escape") regions.escape();
  if (event.key === "o" && !at("tools").hidden) toggleFreshness();
  if (event.key === "m" && !at("sound").hidden) toggleSound();
  if (event.key === "r") regions.draw(!regions.drawing);
  if (event.key === "n") regions.enter();
  if (event.key === "c") regions.clear();
  if (event.key === "f" && document.fullscreenEnabled) toggleFullscreen();
  if (event.key === "s" && at("snapshot").getAttribute("aria-disabled") !== "true") at("snapshot").click();
});
document.addEventListener("visibilitychange", () => {
  page.shownAt &&= performance.now();
  watch();
});

setInterval(ping, 2000);
setInterval(() => {
  showChart(latency);
  showState();
  if (page.socket && performance.now() - page.heardAt > SILENT_MS) {
    const { socket, connected } = page;
    page.socket = null;
    socket.close();
    lost(connected);
  }
}, 1000);

slide(50);
page.format = await bestFormat();
connect();
