/**
 * What is known of a feature beyond this prompt: what makes it fire, what it promotes, and where it fired.
 */
import { css, h, number, percent, tokenText } from "glassworks/dom";

/** @typedef {import("glassworks/model").Details} Details */

/**
 * @param {Details} details
 * @param {import("glassworks/model").GraphNode} node
 * @returns {HTMLElement[]}
 */
export function evidence(details, node) {
  const parts = /** @type {HTMLElement[]} */ ([lead(details, node)]);
  if (details.top_tokens.length) parts.push(tokenChips(details));
  if (details.context_tokens.length) parts.push(wordLine("After", details.context_tokens));
  if (details.following_tokens.length) parts.push(wordLine("Before", details.following_tokens));
  if (details.top_logits.length) parts.push(logitLists(details));
  if (details.examples.length) parts.push(examples(details));
  return parts;
}

/**
 * @param {Details} details
 * @param {import("glassworks/model").GraphNode} node
 */
function lead(details, node) {
  const pieces = [];
  if (details.density !== null) pieces.push(`fires on ${percent(details.density)} of all tokens`);
  if (details.max_activation && node.activation !== null) {
    pieces.push(`here at ${percent(node.activation / details.max_activation)} of the strongest seen, ${number(details.max_activation)}`);
  }
  return h("p", { class: "lead" }, pieces.join(", "));
}

/** @param {Details} details */
function tokenChips({ top_tokens }) {
  const most = Math.max(...top_tokens.map((each) => each.weight), 1e-9);
  const chips = top_tokens.map(({ token, weight }) => css(h("span", { class: "chip", title: number(weight) }, tokenText(token)), { "--part": weight / most }));
  return h("section", {}, h("h3", {}, "Fires on"), h("p", { class: "chips" }, ...chips));
}

/**
 * @param {string} name
 * @param {string[]} tokens
 */
function wordLine(name, tokens) {
  return h("p", { class: "words" }, h("small", {}, name), tokens.map(tokenText).join(", "));
}

/** @param {Details} details */
function logitLists({ top_logits, bottom_logits }) {
  const most = Math.max(...[...top_logits, ...bottom_logits].map((each) => Math.abs(each.value)), 1e-9);
  const list = (/** @type {{token: string, value: number}[]} */ all, /** @type {string} */ sign) => {
    const rows = all.map(({ token, value }) => {
      const bar = css(h("span", { class: `weight ${sign}` }), { "--part": Math.abs(value) / most });
      return h("li", {}, h("span", { class: "token" }, tokenText(token)), h("span", { class: "value" }, number(value)), bar);
    });
    return h("ul", { class: "logits" }, ...rows);
  };
  const pair = h("div", { class: "two" }, list(top_logits, "positive"), list(bottom_logits, "negative"));
  return h("section", {}, h("h3", {}, "Raises and lowers"), pair);
}

/** @param {Details} details */
function examples({ examples, max_activation }) {
  const most = max_activation || Math.max(...examples.flatMap((example) => example.activations), 1e-9);
  const rows = examples.map(({ tokens, activations }) => {
    const words = tokens.map((token, place) => {
      const part = Math.max(0, activations[place] / most);
      const text = token.includes("\n") ? token.replaceAll("\n", "↵ ") : token;
      return part > 0.01 ? css(h("mark", { title: number(activations[place]) }, text), { "--part": part }) : text;
    });
    const peak = Math.max(...activations);
    const line = h("p", { class: "context" });
    line.append(...words);
    return h("li", {}, line, h("small", {}, number(peak)));
  });
  return h("section", {}, h("h3", {}, "Where it fired"), h("ol", { class: "examples" }, ...rows));
}
