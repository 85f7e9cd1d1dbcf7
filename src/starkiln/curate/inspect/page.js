// The inspection page: strata on the left, one file in the middle, limits on the right.

import { showCounters, showFile, showNothing } from "./file.js";
import { drawLimits } from "./limits.js";
import { format, make, percent, share, size } from "./parts.js";
import { ask, fetchVerdicts, flush, flushAll, later, put, save, tell, verdicts } from "./save.js";

const $ = id => document.getElementById(id);
const state = { strata: [], stratum: null, sample: null, at: 0 };
const files = new Map(); // row -> promise of a file
const samples = new Map(); // stratum -> promise of its counters
const undone = []; // what "undo" takes back

const ofFile = id => verdicts.files[id] ?? {};
const ofStratum = stratum => verdicts.strata[stratum.key] ?? {};
const decideOn = (at, value) => save(at, value, redraw);

function redraw() {
  state.strata.forEach(mark);
  showVerdict();
  showStratum();
}

// ---- the list of strata -------------------------------------------------------------------

const dropped = stratum => stratum.reasons.reduce((sum, [, , n]) => sum + n, 0);

// "python/py" is an extension of a language, "commit:python" a kind in one.
function named({ label, limits }) {
  const [first, ...rest] = label.split(limits ? "/" : ":");
  const more = limits ? `/${rest.join("/") || " no extension"}` : rest[0] === "unknown" ? "" : ` ${rest}`;
  return make("span", "name", first, make("i", "", more));
}

function listStrata() {
  $("strata").replaceChildren(...state.strata.map(stratum => {
    const kept = 1 - share(dropped(stratum), stratum.files);
    const bar = make("span", "bar", make("i"));
    bar.firstChild.style.width = `${100 * kept}%`;
    bar.title = `${percent(kept)} kept by the run`;
    stratum.badge = make("span", "badge");
    stratum.done = make("span", "done");
    bar.hidden = !state.decided;
    const facts = make("span", "facts", `${format(stratum.files)} · ${size(stratum.bytes)}`);
    stratum.row = make("button", "", named(stratum), stratum.badge, facts, stratum.done, bar);
    stratum.row.title = stratum.label;
    stratum.row.addEventListener("click", () => open(stratum));
    stratum.item = make("li", "", stratum.row);
    mark(stratum);
    return stratum.item;
  }));
}

function mark(stratum) {
  const { include } = ofStratum(stratum);
  stratum.badge.textContent = { true: "yes", false: "no" }[include] ?? "";
  stratum.badge.className = `badge ${stratum.badge.textContent}`;
  const read = stratum.ids.filter(id => ofFile(id).verdict).length;
  stratum.done.textContent = `${read}/${stratum.read}`;
  stratum.done.classList.toggle("some", read > 0);
}

const listed = () => state.strata.filter(stratum => !stratum.item.hidden);

function search() {
  const words = $("search").value.toLowerCase().split(/\s+/).filter(Boolean);
  for (const stratum of state.strata) {
    stratum.item.hidden = !words.every(word => stratum.label.toLowerCase().includes(word));
  }
}

function step(by) {
  const found = listed(), at = found.indexOf(state.stratum);
  const next = found[at < 0 ? 0 : Math.min(found.length - 1, Math.max(0, at + by))];
  if (next) open(next);
}

async function open(stratum, at = 0) {
  flushAll();
  state.stratum?.row.removeAttribute("aria-current");
  state.stratum = stratum;
  stratum.row.setAttribute("aria-current", "true");
  stratum.row.scrollIntoView({ block: "nearest" });
  if (!samples.has(stratum.key)) {
    if (samples.size > 20) samples.delete(samples.keys().next().value);
    samples.set(stratum.key, ask(`stratum?key=${encodeURIComponent(stratum.key)}`));
  }
  const sample = await samples.get(stratum.key);
  if (state.stratum !== stratum) return;
  state.sample = sample;
  $("strip").replaceChildren(...sample.id.slice(0, stratum.read).map((_, i) => {
    const tick = make("button", "");
    tick.tabIndex = -1;
    tick.title = `${i + 1}: ${sample.path[i]}`;
    tick.addEventListener("click", () => show(i));
    return tick;
  }));
  showStratum();
  await show(Math.min(at, Math.max(0, sample.id.length - 1)));
}

// ---- one file -----------------------------------------------------------------------------

