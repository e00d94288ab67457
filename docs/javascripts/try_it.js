// The page "Try it": a scene of blocks to move about, and what slots make of it.

import { decode, encode, modelFrom, slotAttention } from "./slots.js";

const COLOURS = { // as in `eqx_slots.data.blocks`
  red: [1, 0, 0], green: [0, 1, 0], blue: [0, 0, 1], yellow: [1, 1, 0], magenta: [1, 0, 1], cyan: [0, 1, 1],
};
const OWNERS = [ // those of `eqx_slots.viz`, its gray for the last slot, the background's
  [230, 159, 0], [86, 180, 233], [0, 158, 115], [240, 228, 66], [0, 114, 178], [213, 94, 0], [120, 120, 120],
];
const SIDE = 32, PIXELS = SIDE * SIDE, MOST = 9; // blocks
const SIDES = ["top", "left", "height", "width"]; // of a block, in pixels
const STEPS = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] };

const app = document.getElementById("play"), button = document.getElementById("play-open");
const find = (css) => app.querySelector(css), named = (name) => find(`[name=${name}]`);
const on = (element, type, act) => element.addEventListener(type, act);
const scene = find(".scene"), cards = find(".cards").children, colours = find(".colours").children;
let model, inputs, grain, blocks, chosen, held, asked;

const { random, sqrt, log, cos, PI, floor } = Math;
const integer = (least, most) => least + floor(random() * (most - least + 1));
const normal = () => sqrt(-2 * log(1 - random())) * cos(2 * PI * random());

function newScene(number) {
  grain = Float32Array.from({ length: 3 * PIXELS }, () => 0.02 * normal());
  for (blocks = []; blocks.length < number; ) add();
}

/** One more block, of a new colour and apart from the others while there is any, and room. */
function add() {
  const all = Object.keys(COLOURS), left = all.filter((it) => !blocks.some((b) => b.colour === it));
  const among = left.length ? left : all, colour = among[integer(0, among.length - 1)];
  const block = { colour, height: integer(5, 10), width: integer(5, 10) };
  const along = (a, b, start, size) => a[start] < b[start] + b[size] && b[start] < a[start] + a[size];
  const meets = (it) => along(it, block, "top", "height") && along(it, block, "left", "width");
  for (let tries = 0; !tries || (tries < 200 && blocks.some(meets)); tries++) {
    block.top = integer(0, SIDE - block.height);
    block.left = integer(0, SIDE - block.width);
  }
  chosen = blocks.push(block) - 1;
}

/** Blocks in front of a noisy gray, in [-1, 1]. */
function painted() {
  const image = grain.map((x) => 2 * x);
  for (const { colour, top, left, height, width } of blocks) {
    for (let i = top; i < top + height; i++) for (let j = left; j < left + width; j++) {
      image.set(COLOURS[colour].map((x) => 2 * x - 1), 3 * (SIDE * i + j));
    }
  }
  return image;
}

/** Numbers in [-1, 1] or, by their `scale`, from 0, on a canvas; `opacity` is in [0, 1]. */
function show(canvas, values, [scale, plus] = [127.5, 127.5], opacity = null) {
  const picture = new ImageData(canvas.width, canvas.height), { data } = picture;
  const channels = (4 * values.length) / data.length; // one, or three
  for (let at = 0, pixel = 0; at < data.length; at += 4, pixel++) {
    for (let c = 0; c < 3; c++) data[at + c] = scale * values[channels * pixel + (c % channels)] + plus;
    data[at + 3] = opacity ? 255 * opacity[pixel] : 255;
  }
  canvas.getContext("2d").putImageData(picture, 0, 0);
}

