// Colours the picture by how fresh its cells are: model, carried or bicubic, and all between.

const KINDS = ["--bicubic", "--carried", "--model"]; // of a cell of 0, of one half, and of 255

/** [red, green, blue] of each freshness from 0 to 255, by the colours of the style sheet. */
function palette() {
  const style = getComputedStyle(document.documentElement);
  const stops = KINDS.map((name) => {
    const colour = Number.parseInt(style.getPropertyValue(name).trim().slice(1), 16);
    return [colour >> 16, (colour >> 8) & 255, colour & 255];
  });
  return Array.from({ length: 256 }, (_, value) => {
    const place = (value / 255) * (stops.length - 1);
    const below = Math.min(Math.floor(place), stops.length - 2);
    return stops[below].map((from, n) => from + (place - below) * (stops[below + 1][n] - from));
  });
}

export class Freshness {
  /** A canvas of a pixel for each cell, which the browser enlarges smoothly, and its legend. */
  constructor(canvas, key) {
    this.canvas = canvas;
    this.key = key;
    this.wanted = false;
    this.palette = palette();
  }

  want(wanted) {
    this.wanted = wanted;
    if (!wanted) this.draw(null);
  }

  /** Draws the cells of a frame, { rows, columns, cells } in base64; nothing where it has none. */
  draw(cells) {
    const hidden = !this.wanted || !cells;
    this.canvas.hidden = this.key.hidden = hidden;
    if (hidden) return;
    const image = new ImageData(cells.columns, cells.rows);
    const bytes = atob(cells.cells);
    for (let n = 0; n < bytes.length; n += 1) {
      image.data.set([...this.palette[bytes.charCodeAt(n)], 255], 4 * n);
    }
    if (this.canvas.width !== cells.columns || this.canvas.height !== cells.rows) {
      this.canvas.width = cells.columns;
      this.canvas.height = cells.rows;
    }
    this.canvas.getContext("2d").putImageData(image, 0, 0);
  }
}
