/**
 * Small helpers to make elements and to write numbers and tokens for people.
 *
 * Text only ever enters the page as text nodes: tokens and labels come from corpora and must never be read as HTML.
 */

const SVG = "http://www.w3.org/2000/svg";

/**
 * Makes an HTML element.
 * @template {keyof HTMLElementTagNameMap} K
 * @param {K} tag
 * @param {Record<string, unknown>} [properties] `onclick` and other functions become listeners, `class` and `aria-*`
 *   attributes, `true` an empty attribute; `null`, `undefined` and `false` are left out.
 * @param {...(Node | string | null | undefined)} children
 * @returns {HTMLElementTagNameMap[K]}
 */
export function h(tag, properties = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) put(element, name, value);
  element.append(...children.filter((child) => child !== null && child !== undefined));
  return element;
}

/**
 * Makes an SVG element.
 * @template {keyof SVGElementTagNameMap} K
 * @param {K} tag
 * @param {Record<string, unknown>} [properties]
 * @param {...(Node | string)} children
 * @returns {SVGElementTagNameMap[K]}
 */
export function s(tag, properties = {}, ...children) {
  const element = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(properties)) put(element, name, value);
  element.append(...children);
  return element;
}

/**
 * @param {Element} element
 * @param {string} name
 * @param {unknown} value
 */
function put(element, name, value) {
  if (value === null || value === undefined || value === false) return;
  if (typeof value === "function") element.addEventListener(name.slice(2), /** @type {EventListener} */ (value));
  else element.setAttribute(name, value === true ? "" : String(value));
}

/**
 * Sets custom CSS properties (a strict content policy forbids style attributes, not the style object).
 * @template {HTMLElement | SVGElement} E
 * @param {E} element
 * @param {Record<string, string | number>} values
 * @returns {E}
 */
export function css(element, values) {
  for (const [name, value] of Object.entries(values)) element.style.setProperty(name, String(value));
  return element;
}

/**
 * What a token shows: white space made visible where the token is nothing else.
 * @param {string} text
 */
export function tokenText(text) {
  if (text.trim()) return text.trim();
  return text.replaceAll("\n", "↵").replaceAll("\t", "⇥").replaceAll(" ", "␣") || "∅";
}

/** @param {number} value a share between 0 and 1 */
export function percent(value) {
  const hundred = value * 100;
  if (hundred >= 99.95 && hundred < 100) return ">99.9%";
  if (hundred === 100) return "100%";
  if (hundred > 0 && hundred < 0.1) return "<0.1%";
  return `${hundred >= 10 && hundred < 99 ? hundred.toFixed(0) : hundred.toFixed(1)}%`;
}

/** @param {number} value */
export function number(value) {
  if (value === 0) return "0";
  const size = Math.abs(value);
  if (size < 0.001 || size >= 1e6) return value.toExponential(0).replace("e-", "e−");
  const digits = size >= 100 ? 0 : size >= 10 ? 1 : size >= 1 ? 2 : 3;
  return value.toFixed(digits).replace("-", "−");
}

/** @param {number} value a signed weight; the sign is always written */
export function signed(value) {
  return value > 0 ? `+${number(value)}` : number(value);
}

/** @param {number} value a whole number, thousands apart */
export function count(value) {
  return value.toLocaleString("en-US").replaceAll(",", " ");
}

/**
 * Offers a text as a file to keep.
 * @param {string} name
 * @param {string} type
 * @param {string} text
 */
export function download(name, type, text) {
  const address = URL.createObjectURL(new Blob([text], { type }));
  h("a", { href: address, download: name }).click();
  setTimeout(() => URL.revokeObjectURL(address), 1000);
}
