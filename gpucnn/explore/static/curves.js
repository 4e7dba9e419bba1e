// The curves of one run or several.

import { h, integer, percent } from "./dom.js";
import { chart, lineColour } from "./pictures.js";
import { t } from "./strings.js";

export function curves(runs, all = false) {
  const several = runs.length > 1;
  const series = (...columns) => runs.flatMap((run, i) => columns.map(([column, text, dashed], k) => ({
    name: several ? `${run.name}${text ? ` ${text}` : ""}` : text || run.name,
    colour: several ? lineColour(i) : lineColour(k), dashed: several && dashed,
    points: run.history.map((epoch) => [epoch.epoch, epoch[column]]),
  }))).filter((one) => one.points.some(([, y]) => y !== null && y !== undefined));
  const horizontal = t("curves.epoch");
  return h("div", { className: "charts" },
    chart(t("curves.loss"), series(["loss", t("curves.training")], ["validation_loss", t("curves.validation"), true]), { horizontal, low: 0 }),
    chart(t("curves.accuracy"), series(["accuracy", t("curves.training")], ["validation_accuracy", t("curves.validation"), true]), { horizontal, format: percent, high: 1 }),
    all && chart(t("curves.rate"), series(["learning_rate", ""]), { horizontal, low: 0, format: (value) => (value === 0 ? "0" : value.toExponential(1)) }),
    all && chart(t("curves.speed"), series(["images_per_second", ""]), { horizontal, low: 0, format: (value) => integer(Math.round(value)) }));
}
