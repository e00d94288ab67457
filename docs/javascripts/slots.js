// Slot attention, and the autoencoder around it, in plain JavaScript: what
// `eqx_slots.models.pretrained("blocks")` computes, from the file that it reads.
//
// A matrix is a Float32Array, row after row; images have their channels last. Slots that
// are switched off are not there at all, which is what `slot_mask` means in the layer.

/** `rounds` of slot attention: what the slots become, and what each wins of each input. */
export function slotAttention(layer, inputs, slots, rounds) {
  const seen = norm(layer.normInputs, inputs), width = 64, number = 256;
  const k = linear(layer.key, seen); // inputs width
  const v = product(layer.value.weight, seen, 32); // width inputs
  let attention;
  for (let round = 0; round < rounds; round++) {
    const q = linear(layer.query, norm(layer.normSlots, slots)); // slots width
    const logits = product(q, k, width).map((x) => x / Math.sqrt(width)); // slots inputs
    attention = softmaxOverSlots(logits, number); // the slots compete for each input,
    const updates = product(shares(attention, number), v, number); // average what they won,
    slots = gru(layer.cell, updates, slots); // and a GRU and an MLP decide how far they move
    const more = mlp(layer.mlp, norm(layer.normMlp, slots));
    slots = slots.map((x, i) => x + more[i]);
  }
  return { slots, attention };
}

/** Softmax over the first axis: this one choice is what makes it slot attention. */
function softmaxOverSlots(logits, number) {
  const made = new Float32Array(logits.length);
  for (let n = 0; n < number; n++) {
    let most = -Infinity, total = 0;
    for (let at = n; at < made.length; at += number) most = Math.max(most, logits[at]);
    for (let at = n; at < made.length; at += number) total += made[at] = Math.exp(logits[at] - most);
    for (let at = n; at < made.length; at += number) made[at] /= total;
  }
  return made;
}

/** What each slot won of each input, over all that it won. */
function shares(attention, number) {
  const won = attention.map((x) => x + 1e-8), totals = [];
  for (let k = 0; k < won.length; k += number) totals.push(sum(won.subarray(k, k + number)));
  return won.map((x, at) => x / totals[Math.floor(at / number)]);
}

function gru({ fromUpdates, fromSlots, biasNew }, updates, slots) {
  const a = linear(fromUpdates, updates), b = linear(fromSlots, slots), width = biasNew.length;
  return slots.map((slot, at) => {
    const i = at % width, row = 3 * (at - i) + i; // of the reset gate; update and new follow
    const reset = sigmoid(a[row] + b[row]);
    const update = sigmoid(a[row + width] + b[row + width]);
    const made = Math.tanh(a[row + 2 * width] + reset * (b[row + 2 * width] + biasNew[i]));
    return made + update * (slot - made);
  });
}

/** An image of 32 x 32 in [-1, 1] becomes 16 x 16 inputs of width 32. */
export function encode({ encoder, center, scale }, image) {
  let x = image.map((value, i) => (value - center[i % 3]) / scale);
  for (const conv of encoder.convs) {
    x = convolve(conv, x);
    for (let i = 0; i < x.length; i++) x[i] = Math.max(x[i], 0.01 * x[i]);
  }
  return mlp(encoder.mlp, norm(encoder.norm, x.map((value, i) => value + encoder.places[i])));
}

/** What the slots paint: an image each, masks that share out the pixels, and all together. */
export function decode({ decoder, center, scale }, slots) {
  const number = slots.length / 64, pixels = 32 * 32, image = new Float32Array(3 * pixels);
  const rgb = new Float32Array(number * image.length), logits = new Float32Array(number * pixels);
  const x = relu(linear(decoder.first, slots)), size = x.length / number;
  for (let k = 0; k < number; k++) {
    const painted = enlarge(decoder.last, x.subarray(k * size, (k + 1) * size), 16);
    for (let from = 0, to = k * pixels; from < painted.length; from += 4, to++) {
      for (let c = 0; c < 3; c++) rgb[3 * to + c] = center[c] + scale * painted[from + c];
      logits[to] = painted[from + 3];
    }
  }
  const masks = softmaxOverSlots(logits, pixels);
  for (let k = 0, at = 0; k < number; k++) for (let to = 0; to < image.length; to++, at++) {
    image[to] += masks[(at / 3) | 0] * rgb[at];
  }
  return { image, rgb, masks };
}

