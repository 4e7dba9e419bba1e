// Draw a digit. The canvas collects strokes; what they mean is asked of the network after each.

import { ask, base64, latest, Refused } from "./api.js";
import { button, card, figure, h, integer, number, percent, refusal, segmented, select, shape } from "./dom.js";
import { layer, map, picture, range } from "./pictures.js";
import { t } from "./strings.js";
import { learn } from "./training.js";

const SIDE = 280;
const state = { strokes: [], ink: "light", width: 22, run: null, of: null, sample: 0, background: null, pen: [140, 140], down: false, keys: false };
let parts = null;
let runs = [];
let answer = null;
const drawing = new Map(); // the stroke of each finger, pen or mouse that is down
let asked = 0;

export function leave() {
  parts?.stop?.();
}

export async function enter(root, frame) {
  runs = (await ask("status")).runs.filter((run) => run.ready && run.classifier !== false);
  if (!runs.some((run) => run.run === state.run)) state.run = runs[0]?.run ?? null;
  parts = { root };
  if (state.run === null) {
    const training = learn(() => {
      root.querySelector(".empty")?.remove();
      enter(root, frame);
    });
    parts.stop = training.stop;
    root.append(h("div", { className: "empty card" }, h("h2", {}, t("digits.none")), h("p", {}, t("digits.nonehint")), training.element));
    return;
  }
  build();
}

function build() {
  const canvas = h("canvas", { className: "pad", tabIndex: 0, role: "application" });
  canvas.setAttribute("aria-label", t("digits.canvas"));
  canvas.setAttribute("aria-describedby", "pad-keys");
  [canvas.width, canvas.height] = [SIDE, SIDE];
  parts.canvas = canvas;
  parts.context = canvas.getContext("2d", { willReadFrequently: true });
  parts.verdict = h("div", { className: "verdict", "aria-live": "polite" });
  parts.bars = h("div", { className: "bars" });
  parts.found = h("div", { className: "found" });
  parts.controls = h("div", { className: "rows" });
  controls();
  const end = (event) => drawing.delete(event.pointerId) && send();
  canvas.addEventListener("pointerdown", (event) => {
    if (event.button || event.ctrlKey) return; // they open a menu
    canvas.setPointerCapture(event.pointerId);
    Object.assign(state, { keys: false, down: false });
    drawing.set(event.pointerId, { ink: state.ink, width: state.width, points: [place(event)] });
    state.strokes.push(drawing.get(event.pointerId));
    paint();
  });
  canvas.addEventListener("pointermove", (event) => {
    const stroke = drawing.get(event.pointerId);
    if (!stroke) return;
    if (!event.buttons) return end(event); // let go where the page was not told
    for (const one of event.getCoalescedEvents?.() ?? [event]) stroke.points.push(place(one));
    paint();
    if (performance.now() - asked > 60) send();
  });
  canvas.addEventListener("pointerup", end);
  canvas.addEventListener("pointercancel", end);
  canvas.addEventListener("keydown", keys);
  canvas.addEventListener("focus", () => {
    state.keys = canvas.matches(":focus-visible");
    paint();
  });
  canvas.addEventListener("blur", paint);
  parts.root.append(
    h("div", { className: "split" },
      h("div", { className: "controls" }, card(t("digits.draw"), h("div", { className: "padbox" }, canvas), parts.controls)),
      h("div", { className: "main" },
        card(t("digits.says"), parts.verdict, parts.bars),
        parts.found)));
  paint();
  send();
}

function controls() {
  parts.controls.replaceChildren(
    h("div", { className: "buttons" },
      button(t("digits.clear"), clear, { className: "primary" }),
      button(t("digits.undo"), () => {
        state.strokes.pop();
        state.down = false;
        paint();
        send();
      }),
      button(t("digits.example"), example)),
    h("p", { className: "hint", id: "pad-keys" }, t("digits.keys")),
    segmented(t("digits.ink"), [["light", t("digits.light")], ["dark", t("digits.dark")]], state.ink, (value) => {
      state.ink = value;
      for (const stroke of state.strokes) stroke.ink = value;
      paint();
      send();
    }),
    h("div", { className: "fields" },
      number(t("digits.pen"), state.width, 4, 48, (value) => { state.width = value; }),
      runs.length > 1 && select(t("digits.run"), runs.map((run) => [String(run.run), run.name]), String(state.run), (value) => {
        Object.assign(state, { run: Number(value), of: null }); // another network may have fewer classes
        send();
      })));
}

function place(event) {
  const box = parts.canvas.getBoundingClientRect();
  return [((event.clientX - box.left) / box.width) * SIDE, ((event.clientY - box.top) / box.height) * SIDE];
}

