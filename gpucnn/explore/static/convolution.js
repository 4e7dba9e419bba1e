// Convolution by hand. The window's place is the page's; every number under it is the engine's.

import { ask, latest, Refused, upload } from "./api.js";
import { button, card, figure, h, number, refusal, segmented, select, shape, still, toggle } from "./dom.js";
import { colour, css, range, readable } from "./pictures.js";
import { t } from "./strings.js";

const SIDE = 16;
const TERMS = 27; // of the sum that are written out
const state = {
  operation: "conv", image: null, filter: null, size: 2, stride: 1, padding: 0, mode: "zeros", value: 0, dilation: 1,
  flip: false, strict: false, preset: "cross", kernel: "diagonal", drawing: false, ink: 1, at: [0, 0], presets: null,
};
let answer = null;
let timer = null;
let parts = null;
let observer = null; // of the width
let stages = 0; // the width that was drawn for

export function leave() {
  clearInterval(timer);
  timer = null;
}

export async function enter(root) {
  state.presets ??= await ask("presets");
  state.image ??= state.presets.images.cross;
  state.filter ??= [state.presets.filters.diagonal];
  parts = {
    controls: h("div", { className: "controls" }),
    stage: h("div", { className: "stage" }),
    below: h("div", { className: "columns" }),
    live: h("p", { className: "now", "aria-live": "polite" }),
  };
  parts.stage.append(h("div", { className: "card" }, h("p", { className: "hint busy", role: "status" }, t("loading"))));
  root.append(h("div", { className: "split" }, parts.controls, h("div", { className: "main" }, parts.stage, parts.below)));
  controls();
  compute();
  // A phone that is turned: cells of another size fit. What a scroll bar takes is no such change.
  observer?.disconnect();
  observer = new ResizeObserver(() => {
    const fits = answer?.asked === state.operation && parts.stage.isConnected; // the next answer may be on its way
    if (fits && Math.abs(parts.stage.clientWidth - stages) > 20) draw();
  });
  observer.observe(parts.stage);
}

const compute = () => question({
  operation: state.operation, image: state.image, filter: state.filter, size: state.size, stride: state.stride,
  padding: state.padding, mode: state.mode, value: state.value, dilation: state.dilation, flip: state.flip, strict: state.strict,
});
const question = latest("convolve", (found, { operation }) => {
  answer = { ...found, asked: operation };
  const [rows, columns] = answer.output.shape.slice(1);
  state.at = [Math.min(state.at[0], rows - 1), Math.min(state.at[1], columns - 1)];
  draw();
}, (text) => {
  leave();
  answer = null;
  parts.stage.replaceChildren(refusal(text));
  parts.below.replaceChildren();
});

// ---- what is set ----------------------------------------------------------------------------------------------------

function set(name, value, again = false) {
  state[name] = value;
  if (again) controls();
  compute();
}

// The filter with as many channels as the image: more are copies of the first.
function fit() {
  const channels = state.image.length;
  state.filter = Array.from({ length: channels }, (_, c) => (state.filter[c] ?? state.filter[0]).map((row) => [...row]));
}

async function choose(name) {
  state.preset = name;
  const image = name === "digit" ? (await ask("digit")).image : state.presets.images[name];
  if (state.preset !== name) return; // another was chosen, or drawn, meanwhile
  state.image = image;
  fit();
  set("at", [0, 0], true);
}

function resize(height, width) {
  state.image = state.image.map((rows) =>
    Array.from({ length: height }, (_, r) => Array.from({ length: width }, (_, c) => rows[r]?.[c] ?? 0)));
  set("preset", "", true);
}

async function take(file) {
  for (const told of parts.stage.querySelectorAll(".refusal.upload")) told.remove();
  try {
    state.image = (await upload(file, Math.max(state.image[0].length, 12), state.image.length === 3 ? 3 : 1)).image;
    fit();
    set("preset", "", true);
  } catch (error) {
    if (!(error instanceof Refused)) throw error;
    const told = refusal(error.message);
    told.classList.add("upload");
    parts.stage.prepend(told);
  }
}

function channels(wish) {
  const had = state.image.length;
  state.image = Array.from({ length: wish }, (_, c) => state.image[c % had].map((row) => [...row]));
  fit();
  set("preset", "", true);
}

function kernel(size) {
  state.filter = state.filter.map((rows) =>
    Array.from({ length: size }, (_, r) => Array.from({ length: size }, (_, c) => rows[r]?.[c] ?? 0)));
  set("kernel", "", true);
}