/** A transposed convolution is four ordinary ones: a pixel becomes two by two. */
function enlarge(phases, x, side) {
  const channels = phases[0].bias.length, made = new Float32Array(4 * side * side * channels);
  phases.forEach((conv, which) => {
    const pixels = convolve(conv, x), down = which >> 1, right = which & 1;
    for (let i = 0, from = 0; i < side; i++) for (let j = 0; j < side; j++) {
      const to = ((2 * i + down) * 2 * side + 2 * j + right) * channels;
      for (let c = 0; c < channels; c++) made[to + c] = pixels[from++];
    }
  });
  return made;
}

/** Gather what the kernel sees of each pixel, zeros outside, and multiply by the kernel. */
function convolve(conv, x) {
  const { places, seen } = conv, channels = seen.length / places.length;
  for (let tap = 0; tap < places.length; tap++) {
    const from = places[tap] * channels, to = tap * channels;
    if (from >= 0) for (let c = 0; c < channels; c++) seen[to + c] = x[from + c];
  }
  return linear(conv, seen);
}

function norm({ weight, bias }, x) {
  const width = weight.length, made = new Float32Array(x.length);
  for (let begin = 0, end = width; begin < x.length; begin = end, end += width) {
    let mean = 0, variance = 0;
    for (let i = begin; i < end; i++) mean += x[i] / width;
    for (let i = begin; i < end; i++) variance += (x[i] - mean) ** 2 / width;
    for (let i = 0, by = Math.sqrt(variance + 1e-3); i < width; i++) {
      made[begin + i] = ((x[begin + i] - mean) / by) * weight[i] + bias[i];
    }
  }
  return made;
}

const matrix = (...shape) => Object.assign(new Float32Array(shape.reduce((a, b) => a * b, 1)), { shape });
const sum = (x) => x.reduce((a, b) => a + b, 0);
const mlp = ([first, second], x) => linear(second, relu(linear(first, x)));
const relu = (x) => x.map((value) => Math.max(value, 0));
const sigmoid = (x) => 1 / (1 + Math.exp(-x));
const linear = ({ weight, bias }, x) => product(x, weight, weight.shape[1], bias);

/** Each row of `x` times each row of `y`, plus a number for each of the latter. */
function product(x, y, width, plus = new Float32Array(y.length / width)) {
  const rows = x.length / width, columns = y.length / width;
  const made = new Float32Array(rows * columns);
  // Two rows by four columns at a time: what has been read is used more than once.
  for (let i = 0; i < rows; i += 2) for (let j = 0; j < columns; j += 4) {
    let a = plus[j], b = plus[j + 1], c = plus[j + 2], d = plus[j + 3];
    let e = a, f = b, g = c, h = d;
    const next = i + 1 < rows ? 1 : 0; // an odd row at the end is its own neighbour
    for (let at = i * width, of = j * width; at < (i + 1) * width; at++, of++) {
      const p = x[at], q = x[at + next * width];
      const r = y[of], s = y[of + width], t = y[of + 2 * width], u = y[of + 3 * width];
      a += p * r; b += p * s; c += p * t; d += p * u;
      e += q * r; f += q * s; g += q * t; h += q * u;
    }
    const to = i * columns + j, under = to + next * columns;
    made[to] = a; made[to + 1] = b; made[to + 2] = c; made[to + 3] = d;
    made[under] = e; made[under + 1] = f; made[under + 2] = g; made[under + 3] = h;
  }
  return made;
}

/** A model, from the bytes of `blocks.eqx`; `slots` is where each of them begins. */
export function modelFrom(buffer) {
  const arrays = arraysOf(buffer), next = () => arrays.shift();
  const affine = () => ({ weight: next(), bias: next() }), two = () => [affine(), affine()];
  const convs = [...two(), affine()].map((conv, i) => {
    const taps = [0, 1, 2].map((tap) => [tap, i ? tap - 1 : tap]); // "SAME", as XLA has it
    return convolution(conv, taps, taps, i ? 16 : 32, i ? 1 : 2);
  });
  const encoder = { convs, places: placesOf(affine(), 16), norm: affine(), mlp: two() };
  const slots = next(), layer = { normInputs: affine(), normSlots: affine() };
  for (const name of ["query", "key", "value"]) layer[name] = { weight: next() };
  const [weight, fromSlots, bias, biasNew] = [next(), next(), next(), next()];
  layer.cell = { fromUpdates: { weight, bias }, fromSlots: { weight: fromSlots }, biasNew };
  Object.assign(layer, { normMlp: affine(), mlp: two() });
  const positions = placesOf(affine(), 8), [first, last] = two();
  const decoder = { first: ofBroadcast(first, positions, 8), last: phasesOf(last, 16) };
  return { encoder, slots, slotAttention: layer, decoder, center: next(), scale: next()[0] };
}

