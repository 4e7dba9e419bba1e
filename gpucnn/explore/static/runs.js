// Watch a run: its curves, and what its network looks like after each epoch.

import { ask, latest } from "./api.js";
import { curves } from "./curves.js";
import { between, maps } from "./digits.js";
import { button, card, h, integer, percent, refusal, shape, still } from "./dom.js";
import { map, picture, range } from "./pictures.js";
import { t } from "./strings.js";
import { learn } from "./training.js";

const [MOST, FILTERS] = [8, 64]; // runs, and filters, in one picture
const CHANNELS = 16; // of a filter, one below the other
const state = { chosen: new Set(), focus: null, epoch: null, image: 0, follow: true };
let parts = null;
let timer = null;
let player = null;
let listed = [];
let drawn = "";
let measured = null;

export function leave() {
  clearTimeout(timer);
  clearInterval(player);
  player = null;
  parts?.training?.stop();
}

export async function enter(root, frame) {
  leave();
  parts = {
    list: h("div", {}), curves: h("div", {}), look: h("div", { className: "rows" }), results: h("div", { className: "columns" }), frame,
  };
  drawn = "";
  measured = null;
  parts.training = learn(() => {
    parts.training.element.replaceWith((parts.training = learn(() => {})).element);
  });
  parts.train = h("details", {}, h("summary", {}, t("runs.train")), parts.training.element);
  parts.cards = [card(t("runs.curves"), parts.curves), card(t("runs.look"), parts.look)];
  root.append(card(t("runs.list"), parts.list, parts.train), ...parts.cards, parts.results);
  poll();
}

async function poll() {
  clearTimeout(timer);
  const mine = parts;
  let runs;
  try {
    ({ runs } = await ask("status"));
  } catch (error) {
    timer = setTimeout(poll, 3000); // the server may be back then
    throw error;
  }
  if (mine !== parts || !parts.list.isConnected) return;
  listed = runs;
  if (!runs.some((run) => run.run === state.focus)) {
    state.focus = runs[0]?.run ?? null;
    state.chosen = new Set(state.focus === null ? [] : [state.focus]);
  }
  const now = JSON.stringify([runs, [...state.chosen], state.focus]);
  try {
    if (now !== drawn) {
      list();
      await refresh();
      drawn = now;
    }
  } finally {
    timer = setTimeout(poll, runs.some((run) => run.live) ? 500 : 2500);
  }
}

function list() {
  for (const one of parts.cards) one.hidden = !listed.length;
  if (!listed.length) {
    parts.train.open = true;
    parts.list.replaceChildren(h("p", { className: "hint" }, t("runs.none")));
    return;
  }
  const focused = document.activeElement?.id;
  parts.list.replaceChildren(h("div", { className: "scroll" }, h("table", {},
    h("thead", {}, h("tr", {}, ["runs.show", "runs.name", "runs.model", "runs.data", "runs.epochs", "runs.state"].map((key) => h("th", { scope: "col" }, t(key))))),
    h("tbody", {}, listed.map((run) => h("tr", { className: run.run === state.focus ? "chosen" : "" },
      h("td", {}, h("input", { type: "checkbox", id: `show-${run.run}`, checked: state.chosen.has(run.run), "aria-label": t("runs.side", { name: run.name }), onchange: (event) => {
        if (event.target.checked) state.chosen.add(run.run);
        else state.chosen.delete(run.run);
        refresh();
      } })),
      h("td", {}, button(run.name, () => {
        Object.assign(state, { focus: run.run, epoch: null, image: 0 }); // another set may have fewer images
        state.chosen.add(run.run);
        measured = null;
        parts.results.replaceChildren();
        drawn = "";
        poll();
      }, { className: "link", id: `run-${run.run}`, "aria-pressed": String(run.run === state.focus) })),
      h("td", {}, run.model ?? "–"), h("td", {}, run.data?.split("/").at(-1) ?? "–"),
      h("td", {}, `${run.epochs} / ${run.planned}`),
      h("td", {}, h("span", { className: run.live ? "badge live" : "badge" }, t(run.live ? "runs.live" : run.planned && run.epochs >= run.planned ? "runs.done" : "runs.stopped")))))))));
  if (focused) document.getElementById(focused)?.focus();
}

async function refresh() {
  if (!listed.length) return;
  const chosen = [...state.chosen].filter((run) => listed.some((one) => one.run === run));
  const nothing = (live) => h("p", { className: "hint" }, t(live ? "runs.waiting" : "runs.noepoch"));
  if (!chosen.length) parts.curves.replaceChildren(h("p", { className: "hint" }, t("runs.choose")));
  else {
    const { runs } = await ask("curves", { runs: chosen.slice(0, MOST).map((run) => ({ run })) });
    const ready = runs.filter((run) => run.history.length);
    parts.curves.replaceChildren(ready.length ? curves(ready, true) : nothing(runs.some((run) => run.live)),
      chosen.length > MOST ? h("p", { className: "hint" }, t("runs.most", { n: MOST })) : "");
  }
  const focused = listed.find((run) => run.run === state.focus);
  if (!focused?.ready) state.epoch = null;
  if (!focused?.ready || focused.live) {
    measured = null;
    parts.results.replaceChildren(); // they are of weights that are no more, or not for long
  }
  if (focused?.ready) look();
  else parts.look.replaceChildren(nothing(focused?.live));
}