function load(i) {
  const row = state.stratum.first + i;
  if (!files.has(row)) {
    if (files.size > 40) files.delete(files.keys().next().value);
    const found = ask(`file?row=${row}`);
    found.catch(() => files.delete(row));
    files.set(row, found);
  }
  return files.get(row);
}

async function show(i) {
  flushAll();
  state.at = i;
  $("centre").ariaBusy = "true";
  const { stratum, sample } = state;
  history.replaceState(null, "", `#${encodeURIComponent(stratum.key)}:${i}`);
  $("centre").classList.toggle("empty", !sample.id.length);
  if (!sample.id.length) return showNothing();
  const place = i < stratum.read ? `${i + 1} of ${stratum.read}` : "an example: n goes back";
  $("place").textContent = place;
  showVerdict();
  let file;
  try {
    file = await load(i);
  } catch (error) {
    return tell(`not read: ${error.message}`, true);
  }
  if (state.at !== i || state.stratum !== stratum) return;
  $("centre").ariaBusy = "false";
  showFile(file, limitsNow(), state);
  if (i + 1 < stratum.read) load(i + 1).catch(() => {});
}

// ---- verdicts on files --------------------------------------------------------------------

const idNow = () => state.sample?.id[state.at];

function showVerdict() {
  const id = idNow();
  if (!id) return;
  const { verdict = null, note = "" } = ofFile(id);
  for (const name of ["keep", "drop"]) $(name).setAttribute("aria-pressed", verdict === name);
  if (document.activeElement !== $("note")) $("note").value = note;
  $("undo").disabled = !undone.length;
  [...$("strip").children].forEach((tick, i) => {
    const mine = ofFile(state.sample.id[i]);
    tick.className = `${mine.verdict ?? ""} ${mine.note ? "noted" : ""}`;
    if (i === state.at) tick.setAttribute("aria-current", "true");
    else tick.removeAttribute("aria-current");
  });
}

function decide(verdict) {
  const id = idNow();
  if (!id || $("centre").ariaBusy === "true") return; // nobody decides on what is not shown yet
  undone.push({ stratum: state.stratum, at: state.at, id, before: ofFile(id).verdict });
  decideOn(["files", id, "verdict"], verdict);
  mark(state.stratum);
  showVerdict();
  if (state.at + 1 < state.stratum.read) show(state.at + 1);
}

async function undo() {
  const last = undone.pop();
  if (!last) return;
  decideOn(["files", last.id, "verdict"], last.before ?? undefined);
  mark(last.stratum);
  await (last.stratum === state.stratum ? show(last.at) : open(last.stratum, last.at));
  showVerdict();
}

function turn(by) {
  const { stratum, at } = state;
  if (!stratum?.read) return;
  if (at >= stratum.read) return show(state.left ?? 0);
  show(Math.min(stratum.read - 1, Math.max(0, at + by)));
}

function example(i) {
  if (state.at < state.stratum.read) state.left = state.at;
  show(i);
}

// ---- verdicts on the stratum --------------------------------------------------------------

const limitsNow = () =>
  state.stratum.limits && { ...state.stratum.limits, ...ofStratum(state.stratum).limits };

function showStratum() {
  if (!state.stratum || !state.sample) return;
  const { stratum, sample } = state;
  $("stratum").replaceChildren(named(stratum));
  $("include").hidden = $("remark").hidden = !stratum.limits; // the recipe's stage is for files
  const { include = null, note = "" } = ofStratum(stratum);
  for (const button of $("include").querySelectorAll("button")) {
    button.setAttribute("aria-checked", button.dataset.include === String(include ?? ""));
  }
  if (document.activeElement !== $("remark")) $("remark").value = note;
  showRun(stratum);
  drawLimits($("limits"), { stratum, sample, chosen: ofStratum(stratum).limits ?? {}, setLimit, example });
}

function setLimit(name, value, settled) {
  const { stratum } = state;
  const at = ["strata", stratum.key, "limits", name];
  if (settled) decideOn(at, value);
  else put(at, value);
  files.get(stratum.first + state.at)?.then(file => showCounters(file.counters, limitsNow()));
}

