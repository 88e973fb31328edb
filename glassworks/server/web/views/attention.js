/**
 * Attention behind an edge: the heads that it runs through, and what made each of them look there.
 *
 * Both are fetched when the reader opens them. At every layer heads and what goes past them make up the whole edge;
 * parts of different layers overlap.
 */
import { css, h, number, percent, signed, tokenText } from "glassworks/dom";
import { nodeName } from "glassworks/model";

/** @typedef {import("glassworks/store").Store} Store */
/** @typedef {import("glassworks/source").Source} Source */
/** @typedef {import("glassworks/model").EdgeHeads} EdgeHeads */
/** @typedef {import("glassworks/model").HeadPart} HeadPart */
/** @typedef {import("glassworks/model").HeadScore} HeadScore */
/** @typedef {import("glassworks/model").Contributor} Contributor */

/**
 * A button that opens the heads of an edge below its row, and the place where they appear.
 * @param {Store} store
 * @param {Source} source
 * @param {number} link
 * @returns {[HTMLElement, HTMLElement]}
 */
export function headsOf(store, source, link) {
  const { nodes, links } = store.graph;
  const [from, to] = [nodes[links.source[link]], nodes[links.target[link]]];
  const load = () => source.edge(from.id, to.id).then((edge) => (edge ? edgeHeads(store, source, edge) : [nothing("This page carries the heads of its strongest edges only, and not of this one.")]));
  const [button, box] = opener("Heads", `Heads of the edge from ${nodeName(from)} to ${nodeName(to)}`, "heads", load);
  button.classList.toggle("local", from.position === to.position); // such an edge has little use for heads
  return [button, box];
}

/**
 * A button and what it opens, which is fetched once.
 * @param {string} text
 * @param {string} label
 * @param {string} name class of what opens
 * @param {() => Promise<HTMLElement[]>} load
 * @returns {[HTMLElement, HTMLElement]}
 */
function opener(text, label, name, load) {
  const box = h("div", { class: name, hidden: true, "aria-live": "polite" });
  const button = h("button", { type: "button", class: "quiet opener", "aria-expanded": "false", "aria-label": label, title: label }, text);
  button.addEventListener("click", async () => {
    box.hidden = !box.hidden;
    button.setAttribute("aria-expanded", String(!box.hidden));
    if (box.hidden || box.childElementCount) return;
    box.append(nothing("Asking the model …"));
    try {
      box.replaceChildren(...(await load()));
    } catch (error) {
      box.replaceChildren(nothing(error instanceof Error ? error.message : String(error)));
    }
  });
  return [button, box];
}

/** @param {string} text */
function nothing(text) {
  return h("p", { class: "hint" }, text);
}

/**
 * @param {Store} store
 * @param {Source} source
 * @param {EdgeHeads} edge
 */
function edgeHeads(store, source, edge) {
  if (!edge.heads.length) return [nothing("It goes past all heads: what is written here is read here.")];
  const most = Math.max(...edge.heads.map((each) => Math.abs(each.share)));
  const layers = edge.layers.filter(({ layer }) => edge.heads.some((each) => each.layer === layer)).reverse();
  return layers.map(({ layer, passes, below }) => {
    const past = h("small", { title: "The part of the edge that goes past all heads of this layer." }, `${signedPercent(passes / below)} past all heads`);
    const heads = edge.heads.filter((each) => each.layer === layer).map((each) => headRow(store, source, each, most));
    return h("section", { class: "layer-heads" }, h("h4", {}, `layer ${layer}`, past), h("ul", {}, ...heads));
  });
}

/** @param {number} share */
function signedPercent(share) {
  return share < 0 ? `−${percent(-share)}` : percent(share);
}

/**
 * @param {Store} store
 * @param {Source} source
 * @param {HeadPart} part
 * @param {number} most
 */
function headRow(store, source, part, most) {
  const { tokens } = store.graph.document;
  const way = part.key === part.query ? `stays at “${tokenText(tokens[part.query])}”` : `“${tokenText(tokens[part.key])}” → “${tokenText(tokens[part.query])}”`;
  const bar = css(h("span", { class: `weight ${part.value >= 0 ? "positive" : "negative"}` }), { "--part": Math.abs(part.share) / most });
  const load = () => source.head(part.layer, part.head, part.query, part.key).then((score) => (score ? headScore(store, score) : [nothing("This page does not carry what this head looks for.")]));
  const [why, box] = opener("Why?", `Why head ${part.layer}.${part.head} looks there`, "score", load);
  const line = h("div", { class: "head" }, h("b", {}, `${part.layer}.${part.head}`), h("span", { class: "way" }, way), h("span", { class: "value", title: signed(part.value) }, signedPercent(part.share)), why, bar);
  return h("li", {}, line, box);
}

/**
 * @param {Store} store
 * @param {HeadScore} score
 */
function headScore(store, score) {
  const { tokens } = store.graph.document;
  const lead = `Attention ${percent(score.weight)} from “${tokenText(tokens[score.query])}” to “${tokenText(tokens[score.key])}”; its score of ${number(score.score)} before softmax is the sum of all pairs of what was written at the two.`;
  const most = Math.max(...score.pairs.map((each) => Math.abs(each.value)), 1e-9);
  const pairs = score.pairs.slice(0, 8).map(({ query, key, value }) => {
    const bar = css(h("span", { class: `weight ${value >= 0 ? "positive" : "negative"}` }), { "--part": Math.abs(value) / most });
    return h("li", { class: "pairing" }, contributor(store, query), h("span", { class: "times" }, "×"), contributor(store, key), h("span", { class: "value" }, signed(value)), bar);
  });
  return [
    h("p", { class: "lead" }, lead),
    h("h4", {}, "Strongest pairs", h("small", {}, "who asks × who answers")),
    h("ul", {}, ...pairs),
    side(store, "Who asks", `at “${tokenText(tokens[score.query])}”`, score.queries),
    side(store, "Who answers", `at “${tokenText(tokens[score.key])}”`, score.keys),
  ];
}

/**
 * @param {Store} store
 * @param {string} title
 * @param {string} where
 * @param {{source: Contributor, value: number}[]} all
 */
function side(store, title, where, all) {
  const most = Math.max(...all.map((each) => Math.abs(each.value)), 1e-9);
  const rows = all.slice(0, 6).map(({ source, value }) => {
    const bar = css(h("span", { class: `weight ${value >= 0 ? "positive" : "negative"}` }), { "--part": Math.abs(value) / most });
    return h("li", { class: "pairing" }, contributor(store, source), h("span", { class: "value" }, signed(value)), bar);
  });
  return h("details", {}, h("summary", {}, title, h("small", {}, ` ${where}`)), h("ul", {}, ...rows));
}

/**
 * What a part of a score stands for; a node of the graph can be walked to.
 * @param {Store} store
 * @param {Contributor} contributor
 */
function contributor(store, { node, kind, layer, position, index, label }) {
  const { graph } = store;
  const name = kind === "bias" ? "constants" : kind === "embedding" ? `“${tokenText(label)}”` : nodeName({ kind, label, layer, index });
  const where = kind === "bias" ? "biases and masked positions" : `${kind === "embedding" ? "token" : `layer ${layer} at`} ${kind === "embedding" ? position : `“${tokenText(graph.document.tokens[position])}”`}`;
  const at = node === null ? undefined : graph.places.get(String(node));
  const text = h("span", { class: "text" }, name, h("small", {}, where));
  if (at === undefined) return h("span", { class: "who", title: name }, text);
  return h("button", { type: "button", class: "who", title: name, onclick: () => store.select(at) }, text);
}
