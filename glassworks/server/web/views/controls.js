/**
 * Pruning sliders, legend, search and zoom: what changes the picture without choosing a node.
 */
import { count, h, percent } from "glassworks/dom";
import { STORY_PATHS } from "glassworks/emphasis";

/** @typedef {import("glassworks/store").Store} Store */

/**
 * @param {HTMLElement} root
 * @param {Store} store
 * @param {import("glassworks/views/graph").GraphView} view
 */
export function showControls(root, store, view) {
  const nodes = slider(store, "node", "Nodes", "Keep the strongest nodes that together hold this share of the influence");
  const edges = slider(store, "edge", "Edges", "Keep the strongest edges that together hold this share of the flow");
  const { node, edge } = store.graph.document.pruning;
  const reset = h("button", { type: "button", class: "quiet", onclick: () => store.set({ node, edge }) }, "Reset");
  const zoom = (/** @type {string} */ text, /** @type {string} */ name, /** @type {number} */ factor) =>
    h("button", { type: "button", "aria-label": name, title: name, onclick: () => view.scaleBy(factor) }, text);
  const zooms = h("div", { class: "zooms", role: "group", "aria-label": "Zoom" }, zoom("−", "Zoom out", 1 / 1.5), zoom("+", "Zoom in", 1.5), zoom("⤢", "Whole graph", 1e-3));
  store.on(["tab"], () => zooms.toggleAttribute("hidden", store.state.tab !== "graph"));
  root.append(h("div", { class: "sliders" }, nodes, edges, reset), legend());
  view.root?.append(h("div", { class: "heading" }, tabs(store), caption(store)), zooms);
}

/**
 * @param {Store} store
 * @param {"node" | "edge"} key
 * @param {string} name
 * @param {string} meaning
 */
function slider(store, key, name, meaning) {
  const output = h("output", {});
  const low = key === "node" ? 0.1 : 0.3;
  const input = h("input", { type: "range", id: `${key}-threshold`, min: low, max: 1, step: 0.005, "aria-label": `${name}: ${meaning}` });
  let frame = 0;
  input.addEventListener("input", () => {
    const value = Number(input.value);
    cancelAnimationFrame(frame);
    frame = requestAnimationFrame(() => store.set({ [key]: value }));
  });
  store.on(["kept", key], () => {
    input.value = String(store.state[key]);
    const { nodeCount, linkCount } = store.state.kept;
    output.textContent = `${percent(store.state[key])} · ${count(key === "node" ? nodeCount : linkCount)}`;
  });
  return h("label", { title: meaning }, h("span", {}, name), input, output);
}

function legend() {
  const kinds = [["feature", "feature"], ["error", "error"], ["embedding", "token"], ["logit", "output"]];
  const glyphs = kinds.map(([kind, name]) => h("span", {}, h("i", { class: `glyph ${kind}` }), name));
  const signs = [h("span", {}, h("i", { class: "line positive" }), "excites"), h("span", {}, h("i", { class: "line negative" }), "inhibits")];
  return h("div", { class: "legend" }, ...glyphs, ...signs);
}

/**
 * The whole graph, or the circuit that was cut out of it.
 * @param {Store} store
 */
function tabs(store) {
  const tab = (/** @type {"graph" | "circuit"} */ key, /** @type {string} */ name) => {
    const button = h("button", { type: "button", id: `tab-${key}`, onclick: () => store.set({ tab: key }) }, name);
    store.on(["tab", "groups", "pinned"], () => {
      const size = store.state.groups.length + store.state.pinned.length;
      button.setAttribute("aria-pressed", String(store.state.tab === key));
      button.textContent = key === "circuit" && size ? `${name} ${size}` : name;
    });
    return button;
  };
  return h("div", { class: "tabs", role: "group", "aria-label": "View" }, tab("graph", "Graph"), tab("circuit", "Circuit"));
}

/**
 * What the picture shows at this moment, in words.
 * @param {Store} store
 */
function caption(store) {
  const line = h("p", { class: "mode" });
  const paths = Math.min(STORY_PATHS, store.graph.document.paths.length);
  store.on(["selected", "hovered", "path", "query", "tab"], () => {
    const { selected, hovered, path, query } = store.state;
    line.hidden = store.state.tab === "circuit";
    const usual = paths ? `The ${paths} strongest paths` : "The strongest edges";
    const node = hovered !== null && hovered !== selected ? "The edges of this node" : selected !== null ? "The edges of the selected node" : "";
    line.textContent = path !== null ? `Path ${path + 1}` : node || (query ? "Search results" : usual);
  });
  return line;
}

/**
 * The search field: what matches stands out, Enter goes from match to match.
 * @param {Store} store
 */
export function searchField(store) {
  const input = h("input", { type: "search", id: "search", placeholder: "Search labels", "aria-label": "Search labels", autocomplete: "off" });
  const found = h("output", {});
  let turn = 0;
  input.addEventListener("input", () => {
    turn = 0;
    store.set({ query: input.value, selected: null });
  });
  input.addEventListener("keydown", (event) => {
    if (event.key !== "Enter") return;
    const shown = store.matches().filter((node) => store.state.kept.nodes[node]);
    if (shown.length) store.select(shown[turn++ % shown.length]);
  });
  store.on(["query", "kept"], () => {
    const { query, kept } = store.state;
    const all = store.matches();
    const shown = all.filter((node) => kept.nodes[node]).length;
    found.textContent = query.trim() ? `${shown} shown${all.length > shown ? `, ${all.length - shown} pruned` : ""}` : "";
    if (input.value !== query) input.value = query;
  });
  return h("div", { class: "search" }, input, found, h("kbd", {}, "/"));
}