function showRun(stratum) {
  const lost = dropped(stratum), kept = stratum.files - lost;
  const bar = make("div", "bar tall", make("i"));
  bar.firstChild.style.width = `${100 * share(kept, stratum.files)}%`;
  const rows = stratum.reasons.map(([stage, reason, n]) => make("tr", "",
    make("td", "", make("span", "muted", `${stage} `), reason),
    make("td", "n", format(n)), make("td", "n muted", percent(share(n, stratum.files)))));
  const what = (stratum.limits ? "file" : "document") + (stratum.files === 1 ? "" : "s");
  const said = state.decided
    ? [make("p", "", `${format(kept)} of ${format(stratum.files)} ${what} kept`,
      make("span", "muted", ` · ${percent(share(kept, stratum.files))}`)), bar,
    make("table", "", make("tbody", "", ...rows))]
    : [make("p", "muted", `${format(stratum.files)} ${what}; nothing is filtered yet.`)];
  if (state.stale.length) {
    said.push(make("p", "muted stale", `Out of date, not shown: ${state.stale.join(", ")}`));
  }
  $("run").replaceChildren(make("h3", "", "The run"), ...said);
}

// ---- keys ---------------------------------------------------------------------------------

const KEYS = {
  k: () => decide("keep"), d: () => decide("drop"), u: undo,
  n: () => turn(1), ArrowRight: () => turn(1), p: () => turn(-1), ArrowLeft: () => turn(-1),
  j: () => step(1), l: () => step(-1),
  "/": () => $("search").focus(), e: () => $("note").focus(), "?": () => $("keys").showModal(),
  " ": () => $("text").scrollBy({ top: 0.85 * $("text").clientHeight }),
};
const TYPING = "textarea, input:not([type=range], [type=checkbox])";

document.addEventListener("keydown", event => {
  const { key, target } = event;
  if (event.ctrlKey || event.metaKey || event.altKey || $("keys").open) return;
  if (target.matches(TYPING)) {
    if (key === "Escape" || (key === "Enter" && target.id === "note")) target.blur();
    return;
  }
  const own = target.matches("input") || (key === " " && target.matches("button"));
  if (!KEYS[key] || (own && key.length > 1) || (own && key === " ")) return;
  event.preventDefault();
  KEYS[key]();
});

$("search").addEventListener("input", search);
$("search").addEventListener("keydown", event => {
  const by = { ArrowDown: 1, ArrowUp: -1 }[event.key];
  if (by) step(by);
  if (event.key === "Escape") { $("search").value = ""; search(); }
  if (event.key === "Enter") { if (!listed().includes(state.stratum)) step(1); $("search").blur(); }
  if (by || event.key === "Enter") event.preventDefault();
});
for (const [id, work] of Object.entries({
  keep: () => decide("keep"), drop: () => decide("drop"), undo,
  next: () => turn(1), previous: () => turn(-1), help: () => $("keys").showModal(),
})) $(id).addEventListener("click", work);

function noted(field, at) {
  $(field).addEventListener("input", () => {
    const place = at(), text = $(field).value.trim();
    if (place) later(field, () => { decideOn(place, text || undefined); showVerdict(); });
  });
  $(field).addEventListener("blur", () => flush(field));
}
noted("note", () => idNow() && ["files", idNow(), "note"]);
noted("remark", () => state.stratum && ["strata", state.stratum.key, "note"]);

$("include").addEventListener("click", event => {
  const chosen = event.target.dataset.include;
  if (chosen === undefined || !state.stratum) return;
  decideOn(["strata", state.stratum.key, "include"], chosen ? chosen === "true" : undefined);
  mark(state.stratum);
  showStratum();
});

addEventListener("pagehide", flushAll);
// Another tab may have decided something meanwhile.
addEventListener("focus", () => fetchVerdicts().then(redraw, () => {}));

async function start() {
  const [told] = await Promise.all([ask("strata"), fetchVerdicts()]);
  Object.assign(state, told);
  document.title = `${told.table} · starkiln inspect`;
  $("table").textContent = told.table;
  const all = told.strata.reduce((sum, stratum) => sum + stratum.files, 0);
  const more = told.left_out ? `, ${format(told.left_out)} small ones left out` : "";
  $("sums").textContent = `${format(all)} files, ${format(told.strata.length)} strata${more}`;
  listStrata();
  const [key, at] = location.hash.slice(1).split(":").map(decodeURIComponent);
  const found = state.strata.find(stratum => stratum.key === key);
  if (state.strata.length) await open(found ?? state.strata[0], found ? Number(at) || 0 : 0);
}

start().catch(error => tell(error.message, true));
