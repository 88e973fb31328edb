/**
 * The top of the page: the prompt, what the model says, how much of it the graph explains, and by which paths.
 */
import { count, css, h, number, percent, tokenText } from "glassworks/dom";
import { stepName, strongestOf } from "glassworks/emphasis";
import { clip } from "glassworks/model";

/** @typedef {import("glassworks/store").Store} Store */

/**
 * @param {HTMLElement} root
 * @param {Store} store
 */
export function showSummary(root, store) {
  const { document } = store.graph;
  const top = h("div", { class: "outcomes" }, promptLine(document), predictionList(document));
  const scores = h("dl", { class: "scores" });
  root.append(top, scores);
  if (document.paths.length) root.append(pathList(store));
  store.on(["kept"], () => scores.replaceChildren(...scoreTiles(store)));
}

/** @param {import("glassworks/model").GraphDocument} document */
function promptLine({ tokens, next }) {
  const pieces = tokens.map((token) => h("span", { class: token.startsWith("<") ? "piece special" : "piece" }, token.trim() ? token : tokenText(token)));
  return h("h1", { class: "prompt" }, ...pieces, h("span", { class: "next", title: "The likeliest next token" }, tokenText(next || "?")));
}

/** @param {import("glassworks/model").GraphDocument} document */
function predictionList({ predictions, tokens }) {
  const rows = predictions.slice(0, 5).map(({ token, probability, target, position }, place) => {
    const chance = target === "logit" ? probability : 0;
    const bar = css(h("span", { class: "bar" }), { "--part": chance });
    const where = target === "feature" || target === "direction" ? "at" : "after";
    const at = position === tokens.length - 1 ? null : h("small", {}, ` ${where} “${tokenText(tokens[position])}”`);
    const name = h("span", { class: "token", title: token }, clip(tokenText(token), 26), at);
    return h("li", { class: place ? "" : "first" }, name, bar, h("span", { class: "value" }, target === "logit" ? percent(chance) : target));
  });
  return h("ol", { class: "predictions", "aria-label": "What is explained" }, ...rows);
}

/**
 * @param {Store} store
 * @returns {HTMLElement[]}
 */
function scoreTiles(store) {
  const { scores, omitted } = store.graph.document;
  const rest = omitted.edges ? ` This page leaves out the weakest ${count(omitted.nodes)} nodes and ${count(omitted.edges)} edges.` : "";
  const { nodeCount, linkCount } = store.state.kept;
  const text = (/** @type {number | null} */ value, /** @type {(value: number) => string} */ write) => (value === null ? "–" : write(value));
  return [
    tile("Replacement", text(scores.replacement, (value) => value.toFixed(2)), "Share of the influence on the output that starts at the input tokens, the rest starts at errors."),
    tile("Completeness", text(scores.completeness, (value) => value.toFixed(2)), "Influence-weighted share of what enters the nodes that does not come from errors."),
    tile("Conservation", text(scores.conservation, number), "Largest relative gap between what a node reads and the sum of its edges and bias: 0 is exact."),
    tile("Nodes", count(nodeCount), `Shown, of ${count(scores.nodes)} in the whole graph (${count(scores.features)} of them features).`, `of ${count(scores.nodes)}`),
    tile("Edges", count(linkCount), `Shown, of ${count(scores.edges)} in the whole graph.${rest}`, `of ${count(scores.edges)}`),
  ];
}

/**
 * @param {string} name
 * @param {string} value
 * @param {string} meaning
 * @param {string} [rest]
 */
function tile(name, value, meaning, rest) {
  return h("div", { class: "tile", title: meaning }, h("dt", {}, name), h("dd", {}, value, rest ? h("small", {}, ` ${rest}`) : null));
}

/** @param {Store} store */
function pathList(store) {
  const { graph } = store;
  const items = graph.document.paths.slice(0, 6).map((path, place) => {
    const steps = path.steps.flatMap((step, at) => [...(at ? [arrow(path.inhibits[at - 1])] : []), stepOf(store, step)]);
    const point = (/** @type {number | null} */ to) => () => store.set({ path: to });
    const button = h(
      "button",
      { class: "path", type: "button", onpointerenter: point(place), onpointerleave: point(null), onfocus: point(place), onblur: point(null) },
      h("span", { class: "strength" }, `${path.weight < 0 ? "−" : ""}${percent(Math.abs(path.weight))}`),
      ...steps,
    );
    button.addEventListener("click", () => store.select(strongestOf(graph, path.steps[path.steps.length >> 1].nodes)));
    return h("li", {}, button);
  });
  return h("section", { class: "paths", "aria-label": "Strongest paths" }, h("h2", {}, "Strongest paths"), h("ol", {}, ...items));
}

/**
 * @param {Store} store
 * @param {import("glassworks/model").Step} step
 */
function stepOf(store, step) {
  const node = store.graph.nodes[strongestOf(store.graph, step.nodes)];
  const ends = node.kind === "embedding" || node.kind === "logit";
  const several = step.nodes.length > 1 ? h("small", {}, ` ×${step.nodes.length}`) : null;
  return h("span", { class: `step ${node.kind}`, title: step.name }, ends ? tokenText(step.name) : stepName(step), several);
}

/** @param {boolean} inhibits */
function arrow(inhibits) {
  return h("span", { class: inhibits ? "arrow negative" : "arrow", "aria-label": inhibits ? "inhibits" : "excites" }, inhibits ? "⊣" : "→");
}
