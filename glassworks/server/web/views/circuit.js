/**
 * The circuit that the reader has cut out: groups and pinned nodes as boxes, with the edges between them added up.
 *
 * Tokens that feed it and the likeliest outcome come by themselves. Edges between groups are sums of the graph's own
 * edges, pruned ones too.
 */
import { css, h, percent, s, signed, tokenText } from "glassworks/dom";
import { chance, clip, shortName } from "glassworks/model";

/** @typedef {import("glassworks/store").Store} Store */

/**
 * @typedef {object} Unit
 * @property {string} name
 * @property {string} text the name as it is written
 * @property {string} kind
 * @property {number} colour of its group, or -1
 * @property {number[]} nodes
 * @property {number} level mean layer
 * @property {number} order mean position
 * @property {number} x
 * @property {number} y
 * @property {number} width
 *
 * @typedef {{source: Unit, target: Unit, weight: number, share: number}} Bond
 */

const HEIGHT = 34;
const FEEDS = 0.04;
const LEAST = 0.03;
const MOST_BONDS = 5;

/**
 * @param {HTMLElement} root
 * @param {Store} store
 */
export function showCircuit(root, store) {
  const drawing = s("svg", { role: "group", "aria-label": "Circuit of groups and pinned nodes" });
  const hint = h("p", { class: "hint" }, "Pin nodes (P) or group them (G) in the graph: they stand here with the edges between them.");
  root.append(drawing, hint);
  const draw = () => {
    root.hidden = store.state.tab !== "circuit";
    const { width, height } = root.getBoundingClientRect();
    if (root.hidden || !width) return;
    const units = collect(store);
    hint.hidden = units.some((unit) => unit.kind === "group" || unit.kind === "pin");
    arrange(units, width, height);
    drawing.replaceChildren(...(hint.hidden ? [...bonds(store, units).map((bond) => bondShape(bond, units)), ...units.map((unit) => box(store, unit))] : []));
  };
  store.on(["tab", "pinned", "groups", "selected"], draw);
  new ResizeObserver(draw).observe(root);
}

/**
 * @param {Store} store
 * @returns {Unit[]}
 */
function collect(store) {
  const { graph, state } = store;
  const known = (/** @type {string[]} */ ids) => ids.flatMap((id) => graph.places.get(id) ?? []);
  const groups = state.groups.map((group, at) => unit(store, group.name, "group", known(group.nodes), at % 8));
  const taken = new Set(groups.flatMap((group) => group.nodes));
  const pins = known(state.pinned).filter((node) => !taken.has(node)).map((node) => unit(store, label(store, node), "pin", [node], -1));
  const own = [...groups, ...pins].filter((each) => each.nodes.length);
  const inside = new Set(own.flatMap((each) => each.nodes));
  const ends = [...feeding(store, own), ...likeliest(store)].filter((node) => !inside.has(node));
  return [...own, ...ends.map((node) => unit(store, label(store, node), "end", [node], -1))];
}

/**
 * @param {Store} store
 * @param {string} name
 * @param {string} kind
 * @param {number[]} nodes
 * @param {number} colour
 * @returns {Unit}
 */
function unit({ graph }, name, kind, nodes, colour) {
  const mean = (/** @type {(node: import("glassworks/model").GraphNode) => number} */ value) =>
    nodes.reduce((sum, node) => sum + value(graph.nodes[node]), 0) / nodes.length;
  const level = mean((node) => node.layer);
  const text = clip(name, 30) + (nodes.length > 1 ? ` ×${nodes.length}` : "");
  const width = Math.max(64, Math.min(250, text.length * 7 + 32));
  return { name, text, kind, colour, nodes, level, order: mean((node) => node.position), x: 0, y: 0, width };
}

/**
 * @param {Store} store
 * @param {number} node
 */
function label({ graph }, node) {
  const each = graph.nodes[node];
  if (each.kind === "embedding") return tokenText(each.label);
  if (each.kind === "logit") return `${tokenText(each.label)} ${chance(each)}`.trim();
  return shortName(each);
}

/**
 * The embedding that gives each unit most, where that is a good part of its input.
 * @param {Store} store
 * @param {Unit[]} units
 */
function feeding({ graph }, units) {
  const found = units.flatMap(({ nodes }) => {
    const total = nodes.reduce((sum, node) => sum + graph.nodes[node].inflow, 0);
    const gifts = /** @type {Map<number, number>} */ (new Map());
    for (const link of nodes.flatMap((node) => graph.incoming[node])) {
      const source = graph.links.source[link];
      if (graph.nodes[source].kind === "embedding") gifts.set(source, (gifts.get(source) ?? 0) + graph.links.weight[link]);
    }
    const [best] = [...gifts].sort(([, a], [, b]) => Math.abs(b) - Math.abs(a));
    return best && Math.abs(best[1]) > FEEDS * total ? [best[0]] : [];
  });
  return [...new Set(found)];
}

/** @param {Store} store */
function likeliest({ graph }) {
  const logits = [...graph.nodes.keys()].filter((node) => graph.nodes[node].kind === "logit");
  logits.sort((a, b) => (graph.nodes[b].probability ?? 0) - (graph.nodes[a].probability ?? 0));
  return logits.slice(0, 1);
}

/**
 * Rows by mean layer from the bottom up, in each row by position, side by side.
 * @param {Unit[]} units
 * @param {number} width
 * @param {number} height
 */