function controls() {
  const { images, filters } = state.presets;
  const conv = state.operation === "conv";
  const file = h("input", { type: "file", accept: "image/*", hidden: true, onchange: () => {
    if (file.files[0]) take(file.files[0]);
    file.value = ""; // or the same file, corrected, would be no change
  } });
  parts.controls.replaceChildren(...[
    card(t("conv.operation"),
      segmented(t("conv.operation"), [["conv", t("conv.conv")], ["max", t("conv.max")], ["avg", t("conv.avg")]],
        state.operation, (name) => {
          if (name !== "conv" && state.operation === "conv") state.stride = state.size;
          if (name === "conv" && state.operation !== "conv") state.stride = 1;
          set("operation", name, true);
        })),
    card(t("conv.image"),
      h("div", { className: "chips", role: "group", "aria-label": t("conv.image") },
        Object.keys(images).map((name) =>
          button(t(`image.${name}`), () => choose(name), { className: "chip", "aria-pressed": String(name === state.preset) })),
        button(t("conv.upload"), () => file.click(), { className: "chip" }), file),
      h("div", { className: "fields" },
        number(t("conv.height"), state.image[0].length, 1, SIDE, (value) => resize(value, state.image[0][0].length)),
        number(t("conv.width"), state.image[0][0].length, 1, SIDE, (value) => resize(state.image[0].length, value)),
        select(t("conv.channels"), [["1", "1"], ["2", "2"], ["3", "3"]], String(state.image.length), (value) => channels(Number(value)))),
      segmented(t("conv.click"), [["move", t("conv.move")], ["draw", t("conv.draw")]], state.drawing ? "draw" : "move", (value) => {
        state.drawing = value === "draw";
        draw();
      }),
      h("p", { className: "hint" }, t("conv.clickhint"))),
    conv && card(t("conv.filter"),
      h("div", { className: "chips", role: "group", "aria-label": t("conv.filter") },
        Object.keys(filters).map((name) => button(t(`filter.${name}`), () => {
          state.filter = [filters[name]];
          fit();
          set("kernel", name, true);
        }, { className: "chip", "aria-pressed": String(name === state.kernel) }))),
      number(t("conv.size"), state.filter[0].length, 1, 7, kernel),
      state.filter.map((rows, c) => h("div", { className: "editor", role: "group", "aria-label": t("conv.channel", { c }), style: { "--columns": rows[0].length } },
        rows.map((row, r) => row.map((value, k) => {
          const cell = h("input", { type: "number", step: "any", value: String(Math.round(value * 1e4) / 1e4), "aria-label": t("conv.weight", { c, r, k }) });
          cell.addEventListener("change", () => {
            const wish = Number(cell.value);
            state.filter[c][r][k] = Number.isFinite(wish) ? Math.min(1e3, Math.max(-1e3, wish)) : 0;
            state.kernel = "";
            state.filter = state.filter.map((rows2) => rows2.map((row2) => [...row2]));
            compute();
          });
          return cell;
        })))),
      toggle(t("conv.flip"), state.flip, (value) => set("flip", value)),
      h("p", { className: "hint" }, t("conv.fliphint"))),
    card(t("conv.settings"),
      h("div", { className: "fields" },
        !conv && number(t("conv.size"), state.size, 1, SIDE, (value) => set("size", value)),
        number(t("conv.stride"), state.stride, 1, SIDE, (value) => set("stride", value)),
        number(t("conv.padding"), state.padding, 0, 6, (value) => set("padding", value)),
        conv && number(t("conv.dilation"), state.dilation, 1, SIDE, (value) => set("dilation", value))),
      conv && select(t("conv.mode"), ["zeros", "constant", "reflect", "replicate", "circular"].map((name) => [name, t(`mode.${name}`)]),
        state.mode, (value) => set("mode", value, true)),
      conv && state.mode === "constant" && number(t("conv.value"), state.value, -9, 9, (value) => set("value", value)),
      toggle(t("conv.strict"), state.strict, (value) => set("strict", value))),
  ].filter(Boolean));
}

// ---- what is shown --------------------------------------------------------------------------------------------------