function strokes() {
  const { context } = parts;
  context.fillStyle = state.ink === "light" ? "#000" : "#fff";
  context.fillRect(0, 0, SIDE, SIDE);
  if (state.background) {
    context.imageSmoothingEnabled = false;
    context.filter = state.ink === "light" ? "none" : "invert(1)";
    const [wide, tall] = [state.background.width, state.background.height];
    const [across, down] = [wide, tall].map((side) => (side * SIDE) / 2 / Math.max(wide, tall));
    context.drawImage(state.background, (SIDE - across) / 2, (SIDE - down) / 2, across, down);
    context.filter = "none";
  }
  for (const stroke of state.strokes) {
    context.strokeStyle = stroke.ink === "light" ? "#fff" : "#000";
    context.lineWidth = stroke.width;
    context.lineCap = "round";
    context.lineJoin = "round";
    context.beginPath();
    stroke.points.forEach(([x, y], i) => (i ? context.lineTo(x, y) : context.moveTo(x, y)));
    if (stroke.points.length === 1) context.lineTo(stroke.points[0][0] + 0.1, stroke.points[0][1]);
    context.stroke();
  }
}

function paint() {
  strokes();
  if (document.activeElement !== parts.canvas || !state.keys) return;
  const { context } = parts;
  context.strokeStyle = state.down ? "#e0632a" : "#7a8699";
  context.lineWidth = 2;
  context.beginPath();
  context.arc(...state.pen, state.width / 2 + 2, 0, 7);
  context.stroke();
}

function keys(event) {
  const by = { ArrowUp: [0, -1], ArrowDown: [0, 1], ArrowLeft: [-1, 0], ArrowRight: [1, 0] }[event.key];
  if (by) {
    const length = event.shiftKey ? 3 : 10;
    state.pen = state.pen.map((at, i) => Math.min(Math.max(at + by[i] * length, 0), SIDE));
    if (state.down) {
      state.strokes.at(-1).points.push([...state.pen]);
      send();
    }
  } else if (event.key === " " || event.key === "Enter") {
    state.down = !state.down;
    if (state.down) state.strokes.push({ ink: state.ink, width: state.width, points: [[...state.pen]] });
    send();
  } else if (event.key === "Delete" || event.key === "Backspace") clear();
  else return;
  event.preventDefault();
  state.keys = true;
  paint();
}

function clear() {
  Object.assign(state, { strokes: [], background: null, of: null, down: false });
  paint();
  send();
}

async function example() {
  let image;
  try {
    ({ image } = await ask("example", { run: state.run, image: state.sample }));
  } catch (error) {
    if (!(error instanceof Refused)) throw error;
    refuse(error.message);
    return;
  }
  state.sample += 1;
  Object.assign(state, { strokes: [], of: null, down: false, background: map(image, ...image.shape, "grey", 0, range(image)[1], "") });
  // "grey" does not begin at black: what is empty must be as dark as the pad.
  const context = state.background.getContext("2d");
  const pixels = context.getImageData(0, 0, state.background.width, state.background.height);
  image.forEach((value, i) => pixels.data.fill(255 * value, 4 * i, 4 * i + 3));
  context.putImageData(pixels, 0, 0);
  paint();
  send();
}

function send() {
  asked = performance.now();
  strokes();
  const pixels = parts.context.getImageData(0, 0, SIDE, SIDE).data;
  const grey = new Uint8Array(SIDE * SIDE);
  for (let i = 0; i < grey.length; i += 1) grey[i] = pixels[4 * i];
  paint();
  if (!state.strokes.length && !state.background) return empty();
  question({ run: state.run, of: state.of, drawing: { height: SIDE, width: SIDE, bytes: base64(grey) }, since: asked });
}

const question = latest("draw", (found, body) => {
  if (!state.strokes.length && !state.background) return;
  answer = found;
  show();
  performance.measure("stroke", { start: body.since, end: performance.now() });
}, refuse);

function refuse(text) {
  parts.verdict.replaceChildren(refusal(text));
  parts.bars.replaceChildren();
  parts.found.replaceChildren();
}

function empty() {
  answer = null;
  parts.verdict.replaceChildren(h("p", { className: "big faint" }, t("digits.empty")));
  parts.bars.replaceChildren();
  parts.found.replaceChildren(h("div", { className: "empty card" }, h("p", {}, t("digits.emptyhint"))));
}

const best = (values) => values.reduce((found, value, i) => (value > values[found] ? i : found), 0);

