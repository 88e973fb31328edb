/**
 * Pruning as in "Circuit Tracing" (Ameisen et al. 2025): which nodes and edges are strong enough to show.
 *
 * The nodes' influence comes with the document (it needs the whole graph); what follows from it for the edges is
 * computed here, so that the sliders answer at once. The Python package has the same algorithm; a test compares them.
 */

/** @typedef {import("glassworks/model").Graph} Graph */

/** The parts of a layer, from below. */
const PARTS = ["resid_pre", "attention", "resid_mid", "mlp", "resid_post"];

/**
 * @typedef {object} Kept
 * @property {Uint8Array} nodes 1 where a node is shown
 * @property {Uint8Array} links 1 where an edge is shown
 * @property {Float64Array} score of each edge: the share of the logits' input that flows through it
 * @property {number} nodeCount
 * @property {number} linkCount
 */

/**
 * Chooses what is shown.
 * @param {Graph} graph
 * @param {number} nodeThreshold share of the influence that the kept nodes hold together
 * @param {number} edgeThreshold share of the edge scores that the kept edges hold together
 * @returns {Kept}
 */
export function prune(graph, nodeThreshold, edgeThreshold) {
  const nodes = Uint8Array.from(graph.nodes, (node) => Number(fixed(node) || (node.influence > 0 && (nodeThreshold >= 1 || node.share < nodeThreshold))));
  const score = edgeScores(graph, nodes);
  const floor = cumulativeFloor(score, edgeThreshold);
  const links = Uint8Array.from(score, (value) => Number(value > 0 && value >= floor));
  dropDangling(graph, nodes, links);
  return { nodes, links, score, nodeCount: sum(nodes), linkCount: sum(links) };
}

/** @param {import("glassworks/model").GraphNode} node */
function fixed(node) {
  return node.kind === "embedding" || node.kind === "logit";
}

/**
 * A node reads only nodes of lower levels.
 * @param {import("glassworks/model").GraphNode} node
 */
function level(node) {
  return node.layer * PARTS.length + PARTS.indexOf(node.part);
}

/**
 * score = P[t, s] * (influence[t] + w[t]) on the kept part, rows of P normalised there; by one back-substitution.
 * @param {Graph} graph
 * @param {Uint8Array} kept
 */
function edgeScores(graph, kept) {
  const { source, target, weight } = graph.links;
  const score = new Float64Array(weight.length);
  const flow = Float64Array.from(graph.nodes, (node) => (node.kind === "logit" ? (node.probability ?? 0) : 0));
  const topDown = [...graph.nodes.keys()].filter((node) => kept[node]).sort((a, b) => level(graph.nodes[b]) - level(graph.nodes[a]));
  for (const node of topDown) {
    const row = graph.incoming[node].filter((link) => kept[source[link]]);
    const total = row.reduce((all, link) => all + Math.abs(weight[link]), 0);
    if (!(total > 0)) continue;
    for (const link of row) {
      score[link] = (Math.abs(weight[link]) / total) * flow[target[link]];
      flow[source[link]] += score[link];
    }
  }
  return score;
}

/**
 * The smallest of the largest values that together hold the wanted share of the sum.
 * @param {Float64Array} values
 * @param {number} share
 */
function cumulativeFloor(values, share) {
  if (share >= 1) return 0;
  const sorted = Float64Array.from(values).sort().reverse();
  const wanted = share * sum(sorted);
  let held = 0;
  for (const value of sorted) {
    held += value;
    if (held >= wanted) return value;
  }
  return 0;
}

/**
 * Drops features and errors that lead nowhere and features that nothing enters, until none is left; of a feature whose
 * inputs were not computed, nothing is known to enter.
 * @param {Graph} graph
 * @param {Uint8Array} nodes
 * @param {Uint8Array} links
 */
function dropDangling(graph, nodes, links) {
  const { source, target } = graph.links;
  for (let changed = true; changed; ) {
    changed = false;
    for (const [place, node] of graph.nodes.entries()) {
      if (!nodes[place] || fixed(node)) continue;
      const leads = graph.outgoing[place].some((link) => links[link]);
      const entered = node.kind === "error" || node.open || graph.incoming[place].some((link) => links[link]);
      if (leads && entered) continue;
      nodes[place] = 0;
      changed = true;
    }
    for (let link = 0; link < links.length; link++) {
      if (links[link] && !(nodes[source[link]] && nodes[target[link]])) links[link] = 0;
    }
  }
}

/** @param {Uint8Array | Float64Array} values */
function sum(values) {
  let total = 0;
  for (const value of values) total += value;
  return total;
}
