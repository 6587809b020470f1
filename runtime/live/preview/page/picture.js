// Decodes packets and draws the newest pair of pictures: LR, smoothed to the size of HR, and HR.
// Reports to a listener what has been decoded or drawn.

const MAX_FAILURES = 3; // of the H.264 decoder in a row; then JPEG is used
const PROBE = { codec: "avc1.42c01e", codedWidth: 1280, codedHeight: 720, optimizeForLatency: true };
const COLOUR = { primaries: "bt709", transfer: "bt709", matrix: "bt709", fullRange: false };

/** "h264" where this browser decodes it (a secure context, and not every build), else "jpeg". */
export async function bestFormat() {
  if (typeof VideoDecoder === "undefined") return "jpeg";
  try {
    return (await VideoDecoder.isConfigSupported(PROBE)).supported ? "h264" : "jpeg";
  } catch {
    return "jpeg";
  }
}

/** The JSON header of a message of the server, and where what it describes begins. */
export function unpack(buffer) {
  const length = new DataView(buffer).getUint32(0, true);
  const header = JSON.parse(new TextDecoder().decode(new Uint8Array(buffer, 4, length)));
  return { header, begin: 4 + length };
}

/** The encoded pictures of a message. */
function parse(buffer, { header, begin }) {
  let at = begin;
  const parts = {};
  for (const part of header.parts) {
    parts[part.picture] = { ...part, data: new Uint8Array(buffer, at, part.bytes) };
    at += part.bytes;
  }
  return { header, parts };
}

export class Picture {
  /** `listener` has decoded(number), drawn(header), needsKey(), and givesUp() if H.264 fails. */
  constructor(before, after, listener) {
    this.before = before;
    this.after = after;
    this.listener = listener;
    this.reset();
  }

  /** Forget the stream: the next packet must stand by itself. */
  reset() {
    for (const decoder of Object.values(this.decoders ?? {})) {
      if (decoder.state !== "closed") decoder.close();
    }
    for (const pair of this.pending?.values() ?? []) release(pair);
    if (this.next) release(this.next);
    this.decoders = {};
    this.configured = {};
    this.pending = new Map(); // number -> { header, parts, hr, lr } on its way through the decoders
    this.next = null; // what the next repaint draws
    this.latest = 0;
    this.failures ??= 0;
  }

  push(buffer, opened) {
    const { header, parts } = parse(buffer, opened);
    if (header.format === "jpeg") this.#pushJpeg(header, parts);
    else this.#pushH264(header, parts);
  }

  async #pushJpeg(header, parts) {
    const bitmap = (part) => createImageBitmap(new Blob([part.data], { type: "image/jpeg" }));
    try {
      const [hr, lr] = await Promise.all([bitmap(parts.hr), bitmap(parts.lr)]);
      this.#ready({ header, parts, hr, lr });
    } catch {
      this.listener.decoded(header.number); // one picture is lost
    }
  }

  #pushH264(header, parts) {
    try {
      if (header.key) for (const name of ["hr", "lr"]) this.#configure(name, parts[name]);
      else if (!this.decoders.hr) return; // nothing to build on
      this.pending.set(header.number, { header, parts });
      for (const name of ["hr", "lr"]) {
        this.decoders[name].decode(new EncodedVideoChunk({
          type: header.key ? "key" : "delta",
          timestamp: header.number,
          data: parts[name].data,
        }));
      }
    } catch {
      this.#failed();
    }
  }

  #configure(name, part) {
    const wanted = `${part.codec} ${part.width} ${part.height}`;
    if (this.decoders[name]?.state === "configured" && this.configured[name] === wanted) return;
    if (this.decoders[name]?.state !== "closed") this.decoders[name]?.close();
    const decoder = new VideoDecoder({
      output: (frame) => this.#decoded(name, frame),
      error: () => decoder === this.decoders[name] && this.#failed(),
    });
    decoder.configure({ codec: part.codec, optimizeForLatency: true, colorSpace: COLOUR });
    this.decoders[name] = decoder;
    this.configured[name] = wanted;
  }

  #decoded(name, frame) {
    const pair = this.pending.get(frame.timestamp);
    if (!pair) return frame.close();
    pair[name] = frame;
    if (!pair.hr || !pair.lr) return;
    this.failures = 0;
    for (const [number, older] of this.pending) {
      if (number > frame.timestamp) break;
      this.pending.delete(number);
      if (older !== pair) release(older);
    }
    this.#ready(pair);
  }

  #failed() {
    this.failures += 1;
    this.reset();
    if (this.failures >= MAX_FAILURES) this.listener.givesUp();
    else this.listener.needsKey();
  }

  #ready(pair) {
    this.listener.decoded(pair.header.number);
    if (pair.header.number <= this.latest) return release(pair);
    this.latest = pair.header.number;
    if (this.next) release(this.next); // it was never on the screen
    else requestAnimationFrame(() => this.#draw());
    this.next = pair;
  }

  #draw() {
    const pair = this.next;
    if (!pair) return;
    this.next = null;
    const { hr, lr } = pair.parts;
    for (const canvas of [this.before, this.after]) {
      if (canvas.width !== hr.width || canvas.height !== hr.height) {
        canvas.width = hr.width;
        canvas.height = hr.height;
      }
    }
    const before = this.before.getContext("2d", { alpha: false });
    before.imageSmoothingQuality = "high"; // bicubic in Chromium
    before.drawImage(pair.lr, 0, 0, lr.width, lr.height, 0, 0, hr.width, hr.height);
    const after = this.after.getContext("2d", { alpha: false });
    after.imageSmoothingEnabled = false; // pixel for pixel
    after.drawImage(pair.hr, 0, 0, hr.width, hr.height, 0, 0, hr.width, hr.height);
    this.after.dataset.index = pair.header.index;
    release(pair);
    this.listener.drawn(pair.header);
  }
}

function release(pair) {
  pair.hr?.close();
  pair.lr?.close();
}