// A grid of numbers (rows, columns). `move(row, column)` is called by click, drag and arrow keys.
// Cells `outside` are hatched, and `bare` ones have no number. `all` are the values of every grid beside it: all show numbers or none.
function grid(label, values, rows, columns, { palette, low, high, move, at, enter, outside, bare, all = values, room = 400 }) {
  const size = Math.max(14, Math.min(40, Math.floor(room / columns)));
  // Numbers are shown where the longest of them fits into its cell.
  const texts = Array.from(values, figure);
  const longest = Math.max(...Array.from(all, (value) => figure(value).length));
  const fits = longest * Math.max(9, size * 0.31) * 0.58 < size;
  const cells = Array.from({ length: rows * columns }, (_, i) => {
    const rgb = colour(values[i], palette, low, high);
    const off = outside?.(Math.floor(i / columns), i % columns);
    return h("div", {
      className: off ? "cell outside" : "cell", role: "gridcell",
      style: { background: css(rgb), color: readable(rgb) },
    }, fits && !(off && bare) ? texts[i] : "");
  });
  const frame = h("div", { className: "frame", hidden: true });
  const element = h("div", { className: "grid", style: { "--size": `${size}px`, "--columns": columns } },
    Array.from({ length: rows }, (_, r) => h("div", { role: "row", className: "row" }, cells.slice(r * columns, (r + 1) * columns))),
    frame);
  element.setAttribute("role", "grid");
  element.setAttribute("aria-label", label);
  element.tabIndex = move ? 0 : -1;
  if (move) {
    const place = (event) => {
      const box = element.getBoundingClientRect();
      const row = Math.floor((event.clientY - box.top) / (box.height / rows));
      const column = Math.floor((event.clientX - box.left) / (box.width / columns));
      if (row >= 0 && row < rows && column >= 0 && column < columns) move(row, column, event.type === "pointerdown");
    };
    element.addEventListener("pointerdown", (event) => {
      element.setPointerCapture(event.pointerId);
      place(event);
    });
    element.addEventListener("pointermove", (event) => event.buttons && place(event));
    element.addEventListener("keydown", (event) => {
      const by = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] }[event.key];
      if (by) {
        event.preventDefault();
        at(by);
      } else if (enter && (event.key === " " || event.key === "Enter")) {
        event.preventDefault();
        enter();
      }
    });
  }
  element.cells = cells;
  // Frames `tall` x `wide` cells from (row, column) on.
  element.mark = (row, column, tall, wide) => {
    frame.hidden = false;
    frame.style.transform = `translate(${column * size}px, ${row * size}px)`;
    frame.style.width = `${wide * size}px`;
    frame.style.height = `${tall * size}px`;
  };
  return element;
}

const grids = { inputs: [], filters: [], products: [], outputs: [] };
let cursor = [0, 0];

