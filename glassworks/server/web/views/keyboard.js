/**
 * The graph by keyboard: arrows move the focus between nodes, letters act on the node that has it.
 *
 * One node at a time is in the tab order (a "roving" tab stop), so Tab enters and leaves the graph in one step.
 */
import { askGroup } from "glassworks/views/groups";

/** @typedef {import("glassworks/views/graph").GraphView} GraphView */

/** What each key does, shown by the help too. */
export const KEYS = [
  ["← →", "next node of the same layer"],
  ["↑ ↓", "next layer up or down"],
  ["Shift ↑ ↓", "walk to the strongest output or input"],
  ["Enter", "select the node"],
  ["Space", "mark several nodes"],
  ["P", "pin, or unpin"],
  ["G", "put into a named group"],
  ["Backspace", "back to the node before"],
  ["+ − 0", "zoom in, out, whole graph"],
  ["/", "search"],
  ["Esc", "let go of everything"],
];

/**
 * Makes the view listen to keys.
 * @param {GraphView} view
 */
export function takeKeys(view) {
  const { store } = view;
  const group = view.nodes;
  group?.addEventListener("focusin", (event) => {
    const node = focused(event);
    if (node !== null && event.target instanceof Element && event.target.matches(":focus-visible")) store.set({ hovered: node });
    if (node !== null) setTabStop(view, node);
  });
  group?.addEventListener("focusout", () => store.set({ hovered: null }));
  view.svg?.addEventListener("keydown", (event) => {
    const node = focused(event);
    if (node === null || event.ctrlKey || event.metaKey || event.altKey) return;
    if (act(view, node, event)) event.preventDefault();
  });
  store.on(["kept"], () => setTabStop(view, firstStop(view)));
}

/** @param {Event} event */
function focused(event) {
  const element = /** @type {Element} */ (event.target).closest?.("[data-node]");
  return element instanceof SVGElement ? Number(element.dataset.node) : null;
}

/**
 * The selected node, else the most probable logit.
 * @param {GraphView} view
 */
function firstStop({ store }) {
  const { selected, kept } = store.state;
  if (selected !== null && kept.nodes[selected]) return selected;
  const probability = (/** @type {number} */ node) => store.graph.nodes[node].probability ?? -1;
  return [...store.graph.nodes.keys()].reduce((best, node) => (probability(node) > probability(best) ? node : best), 0);
}

/**
 * @param {GraphView} view
 * @param {number} node
 */
function setTabStop(view, node) {
  view.elements?.forEach((element, place) => element.setAttribute("tabindex", place === node ? "0" : "-1"));
}

/**
 * @param {GraphView} view
 * @param {number | undefined | null} node
 */
export function focusNode(view, node) {
  if (node === undefined || node === null) return;
  view.elements?.[node].removeAttribute("hidden");
  view.elements?.[node].focus({ preventScroll: true });
}

/**
 * Does what a key means; false where it means nothing.
 * @param {GraphView} view
 * @param {number} node
 * @param {KeyboardEvent} event
 */
function act(view, node, event) {
  const { store } = view;
  /** @type {Record<string, () => void>} */
  const actions = {
    ArrowLeft: () => focusNode(view, beside(view, node, -1)),
    ArrowRight: () => focusNode(view, beside(view, node, 1)),
    ArrowUp: () => focusNode(view, event.shiftKey ? strongest(view, node, "outgoing") : layerStep(view, node, 1)),
    ArrowDown: () => focusNode(view, event.shiftKey ? strongest(view, node, "incoming") : layerStep(view, node, -1)),
    Enter: () => store.select(node),
    " ": () => store.mark(node),
    p: () => store.togglePin(store.state.marked.length ? store.state.marked : [node]),
    g: () => askGroup(store, store.state.marked.length ? store.state.marked : [node]),
    Backspace: () => {
      store.back();
      focusNode(view, store.state.selected);
    },
    "+": () => view.scaleBy(1.5),
    "=": () => view.scaleBy(1.5),
    "-": () => view.scaleBy(1 / 1.5),
    0: () => view.scaleBy(1e-3),
  };
  const action = actions[event.key.length === 1 ? event.key.toLowerCase() : event.key];
  action?.();
  return Boolean(action);
}

/**
 * @param {GraphView} view
 * @param {number} node
 * @param {1 | -1} step
 */
function beside({ store, layout }, node, step) {
  const row = shownIn(store, store.graph.nodes[node].layer);
  row.sort((a, b) => layout.x[a] - layout.x[b] || layout.y[a] - layout.y[b]);
  return row[row.indexOf(node) + step];
}

/**
 * The nearest node of the next layer that has one.
 * @param {GraphView} view
 * @param {number} node
 * @param {1 | -1} step
 */
function layerStep({ store, layout }, node, step) {
  const top = store.graph.document.layers;
  for (let layer = store.graph.nodes[node].layer + step; layer >= -1 && layer <= top; layer += step) {
    const row = shownIn(store, layer);
    const far = (/** @type {number} */ each) => Math.abs(layout.x[each] - layout.x[node]);
    if (row.length) return row.reduce((best, each) => (far(each) < far(best) ? each : best));
  }
  return null;
}

/**
 * @param {GraphView} view
 * @param {number} node
 * @param {"incoming" | "outgoing"} direction
 */
function strongest({ store }, node, direction) {
  const { graph, state } = store;
  const link = graph[direction][node].find((each) => state.kept.links[each]);
  return link === undefined ? null : graph.links[direction === "incoming" ? "source" : "target"][link];
}

/**
 * @param {import("glassworks/store").Store} store
 * @param {number} layer
 */
function shownIn(store, layer) {
  return [...store.graph.nodes.keys()].filter((node) => store.state.kept.nodes[node] && store.graph.nodes[node].layer === layer);
}