function show() {
  const { classes, probabilities, unprepared } = answer;
  const [mine, plain] = [best(probabilities), best(unprepared)];
  parts.verdict.replaceChildren(
    h("p", { className: "big" }, h("b", {}, classes[mine]), h("span", {}, percent(probabilities[mine]))),
    h("p", {}, t(mine === plain ? "digits.same" : "digits.other", { plain: classes[plain], chance: percent(unprepared[plain]) })));
  const focused = [...parts.bars.children].indexOf(document.activeElement);
  parts.bars.replaceChildren(
    ...classes.map((name, i) => h("button", {
      type: "button", className: i === answer.of ? "bar chosen" : "bar", "aria-pressed": String(i === answer.of),
      "aria-label": t("digits.bar", { name, chance: percent(probabilities[i]), plain: percent(unprepared[i]) }),
      onclick: () => {
        state.of = i;
        send();
      },
    },
    h("span", { className: "name" }, name),
    h("span", { className: "track" },
      h("i", { style: { width: `${probabilities[i] * 100}%` } }), h("i", { className: "plain", style: { width: `${unprepared[i] * 100}%` } })),
    h("span", { className: "value" }, percent(probabilities[i])))),
    h("p", { className: "legend" }, h("span", {}, h("i", { className: "key" }), t("digits.prepared")), h("span", {}, h("i", { className: "key plain" }), t("digits.plain"))));
  parts.bars.children[focused]?.focus(); // an answer that comes later takes nobody's place
  parts.found.replaceChildren(card(t("digits.how"), preparation()), card(t("digits.counted", { name: classes[answer.of] }), counted()), card(t("digits.maps"), maps()));
}

function preparation() {
  const { style, box, ink, scale, moved, light_ink: light } = answer;
  const found = map(ink, ...ink.shape, "grey", 0, 255, t("digits.step1"));
  const frame = h("div", { className: "inkbox", style: {
    left: `${(100 * box.left) / ink.shape[1]}%`, top: `${(100 * box.top) / ink.shape[0]}%`,
    width: `${(100 * (box.right - box.left)) / ink.shape[1]}%`, height: `${(100 * (box.bottom - box.top)) / ink.shape[0]}%`,
  } });
  const [, height, width] = style.shape;
  const step = (title, text, image) => h("figure", { className: "step" }, h("div", { className: "thumb" }, image), h("figcaption", {}, h("b", {}, title), h("span", {}, text)));
  return [
    h("div", { className: "steps" },
      step(t("digits.step1"), t(light === style.light_ink ? "digits.inkright" : "digits.inkturned", { ink: t(light ? "digits.light" : "digits.dark") }), [found, frame]),
      step(t("digits.step2"), t("digits.scaled", { box: shape([box.bottom - box.top, box.right - box.left]), longest: figure(style.longest), scale: scale.toFixed(2) }), picture(answer.image, t("digits.step2"))),
      step(t("digits.step4"), t("digits.unprepared"), picture(answer.plain, t("digits.step4")))),
    h("p", { className: "hint" }, t("digits.style", {
      size: shape([height, width]), longest: figure(style.longest),
      down: t(`by.${style.centre[0].by}`), right: t(`by.${style.centre[1].by}`),
      movedown: figure(Math.round(moved[0] * 10) / 10), moveright: figure(Math.round(moved[1] * 10) / 10),
    }), style.block > 1 ? ` ${t("digits.block", { block: style.block, cells: shape([height / style.block, width / style.block]) })}` : ""),
  ];
}

function counted() {
  const { gradient, occlusion } = answer;
  const [, height, width] = gradient.shape;
  const far = Math.max(...range(gradient).map(Math.abs));
  const lost = Math.max(...range(occlusion).map(Math.abs), 0.01);
  const one = (image, title, text) => h("figure", { className: "step" }, h("div", { className: "thumb" }, image), h("figcaption", {}, h("b", {}, title), h("span", {}, text)));
  return h("div", { className: "steps" },
    one(picture(answer.image, t("digits.sees")), t("digits.sees"), t("digits.seeshint")),
    one(map(gradient, height, width, "signed", -far, far, t("digits.gradient")), t("digits.gradient"), t("digits.gradienthint")),
    one(map(occlusion, ...occlusion.shape, "signed", -lost, lost, t("digits.occlusion")), t("digits.occlusion"), t("digits.occlusionhint", { most: percent(Math.max(range(occlusion)[1], 0)) })));
}

export function between(values) {
  const [low, high] = range(values).map(figure);
  return { low, high };
}

export function maps(found = answer.maps) {
  return h("div", { className: "layers" }, found.map((step) => h("div", { className: "layer" },
    h("div", { className: "about" }, h("b", {}, step.name === "" ? t("digits.image") : `${step.name} · ${step.kind}`),
      h("span", {}, step.shape.length === 1 ? t("digits.values", { n: integer(step.shape[0]) }) : shape(step.shape)),
      h("span", {}, t("digits.range", between(step.values))),
      step.values.shape[0] < step.shape[0] && h("span", {}, t("digits.first", { n: step.values.shape[0] }))),
    layer(step.values, step.name === "" ? "grey" : "amount", `${step.kind} ${shape(step.shape)}`))));
}
