// What is saved: verdicts.json, one value at a time, in the order in which they were given.

export const verdicts = { strata: {}, files: {} };
let queue = Promise.resolve(), waiting = 0;

export function tell(text, bad = false) {
  const place = document.getElementById("saved");
  place.textContent = text;
  place.className = bad ? "bad" : "";
}

export async function ask(url, options) {
  const answer = await fetch(url, options);
  if (!answer.ok) {
    const body = await answer.json().catch(() => ({}));
    throw new Error(body.fault ?? `${answer.status} ${answer.statusText}`);
  }
  return answer.json();
}

// What lies on the disk, unless something of ours is still on its way.
export async function fetchVerdicts() {
  if (waiting) return;
  const { strata, files } = await ask("verdicts");
  if (!waiting) Object.assign(verdicts, { strata, files });
}

// Set one value, or remove it (undefined). Where it cannot be saved, it is as before: ``failed``.
export function save(at, value, failed) {
  const before = put(at, value);
  waiting += 1;
  tell("saving…");
  const body = JSON.stringify(value === undefined ? { at } : { at, value });
  const headers = { "content-type": "application/json" };
  queue = queue
    .then(() => ask("verdicts", { method: "POST", headers, body, keepalive: true }))
    .then(() => { if (--waiting === 0) tell("saved"); })
    .catch(error => {
      waiting -= 1;
      tell(`not saved: ${error.message}`, true);
      put(at, before);
      failed();
    });
}

// The value that was there before.
export function put([part, key, ...rest], value) {
  const entry = verdicts[part][key] ??= {};
  const last = rest.pop(), inside = rest.length ? (entry[rest[0]] ??= {}) : entry;
  const before = inside[last];
  if (value === undefined) delete inside[last];
  else inside[last] = value;
  if (rest.length && !Object.keys(inside).length) delete entry[rest[0]];
  if (!Object.keys(entry).length) delete verdicts[part][key];
  return before;
}

// A typed text is saved a moment after the last key, or when the field or the page is left.
const pending = new Map();

export function later(field, work) {
  clearTimeout(pending.get(field)?.timer);
  pending.set(field, { work, timer: setTimeout(() => flush(field), 400) });
}

export function flush(field) {
  const found = pending.get(field);
  if (!found) return;
  clearTimeout(found.timer);
  pending.delete(field);
  found.work();
}

export const flushAll = () => [...pending.keys()].forEach(flush);
