// Regions of interest: drawn by dragging over the picture or entered as numbers, sent to the server,
// and outlined. A region is [x, y, width, height] in pixels of the input.

const SMALLEST_PX = 6; // on the screen: less is a click, not a rectangle
const HELD_MS = 1000; // an older status may still be on its way when the server has answered

const at = (id) => document.getElementById(id);

function button(text, label, press) {
  const element = document.createElement("button");
  Object.assign(element, { type: "button", className: "button", textContent: text });
  element.setAttribute("aria-label", label);
  element.addEventListener("click", press);
  return element;
}

export class Regions {
  drawing = false;
  #available = false;
  #list = [];
  #size = null; // [width, height] of the input
  #drag = null; // { id, x, y, outline }
  #heldUntil = 0;
  #sent = Promise.resolve(); // what is sent later builds on the answers before it

  constructor() {
    const picture = at("picture");
    const on = (name, handle) => picture.addEventListener(name, handle, { capture: true });
    on("pointerdown", (event) => this.drawing && this.#begin(event));
    on("pointermove", (event) => this.#isDrag(event) && this.#follow(event));
    on("pointerup", (event) => this.#isDrag(event) && this.#finish(event));
    on("pointercancel", (event) => this.#isDrag(event) && this.#drop());
    at("draw").addEventListener("click", () => this.draw(!this.drawing));
    at("enter").addEventListener("click", () => this.enter());
    at("clear").addEventListener("click", () => this.clear());
    at("regions-close").addEventListener("click", () => at("regions").close());
    at("regions").querySelector("form").addEventListener("submit", (event) => {
      event.preventDefault();
      const { x, y, width, height } = event.target.elements;
      const fields = [x, y, width, height];
      const region = fields.map((field) => field.valueAsNumber);
      const beyond = this.#beyond(region);
      if (beyond) return this.#say(beyond, true);
      event.target.reset(); // at once: the next numbers may be typed before the answer
      this.#change((list) => [...list, region]).then((done) => {
        if (done || fields.some((field) => field.value)) return;
        fields.forEach((field, n) => { field.valueAsNumber = region[n]; });
      });
    });
  }

  /** Takes the regions of the session, and whether this page may set them. */
  update(available, list) {
    this.#available = available;
    for (const id of ["draw", "enter"]) at(id).hidden = !available;
    if (!available) {
      this.draw(false);
      at("regions").close();
    }
    if (performance.now() >= this.#heldUntil) this.#show(list);
  }

  /** Takes the size of the input, [width, height]. */
  resize(size) {
    if (String(size) === String(this.#size)) return;
    this.#size = size;
    this.#drop();
    at("regions-size").textContent = ` (${size.join("×")})`;
    const { x, y, width, height } = at("regions").querySelector("form").elements;
    [x.max, y.max, width.max, height.max] = [size[0] - 1, size[1] - 1, ...size];
    this.#outline();
  }

  draw(wanted) {
    this.drawing = wanted && this.#available;
    if (!this.drawing) this.#drop();
    at("draw").setAttribute("aria-pressed", String(this.drawing));
    at("picture").classList.toggle("drawing", this.drawing);
    if (wanted) this.#say("Drag a rectangle over the picture");
    else if (!at("regions-said").classList.contains("error")) this.#say("");
  }

  enter() {
    if (!this.#available || at("regions").open) return;
    this.#say("");
    at("regions").showModal();
  }

  clear() {
    if (this.#available && this.#list.length) this.#change(() => []);
  }

  /** Why a region reaches beyond the frame, by the names of the fields; "" if it does not. */
  #beyond([x, y, width, height]) {
    if (!this.#size) return "";
    const [w, h] = this.#size;
    if (x + width > w) return `Left and Width reach ${x + width}, and the frame is ${w} pixels wide`;
    if (y + height > h) return `Top and Height reach ${y + height}, and the frame is ${h} pixels high`;
    return "";
  }

  /** Gives up the rectangle that is being drawn, else drawing itself. */
  escape() {
    if (this.#drag) this.#drop();
    else this.draw(false);
  }

  #isDrag(event) {
    return this.#drag?.id === event.pointerId;
  }

  #begin(event) {
    if (event.button !== 0 || !event.isPrimary) return;
    if (!this.#size) return;
    event.preventDefault();
    at("picture").setPointerCapture(event.pointerId);
    const outline = document.createElement("i");
    outline.className = "new";
    this.#drag = { id: event.pointerId, x: event.clientX, y: event.clientY, outline };
    this.#follow(event);
    at("outlines").append(outline);
  }

  #follow(event) {
    event.stopPropagation(); // it is not for the slider
    place(this.#drag.outline, this.#region(event), this.#size);
  }

  #finish(event) {
    event.stopPropagation();
    const { x, y, outline } = this.#drag;
    const region = this.#region(event);
    this.#drag = null;
    if (Math.abs(event.clientX - x) < SMALLEST_PX || Math.abs(event.clientY - y) < SMALLEST_PX) {
      outline.remove();
      return;
    }
    this.#change((list) => [...list, region]).finally(() => outline.remove());
  }

  #drop() {
    this.#drag?.outline.remove();
    this.#drag = null;
  }

  /** The region from where the drag began to where the pointer is, within the picture. */
  #region(event) {
    const box = at("picture").getBoundingClientRect();
    const [width, height] = this.#size;
    const edges = (a, b, from, length, pixels) => {
      const [low, high] = [Math.min(a, b), Math.max(a, b)].map((place) =>
        Math.round((pixels * Math.min(length, Math.max(0, place - from))) / length));
      const first = Math.min(low, pixels - 1);
      return [first, Math.max(high - first, 1)];
    };
    const [x, w] = edges(this.#drag.x, event.clientX, box.left, box.width, width);
    const [y, h] = edges(this.#drag.y, event.clientY, box.top, box.height, height);
    return [x, y, w, h];
  }

  /** Sends what a function makes of the regions; a promise of whether the server took them. */
  #change(changed) {
    const sent = this.#sent.then(async () => {
      const [list, refusal] = await post(changed(this.#list));
      this.#say(refusal, refusal !== "");
      if (!list) return false;
      this.#heldUntil = performance.now() + HELD_MS;
      this.#show(list);
      return true;
    });
    this.#sent = sent;
    return sent;
  }

  /** Says something where it is looked for: in the dialog while that is open, else under the picture. */
  #say(text, error = false) {
    const inDialog = at("regions").open;
    for (const [id, shown] of [["regions-said", !inDialog], ["dialog-said", inDialog]]) {
      at(id).textContent = shown ? text : "";
      at(id).classList.toggle("error", shown && error);
    }
  }

  #show(list) {
    at("clear").hidden = !this.#available || !list.length;
    if (JSON.stringify(list) === JSON.stringify(this.#list)) return;
    this.#list = list;
    this.#outline();
    at("regions-list").replaceChildren(...list.map((region, n) => {
      const item = document.createElement("li");
      const [x, y, width, height] = region;
      const text = `${width}×${height} at ${x}, ${y}`;
      const without = () => this.#change((now) => now.filter((_, m) => m !== n));
      item.append(text, button("Remove", `Remove ${text}`, without));
      return item;
    }));
  }

  #outline() {
    if (!this.#size) return;
    const outlines = this.#list.map((region) => {
      const outline = document.createElement("i");
      place(outline, region, this.#size);
      return outline;
    });
    at("outlines").replaceChildren(...outlines, ...(this.#drag ? [this.#drag.outline] : []));
  }
}

function place(outline, [x, y, width, height], size) {
  const percent = (part, whole) => `${(100 * part) / whole}%`;
  Object.assign(outline.style, {
    left: percent(x, size[0]), top: percent(y, size[1]),
    width: percent(width, size[0]), height: percent(height, size[1]),
  });
}

/** [the regions that the session has now, ""], or [null, why they were refused]. */
async function post(regions) {
  try {
    const answer = await fetch("regions", {
      method: "POST",
      headers: { "Content-Type": "application/json" },
      body: JSON.stringify({ regions }),
    });
    const body = await answer.json().catch(() => ({}));
    if (answer.ok && body.regions) return [body.regions, ""];
    if (body.error) return [null, body.error[0].toUpperCase() + body.error.slice(1)];
    return [null, `The server refused the regions (${answer.status})`];
  } catch {
    return [null, "The server cannot be reached; try again"];
  }
}
