/**
 * Where each node stands: tokens from left to right, layers upward, the strongest of a cell in its middle.
 *
 * Pure arithmetic on the shown nodes; the view scales and shifts the result. Columns are as wide as what they hold,
 * rows without nodes shrink, and a crowded cell breaks into lines.
 */

/** @typedef {import("glassworks/model").Graph} Graph */

/**
 * @typedef {object} Layout
 * @property {Float64Array} x by node
 * @property {Float64Array} y by node
 * @property {Float64Array} radius by node
 * @property {{position: number, left: number, width: number}[]} columns
 * @property {{layer: number, top: number, height: number}[]} rows top first
 */

const SPACING = 2.35;

/**
 * Lays the shown nodes out.
 * @param {Graph} graph
 * @param {Uint8Array} kept
 * @param {{width: number, height: number, labelWidth: (text: string) => number}} space
 * @returns {Layout}
 */
export function layOut(graph, kept, space) {
  const cells = fillCells(graph, kept);
  const rows = rowBands(graph, cells, space.height);
  const columns = columnBands(graph, cells, space);
  const size = graph.nodes.length;
  const layout = { x: new Float64Array(size), y: new Float64Array(size), radius: new Float64Array(size), columns, rows };
  const largest = Math.max(3.2, Math.min(11, tallest(rows) * 0.3));
  for (const [place, node] of graph.nodes.entries()) layout.radius[place] = nodeRadius(node, largest);
  const rowOf = new Map(rows.map((row) => [row.layer, row]));
  for (const cell of cells.values()) {
    const row = rowOf.get(cell.layer);
    if (!row) continue;
    if (cell.layer === graph.document.layers) placeOutcomes(layout, cell.nodes, columns[cell.position], row);
    else placeCell(layout, cell.nodes, columns[cell.position], row);
  }
  return layout;
}

/**
 * @param {import("glassworks/model").GraphNode} node
 * @param {number} largest
 */
function nodeRadius(node, largest) {
  if (node.kind === "logit") return Math.max(4, Math.min(9, 3.5 + 7 * Math.sqrt(node.probability ?? 0)));
  if (node.kind === "embedding") return Math.max(4, Math.min(7, largest * 0.8));
  return Math.max(2.8, largest * Math.min(1, 0.26 + 1.7 * Math.sqrt(Math.max(0, node.influence))));
}

/**
 * @param {Graph} graph
 * @param {Uint8Array} kept
 */
function fillCells(graph, kept) {
  /** @type {Map<string, {layer: number, position: number, nodes: number[]}>} */
  const cells = new Map();
  for (const [place, node] of graph.nodes.entries()) {
    if (!kept[place]) continue;
    const key = `${node.layer}:${node.position}`;
    const cell = cells.get(key) ?? { layer: node.layer, position: node.position, nodes: [] };
    cell.nodes.push(place);
    cells.set(key, cell);
  }
  for (const cell of cells.values()) cell.nodes.sort((a, b) => strength(graph, b) - strength(graph, a));
  return cells;
}

/**
 * @param {Graph} graph
 * @param {number} place
 */
function strength(graph, place) {
  const node = graph.nodes[place];
  return node.kind === "logit" ? (node.probability ?? 0) : node.influence;
}

/**
 * @param {Graph} graph
 * @param {Map<string, {layer: number, nodes: number[]}>} cells
 * @param {number} height
 */
function rowBands(graph, cells, height) {
  const top = graph.document.layers;
  const used = new Set([...cells.values()].map((cell) => cell.layer));
  const weights = [];
  for (let layer = top; layer >= -1; layer--) weights.push(used.has(layer) ? 1 : 0.35);
  const total = weights.reduce((a, b) => a + b, 0);
  let y = 0;
  return weights.map((weight, place) => {
    const band = { layer: top - place, top: y, height: (height * weight) / total };
    y += band.height;
    return band;
  });
}

/** @param {{height: number}[]} rows */
function tallest(rows) {
  return Math.max(...rows.map((row) => row.height));
}

/**
 * @param {Graph} graph
 * @param {Map<string, {position: number, nodes: number[]}>} cells
 * @param {{width: number, labelWidth: (text: string) => number}} space
 */
function columnBands(graph, cells, space) {
  const tokens = graph.document.tokens;
  const fullest = tokens.map(() => 0);
  for (const cell of cells.values()) fullest[cell.position] = Math.max(fullest[cell.position], cell.nodes.length);
  const least = tokens.map((token) => Math.min(space.labelWidth(token) + 14, 120));
  const need = fullest.map((count) => Math.sqrt(count) * 10);
  const floor = least.reduce((a, b) => a + b, 0);
  const spare = Math.max(0, space.width - floor);
  const wanted = need.reduce((a, b) => a + b, 0) || 1;
  const shrink = floor > space.width ? space.width / floor : 1;
  let left = 0;
  return tokens.map((_, position) => {
    const width = least[position] * shrink + (spare * need[position]) / wanted;
    const column = { position, left, width };
    left += width;
    return column;
  });
}

/**
 * Outcomes stand in a line from the likeliest to the left, wide enough apart for their names.
 * @param {Layout} layout
 * @param {number[]} nodes likeliest first
 * @param {{left: number, width: number}} column
 * @param {{top: number, height: number}} row
 */
function placeOutcomes(layout, nodes, column, row) {
  const right = column.left + Math.max(column.width / 2, column.width - 40);
  const step = Math.min(78, right / nodes.length);
  nodes.forEach((node, slot) => {
    layout.x[node] = right - slot * step;
    layout.y[node] = row.top + row.height / 2;
  });
}

/**
 * @param {Layout} layout
 * @param {number[]} nodes strongest first
 * @param {{left: number, width: number}} column
 * @param {{top: number, height: number}} row
 */
function placeCell(layout, nodes, column, row) {
  const widest = Math.max(...nodes.map((node) => layout.radius[node]));
  const gap = Math.max(widest * SPACING, 9);
  const room = Math.max(gap, column.width - 10);
  const perLine = Math.max(1, Math.floor(room / gap));
  const lines = Math.ceil(nodes.length / perLine);
  const lineHeight = Math.min(gap * 1.15, row.height / lines);
  for (let line = 0; line < lines; line++) {
    const members = fromMiddle(nodes.slice(line * perLine, (line + 1) * perLine));
    const step = Math.min(gap * 1.6, room / members.length);
    members.forEach((node, slot) => {
      layout.x[node] = column.left + column.width / 2 + (slot - (members.length - 1) / 2) * step;
      layout.y[node] = row.top + row.height / 2 + (line - (lines - 1) / 2) * lineHeight;
    });
  }
}

/**
 * The first in the middle, the next beside it on the right, then on the left, and so on.
 * @param {number[]} nodes
 */
function fromMiddle(nodes) {
  const left = nodes.filter((_, place) => place % 2 === 1).reverse();
  return [...left, ...nodes.filter((_, place) => place % 2 === 0)];
}
