// The frame: panels as tabs, language, light and dark.

import { ask, onLost } from "./api.js";
import * as bits from "./bits.js";
import * as convolution from "./convolution.js";
import * as digits from "./digits.js";
import { h } from "./dom.js";
import * as runs from "./runs.js";
import * as shapes from "./shapes.js";
import { language, setLanguage, t } from "./strings.js";

const panels = { convolution, digits, runs, bits, shapes };
const names = Object.keys(panels);
const root = document.getElementById("panel");
let shown = null;

const kept = (name) => {
  try {
    return localStorage.getItem(`gpucnn-${name}`);
  } catch {
    return null;
  }
};
const keep = (name, value) => {
  try {
    localStorage.setItem(`gpucnn-${name}`, value);
  } catch {
    // a browser that keeps nothing begins anew each time
  }
};

function words() {
  document.documentElement.lang = language();
  for (const element of document.querySelectorAll("[data-t]")) element.textContent = t(element.dataset.t);
  for (const element of document.querySelectorAll("[data-label]")) element.setAttribute("aria-label", t(element.dataset.label));
  const other = document.getElementById("language");
  other.textContent = language() === "en" ? "한국어" : "English";
  other.lang = language() === "en" ? "ko" : "en";
}

export function open(name) {
  if (location.hash === `#${name}`) show(name);
  else location.hash = name;
}

function show(name) {
  if (!(name in panels)) name = names[0];
  panels[shown]?.leave?.();
  shown = name;
  for (const other of names) {
    const tab = document.getElementById(`tab-${other}`);
    tab.setAttribute("aria-selected", String(other === name));
    tab.tabIndex = other === name ? 0 : -1;
    if (other === name) tab.scrollIntoView({ block: "nearest", inline: "center" });
  }
  root.setAttribute("aria-labelledby", `tab-${name}`);
  document.title = `${t(`tab.${name}`)} · gpucnn explore`;
  const content = h("div", { className: `panel ${name}` },
    h("div", { className: "lead" }, h("h1", {}, t(`tab.${name}`)), h("p", {}, t(`${name}.lead`))));
  root.replaceChildren(content);
  panels[name].enter(content, { open });
}

for (const name of names) {
  const tab = document.getElementById(`tab-${name}`);
  tab.addEventListener("click", () => open(name));
  tab.addEventListener("keydown", (event) => {
    const move = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    const to = event.key === "Home" ? 0 : event.key === "End" ? names.length - 1 : names.indexOf(name) + (move ?? 0);
    if (move === undefined && event.key !== "Home" && event.key !== "End") return;
    event.preventDefault();
    const next = names[(to + names.length) % names.length];
    open(next);
    document.getElementById(`tab-${next}`).focus();
  });
}
window.addEventListener("hashchange", () => show(location.hash.slice(1)));
// The link's own address would name a panel that there is not.
document.querySelector(".skip").addEventListener("click", (event) => {
  event.preventDefault();
  root.focus();
});

document.getElementById("language").addEventListener("click", () => {
  setLanguage(language() === "en" ? "ko" : "en");
  keep("language", language());
  words();
  show(shown);
  status();
});

const themes = ["auto", "light", "dark"];
function theme(name) {
  if (name === "auto") delete document.documentElement.dataset.theme;
  else document.documentElement.dataset.theme = name;
  document.querySelector("#theme span").textContent = { auto: "◐", light: "☀", dark: "☾" }[name];
  document.getElementById("theme").title = t(`theme.${name}`);
}
let current = themes.includes(kept("theme")) ? kept("theme") : "auto";
document.getElementById("theme").addEventListener("click", () => {
  current = themes[(themes.indexOf(current) + 1) % themes.length];
  keep("theme", current);
  theme(current);
  show(shown);
});
window.matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => show(shown));

onLost((lost) => {
  const banner = document.getElementById("lost");
  if (banner.hidden === lost) {
    banner.hidden = !lost;
    banner.textContent = t("lost");
  }
});

// A server that does not answer is told in the banner, once.
window.addEventListener("unhandledrejection", (event) => {
  if (event.reason instanceof TypeError && !document.getElementById("lost").hidden) event.preventDefault();
});

async function status() {
  const { version, backend, device } = await ask("status");
  document.getElementById("foot").textContent = t("foot", { version, backend, device });
}

setLanguage(kept("language") ?? (navigator.language.startsWith("ko") ? "ko" : "en"));
words();
theme(current);
show(location.hash.slice(1));
status();