function draw() {
  if (!answer) return;
  const { padded, output, axes, products, filter } = answer;
  const [channels, rows, columns] = padded.shape;
  const conv = state.operation === "conv";
  const [[low, high], [least, most]] = [range(padded), range(output)];
  const [top, left] = axes.map((axis) => axis.before);
  const [tall, wide] = axes.map((axis) => axis.input);
  const outside = (r, c) => r < top || c < left || r >= top + tall || c >= left + wide;
  stages = parts.stage.clientWidth || 700;
  const beside = conv ? 340 : 190; // the filter, the signs and the gaps between
  const room = stages < 640 ? stages - 40 : Math.min(380, (stages - beside) / 2);
  const kernel = axes.map((axis) => axis.kernel);
  const weights = conv ? range(filter) : [0, 0];
  const sum = conv ? range(products) : [0, 0];
  grids.inputs = Array.from({ length: channels }, (_, c) => grid(t("conv.input"),
    padded.subarray(c * rows * columns, (c + 1) * rows * columns), rows, columns, {
      palette: "grey", low: Math.min(low, 0), high: Math.max(high, 1), outside, bare: state.operation === "max", all: padded, room: channels > 1 ? room * 0.72 : room,
      at: (by) => (state.drawing ? point(by) : slide(by)),
      enter: () => state.drawing && paint(c, ...cursor, true),
      move: (r, k, first) => {
        if (state.drawing) paint(c, r - top, k - left, first);
        else go(Math.round((r - (axes[0].extent - 1) / 2) / axes[0].stride), Math.round((k - (axes[1].extent - 1) / 2) / axes[1].stride));
      },
    }));
  const size = kernel[0] * kernel[1];
  grids.filters = conv ? Array.from({ length: channels }, (_, c) => grid(t("conv.filter"),
    filter.subarray(c * size, (c + 1) * size), ...kernel, { palette: "signed", low: weights[0], high: weights[1], all: filter, room: 120 })) : [];
  grids.products = conv ? Array.from({ length: channels }, () => grid(t("conv.products"),
    new Float32Array(size), ...kernel, { palette: "signed", low: sum[0], high: sum[1], room: Math.min(kernel[1] * 46, 230) })) : [];
  const [maps, height, width] = output.shape;
  grids.outputs = Array.from({ length: maps }, (_, c) => grid(t("conv.output"),
    output.subarray(c * height * width, (c + 1) * height * width), height, width, {
      palette: conv ? "signed" : "grey", low: conv ? least : Math.min(low, 0), high: conv ? most : Math.max(high, 1),
      room: maps > 1 ? room * 0.72 : room, at: slide, move: go,
    }));
  const focused = document.activeElement?.closest?.(".grid")?.dataset.grid;
  const stack = (name, list, note) => h("figure", { className: `stack ${name}` }, h("figcaption", {}, t(`conv.${name}`), h("small", {}, note)),
    list.map((element, c) => {
      element.dataset.grid = `${name}-${c}`;
      return h("div", { className: "scroll" }, list.length > 1 && h("small", {}, t("conv.which", { c })), element);
    }));
  parts.where = h("p", { className: "now", "aria-live": "polite" });
  parts.sum = h("div", { className: "sum" });
  parts.play = button(timer ? t("conv.pause") : t("conv.play"), play, { className: "primary", id: "play" });
  parts.stage.replaceChildren(
    h("div", { className: "card stagecard" },
      h("div", { className: "flow" },
        stack("input", grids.inputs, shape([rows, columns])),
        conv && h("span", { className: "sign", "aria-hidden": "true" }, "∗"),
        conv && stack("filter", grids.filters, state.flip ? t("conv.flipped") : shape(kernel)),
        h("span", { className: "sign", "aria-hidden": "true" }, "→"),
        stack("output", grids.outputs, shape([height, width]))),
      h("div", { className: "buttons" },
        button("‹", () => step(-1), { "aria-label": t("conv.back"), className: "icon" }), parts.play,
        button("›", () => step(1), { "aria-label": t("conv.next"), className: "icon" }),
        h("p", { className: "hint" }, t("conv.keys"))),
      parts.where));
  parts.below.replaceChildren(
    card(conv ? t("conv.sumtitle") : t("conv.pooltitle"), parts.sum),
    h("div", { className: "main" }, card(t("conv.rule"), rule()), card(t("conv.use"), use())));
  if (focused) document.querySelector(`[data-grid="${focused}"]`)?.focus({ preventScroll: true });
  show();
}

function rule() {
  return h("div", { className: "rules" },
    h("p", { className: "formula" }, t("rule.formula")),
    answer.axes.map((axis, number) => h("p", { className: "formula numbers" },
      h("span", {}, t(`rule.axis${number}`)),
      `⌊(${axis.input} + ${axis.before} + ${axis.after} − ${axis.extent}) / ${axis.stride}⌋ + 1 = `, h("b", {}, String(axis.output)))),
    answer.axes.some((axis) => axis.extent !== axis.kernel) &&
      h("p", { className: "hint" }, t("rule.extent", { kernel: answer.axes[0].kernel, dilation: answer.axes[0].dilation, extent: answer.axes[0].extent })),
    answer.axes.some((axis) => axis.left) && h("p", { className: "hint" }, t("rule.left", { left: Math.max(...answer.axes.map((axis) => axis.left)) })));
}

function use() {
  const [rows, columns] = answer.use.shape;
  const most = range(answer.use)[1];
  const element = grid(t("conv.use"), answer.use, rows, columns, { palette: "amount", low: 0, high: Math.max(1, most), room: 270 });
  return [h("div", { className: "scroll" }, element), h("p", { className: "hint" }, t("conv.usehint"))];
}