/** A convolution with these taps, each with how far it looks, down rows and along columns. */
function convolution({ weight, bias }, rows, columns, side, stride = 1) {
  const [out, channels, kernel] = weight.shape, places = [];
  const inside = (place) => place >= 0 && place < side;
  for (let i = 0; i < side; i += stride) for (let j = 0; j < side; j += stride) {
    for (const [, down] of rows) for (const [, right] of columns) {
      const meets = inside(i + down) && inside(j + right);
      places.push(meets ? (i + down) * side + j + right : -1);
    }
  }
  const laid = matrix(out, rows.length * columns.length * channels);
  for (let o = 0, to = 0; o < out; o++) for (const [i] of rows) for (const [j] of columns) {
    for (let c = 0; c < channels; c++) laid[to++] = weight[((o * channels + c) * kernel + i) * kernel + j];
  }
  return { weight: laid, bias, places, seen: new Float32Array(places.length * channels) };
}

/** The convolutions that make the four large pixels of a small one. */
function phasesOf(conv, side) {
  const kernel = conv.weight.shape[2], taps = [...Array(kernel).keys()];
  const looks = (phase) => taps.map((tap) => [tap, (phase + tap - Math.ceil(kernel / 2)) / 2]);
  const [even, odd] = [0, 1].map((phase) => looks(phase).filter(([, step]) => Number.isInteger(step)));
  return [[even, even], [even, odd], [odd, even], [odd, odd]].map(([rows, columns]) =>
    convolution(conv, rows, columns, side));
}

/** A transposed convolution of one vector that is copied everywhere: a linear map of it. */
function ofBroadcast(conv, positions, side) {
  const [out, channels] = conv.weight.shape, phases = phasesOf(conv, side);
  const bias = enlarge(phases, positions, side), weight = matrix(bias.length, channels);
  for (let i = 0, to = 0; i < 2 * side; i++) for (let j = 0; j < 2 * side; j++) {
    const { weight: kernel, places } = phases[2 * (i % 2) + (j % 2)];
    const taps = places.length / side ** 2, pixel = (i >> 1) * side + (j >> 1);
    for (let o = 0; o < out; o++, to += channels) for (let tap = 0; tap < taps; tap++) {
      if (places[pixel * taps + tap] < 0) continue;
      for (let c = 0; c < channels; c++) weight[to + c] += kernel[(o * taps + tap) * channels + c];
    }
  }
  return { weight, bias };
}

/** A linear map of where each place is: y, x, 1 - y, 1 - x. */
function placesOf(positions, side) {
  const grid = new Float32Array(4 * side * side);
  for (let at = 0; at < side * side; at++) {
    const y = Math.floor(at / side) / (side - 1), x = (at % side) / (side - 1);
    grid.set([y, x, 1 - y, 1 - x], 4 * at);
  }
  return linear(positions, grid);
}

/** The arrays of a file, as NumPy wrote them one after the other, in float16. */
function arraysOf(buffer) {
  const found = [], view = new DataView(buffer), latin = new TextDecoder("latin1");
  for (let at = 0; at < buffer.byteLength; ) {
    const begin = at + 10 + view.getUint16(at + 8, true); // behind the header
    const header = latin.decode(new Uint8Array(buffer, at + 10, begin - at - 10));
    const sizes = header.match(/'shape': \((.*?)\)/)[1].match(/\d+/g) ?? [];
    const array = matrix(...sizes.map(Number));
    array.forEach((_, i) => (array[i] = float(view.getUint16(begin + 2 * i, true))));
    found.push(array);
    at = begin + 2 * array.length;
  }
  return found;
}

function float(half) {
  const exponent = (half >> 10) & 31, rest = half & 1023;
  return (half >> 15 ? -1 : 1) * 2 ** Math.max(exponent - 25, -24) * (exponent ? 1024 + rest : rest);
}
