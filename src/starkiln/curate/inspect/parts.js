// Elements and figures.

export const make = (tag, name, ...inside) => {
  const element = document.createElement(tag);
  if (name) element.className = name;
  element.append(...inside.filter(one => one !== null && one !== ""));
  return element;
};

const whole = new Intl.NumberFormat("en-GB");
export const format = number => whole.format(number);

export const share = (part, all) => (all ? part / all : 0);

export function percent(value) {
  const figure = 100 * value;
  const near = figure === 0 || figure === 100 || (figure >= 10 && figure <= 90);
  return `${near ? Math.round(figure) : figure.toFixed(figure > 99.9 || figure < 0.1 ? 2 : 1)} %`;
}

export function size(bytes) {
  const units = ["B", "kB", "MB", "GB", "TB"];
  let i = 0;
  for (; bytes >= 1000 && i < 4; i += 1) bytes /= 1000;
  return `${i && bytes < 10 ? bytes.toFixed(1) : Math.round(bytes)} ${units[i]}`;
}
