// Drawing numbers: maps of pixels, charts. Nothing here computes more than where a number goes on the screen.

import { figure, h, id, s } from "./dom.js";

const VIRIDIS = [[68, 1, 84], [59, 82, 139], [33, 145, 140], [94, 201, 98], [253, 231, 37]];

function between(stops, part) {
  const place = Math.min(Math.max(part, 0), 1) * (stops.length - 1);
  const first = Math.min(Math.floor(place), stops.length - 2);
  return stops[first].map((from, i) => from + (stops[first + 1][i] - from) * (place - first));
}

export const dark = () => document.documentElement.dataset.theme === "dark"
  || (document.documentElement.dataset.theme !== "light" && window.matchMedia("(prefers-color-scheme: dark)").matches);

// A colour for a value: "grey" from low to high, "amount" likewise in colour, "signed" around zero.
export function colour(value, palette, low, high) {
  if (Number.isNaN(value)) return [255, 0, 255];
  if (palette === "signed") {
    const middle = dark() ? [38, 41, 47] : [247, 247, 248];
    const far = Math.max(Math.abs(low), Math.abs(high)) || 1;
    return value < 0 ? between([middle, [33, 102, 200]], -value / far) : between([middle, [214, 82, 28]], value / far);
  }
  const part = high > low ? (value - low) / (high - low) : 0;
  return palette === "grey" ? between([[12, 13, 16], [250, 250, 250]], part) : between(VIRIDIS, part);
}

export const css = (rgb) => `rgb(${rgb.map(Math.round).join(" ")})`;

// Black or white, whichever has more contrast on the colour (WCAG's relative luminance).
export function readable(rgb) {
  const [r, g, b] = rgb.map((value) => (value <= 10 ? value / 3294 : ((value / 255 + 0.055) / 1.055) ** 2.4));
  return 0.2126 * r + 0.7152 * g + 0.0722 * b > 0.179 ? "#000000" : "#ffffff";
}

export function range(values) {
  let low = Infinity;
  let high = -Infinity;
  for (const value of values) {
    if (value < low) low = value;
    if (value > high) high = value;
  }
  return [low, high];
}

// A table of 256 colours, as finely as the screen shows them. The maps of a layer share one.
let table = { of: "", entries: [] };
function colours(palette, from, to, low, high) {
  const of = `${palette} ${low} ${high}`;
  if (table.of !== of) table = { of, entries: Array.from({ length: 256 }, (_, i) => colour(from + ((to - from) * i) / 255, palette, low, high)) };
  return table.entries;
}

// A map (height, width) of numbers as a picture of one pixel each, which style.css enlarges.
export function map(values, height, width, palette, low, high, label) {
  const canvas = h("canvas", { className: "pixels", role: "img", "aria-label": label ?? "" });
  canvas.width = width;
  canvas.height = height;
  canvas.style.aspectRatio = `${width} / ${height}`;
  const context = canvas.getContext("2d");
  const image = context.createImageData(width, height);
  const far = Math.max(Math.abs(low), Math.abs(high));
  const [from, to] = palette === "signed" ? [-far, far] : [low, high];
  const table = colours(palette, from, to, low, high);
  const pixels = image.data;
  for (let i = 0; i < width * height; i += 1) {
    const place = to > from ? Math.round(((values[i] - from) / (to - from)) * 255) : 0;
    const [r, g, b] = table[Math.min(Math.max(place, 0), 255)] ?? [255, 0, 255]; // NaN
    pixels[4 * i] = r;
    pixels[4 * i + 1] = g;
    pixels[4 * i + 2] = b;
    pixels[4 * i + 3] = 255;
  }
  context.putImageData(image, 0, 0);
  return canvas;
}

// An image (C, H, W) as show draws it: one channel in grey, three as colours from 0 or their
// smallest to 1 or their largest, others by their mean.
export function picture(values, label) {
  const [channels, height, width] = values.shape;
  const size = height * width;
  if (channels !== 3) {
    const grey = Float32Array.from({ length: size }, (_, i) => {
      let sum = 0;
      for (let c = 0; c < channels; c += 1) sum += values[c * size + i];
      return sum / channels;
    });
    const [low, high] = range(grey);
    return map(grey, height, width, "grey", Math.min(low, 0), Math.max(high, low < 0 ? high : 1), label);
  }
  const [least, most] = [Math.min(0, range(values)[0]), Math.max(1, range(values)[1])];
  const canvas = map(values.subarray(0, size), height, width, "grey", 0, 1, label);
  const context = canvas.getContext("2d");
  const image = context.getImageData(0, 0, width, height);
  for (let i = 0; i < size; i += 1)
    for (let c = 0; c < 3; c += 1) image.data[4 * i + c] = 255 * ((values[c * size + i] - least) / (most - least));
  context.putImageData(image, 0, 0);
  return canvas;
}

// The maps (C, H, W) of a layer, all in one range; a vector (C,) as a strip.
export function layer(values, palette, label) {
  const [low, high] = range(values);
  if (values.shape.length === 1)
    return h("div", { className: "strip" }, map(values, 1, values.shape[0], palette, low, high, label));
  const [channels, height, width] = values.shape;
  const size = height * width;
  return h("div", { className: "maps", role: "img", "aria-label": label },
    Array.from({ length: channels }, (_, c) => {
      const one = map(values.subarray(c * size, (c + 1) * size), height, width, palette, low, high, "");
      one.setAttribute("role", "presentation");
      one.removeAttribute("aria-label");
      return one;
    }));
}