// Moves what is marked; nothing is asked of the server.
function show() {
  const { axes, output, products, padded } = answer;
  const [r, c] = state.at;
  const [maps, height, width] = output.shape;
  const [row, column] = [r * axes[0].stride, c * axes[1].stride];
  const [[tall, wide], [rows, columns]] = [axes.map((axis) => axis.kernel), padded.shape.slice(1)];
  const conv = state.operation === "conv";
  grids.inputs.forEach((element, channel) => {
    element.mark(row, column, axes[0].extent, axes[1].extent);
    element.querySelectorAll(".tap, .winner").forEach((cell) => cell.classList.remove("tap", "winner"));
    for (let i = 0; i < tall; i += 1)
      for (let k = 0; k < wide; k += 1) {
        const [y, x] = [row + i * axes[0].dilation, column + k * axes[1].dilation];
        const cell = element.cells[y * columns + x];
        if (y >= rows || x >= columns || !cell) continue;
        cell.classList.add("tap");
        if (answer.winners) {
          const [, , , inHeight, inWidth] = answer.winners.shape;
          const [iy, ix] = [y - axes[0].before, x - axes[1].before];
          if (iy >= 0 && ix >= 0 && iy < inHeight && ix < inWidth
            && answer.winners[(((r * width + c) * grids.inputs.length + channel) * inHeight + iy) * inWidth + ix])
            cell.classList.add("winner");
        }
      }
    if (state.drawing) element.cells[(cursor[0] + axes[0].before) * columns + cursor[1] + axes[1].before]?.classList.add("winner");
  });
  grids.outputs.forEach((element) => element.mark(r, c, 1, 1));
  const place = r * width + c;
  const values = Array.from({ length: maps }, (_, m) => output[m * height * width + place]);
  parts.where.textContent = t("conv.now", { r, c, value: values.map(figure).join(", ") });
  if (conv) {
    const size = tall * wide;
    const [low, high] = range(products);
    const terms = [];
    grids.products.forEach((element, channel) => element.cells.forEach((cell, k) => {
      const value = products[(channel * size + k) * height * width + place];
      const rgb = colour(value, "signed", low, high);
      cell.textContent = figure(value);
      cell.style.background = css(rgb);
      cell.style.color = readable(rgb);
      const [i, j] = [Math.floor(k / wide), k % wide];
      const pixel = padded[(channel * rows + row + i * axes[0].dilation) * columns + column + j * axes[1].dilation];
      const weight = figure(answer.filter[channel * size + k]);
      const term = `${figure(pixel)} × ${weight.startsWith("−") ? `(${weight})` : weight}`;
      cell.title = `${term} = ${figure(value)}`;
      terms.push(term);
    }));
    parts.sum.replaceChildren(
      h("div", { className: "flow" }, grids.products.map((element) => h("div", { className: "scroll" }, element)),
        h("p", { className: "total" }, h("span", {}, t("conv.sumis")), h("b", {}, figure(values[0])), h("span", {}, t("conv.goes", { r, c })))),
      h("p", { className: "terms" }, terms.slice(0, TERMS).map((term, k) => [k ? " + " : "", h("span", {}, term)]), terms.length > TERMS ? " + …" : ""),
      h("p", { className: "hint" }, t("conv.producthint")));
  } else {
    parts.sum.replaceChildren(h("p", { className: "total" },
      h("span", {}, t(state.operation === "max" ? "conv.largest" : "conv.mean", { count: answer.counts[place] })),
      h("b", {}, values.map(figure).join(", ")), h("span", {}, t("conv.goes", { r, c }))));
  }
}

function go(r, c) {
  const [height, width] = answer.output.shape.slice(1);
  state.at = [Math.min(Math.max(r, 0), height - 1), Math.min(Math.max(c, 0), width - 1)];
  show();
}

const slide = ([down, right]) => go(state.at[0] + down, state.at[1] + right);

function step(by) {
  const [height, width] = answer.output.shape.slice(1);
  const place = (state.at[0] * width + state.at[1] + by + height * width) % (height * width);
  go(Math.floor(place / width), place % width);
}

function play() {
  if (timer) leave();
  else timer = setInterval(() => (answer ? step(1) : leave()), still() ? 900 : 450);
  parts.play.textContent = timer ? t("conv.pause") : t("conv.play");
}

function point([down, right]) {
  cursor = [
    Math.min(Math.max(cursor[0] + down, 0), state.image[0].length - 1),
    Math.min(Math.max(cursor[1] + right, 0), state.image[0][0].length - 1),
  ];
  show();
}

// The first pixel of a stroke decides: an inked one is erased, an empty one inked.
function paint(channel, r, c, first) {
  if (r < 0 || c < 0 || r >= state.image[0].length || c >= state.image[0][0].length) return;
  const values = state.image.flat(2);
  const empty = Math.min(0, ...values);
  if (first) state.ink = state.image[channel][r][c] === Math.max(1, ...values) ? empty : Math.max(1, ...values);
  if (state.image[channel][r][c] === state.ink && !first) return;
  cursor = [r, c];
  state.image = state.image.map((rows, k) => (k === channel ? rows.map((row, i) => (i === r ? row.map((v, j) => (j === c ? state.ink : v)) : row)) : rows));
  state.preset = "";
  compute();
}
