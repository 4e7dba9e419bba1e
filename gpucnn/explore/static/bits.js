// Same bits: what each backend's training leaves, and what another order of summation does.

import { ask, Refused } from "./api.js";
import { button, card, figure, h, integer, refusal, toggle } from "./dom.js";
import { chart, lineColour } from "./pictures.js";
import { t } from "./strings.js";

const state = { answer: null, broken: null, emulate: false, all: false };
let parts = null;

export function enter(root) {
  parts = { table: h("div", { className: "rows" }), broken: h("div", { className: "rows" }) };
  parts.run = button(t("bits.run"), compare, { className: "primary" });
  parts.break = button(t("bits.break"), broken, { className: "primary" });
  root.append(
    card(t("bits.title"), h("p", {}, t("bits.what")),
      h("div", { className: "buttons" }, parts.run, toggle(t("bits.emulate"), state.emulate, (value) => { state.emulate = value; })), parts.table),
    card(t("bits.brokentitle"), h("p", {}, t("bits.brokenwhat")), h("div", { className: "buttons" }, parts.break), parts.broken));
  if (state.answer) table();
  if (state.broken) report();
}

async function work(name, body, target, control) {
  control.disabled = true;
  target.replaceChildren(h("p", { className: "hint busy", role: "status" }, t("bits.busy")));
  try {
    return await ask(name, body);
  } catch (error) {
    if (!(error instanceof Refused || error instanceof TypeError)) throw error;
    target.replaceChildren(error instanceof Refused ? refusal(error.message) : ""); // that the server has gone stands above
    return null;
  } finally {
    control.disabled = false;
  }
}

async function compare() {
  state.answer = (await work("bits", { emulate: state.emulate }, parts.table, parts.run)) ?? state.answer;
  if (state.answer) table();
}

async function broken() {
  state.broken = (await work("break", {}, parts.broken, parts.break)) ?? state.broken;
  if (state.broken) report();
}

const hex = (code) => code.toString(16).padStart(8, "0");

function table() {
  const { columns, names, missing, steps, images } = state.answer;
  const shown = state.all ? names.length : 24;
  const wrong = new Set(columns.flatMap((column) => column.differing));
  const equal = columns.every((column) => !column.differing.length);
  const rows = names.slice(0, shown).map((name, i) => h("tr", { className: wrong.has(i) ? "differs" : "" },
    h("th", { scope: "row" }, name), columns.map((column) => h("td", { className: "code", title: figure(column.values[i]) }, hex(column.bits[i]))),
    h("td", {}, wrong.has(i) ? "≠" : "=")));
  parts.table.replaceChildren(
    h("p", { className: equal ? "verdict yes" : "verdict no", role: "status" },
      t(columns.length < 2 ? "bits.alone" : equal ? "bits.equal" : "bits.differ", { weights: integer(names.length), bits: integer(names.length * 32), steps, images, backends: columns.length, n: wrong.size })),
    h("div", { className: "scroll" }, h("table", { className: "bitstable" },
      h("thead", {}, h("tr", {}, h("th", { scope: "col" }, t("bits.weight")), columns.map((column) => h("th", { scope: "col" }, column.name, h("small", {}, column.device))), h("th", { scope: "col" }, t("bits.same")))),
      h("tbody", {}, rows),
      h("tfoot", {}, h("tr", {}, h("th", { scope: "row" }, "SHA-256"), columns.map((column) => h("td", { className: "code", title: column.sha256 }, `${column.sha256.slice(0, 16)}…`)), h("td", {}, equal ? "=" : "≠"))))),
    shown < names.length ? button(t("bits.all", { n: names.length }), () => {
      state.all = true;
      table();
    }) : "",
    missing.length ? h("details", {}, h("summary", {}, t("bits.missing", { names: missing.map((one) => one.name).join(", ") })),
      h("dl", {}, missing.map((one) => [h("dt", {}, one.name), h("dd", { lang: "en" }, one.reason)]))) : "");
}

function report() {
  const { first, counts, largest, steps, weights, names, answers, tested, sha256, probability } = state.broken;
  if (!first) {
    parts.broken.replaceChildren(h("p", { className: "verdict yes", role: "status" }, t("bits.nodifference", { steps })));
    return;
  }
  const bits = (text, i) => h("tr", {}, h("th", { scope: "row" }, t(i ? "bits.inarow" : "bits.tree")),
    h("td", { className: "code" }, [...text].map((bit, place) => h("span", { className: `${first.differing.includes(place) ? "flip" : ""}${place === 1 || place === 9 ? " gap" : ""}` }, bit))),
    h("td", { className: "code" }, first.hex[i]), h("td", { className: "code" }, first.values[i]));
  const points = (values) => values.map((value, i) => [i + 1, value]);
  const horizontal = t("bits.step");
  parts.broken.replaceChildren(
    h("p", { className: "verdict no", role: "status" }, t("bits.first", { step: first.step, name: names[first.weight], n: first.differing.length })),
    h("div", { className: "scroll" }, h("table", { className: "bitstable" },
      h("thead", {}, h("tr", {}, ["bits.order", "bits.bits", "bits.hex", "bits.value"].map((key) => h("th", { scope: "col" }, t(key))))),
      h("tbody", {}, first.bits.map(bits)))),
    h("p", {}, t("bits.after", { steps, n: counts.at(-1), weights, most: largest.at(-1).toExponential(1), probability: probability.toExponential(1), answers, tested })),
    h("div", { className: "charts" },
      chart(t("bits.count"), [{ name: t("bits.countname"), colour: lineColour(0), points: points(counts) }], { horizontal, low: 0, high: weights }),
      chart(t("bits.largest"), [{ name: t("bits.largestname"), colour: lineColour(1), points: points(largest) }], { horizontal, log: true, format: (value) => value.toExponential(1) })),
    h("p", { className: "hint code" }, sha256.map((digest) => `${digest.slice(0, 32)}…`).join("  ≠  ")));
}
