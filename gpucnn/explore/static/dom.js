// Making elements, and the few controls that several panels share.

import { korean } from "./refusals.js";
import { language, t } from "./strings.js";

const SVG = "http://www.w3.org/2000/svg";

function fill(element, properties, children) {
  for (const [name, value] of Object.entries(properties ?? {})) {
    if (value === undefined || value === null || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (name === "style") for (const [key, what] of Object.entries(value)) element.style.setProperty(key, what);
    else if (name in element && !["list", "form", "width", "height", "role"].includes(name) && !(element instanceof SVGElement))
      element[name] = value;
    else element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.flat(3).filter((child) => child !== null && child !== undefined && child !== false));
  return element;
}

export const h = (tag, properties, ...children) => fill(document.createElement(tag), properties, children);
export const s = (tag, properties, ...children) => fill(document.createElementNS(SVG, tag), properties, children);

let count = 0;
export const id = (name) => `${name}-${(count += 1)}`;

export function card(title, ...children) {
  const name = id("card");
  return h("section", { className: "card", "aria-labelledby": name }, h("h2", { id: name }, title), ...children);
}

// One of several choices, as radio buttons that look like one control.
export function segmented(label, choices, value, change) {
  const group = id("choice");
  return h(
    "fieldset",
    { className: "segmented" },
    h("legend", {}, label),
    h("div", {}, choices.map(([key, text]) =>
      h("label", {},
        h("input", { type: "radio", name: group, value: key, checked: key === value, onchange: () => change(key) }),
        h("span", {}, text)))),
  );
}

export function number(label, value, low, high, change, more = {}) {
  const input = h("input", { type: "number", value: String(value), min: String(low), max: String(high), step: "1", ...more });
  input.addEventListener("change", () => {
    const wish = Math.round(Number(input.value));
    const kept = Number.isFinite(wish) ? Math.min(high, Math.max(low, wish)) : value;
    input.value = String(kept);
    change(kept);
  });
  return h("label", { className: "field" }, h("span", {}, label), input);
}

export function select(label, choices, value, change) {
  const input = h("select", { onchange: () => change(input.value) },
    choices.map(([key, text]) => h("option", { value: key, selected: key === value }, text)));
  return h("label", { className: "field" }, h("span", {}, label), input);
}

export function toggle(label, value, change) {
  const input = h("input", { type: "checkbox", checked: value, onchange: () => change(input.checked) });
  return h("label", { className: "check" }, input, h("span", {}, label));
}

export const button = (text, onclick, more = {}) => h("button", { type: "button", onclick, ...more }, text);

// Shows a sentence that the engine refuses something with, in the page's language where there are words for it.
export const refusal = (text) => {
  const words = language() === "ko" ? korean(text) : null;
  return h("div", { className: "refusal", role: "status" },
    h("strong", {}, t("refused")), h("p", { lang: words ? "ko" : "en" }, words ?? text));
};

export const still = () => window.matchMedia("(prefers-reduced-motion: reduce)").matches;

export const percent = (value) => (value > 0 && value < 0.001 ? "<0.1%" : `${(value * 100).toFixed(1)}%`);
export const integer = (value) => value.toLocaleString("en-US");
export const shape = (sizes) => sizes.join("×");

export function figure(value) {
  if (Number.isInteger(value)) return String(value).replace("-", "−");
  const size = Math.abs(value);
  const text = size !== 0 && (size < 0.01 || size >= 1e4) ? value.toExponential(1) : value.toFixed(2);
  return text.replace(/(\.\d*?)0+$/, "$1").replace(/\.$/, "").replace("-", "−");
}