/** All from the scene to the cards. */
function frame() {
  const start = performance.now(), image = painted(), rounds = named("rounds").valueAsNumber;
  inputs ??= encode(model, image);
  const present = Array.from(cards, (card) => card.querySelector("input").checked);
  const begin = model.slots.filter((_, at) => present[floor(at / 64)]);
  const { slots, attention } = slotAttention(model.slotAttention, inputs, begin, rounds);
  const made = decode(model, slots), owners = new Float32Array(3 * PIXELS);
  let k = -1; // among those that are present
  present.forEach((is, slot) => {
    k += is;
    const own = (all, size) => (is ? all.subarray(k * size, (k + 1) * size) : new Float32Array(size));
    const [picture, share, looks] = cards[slot].querySelectorAll("canvas"), mask = own(made.masks, PIXELS);
    show(picture, own(made.rgb, 3 * PIXELS), undefined, mask);
    show(share, mask, [255, 0]);
    show(looks, own(attention, looks.width ** 2), [255, 0]);
    for (let at = 0; at < 3 * PIXELS; at++) owners[at] += mask[(at / 3) | 0] * OWNERS[slot][at % 3];
    cards[slot].classList.toggle("off", !is);
  });
  show(scene.firstElementChild, image);
  show(find(".whole"), made.image);
  show(find(".owners"), owners, [1, 0]);
  const error = made.image.reduce((sum, x, at) => sum + (x - image[at]) ** 2, 0) / image.length;
  named("made").value = rounds;
  named("error").value = error.toFixed(4);
  named("time").value = `${(performance.now() - start).toFixed(0)} ms`;
}

const ask = () => (asked ||= requestAnimationFrame(() => { asked = 0; frame(); }));

/** The scene is another: each of its blocks is a button in front of the canvas. */
function changed() {
  inputs = null;
  chosen = Math.min(chosen, blocks.length - 1);
  while (scene.children.length > 1 + blocks.length) scene.lastChild.remove();
  while (scene.children.length < 1 + blocks.length) scene.append(document.createElement("button"));
  blocks.forEach((block, i) => {
    const button = scene.children[i + 1];
    button.ariaLabel = `${block.colour} block, moved by arrow keys`;
    button.classList.toggle("chosen", i === chosen);
    for (const side of SIDES) button.style[side] = `${(100 * block[side]) / SIDE}%`;
  });
  for (const it of colours) it.ariaPressed = it.name === blocks[chosen]?.colour;
  named("add").disabled = blocks.length === MOST;
  named("remove").disabled = !blocks.length;
  ask();
}

function move(block, top, left) {
  block.top = Math.min(Math.max(Math.round(top), 0), SIDE - block.height);
  block.left = Math.min(Math.max(Math.round(left), 0), SIDE - block.width);
  changed();
}

function listen() {
  const which = ({ target }) => [...scene.children].indexOf(target) - 1;
  on(scene, "focusin", (event) => { chosen = which(event); changed(); });
  on(scene, "pointerdown", (event) => {
    if (which(event) < 0) return;
    const block = blocks[chosen = which(event)], { top, left } = block;
    const pixel = scene.clientWidth / SIDE, { clientX, clientY } = event;
    held = (to) => move(block, top + (to.clientY - clientY) / pixel, left + (to.clientX - clientX) / pixel);
    event.target.setPointerCapture(event.pointerId);
    changed();
  });
  on(scene, "pointermove", (event) => held?.(event));
  on(scene, "lostpointercapture", () => { held = null; });
  on(scene, "keydown", (event) => {
    const step = STEPS[event.key], block = blocks[which(event)];
    if (!step || !block) return;
    event.preventDefault(); // the page stays where it is
    move(block, block.top + step[0], block.left + step[1]);
  });
  const acts = { scene: () => newScene(integer(2, 4)), add, remove: () => blocks.splice(chosen, 1) };
  for (const { name } of colours) acts[name] = () => { if (blocks.length) blocks[chosen].colour = name; };
  for (const name in acts) on(named(name), "click", () => { acts[name](); changed(); });
  on(app, "input", ask); // rounds, and the switches of the slots
}

/** Seven cards of the one there is, and the page in place of its picture. */
async function open() {
  const answer = await fetch(new URL("blocks.eqx", import.meta.url));
  model = modelFrom(await answer.arrayBuffer());
  OWNERS.forEach((colour, slot) => {
    const card = slot ? cards[0].cloneNode(true) : cards[0];
    card.querySelector("span").textContent = `Slot ${slot + 1}`;
    card.style.setProperty("--owner", `rgb(${colour})`);
    find(".cards").append(card);
  });
  listen();
  newScene(3);
  changed();
  document.getElementById("play-picture").hidden = button.hidden = true;
  app.hidden = false;
}

button.hidden = !navigator.connection?.saveData && !matchMedia("(prefers-reduced-data: reduce)").matches;
if (button.hidden) open(); else on(button, "click", open);
