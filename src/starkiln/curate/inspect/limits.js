// Limits of one stratum: a histogram of its sample, a slider below it on the same scale, how many
// files the limit would drop, and the files next to it on both sides.

import { format, make, percent, share } from "./parts.js";

const BINS = 48, STEPS = 1000, HEIGHT = 38, BESIDE = 4;
const SVG = "http://www.w3.org/2000/svg";

// As the filters compare: a line limit drops what is over it, a share what is under it.
const KINDS = {
  max_line: { label: "longest line", log: true, usual: 1000, text: format },
  mean_line: { label: "mean line", log: true, usual: 100, text: v => v.toFixed(1) },
  alphanumeric: { label: "alphanumeric", usual: 0.25, text: v => `${(100 * v).toFixed(1)} %` },
  alphabetic: { label: "alphabetic", usual: 0.25, text: v => `${(100 * v).toFixed(1)} %` },
};

const STAGES = {
  long_lines: ["max_line", "mean_line"], alphanumeric: ["alphanumeric"], alphabetic: ["alphabetic"],
};

export function drops(name, value, limit) {
  if (limit === null || value === null) return false;
  return KINDS[name].log ? value > limit : value < limit;
}

let drawn = { key: null, blocks: [] };

export function drawLimits(place, { stratum, sample, chosen, setLimit, example }) {
  if (drawn.key !== stratum.key) {
    drawn = { key: stratum.key, ...build(place, stratum, sample, setLimit, example) };
  }
  drawn.update(chosen);
}

function build(place, stratum, sample, setLimit, example) {
  const heading = make("h3", "", "Limits");
  if (!stratum.limits) {
    place.replaceChildren(heading, make("p", "muted", "Limits and verdicts on a whole stratum are for files."));
    return { update: () => {} };
  }
  const together = make("p", "together");
  together.setAttribute("aria-live", "polite");
  let now = {}, active = "max_line";
  const blocks = Object.keys(KINDS).map(name => block(name, stratum.limits[name], sample[name], {
    paths: sample.path,
    example,
    set(value, settled) {
      now = { ...now, [name]: value };
      if (value === stratum.limits[name]) delete now[name];
      active = name;
      setLimit(name, now[name], settled);
      update(now);
    },
    wake() { active = name; update(now); },
  }));
  const recipe = make("div", "recipe", make("p", "muted", "verdicts.json can only tighten the filters. In a recipe:"), make("pre", ""));
  place.replaceChildren(heading, together, ...blocks.map(one => one.element), recipe);

  function update(chosen) {
    now = { ...chosen };
    const limits = { ...stratum.limits, ...now }, all = sample.id.length;
    const count = used => sample.id.filter((_, i) =>
      Object.keys(KINDS).some(name => drops(name, sample[name][i], used[name]))).length;
    const n = count(limits), usual = count(stratum.limits);
    together.replaceChildren(
      make("b", "", `${format(n)} of ${format(all)}`), ` dropped by these · ${percent(share(n, all))}`,
      make("span", "muted", n === usual ? "" : ` · ${format(usual)} by the defaults`));
    for (const one of blocks) one.update(limits[one.name], one.name in now, one.name === active);
    recipe.hidden = !Object.keys(now).length;
    recipe.lastChild.textContent = toml(stratum.key, now);
  }
  return { update };
}

// The filters' own tables for the limits of one stratum.
function toml(key, limits) {
  return Object.entries(STAGES).flatMap(([stage, names]) => {
    const own = names.filter(name => name in limits).map(name => `${name} = ${limits[name] ?? false}`);
    return own.length ? [`[curate.${stage}]`, `by.${JSON.stringify(key)} = { ${own.join(", ")} }`] : [];
  }).join("\n");
}

// Positions are 0 to 1; lengths of lines go by their logarithm.
function scale(kind, values, usual) {
  if (!kind.log) return { ends: ["0", "100 %"], at: v => v, value: x => Math.round(1000 * x) / 1000 };
  const known = [usual ?? kind.usual, ...values];
  const low = Math.max(1, Math.floor(Math.min(...known) / 2));
  const top = Math.max(2 * (usual ?? kind.usual), Math.ceil(Math.max(...known)));
  const at = v => Math.min(1, Math.max(0, Math.log(v / low) / Math.log(top / low)));
  return { ends: [format(low), format(top)], at, value: x => Math.round(low * (top / low) ** x) };
}

