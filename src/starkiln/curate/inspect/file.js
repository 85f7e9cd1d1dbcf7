// One file: where it is from, what the run said of it, its figures, its text.
// Texts come as pieces and are put in as text nodes: nothing of a file is ever markup.

import { drops } from "./limits.js";
import { format, make, percent } from "./parts.js";

const $ = id => document.getElementById(id);

const COUNTERS = {
  characters: ["characters", format], lines: ["lines", format],
  max_line: ["longest line", format], mean_line: ["mean line", value => value.toFixed(1)],
  alphanumeric: ["alphanumeric", percent], alphabetic: ["alphabetic", percent],
  xml: ["XML", value => (value ? "yes" : "no")], visible: ["visible", percent],
};

export function showNothing() {
  for (const id of ["strip", "path", "place", "origin", "fate", "counters"]) $(id).replaceChildren();
  $("text").replaceChildren(make("p", "cut", "Nothing of this stratum is in this table."));
}

export function showFile(file, limits, { shown, decided }) {
  const cut = file.path.lastIndexOf("/") + 1;
  $("path").replaceChildren(make("span", "muted", file.path.slice(0, cut)),
    make("span", "", file.path.slice(cut)));
  $("path").title = file.path;
  const stars = file.stars === null ? "" : `★ ${format(file.stars)}`;
  const licences = file.licences.join(" ") || "no licence found";
  const told = [file.repo, licences, file.kind, stars, file.crlf ? "CRLF" : "", file.id.slice(0, 10)];
  $("origin").replaceChildren(...told.filter(Boolean).map(one => make("span", "", one)));
  const facts = Object.entries(file.facts).map(([name, value]) =>
    make("span", "muted", `${name.replaceAll("_", " ")} `, make("code", "", value)));
  const fate = file.reason
    ? make("span", "fate drop", `dropped by ${file.stage}: ${file.reason}`)
    : make("span", "fate keep", "kept by the run");
  $("fate").replaceChildren(...(decided ? [fate] : []), ...facts);
  showCounters(file.counters, limits);
  $("text").replaceChildren(...written(file, shown));
  $("text").scrollTop = 0;
}

export function showCounters(counters, limits) {
  const known = Object.entries(COUNTERS).filter(([name]) => counters[name] !== null);
  $("counters").replaceChildren(...known.map(([name, [label, text]]) => {
    const value = counters[name], over = name in (limits ?? {}) && drops(name, value, limits[name]);
    return make("div", "", make("dt", "", label), make("dd", over ? "over" : "", text(value)));
  }));
}

function written(file, shown) {
  const parts = file.segments.flatMap(({ marker, lines }) => [
    marker ? make("h3", "marker", marker) : "",
    make("div", "code", ...lines.map(pieces => make("div", "l", make("code", "", ...pieces.map(piece))))),
  ]);
  const all = file.counters.characters;
  const rest = `The first ${format(shown)} of ${format(all)} characters.`;
  return [...parts, all > shown ? make("p", "cut", rest) : ""].filter(Boolean);
}

function piece([name, value, title]) {
  if (!name) return value;
  const element = make("span", name, value);
  if (title) element.title = title;
  return element;
}
