// A quick look at a photograph before it is sent: the same measures as the node's own gate (ai_engine.quality.measures),
// on the same 256 x 256 pixels.  A hint and no verdict: the node judges.
"use strict";

self.luna = self.luna || {};

const SIDE = 256;
const FRAME_LEVEL = 28;

// luma of an ImageData of SIDE x SIDE, and which pixels are burnt out in all three colours
function planes(image) {
  const luma = new Float32Array(SIDE * SIDE), burnt = new Uint8Array(SIDE * SIDE);
  for (let at = 0; at < SIDE * SIDE; at++) {
    const [red, green, blue] = [image.data[4 * at], image.data[4 * at + 1], image.data[4 * at + 2]];
    luma[at] = 0.299 * red + 0.587 * green + 0.114 * blue;
    burnt[at] = Math.min(red, green, blue) >= 250 ? 1 : 0;
  }
  return { luma, burnt };
}

// Everything but dark regions that touch the border: the black frame of a dermatoscope's round view is no skin.
function fieldOfView(luma) {
  const dark = box(luma, 1);
  const view = new Uint8Array(SIDE * SIDE).fill(1);
  const todo = [];
  const visit = (row, column) => {
    const at = row * SIDE + column;
    if (view[at] && dark[at] <= FRAME_LEVEL) { view[at] = 0; todo.push(at); }
  };
  for (let step = 0; step < SIDE; step++) { visit(0, step); visit(SIDE - 1, step); visit(step, 0); visit(step, SIDE - 1); }
  while (todo.length) {
    const at = todo.pop(), row = Math.floor(at / SIDE), column = at % SIDE;
    if (row) visit(row - 1, column);
    if (row < SIDE - 1) visit(row + 1, column);
    if (column) visit(row, column - 1);
    if (column < SIDE - 1) visit(row, column + 1);
  }
  return view;
}

const held = (place) => Math.min(SIDE - 1, Math.max(0, place));

function convolved(plane, kernel) {
  const reach = (kernel.length - 1) / 2;
  const rows = new Float32Array(plane.length), made = new Float32Array(plane.length);
  for (let row = 0; row < SIDE; row++)
    for (let column = 0; column < SIDE; column++) {
      let sum = 0;
      for (let k = -reach; k <= reach; k++) sum += kernel[k + reach] * plane[row * SIDE + held(column + k)];
      rows[row * SIDE + column] = sum;
    }
  for (let row = 0; row < SIDE; row++)
    for (let column = 0; column < SIDE; column++) {
      let sum = 0;
      for (let k = -reach; k <= reach; k++) sum += kernel[k + reach] * rows[held(row + k) * SIDE + column];
      made[row * SIDE + column] = sum;
    }
  return made;
}

const box = (plane, reach) => convolved(plane, new Array(2 * reach + 1).fill(1 / (2 * reach + 1)));

function smoothed(plane, sigma) {
  const reach = Math.round(4 * sigma), kernel = [];
  for (let k = -reach; k <= reach; k++) kernel.push(Math.exp(-(k * k) / (2 * sigma * sigma)));
  const sum = kernel.reduce((a, b) => a + b, 0);
  return convolved(plane, kernel.map((one) => one / sum));
}

// the view without a margin of 4 pixels
function innerOf(view) {
  const share = box(Float32Array.from(view), 4);
  return share.map((one) => (one > 0.9999 ? 1 : 0));
}

luna.measure = (image) => {
  const { luma, burnt } = planes(image);
  let view = fieldOfView(luma), inner = innerOf(view);
  if (inner.reduce((a, b) => a + b, 0) < SIDE) { view = new Uint8Array(SIDE * SIDE).fill(1); inner = view; }
  const seen = Array.from(luma).filter((_, at) => view[at]).sort((a, b) => a - b);
  const [first, second, third] = [0.8, 1.8, 3.6].map((sigma) => smoothed(luma, sigma));
  let fine = 0, coarse = 0, count = 0, white = 0;
  for (let at = 0; at < luma.length; at++) {
    white += view[at] && burnt[at];
    if (!inner[at]) continue;
    fine += (luma[at] - first[at]) ** 2;
    coarse += (second[at] - third[at]) ** 2;
    count++;
  }
  return {
    brightness: seen[Math.floor(seen.length / 2)],
    glare: white / seen.length,
    view: seen.length / luma.length,
    sharpness: Math.log((fine / count + 1e-4) / (coarse / count + 0.02)),
  };
};

// What to say about a photograph: keys of sentences, the worst first.  `limits` are those of the node's model.
luna.hintsFor = (measured, shorterSide, limits) => {
  const hints = [];
  if (!limits.brightness) return hints;
  if (shorterSide < limits.shorter_side) hints.push("hint-small");
  if (measured.brightness < limits.brightness[0]) hints.push("hint-dark");
  if (measured.brightness > limits.brightness[1] || measured.glare > limits.glare) hints.push("hint-bright");
  if (measured.sharpness < limits.sharpness) hints.push("hint-blurred");
  return hints;
};