function block(name, usual, values, { paths, example, set, wake }) {
  const kind = KINDS[name], { ends, at, value } = scale(kind, values, usual);
  const on = input("checkbox", `${kind.label}: on`), slider = input("range", kind.label);
  const field = input("number", `${kind.label}: value`), reset = make("button", "quiet", "reset");
  Object.assign(slider, { min: 0, max: STEPS, step: 1 });
  Object.assign(field, { min: 0, step: kind.log ? 1 : 0.01 });
  if (!kind.log) field.max = 1;
  const picture = document.createElementNS(SVG, "svg"), count = make("span", "count");
  const axis = make("div", "axis", make("span", "", ends[0]), count, make("span", "", ends[1]));
  const beside = make("ol", "beside");
  const title = make("label", "", on, make("span", "", kind.label));
  const head = make("div", "line", title, reset, field);
  const element = make("div", `limit ${name}`, head, picture, slider, axis, beside);
  const fallback = usual ?? kind.usual;
  const order = values.map((_, i) => i).filter(i => values[i] !== null)
    .sort((a, b) => values[a] - values[b] || a - b);
  let seen; // the limit of the rows beside it: they stay where they are until it moves
  const fit = kind.log ? v => v : v => Math.min(1, v), exact = kind.text === format ? Math.round : v => v;
  const read = () => (field.value === "" ? fallback : fit(exact(Math.max(0, Number(field.value)))));

  on.addEventListener("change", () => set(on.checked ? read() : null, true));
  slider.addEventListener("input", () => set(value(slider.value / STEPS), false));
  slider.addEventListener("change", () => set(value(slider.value / STEPS), true));
  field.addEventListener("input", () => field.value !== "" && set(read(), false));
  field.addEventListener("change", () => set(read(), true));
  reset.addEventListener("click", () => set(usual, true));
  head.addEventListener("click", event => event.target === head && wake());
  picture.addEventListener("click", wake);

  function update(limit, changed, active) {
    const off = limit === null, shown = off ? fallback : limit;
    on.checked = !off;
    slider.disabled = field.disabled = off;
    reset.hidden = !changed;
    slider.value = Math.round(STEPS * at(shown));
    if (document.activeElement !== field) field.value = shown;
    slider.setAttribute("aria-valuetext", kind.text(shown));
    const lost = order.filter(i => drops(name, values[i], limit));
    count.textContent = off ? "off"
      : `${format(lost.length)} of ${format(order.length)} dropped · ${percent(share(lost.length, order.length))}`;
    element.classList.toggle("off", off);
    element.classList.toggle("active", active);
    histogram(picture, order.map(i => [at(values[i]), drops(name, values[i], limit)]), at(shown));
    if (active && limit !== seen) beside.replaceChildren(...sides(lost, seen = limit));
  }

  // The dropped nearest to the limit above it, the kept nearest to it below.
  function sides(lost, limit) {
    const gone = new Set(lost), kept = order.filter(i => !gone.has(i));
    const over = kind.log ? lost.slice(0, BESIDE).reverse() : lost.slice(-BESIDE);
    const under = kind.log ? kept.slice(-BESIDE).reverse() : kept.slice(0, BESIDE);
    const rule = make("li", "rule", limit === null ? "no limit" : `limit ${kind.text(limit)}`);
    return [...over.map(i => row(i, "lost")), rule, ...under.map(i => row(i, "kept"))];
  }

  function row(i, side) {
    const button = make("button", side, make("span", "n", kind.text(values[i])),
      make("span", "", paths[i].slice(paths[i].lastIndexOf("/") + 1)));
    button.title = paths[i];
    button.addEventListener("click", () => example(i));
    return make("li", "", button);
  }
  return { name, element, update };
}

function input(type, label) {
  const made = make("input", "");
  made.type = type;
  made.setAttribute("aria-label", label);
  return made;
}

function histogram(picture, points, limit) {
  const bins = Array.from({ length: BINS }, () => [0, 0]); // kept, dropped
  for (const [x, gone] of points) bins[Math.min(BINS - 1, Math.floor(x * BINS))][Number(gone)] += 1;
  const most = Math.max(1, ...bins.map(([kept, gone]) => kept + gone)), wide = 100 / BINS;
  const high = n => (n ? Math.max(1.2, (n / most) * (HEIGHT - 2)) : 0);
  picture.setAttribute("viewBox", `0 0 100 ${HEIGHT}`);
  picture.setAttribute("preserveAspectRatio", "none");
  const bars = bins.flatMap(([kept, gone], i) => {
    const x = i * wide + 0.15, w = wide - 0.3, low = HEIGHT - high(kept);
    return [shape(x, low, w, high(kept), "kept"), shape(x, low - high(gone), w, high(gone), "lost")];
  });
  picture.replaceChildren(...bars.filter(Boolean), shape(100 * limit - 0.25, 0, 0.5, HEIGHT, "at"));
}

function shape(x, y, width, height, name) {
  if (!height) return null;
  const made = document.createElementNS(SVG, "rect");
  for (const [key, value] of Object.entries({ x, y, width, height, class: name })) {
    made.setAttribute(key, value);
  }
  return made;
}
