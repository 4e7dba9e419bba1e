// Shapes: a network put together by hand.

import { ask, latest } from "./api.js";
import { button, card, h, integer, number, refusal, select, shape } from "./dom.js";
import { t } from "./strings.js";

const state = { offered: null, shape: [1, 32, 32], layers: [], preset: "lenet5" };
let parts = null;
let answer = null;

export async function enter(root) {
  if (!state.offered) {
    state.offered = await ask("kinds");
    load("lenet5");
  }
  parts = { builder: h("div", { className: "rows" }), table: h("div", { className: "rows" }), python: h("div", { className: "rows" }) };
  root.append(h("div", { className: "split wide" },
    h("div", { className: "controls" }, card(t("shapes.layers"), parts.builder)),
    h("div", { className: "main" }, card(t("shapes.table"), parts.table), card(t("shapes.python"), parts.python))));
  builder();
  compute();
}

function load(name) {
  const preset = state.offered.presets[name];
  state.preset = name;
  state.shape = [...preset.shape];
  state.layers = preset.layers.map((one) => full(one.kind, one));
}

// A layer with all its settings, those of `some` and the defaults of the others.
const full = (kind, some = {}) => ({ kind, ...Object.fromEntries(state.offered.kinds[kind].map((one) => [one.name, some[one.name] ?? one.default])) });

// What the engine calls a setting is its name; 0 for a stride of pooling stands for the window's own size.
function changed(again = false, focus = null) {
  state.preset = "";
  if (again) builder(focus);
  compute();
}

const compute = () => question({ channels: state.shape[0], height: state.shape[1], width: state.shape[2], layers: state.layers });
const question = latest("build", (found) => {
  answer = found;
  show();
}, (text) => parts.table.replaceChildren(refusal(text)));

function builder(focus = null) {
  const kinds = Object.keys(state.offered.kinds);
  const move = (from, to) => {
    const [one] = state.layers.splice(from, 1);
    state.layers.splice(to, 0, one);
    changed(true, `layer-${to}`);
  };
  const add = h("select", { id: "add", "aria-label": t("shapes.kind") }, kinds.map((kind) => h("option", { value: kind }, kind)));
  parts.items = state.layers.map((one, i) => h("li", { id: `layer-${i}`, tabIndex: -1, className: "item", "aria-label": `${i} ${one.kind}` },
    h("div", { className: "head" }, h("b", {}, h("span", { className: "faint" }, `${i} `), one.kind),
      h("span", { className: "out" }),
      h("div", { className: "buttons" },
        button("↑", () => move(i, i - 1), { "aria-label": t("shapes.up", { i }), className: "icon", disabled: i === 0 }),
        button("↓", () => move(i, i + 1), { "aria-label": t("shapes.down", { i }), className: "icon", disabled: i === state.layers.length - 1 }),
        button("✕", () => {
          state.layers.splice(i, 1);
          changed(true, state.layers.length ? `layer-${Math.min(i, state.layers.length - 1)}` : "add");
        }, { "aria-label": t("shapes.remove", { i }), className: "icon" }))),
    state.offered.kinds[one.kind].length ? h("div", { className: "fields small" }, state.offered.kinds[one.kind].map((setting) => {
      const change = (value) => {
        one[setting.name] = value;
        changed();
      };
      return setting.choices.length
        ? select(setting.name, setting.choices.map((name) => [name, name]), one[setting.name], change)
        : number(setting.name, one[setting.name], setting.low, setting.high, change);
    })) : ""));
  parts.builder.replaceChildren(
    h("div", { className: "chips", role: "group", "aria-label": t("shapes.presets") }, Object.keys(state.offered.presets).map((name) => button(t(`preset.${name}`), () => {
      load(name);
      builder();
      compute();
    }, { className: "chip", "aria-pressed": String(name === state.preset) }))),
    h("div", { className: "fields" }, ["channels", "height", "width"].map((name, i) => number(t(`conv.${name}`), state.shape[i], 1, 1024, (value) => {
      state.shape[i] = value;
      changed();
    }))),
    state.layers.length ? h("ol", { className: "items" }, parts.items) : h("p", { className: "empty" }, t("shapes.empty")),
    h("div", { className: "buttons" }, add, button(t("shapes.add"), () => {
      if (state.layers.length >= state.offered.most) return;
      state.layers.push(full(add.value));
      changed(true, `layer-${state.layers.length - 1}`);
    }, { className: "primary" })));
  if (focus) document.getElementById(focus)?.focus();
}

function show() {
  const { rows, total, python, at } = answer;
  const numbers = (value) => (value === null ? "" : integer(value));
  const row = (one, tag) => h("tr", {}, h("th", { scope: "row" }, one.name), h("td", {}, one.kind), h("td", { className: "right" }, shape(one.output)),
    h(tag, { className: "right" }, numbers(one.parameters)), h(tag, { className: "right" }, numbers(one.multiply_adds)),
    h("td", { className: "right" }, one.field ? shape(one.field) : ""), h(tag, { className: "right" }, numbers(one.dense)));
  parts.items?.forEach((item, i) => {
    item.classList.toggle("wrong", i === at);
    item.querySelector(".out").textContent = rows[i] ? `→ ${shape(rows[i].output)}` : "";
    item.querySelectorAll("input, select").forEach((field) => field.setAttribute("aria-invalid", String(i === at)));
  });
  parts.table.replaceChildren(
    answer.refused !== undefined ? refusal(answer.refused) : "",
    h("div", { className: "scroll" }, h("table", { className: "numbers" },
      h("thead", {}, h("tr", {}, ["shapes.layer", "shapes.kindof", "shapes.output", "shapes.parameters", "shapes.adds", "shapes.field", "shapes.dense"].map((key) => h("th", { scope: "col" }, t(key))))),
      h("tbody", {}, rows.map((one) => row(one, "td"))),
      h("tfoot", {}, row({ ...total, name: t("shapes.total") }, "td")))),
    h("p", { className: "hint" }, t("shapes.hint")));
  const copy = button(t("shapes.copy"), async () => {
    await navigator.clipboard.writeText(python);
    copy.textContent = t("shapes.copied");
  });
  parts.python.replaceChildren(h("pre", { tabIndex: 0 }, h("code", {}, python)), h("div", { className: "buttons" }, copy));
}
