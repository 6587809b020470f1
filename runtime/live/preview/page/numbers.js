// Shows the status of the session, and the latency that the page has measured itself.
// All text goes in as text: nothing the server says becomes markup.

const MINUTE_MS = 60_000;
const CHART_S = 60;

const at = (id) => document.getElementById(id);
const put = (element, text) => {
  if (element.textContent !== text) element.textContent = text;
};

function make(tag, text = "", className = "") {
  const element = document.createElement(tag);
  element.textContent = text;
  if (className) element.className = className;
  return element;
}

function percentile(sorted, share) {
  return sorted[Math.min(sorted.length - 1, Math.floor(share * sorted.length))];
}

export function milliseconds(value) {
  if (value == null || !Number.isFinite(value)) return "–";
  return value < 9.95 ? value.toFixed(1) : value.toFixed(0);
}

const count = (value) => (value == null ? "–" : Number(value).toLocaleString("en"));
const rate = (value) => (value == null ? "–" : Number(value).toFixed(1));

function duration(seconds) {
  if (seconds == null) return "–";
  const whole = Math.floor(seconds);
  const [h, m, s] = [Math.floor(whole / 3600), Math.floor(whole / 60) % 60, whole % 60];
  const two = (n) => String(n).padStart(2, "0");
  return h ? `${h}:${two(m)}:${two(s)}` : `${m}:${two(s)}`;
}

/** Latencies of the last minute: from capture to display, and the part before the preview. */
export class Latency {
  samples = [];

  add(total, session) {
    const now = performance.now();
    this.samples.push({ now, total, session });
    const old = this.samples.findIndex((sample) => sample.now > now - MINUTE_MS);
    if (old > 0) this.samples.splice(0, old);
  }

  /** { p50, p95, preview }, or null where nothing was shown for a minute. */
  summary() {
    const recent = this.samples.filter((sample) => sample.now > performance.now() - MINUTE_MS);
    if (!recent.length) return null;
    const sorted = (values) => values.sort((a, b) => a - b);
    const totals = sorted(recent.map((sample) => sample.total));
    const preview = sorted(recent.map((sample) => sample.total - sample.session));
    return { p50: percentile(totals, 0.5), p95: percentile(totals, 0.95), preview: percentile(preview, 0.5) };
  }

  /** A point a second: { age, p50, p95 }; seconds in which nothing was shown are left out. */
  seconds() {
    const now = Math.floor(performance.now() / 1000);
    const bySecond = new Map();
    for (const sample of this.samples) {
      const age = now - Math.floor(sample.now / 1000);
      if (age > CHART_S) continue;
      if (!bySecond.has(age)) bySecond.set(age, []);
      bySecond.get(age).push(sample.total);
    }
    return [...bySecond].map(([age, totals]) => {
      totals.sort((a, b) => a - b);
      return { age, p50: percentile(totals, 0.5), p95: percentile(totals, 0.95) };
    });
  }
}

const SVG = "http://www.w3.org/2000/svg";

function draw(tag, attributes, text = "") {
  const element = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.textContent = text;
  return element;
}

/** A round number above the value, in few enough steps for the grid. */
function ceiling(value) {
  const power = 10 ** Math.floor(Math.log10(Math.max(value, 10)));
  return [1, 2, 3, 5, 10].map((step) => step * power).find((top) => top >= value);
}

export function showChart(latency) {
  const svg = at("chart");
  const [width, height] = [svg.clientWidth, svg.clientHeight];
  if (!width) return;
  const points = latency.seconds();
  const top = ceiling(Math.max(20, ...points.map((point) => point.p95)) * 1.05);
  const left = 44, bottom = height - 18;
  const x = (age) => left + (width - left - 2) * (1 - age / CHART_S);
  const y = (value) => 6 + (bottom - 6) * (1 - value / top);
  const parts = [];
  for (const share of [0, 0.5, 1]) {
    const level = y(share * top);
    parts.push(draw("line", { x1: left, x2: width, y1: level, y2: level }));
    parts.push(draw("text", { x: left - 6, y: level + 4, "text-anchor": "end" }, `${share * top} ms`.replace(/^0 ms/, "0")));
  }
  for (const [age, text, anchor] of [[60, "60 s ago", "start"], [30, "30 s", "middle"], [0, "now", "end"]]) {
    parts.push(draw("text", { x: x(age), y: height - 2, "text-anchor": anchor }, text));
  }
  for (const curve of ["p95", "p50"]) {
    for (const run of unbroken(points)) {
      const dots = run.map((point) => `${x(point.age).toFixed(1)},${y(point[curve]).toFixed(1)}`);
      if (dots.length === 1) dots.push(dots[0]);
      parts.push(draw("polyline", { class: curve, points: dots.join(" ") }));
    }
  }
  svg.replaceChildren(...parts);
  const summary = latency.summary();
  put(at("p50"), milliseconds(summary?.p50));
  put(at("p95"), milliseconds(summary?.p95));
  svg.setAttribute("aria-label", summary
    ? `Latency over the last minute: median ${milliseconds(summary.p50)} ms, 95th percentile ${milliseconds(summary.p95)} ms`
    : "Latency over the last minute: nothing shown");
}

/** Runs of seconds without a hole of more than two. */
function unbroken(points) {
  const runs = [];
  for (const point of points.sort((a, b) => b.age - a.age)) {
    const run = runs.at(-1);
    if (run && run.at(-1).age - point.age <= 2) run.push(point);
    else runs.push([point]);
  }
  return runs;
}

