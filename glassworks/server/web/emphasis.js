/**
 * What stands out at this moment: a pointed path, a node with its edges, what was searched, or else the summary.
 *
 * One answer for nodes, edges and labels, so that they never disagree.
 */
import { shortName } from "glassworks/model";

/** @typedef {import("glassworks/store").Store} Store */

/**
 * @typedef {object} Spine one step of a path, drawn as one line between the strongest nodes of two groups
 * @property {number} source
 * @property {number} target
 * @property {boolean} inhibits
 * @property {number} part of the strongest path's weight
 *
 * @typedef {object} Emphasis
 * @property {"path" | "node" | "search" | "summary"} mode
 * @property {Set<number>} nodes that stand out; in the summary's mode the others are not dimmed
 * @property {number[]} links that are drawn strong, or behind the spines
 * @property {Spine[]} spines
 * @property {Map<number, string>} names of the nodes that speak for their group
 * @property {number | null} active the node whose edges are shown
 */

/** How many of the strongest paths are drawn when nothing else is asked for. */
export const STORY_PATHS = 4;
const STORY_EDGES = 12;

/**
 * @param {Store} store
 * @returns {Emphasis}
 */
export function emphasis(store) {
  const { hovered, selected, path, query } = store.state;
  if (path !== null) return pathEmphasis(store, [path], "path");
  const active = hovered ?? selected;
  if (active !== null) return nodeEmphasis(store, active);
  if (query.trim()) return plain("search", new Set(store.matches()), [], null);
  const paths = [...store.graph.document.paths.keys()].slice(0, STORY_PATHS);
  const summary = pathEmphasis(store, paths, "summary");
  return summary.spines.length ? summary : strongestEdges(store);
}

/**
 * @param {Emphasis["mode"]} mode
 * @param {Set<number>} nodes
 * @param {number[]} links
 * @param {number | null} active
 * @returns {Emphasis}
 */
function plain(mode, nodes, links, active) {
  return { mode, nodes, links, spines: [], names: new Map(), active };
}

/**
 * @param {Store} store
 * @returns {Emphasis}
 */
function strongestEdges({ graph, state }) {
  const { score, links } = state.kept;
  const shown = [...score.keys()].filter((link) => links[link]).sort((a, b) => score[b] - score[a]);
  const best = shown.slice(0, STORY_EDGES);
  const nodes = best.flatMap((link) => [graph.links.source[link], graph.links.target[link]]);
  return plain("summary", new Set(nodes), best, null);
}

/**
 * @param {Store} store
 * @param {number} active
 * @returns {Emphasis}
 */
function nodeEmphasis(store, active) {
  const { graph, state } = store;
  const links = [...graph.incoming[active], ...graph.outgoing[active]].filter((link) => state.kept.links[link]);
  const nodes = new Set([active, ...state.marked]);
  for (const link of links) nodes.add(graph.links.source[link]).add(graph.links.target[link]);
  return plain("node", nodes, links, active);
}

/**
 * @param {Store} store
 * @param {number[]} which
 * @param {"path" | "summary"} mode
 * @returns {Emphasis}
 */
function pathEmphasis(store, which, mode) {
  const { graph, state } = store;
  const shown = plain(mode, new Set(), [], null);
  const paths = which.map((each) => graph.document.paths[each]);
  const most = Math.max(...paths.map((path) => Math.abs(path.weight)), 1e-9);
  const links = /** @type {Set<number>} */ (new Set());
  for (const path of paths) {
    const steps = path.steps.map((step) => ({ ...step, nodes: step.nodes.filter((node) => state.kept.nodes[node]) }));
    if (steps.some((step) => !step.nodes.length)) continue;
    for (const [at, step] of steps.entries()) {
      step.nodes.forEach((node) => shown.nodes.add(node));
      const target = strongestOf(graph, step.nodes);
      if (step.nodes.length > 1) shown.names.set(target, `${stepName(step)} ×${step.nodes.length}`);
      if (!at) continue;
      for (const link of between(graph, steps[at - 1].nodes, step.nodes)) links.add(link);
      const source = strongestOf(graph, steps[at - 1].nodes);
      shown.spines.push({ source, target, inhibits: path.inhibits[at - 1], part: Math.abs(path.weight) / most });
    }
  }
  return { ...shown, links: [...links] };
}

/**
 * @param {import("glassworks/model").Graph} graph
 * @param {number[]} sources
 * @param {number[]} targets
 */
function between(graph, sources, targets) {
  const before = new Set(sources);
  return targets.flatMap((node) => graph.incoming[node]).filter((link) => before.has(graph.links.source[link]));
}

/**
 * The node of a group that most of the flow passes through.
 * @param {import("glassworks/model").Graph} graph
 * @param {number[]} nodes
 */
export function strongestOf(graph, nodes) {
  return nodes.reduce((best, node) => (graph.nodes[node].influence > graph.nodes[best].influence ? node : best));
}

/** @param {import("glassworks/model").Step} step */
export function stepName(step) {
  return shortName({ label: step.name, kind: "feature", layer: 0, index: 0 });
}
