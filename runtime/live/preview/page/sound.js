// Plays the sound: each packet is due when the picture of its time is on the screen.

const PICTURES = 31; // over which the delay of the picture is judged
const APART_S = 0.02; // from where it is due, before playing jumps there
const MOST_LATE_S = 0.5; // that the sound may follow the picture
const SPARE_S = 0.01;
const PACKETS = 50; // over which it is judged how late sound comes: a second
const UNLUCKY = 3; // of them may be lost

export class Sound {
  /** Whether this browser can decode it: only on pages of this machine or over HTTPS. */
  static possible = typeof AudioDecoder !== "undefined" && typeof AudioContext !== "undefined";

  constructor() {
    this.wanted = false;
    this.delays = []; // seconds on this page's clock at which a picture was shown, minus its own
  }

  /** Turn it on or off; on only from a click or a key, or browsers stay silent. */
  want(wanted) {
    this.wanted = wanted;
    this.context?.close();
    this.context = null;
    this.#reset();
    if (wanted) {
      this.context = new AudioContext({ latencyHint: "interactive", sampleRate: 48000 });
      this.context.resume();
    }
  }

  /** Begin with another session, whose times are its own. */
  restart() {
    this.delays = [];
    this.#reset();
  }

  /** Note that the picture of that time was drawn now, in milliseconds. */
  shown(seconds, now) {
    this.delays.push(now / 1000 - seconds);
    if (this.delays.length > PICTURES) this.delays.shift();
  }

  push(buffer, { header, begin }) {
    if (!this.context) return;
    try {
      this.#configure(header);
      let at = begin;
      for (const { seconds, bytes } of header.packets) {
        const data = new Uint8Array(buffer, at, bytes);
        this.decoder.decode(new EncodedAudioChunk({ type: "key", timestamp: Math.round(1e6 * seconds), data }));
        at += bytes;
      }
    } catch {
      this.#reset();
    }
  }

  #reset() {
    if (this.decoder && this.decoder.state !== "closed") this.decoder.close();
    this.decoder = null;
    this.spare = []; // seconds from the coming of a packet to its time; negative if it is late
    this.next = null; // when the packet after the last one would follow it, by the context's clock
  }

  #configure({ codec, rate, channels }) {
    const wanted = `${codec} ${rate} ${channels}`;
    if (this.decoder?.state === "configured" && this.configured === wanted) return;
    this.#reset();
    const decoder = new AudioDecoder({
      output: (data) => (decoder === this.decoder ? this.#play(data) : data.close()),
      error: () => decoder === this.decoder && this.#reset(),
    });
    decoder.configure({ codec, sampleRate: rate, numberOfChannels: channels });
    this.decoder = decoder;
    this.configured = wanted;
  }

  #play(data) {
    const { context } = this;
    const onTime = this.#due(data.timestamp / 1e6);
    if (onTime === null) return data.close();
    this.spare.push(onTime - context.currentTime - SPARE_S);
    if (this.spare.length > PACKETS) this.spare.shift();
    const least = [...this.spare].sort((a, b) => a - b)[Math.min(UNLUCKY, this.spare.length - 1)];
    const due = onTime + Math.min(MOST_LATE_S, Math.max(0, -least)); // else it would never be heard
    const length = data.numberOfFrames / data.sampleRate;
    const follows = this.next !== null && Math.abs(due - this.next) < APART_S;
    const start = follows ? this.next : due;
    this.next = start + length;
    if (start < context.currentTime) {
      this.next = null;
      return data.close();
    }
    const buffer = context.createBuffer(data.numberOfChannels, data.numberOfFrames, data.sampleRate);
    for (let n = 0; n < data.numberOfChannels; n += 1) {
      data.copyTo(buffer.getChannelData(n), { planeIndex: n, format: "f32-planar" });
    }
    data.close();
    const player = new AudioBufferSourceNode(context, { buffer });
    player.connect(context.destination);
    player.start(start);
  }

  /** When sound of that time is due by the context's clock; null before a picture was shown. */
  #due(seconds) {
    if (!this.delays.length) return null;
    const delay = [...this.delays].sort((a, b) => a - b)[this.delays.length >> 1];
    const { contextTime, performanceTime } = this.context.getOutputTimestamp();
    const heard = performanceTime
      ? contextTime - performanceTime / 1000
      : this.context.currentTime - (this.context.outputLatency || 0) - performance.now() / 1000;
    return heard + seconds + delay;
  }
}