const COLOURS = ["var(--accent)", "#c2571a", "#2a8a5c", "#8a4fbf", "#b0882a", "#c23a6b", "#3a8fb0", "#6b7280"];
export const lineColour = (number) => COLOURS[number % COLOURS.length];

function ticks(low, high, most) {
  const raw = (high - low) / most || 1;
  const power = 10 ** Math.floor(Math.log10(raw));
  const step = [1, 2, 5, 10].map((n) => n * power).find((n) => n >= raw);
  const found = [];
  for (let i = Math.ceil(low / step); i * step <= high + step * 1e-9; i += 1) found.push(i * step);
  return found;
}

// series: {name, colour, dashed, points: [[x, y], ...]}. The pointer and the arrow keys read values off it.
export function chart(title, series, { log = false, format = figure, low, high, horizontal = "" } = {}) {
  const [wide, tall, left, right, top, bottom] = [320, 190, 46, 8, 10, 26];
  const points = series.flatMap((one) => one.points).filter(([, y]) => y !== null && y !== undefined && (!log || y > 0));
  const name = id("chart");
  const head = h("h3", { id: name }, title);
  if (!points.length) return h("div", { className: "chart" }, head);
  const [first, last] = range(points.map(([x]) => x));
  let [least, most] = range(points.map(([, y]) => y));
  least = Math.min(low ?? least, least); // a loss of one's own may be below 0
  most = Math.max(high ?? most, most);
  if (log) [least, most] = [Math.floor(Math.log10(least)), Math.ceil(Math.log10(most) + 1e-9)];
  if (most === least) most = least + (log ? 1 : Math.abs(least) || 1);
  const x = (value) => left + ((value - first) / (last - first || 1)) * (wide - left - right);
  const y = (value) => tall - bottom - (((log ? Math.log10(value) : value) - least) / (most - least)) * (tall - top - bottom);
  const rows = log
    ? Array.from({ length: most - least + 1 }, (_, i) => 10 ** (least + i)).filter((_, i) => i % Math.ceil((most - least) / 5) === 0)
    : ticks(least, most, 4);
  const columns = ticks(first, last, 6).filter(Number.isInteger);
  const cursor = s("g", { class: "cursor", visibility: "hidden" });
  const readout = h("p", { className: "readout", "aria-live": "polite" });
  const graph = s(
    "svg",
    { viewBox: `0 0 ${wide} ${tall}`, tabindex: "0", role: "img", "aria-labelledby": name },
    rows.map((value) => [
      s("line", { class: "rule", x1: left, x2: wide - right, y1: y(value), y2: y(value) }),
      s("text", { x: left - 7, y: y(value) + 3.5, "text-anchor": "end" }, log ? value.toExponential(0) : format(value)),
    ]),
    columns.map((value) => s("text", { x: x(value), y: tall - 9, "text-anchor": "middle" }, String(value))),
    series.map((one) => {
      const shown = one.points.filter(([, value]) => value !== null && value !== undefined && (!log || value > 0));
      return shown.length === 1
        ? s("circle", { cx: x(shown[0][0]), cy: y(shown[0][1]), r: 3, style: { fill: one.colour } })
        : s("polyline", {
            points: shown.map(([a, b]) => `${x(a).toFixed(1)},${y(b).toFixed(1)}`).join(" "),
            style: { stroke: one.colour, "stroke-dasharray": one.dashed ? "5 4" : "none" },
          });
    }),
    cursor,
  );
  const places = [...new Set(points.map(([a]) => a))].sort((a, b) => a - b);
  let at = places.length - 1;
  const rest = () => {
    readout.replaceChildren(...series.filter((one) => one.points.length).map((one) =>
      h("span", {}, h("i", { className: one.dashed ? "key dashed" : "key", style: { "--c": one.colour } }), one.name)));
  };
  const read = (place) => {
    at = place;
    const value = places[at];
    cursor.setAttribute("visibility", "visible");
    cursor.replaceChildren(s("line", { x1: x(value), x2: x(value), y1: top, y2: tall - bottom }));
    readout.replaceChildren(h("b", {}, `${horizontal} ${value}`), ...series.map((one) => {
      const found = one.points.find(([a]) => a === value);
      return found && found[1] !== null && found[1] !== undefined
        ? h("span", {}, h("i", { className: one.dashed ? "key dashed" : "key", style: { "--c": one.colour } }), `${one.name} ${format(found[1])}`)
        : null;
    }).filter(Boolean));
  };
  graph.addEventListener("pointermove", (event) => {
    const box = graph.getBoundingClientRect();
    const wish = ((event.clientX - box.left) / box.width) * wide;
    let best = 0;
    places.forEach((value, i) => {
      if (Math.abs(x(value) - wish) < Math.abs(x(places[best]) - wish)) best = i;
    });
    read(best);
  });
  const leave = () => {
    cursor.setAttribute("visibility", "hidden");
    rest();
  };
  graph.addEventListener("pointerleave", leave);
  graph.addEventListener("blur", leave);
  graph.addEventListener("keydown", (event) => {
    const move = { ArrowLeft: -1, ArrowRight: 1, Home: -places.length, End: places.length }[event.key];
    if (move === undefined) return;
    event.preventDefault();
    read(Math.min(Math.max(at + move, 0), places.length - 1));
  });
  rest();
  return h("div", { className: "chart" }, head, graph, readout);
}
