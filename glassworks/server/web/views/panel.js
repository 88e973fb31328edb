/**
 * The side panel: everything about the selected node, with its edges to walk along; else where to begin.
 */
import { count, css, h, number, percent, signed, tokenText } from "glassworks/dom";
import { chance, linkShare, nodeName, place } from "glassworks/model";
import { explain } from "glassworks/views/query";
import { headsOf } from "glassworks/views/attention";
import { changeSection } from "glassworks/views/change";
import { evidence } from "glassworks/views/evidence";
import { askGroup } from "glassworks/views/groups";

/** @typedef {import("glassworks/store").Store} Store */
/** @typedef {import("glassworks/source").Source} Source */

const MOST_EDGES = 40;
/** Evidence that was fetched, so that walking back and forth fetches it once. */
const fetched = /** @type {Map<string, Promise<import("glassworks/model").Details | null>>} */ (new Map());

/**
 * @param {HTMLElement} root
 * @param {Store} store
 * @param {Source} source
 */
export function showPanel(root, store, source) {
  store.on(["selected", "kept", "pinned", "groups", "marked"], () => {
    const { selected } = store.state;
    if (selected === null) root.replaceChildren(...overview(store));
    else root.replaceChildren(...nodePanel(store, source, selected));
  });
  store.on(["selected"], () => {
    root.scrollTop = 0;
  });
  store.on(["selected", "kept", "pinned", "groups", "marked"], () => void fillEvidence(root, store, source));
}

/**
 * @param {HTMLElement} root
 * @param {Store} store
 * @param {Source} source
 */
async function fillEvidence(root, store, source) {
  const { selected } = store.state;
  const home = root.querySelector(".evidence");
  if (selected === null || !(home instanceof HTMLElement)) return;
  const node = store.graph.nodes[selected];
  /** @type {Node[]} */
  let content;
  try {
    const key = `${node.coder}/${node.index}`;
    if (!fetched.has(key)) fetched.set(key, source.details(node));
    const details = await fetched.get(key);
    content = details ? evidence(details, node) : [h("p", { class: "hint" }, "This graph carries no evidence for its features.")];
  } catch (error) {
    content = [h("p", { class: "hint" }, error instanceof Error ? error.message : String(error))];
  }
  if (home.isConnected) home.replaceChildren(...content);
}

/** @param {Store} store */
function overview(store) {
  const { graph, state } = store;
  const features = [...graph.nodes.keys()].filter((node) => state.kept.nodes[node] && graph.nodes[node].kind === "feature");
  features.sort((a, b) => graph.nodes[b].influence - graph.nodes[a].influence);
  const most = features.length ? graph.nodes[features[0]].influence : 1;
  const rows = features.slice(0, 16).map((node) => {
    const part = graph.nodes[node].influence / most;
    return edgeRow(store, node, percent(graph.nodes[node].influence), part, "positive");
  });
  const hint = "Click a node to see what it reads, what it writes and where it fires. Its edges appear in the graph.";
  return [h("h2", {}, "Most influential features"), h("p", { class: "hint" }, hint), h("ul", { class: "edge-list" }, ...rows)];
}

/**
 * @param {Store} store
 * @param {Source} source
 * @param {number} at
 */
function nodePanel(store, source, at) {
  const { graph, state } = store;
  const node = graph.nodes[at];
  const name = node.kind === "embedding" || node.kind === "logit" ? `“${tokenText(node.label)}”` : nodeName(node);
  const heading = h("header", { class: "node-head" }, h("span", { class: `glyph ${node.kind}` }), h("div", {}, h("h2", {}, name), h("p", { class: "where" }, where(store, at))));
  const hidden = state.kept.nodes[at] ? null : h("p", { class: "hint" }, "Hidden by pruning: move the sliders to the right to see it in the graph.");
  const sections = [heading, actions(store, source, at), facts(store, at)];
  if (hidden) sections.push(hidden);
  if (node.kind === "feature" && node.coder && source.open) sections.push(changeSection(store, source, at));
  if (node.kind === "feature") sections.push(h("div", { class: "evidence", "aria-live": "polite" }));
  if (node.kind === "error") sections.push(h("p", { class: "hint" }, "What this layer's MLP adds at this token and the coder's features do not explain."));
  if (node.kind !== "embedding" && node.kind !== "error") sections.push(edgeSection(store, source, at, "incoming"));
  if (node.kind !== "logit") sections.push(edgeSection(store, source, at, "outgoing"));
  return sections;
}

/**
 * @param {Store} store
 * @param {number} at
 */
function where({ graph }, at) {
  const node = graph.nodes[at];
  const parts = [node.kind, place(graph, node)];
  if (node.kind === "feature") parts.push(`${node.coder ?? "feature"} ${node.index}`);
  return parts.join(" · ");
}

/**
 * The target that explains a node: the feature, or what follows a token; null for the rest.
 * @param {import("glassworks/model").GraphNode} node
 */
function wording(node) {
  if (node.kind === "feature" && node.coder) return `${node.coder}/${node.index}@${node.position}`;
  return node.kind === "embedding" ? `likely@${node.position}` : null;
}