function arrange(units, width, height) {
  const levels = [...new Set(units.map((each) => Math.round(each.level)))].sort((a, b) => b - a);
  const step = (height - 130) / Math.max(1, levels.length - 1);
  const last = Math.max(1, ...units.map((each) => each.order));
  for (const [at, level] of levels.entries()) {
    const row = units.filter((each) => Math.round(each.level) === level).sort((a, b) => a.order - b.order);
    const room = (width - 60 - 16 * row.length) / row.reduce((sum, each) => sum + each.width, 0);
    for (const each of row) {
      if (room < 1) shrink(each, room);
      each.y = 80 + at * step;
      each.x = 40 + each.width / 2 + (each.order / last) * (width - 80 - each.width);
    }
    spread(row, 30, width - 30);
  }
}

/**
 * Makes a box narrower, and its name shorter where it must be.
 * @param {Unit} unit
 * @param {number} part
 */
function shrink(unit, part) {
  unit.width *= part;
  unit.text = clip(unit.text, Math.max(3, Math.floor((unit.width - 12) / 7)));
}

/**
 * @param {Unit[]} row
 * @param {number} left
 * @param {number} right
 */
function spread(row, left, right) {
  let edge = left;
  for (const each of row) {
    each.x = Math.max(each.x, edge + each.width / 2);
    edge = each.x + each.width / 2 + 16;
  }
  edge = right;
  for (const each of [...row].reverse()) {
    each.x = Math.min(each.x, edge - each.width / 2);
    edge = each.x - each.width / 2 - 16;
  }
}

/**
 * @param {Store} store
 * @param {Unit[]} units
 * @returns {Bond[]}
 */
function bonds({ graph }, units) {
  const home = new Map(units.flatMap((each) => each.nodes.map((node) => /** @type {const} */ ([node, each]))));
  /** @type {Map<Unit, Map<Unit, number>>} */
  const sums = new Map();
  for (const target of units) {
    const row = new Map();
    for (const link of target.nodes.flatMap((node) => graph.incoming[node])) {
      const source = home.get(graph.links.source[link]);
      if (source && source !== target) row.set(source, (row.get(source) ?? 0) + graph.links.weight[link]);
    }
    sums.set(target, row);
  }
  return [...sums].flatMap(([target, row]) => {
    const inflow = target.nodes.reduce((sum, node) => sum + graph.nodes[node].inflow, 0) || 1;
    const all = [...row].map(([source, weight]) => ({ source, target, weight, share: Math.abs(weight) / inflow }));
    return all.filter((bond) => bond.share >= LEAST).sort((a, b) => b.share - a.share).slice(0, MOST_BONDS);
  });
}

/**
 * @param {Bond} bond
 * @param {Unit[]} units
 */
function bondShape({ source, target, weight, share }, units) {
  const [y1, y2] = [source.y - HEIGHT / 2, target.y + HEIGHT / 2 + 3];
  const middle = (y1 + y2) / 2;
  const sign = weight >= 0 ? "positive" : "negative";
  const line = s("path", { d: `M${source.x},${y1}C${source.x},${middle},${target.x},${middle},${target.x},${y2}`, "stroke-width": 1 + 9 * share });
  const text = s("text", { ...freeSpot(source.x, y1, target.x, y2, units) }, signed(weight));
  const title = s("title", {}, `${source.name} → ${target.name}: ${signed(weight)}, ${percent(share)} of its input`);
  return s("g", { class: `bond ${sign}` }, title, line, ...(share >= 0.06 ? [text] : []));
}

/**
 * A point of the curve, near its middle, that lies in no box.
 * @param {number} x1
 * @param {number} y1
 * @param {number} x2
 * @param {number} y2
 * @param {Unit[]} units
 */
function freeSpot(x1, y1, x2, y2, units) {
  const spots = [0.5, 0.4, 0.6, 0.3, 0.7, 0.2, 0.8].map((t) => {
    const ease = 3 * t * t - 2 * t * t * t;
    const along = 3 * t * (1 - t) * 0.5 + t * t * t;
    return { x: x1 + (x2 - x1) * ease, y: y1 + (y2 - y1) * along + 4 };
  });
  const covers = (/** @type {{x: number, y: number}} */ at) => (/** @type {Unit} */ each) =>
    Math.abs(each.x - at.x) < each.width / 2 + 20 && Math.abs(each.y - at.y) < HEIGHT / 2 + 10;
  return spots.find((spot) => !units.some(covers(spot))) ?? spots[0];
}

/**
 * @param {Store} store
 * @param {Unit} unit
 */
function box(store, unit) {
  const best = unit.nodes.reduce((a, b) => (store.graph.nodes[b].influence > store.graph.nodes[a].influence ? b : a));
  const open = () => store.select(best);
  const shape = s("rect", { x: -unit.width / 2, y: -HEIGHT / 2, width: unit.width, height: HEIGHT, rx: unit.kind === "group" ? 17 : 7 });
  const chosen = store.state.selected !== null && unit.nodes.includes(store.state.selected);
  const element = s("g", { class: `unit ${unit.kind}${chosen ? " selected" : ""}`, role: "button", tabindex: 0, "aria-label": `${unit.kind} ${unit.name}`, transform: `translate(${unit.x},${unit.y})`, onclick: open }, shape, s("text", { y: 4 }, unit.text));
  element.addEventListener("keydown", (event) => event.key === "Enter" && open());
  return unit.colour < 0 ? element : css(element, { "--fill": `var(--group-${unit.colour})` });
}