const look = () => {
  askLook({ run: state.focus, epoch: state.epoch, image: state.image });
  const { live, changed } = listed.find((run) => run.run === state.focus);
  const key = `${state.focus} ${changed}`;
  if (key !== measured && !live) {
    measured = key;
    askResults({ run: state.focus });
  }
};

const askLook = latest("look", (found, { run }) => {
  if (run !== state.focus) return;
  const { epochs, filters, probabilities, classes } = found;
  const place = state.epoch === null ? epochs.length - 1 : epochs.indexOf(state.epoch);
  const likely = probabilities.indexOf(Math.max(...probabilities));
  const slider = h("input", { type: "range", min: "0", max: String(Math.max(epochs.length - 1, 0)), value: String(place), id: "epoch", "aria-valuetext": String(epochs[place]), oninput: () => {
    state.epoch = epochs[Number(slider.value)];
    look();
  } });
  const sample = h("input", { type: "number", id: "sample", min: "0", max: String(found.images - 1), value: String(state.image), onchange: () => {
    state.image = Math.min(Math.max(Math.round(Number(sample.value)) || 0, 0), found.images - 1);
    look();
  } });
  const focused = document.activeElement?.id;
  parts.look.replaceChildren(
    h("div", { className: "fields" },
      epochs.length > 1 && h("label", { className: "field wide" }, h("span", {}, t("runs.epoch", { epoch: epochs[place] ?? "" })), slider),
      epochs.length > 1 && button(player ? t("conv.pause") : t("conv.play"), () => play(epochs), { id: "playepochs" }),
      h("label", { className: "field" }, h("span", {}, t("runs.image")), sample)),
    epochs.length <= 1 ? h("p", { className: "hint" }, t("runs.nosnapshots")) : "",
    filters ? h("div", { className: "filters" }, h("h3", {}, t("runs.filters", { layer: found.layer, shape: shape(filters.shape) })), filterPictures(filters),
      h("p", { className: "hint" }, [
        t("digits.range", between(filters)), filters.shape[0] > FILTERS && t("digits.first", { n: FILTERS }), filters.shape[1] > 1 && t(filters.shape[1] > CHANNELS ? "runs.firstchannels" : "runs.channels", { n: CHANNELS }),
      ].filter(Boolean).join(" · "))) : "",
    h("h3", {}, t("runs.maps", { label: found.label, said: classes[likely], chance: percent(probabilities[likely]) })),
    maps(found.maps));
  if (["epoch", "sample", "playepochs"].includes(focused)) document.getElementById(focused)?.focus();
}, (text, { run }) => run === state.focus && parts.look.replaceChildren(refusal(text)));

function filterPictures(filters) {
  const [count, channels, height, width] = filters.shape;
  const far = Math.max(...range(filters).map(Math.abs));
  const size = height * width;
  return h("div", { className: "maps filtermaps", role: "img", "aria-label": t("runs.filterlabel", { count }) },
    Array.from({ length: Math.min(count, FILTERS) }, (_, o) => h("div", {}, Array.from({ length: Math.min(channels, CHANNELS) }, (_, c) => {
      const one = map(filters.subarray((o * channels + c) * size, (o * channels + c + 1) * size), height, width, "signed", -far, far, "");
      one.setAttribute("role", "presentation");
      return one;
    }))));
}

function play(epochs) {
  if (player) {
    clearInterval(player);
    player = null;
    return look();
  }
  let place = 0;
  player = setInterval(() => {
    state.epoch = epochs[place];
    place += 1;
    if (place >= epochs.length) {
      clearInterval(player);
      player = null;
    }
    look();
  }, still() ? 800 : 300);
  return look();
}

const askResults = latest("results", (found, { run }) => {
  if (run !== state.focus || measured === null) return;
  parts.results.replaceChildren(
    card(t("runs.confusion"), h("p", {}, t("runs.right", { right: integer(found.right), total: integer(found.total), part: percent(found.right / found.total) })),
      found.counts ? confusion(found) : h("p", { className: "hint" }, t("runs.toomany", { count: integer(found.classes.length) }))),
    card(t("runs.mistakes"), found.mistakes.length ? h("div", { className: "mistakes" }, found.mistakes.map((one) => h("figure", {},
      picture(one.pixels, t("runs.mistake", one)), h("figcaption", {}, h("b", {}, t("runs.says", { what: one.predicted, chance: percent(one.probability) })),
        h("span", {}, t("runs.is", { what: one.true, chance: percent(one.probability_of_true) })))))) : h("p", {}, t("runs.nomistake"))));
}, (text, { run }) => run === state.focus && parts.results.replaceChildren(refusal(text)));

function confusion({ classes, counts }) {
  const worst = Math.max(1, ...counts.flatMap((row, i) => row.filter((_, k) => k !== i)));
  const most = Math.max(1, ...counts.map((row, i) => row[i]));
  return h("div", { className: "scroll" }, h("table", { className: "confusion" },
    h("caption", {}, t("runs.axes")),
    h("thead", {}, h("tr", {}, h("td", {}), classes.map((name) => h("th", { scope: "col" }, name)))),
    h("tbody", {}, counts.map((row, i) => h("tr", {}, h("th", { scope: "row" }, classes[i]), row.map((count, k) => h("td", {
      className: i === k ? "hit" : count ? "miss" : "none", style: { "--part": String(count / (i === k ? most : worst)) },
    }, count ? String(count) : "·")))))));
}
