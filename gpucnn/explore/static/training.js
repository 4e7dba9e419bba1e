// Training a network from the page, its curves growing.

import { ask, Refused } from "./api.js";
import { button, h, integer, percent, refusal } from "./dom.js";
import { curves } from "./curves.js";
import { t } from "./strings.js";

// Offers to train; `done(run)` is called when the run has finished. `stop` ends watching, not training.
export function learn(done) {
  let timer = null;
  let seen = -1;
  const element = h("div", { className: "learn" });
  const offer = (text) => element.replaceChildren(
    text ? refusal(text) : "", button(t("learn.start"), start, { className: "primary" }), h("p", { className: "hint" }, t("learn.hint")));

  async function start() {
    try {
      const { run } = await ask("train");
      element.replaceChildren(h("p", { role: "status" }, t("learn.begins")));
      watch(run);
    } catch (error) {
      if (!(error instanceof Refused)) throw error;
      offer(error.message);
    }
  }

  async function watch(run) {
    clearTimeout(timer);
    const [found] = (await ask("curves", { runs: [{ run }] })).runs;
    if (!element.isConnected) return;
    if (found.history.length !== seen && found.history.length) {
      seen = found.history.length;
      const last = found.history.at(-1);
      element.replaceChildren(
        h("p", { role: "status" }, t("learn.now", { epoch: last.epoch, planned: found.planned, accuracy: percent(last.accuracy), rate: integer(Math.round(last.images_per_second ?? 0)) })),
        h("progress", { max: found.planned, value: last.epoch, "aria-label": t("learn.progress") }),
        curves([found]),
        button(t("learn.stop"), () => ask("stop")));
    }
    if (found.live) timer = setTimeout(() => watch(run), 300);
    else if (found.history.length) timer = setTimeout(() => done(run), 600);
    else offer(t("learn.failed"));
  }

  offer();
  return { element, stop: () => clearTimeout(timer) };
}