export function showStages(status, latency) {
  const rows = Object.entries(status.stage_ms ?? {}).map(([name, value]) => ({ name, value }));
  const preview = latency.summary()?.preview;
  if (preview != null) rows.push({ name: "to this page", value: preview, outside: true });
  const most = Math.max(1, ...rows.map((row) => row.value));
  const items = rows.map(({ name, value, outside }) => {
    const item = make("li", "", outside ? "outside" : "");
    const bar = make("i");
    bar.style.setProperty("--share", `${(100 * Math.max(0, value)) / most}%`);
    item.append(make("span", name), bar, make("span", `${milliseconds(value)} ms`));
    return item;
  });
  at("stages").replaceChildren(...(items.length ? items : [make("li", "Nothing measured yet", "none")]));
}

const MOODS = { playing: "good", open: "good", failed: "bad", ended: "", closed: "", waiting: "wait" };

function end(name, mood, details, error) {
  const item = make("li");
  item.dataset.mood = mood;
  item.append(make("b", name), make("small", details.filter(Boolean).join(" · ")), make("small", error ?? "", "error"));
  return item;
}

/** The sound of a source or sink: "aac", "aac (transcoded)". */
const sounds = ({ sound }) => (sound ?? [])
  .map(({ codec, how }) => (how === "transcoded" ? `${codec} (transcoded)` : codec)).join(", ");

export function showEnds(status) {
  const source = status.source ?? {};
  const items = [end(source.name ?? "source", MOODS[source.state] ?? "wait", [
    source.state, source.size, source.codec, sounds(source), source.fps ? `${rate(source.fps)} fps` : "",
    source.reconnects ? `${count(source.reconnects)}× reconnected` : "",
    source.damaged ? `${count(source.damaged)} damaged` : "",
  ], source.state === "playing" ? "" : source.error)];
  for (const sink of status.sinks ?? []) {
    const idle = sink.state === "waiting" ? "" : null;
    items.push(end(sink.name, idle ?? MOODS[sink.state] ?? "wait", [
      sink.state, `${count(sink.written)} written`,
      sink.dropped ? `${count(sink.dropped)} dropped` : "",
      sink.reopened ? `${count(sink.reopened)}× reopened` : "", sounds(sink),
      sink.sound_dropped ? `${count(sink.sound_dropped)} of its sound dropped` : "",
    ], sink.error));
  }
  at("ends").replaceChildren(...items);
}

const mode = (status) => `${status.running} (asked: ${status.mode ?? "–"})`;

/** Whether tiles of the picture are refined one by one, so that its parts differ in freshness. */
export const isAdaptive = (status) => Boolean(status?.adaptive) && status.running !== "exact";

export function showMade(status) {
  at("made").hidden = !isAdaptive(status);
  if (at("made").hidden) return;
  const { fresh, carried, bicubic, ...tiles } = status.adaptive;
  const said = Object.entries({ model: fresh, carried, bicubic }).map(([name, share]) => {
    const percent = share == null ? "–" : `${Math.round(100 * share)} %`;
    put(at(`share-${name}`), percent);
    at("shares").querySelector(`.${name}`).style.width = `${100 * (share ?? 0)}%`;
    return `${name} ${percent}`;
  });
  at("shares").setAttribute("aria-label", said.join(", "));
  put(at("mode"), mode(status));
  put(at("tiles"), `${rate(tiles.tiles_per_frame)} of ${count(tiles.tile_count)}`);
  const each = tiles.tile_ms ? ` · ${milliseconds(tiles.tile_ms)} ms each` : "";
  put(at("tile-rate"), `${rate(tiles.tiles_per_s)}${each}`);
  put(at("oldest"), tiles.oldest_s == null ? "–" : `${rate(tiles.oldest_s)} s`);
}

export function showFacts(status) {
  const resets = Object.entries(status.resets ?? {}).filter(([, n]) => n);
  const total = resets.reduce((sum, [, n]) => sum + n, 0);
  const causes = resets.map(([cause, n]) => `${cause} ${count(n)}`).join(", ");
  const facts = [
    ["Running for", duration(status.uptime_s)],
    ["Latency to the sinks", `p50 ${milliseconds(status.latency_ms?.p50)} ms, p95 ${milliseconds(status.latency_ms?.p95)} ms`,
      "From a decoded frame to its output, without this page"],
    ["Dropped", count(status.dropped), "Frames of the source that came too fast"],
    ["Shown without the model", count(status.passed_through), "Frames that were enlarged and no more"],
    ["State resets", causes ? `${count(total)} (${causes})` : count(total), "Times the model began again, as after a cut"],
    ...(status.running && !isAdaptive(status) ? [["Mode", mode(status)]] : []),
    ["Memory", status.memory_mb == null ? "–" : `${count(Math.round(status.memory_mb))} MB`],
  ];
  if (status.gpu) facts.push(["GPU", `${status.gpu.name}, ${count(Math.round(status.gpu.memory_mb))} MB`]);
  if (status.engine) facts.push(["Engine", status.engine]);
  at("facts").replaceChildren(...facts.map(([name, value, explained]) => {
    const row = make("div");
    if (explained) row.title = explained;
    row.append(make("dt", name), make("dd", value));
    return row;
  }));
}

export function showHeadline(status) {
  put(at("fps-out"), rate(status.fps_out));
  put(at("fps-in"), rate(status.fps_in));
  const rung = at("rung");
  rung.hidden = !status.rung;
  put(rung, status.rung ?? "");
  const tiles = isAdaptive(status) && status.running === "adaptive";
  rung.dataset.mood = tiles || status.rung === (status.rungs?.[0] ?? status.rung) ? "" : "wait";
  rung.title = rung.dataset.mood ? "Work is shed to keep the latency" : "The whole model runs";
  if (tiles) rung.title = "The model refines a part of each frame; the rest is carried along";
  at("note").hidden = !status.note;
  put(at("note"), status.note ?? "");
}