/**
 * @param {Store} store
 * @param {Source} source
 * @param {number} at
 */
function actions(store, source, at) {
  const { state, graph } = store;
  const pinned = state.pinned.includes(graph.nodes[at].id);
  const group = store.groupOf(at);
  const back = h("button", { type: "button", disabled: !state.trail.length, onclick: () => store.back() }, "← Back");
  const pin = h("button", { type: "button", "aria-pressed": String(pinned), onclick: () => store.togglePin(store.chosen()) }, pinned ? "Unpin" : "Pin", h("kbd", {}, "P"));
  const several = state.marked.length > 1 ? `Group ${state.marked.length}` : group >= 0 ? state.groups[group].name : "Group";
  const join = h("button", { type: "button", onclick: () => askGroup(store, store.chosen()) }, several, h("kbd", {}, "G"));
  const target = source.open ? wording(graph.nodes[at]) : null;
  const title = graph.nodes[at].kind === "embedding" ? "Explain what comes after this token" : "Explain this feature: a graph with it as the outcome";
  const why = target ? h("button", { type: "button", class: "explain", title, onclick: () => explain(source, [target], (notice) => store.set({ notice })) }, "Explain") : null;
  const close = h("button", { type: "button", class: "close", "aria-label": "Close", onclick: () => store.set({ selected: null, marked: [] }) }, "×");
  return h("div", { class: "actions" }, back, pin, join, why, close);
}

/**
 * @param {Store} store
 * @param {number} at
 */
function facts({ graph }, at) {
  const node = graph.nodes[at];
  /** @type {[string, string | null, string][]} */
  const all = [
    ["Probability", chance(node) || null, "The model's probability of this token."],
    ["Activation", node.activation === null ? null : number(node.activation), "How strongly the feature is active here."],
    ["Flow", node.kind === "logit" ? null : percent(node.influence), "Share of the flow into the outcomes that passes through this node."],
    ["Input", node.inflow ? number(node.inflow) : null, "Sum of the absolute weights of all edges into this node."],
    ["Bias", node.bias === null ? null : signed(node.bias), "What this node reads from constants: biases and masked positions."],
  ];
  const shown = all.filter(([, value]) => value !== null);
  return h("dl", { class: "facts" }, ...shown.map(([name, value, title]) => h("div", { title }, h("dt", {}, name), h("dd", {}, value))));
}

/**
 * @param {Store} store
 * @param {Source} source
 * @param {number} at
 * @param {"incoming" | "outgoing"} direction
 */
function edgeSection(store, source, at, direction) {
  const { graph, state } = store;
  const links = graph[direction][at].filter((link) => state.kept.links[link]);
  const all = graph[direction][at].length;
  const other = direction === "incoming" ? graph.links.source : graph.links.target;
  const most = links.length ? Math.abs(graph.links.weight[links[0]]) : 1;
  const rows = links.slice(0, MOST_EDGES).map((link) => {
    const weight = graph.links.weight[link];
    const value = h("span", { class: "pair" }, h("span", {}, signed(weight)), h("small", {}, percent(linkShare(graph, link))));
    const row = edgeRow(store, other[link], value, Math.abs(weight) / most, weight >= 0 ? "positive" : "negative");
    row.append(...headsOf(store, source, link));
    return row;
  });
  const explained = links.reduce((sum, link) => sum + linkShare(graph, link), 0);
  const share = direction === "incoming" ? ` · ${percent(Math.min(1, explained))} of its input` : "";
  const note = `${count(links.length)} of ${count(all)}${share}`;
  const more = links.length > MOST_EDGES ? [h("p", { class: "hint" }, `and ${links.length - MOST_EDGES} weaker ones`)] : [];
  const title = direction === "incoming" ? "Reads from" : "Writes to";
  return h("section", { class: direction }, h("h3", {}, title, h("small", {}, note)), h("ul", { class: "edge-list" }, ...rows), ...more);
}

/**
 * A node to walk to, with its weight.
 * @param {Store} store
 * @param {number} to
 * @param {string | HTMLElement} value
 * @param {number} part length of the bar, 0 to 1
 * @param {"positive" | "negative"} sign
 */
function edgeRow(store, to, value, part, sign) {
  const { graph } = store;
  const node = graph.nodes[to];
  const name = node.kind === "embedding" || node.kind === "logit" ? `“${tokenText(node.label)}”` : nodeName(node);
  const bar = css(h("span", { class: `weight ${sign}` }), { "--part": part });
  const text = h("span", { class: "text" }, name, h("small", {}, place(graph, node)));
  const row = h("button", { type: "button", onclick: () => store.select(to), title: nodeName(node) }, h("span", { class: `glyph ${node.kind}` }), text, h("span", { class: "value" }, value), bar);
  row.addEventListener("pointerenter", () => store.set({ pointed: to, hovered: store.state.selected === null ? to : null }));
  row.addEventListener("pointerleave", () => store.set({ pointed: null, hovered: null }));
  return h("li", {}, row);
}
