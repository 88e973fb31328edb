/**
 * Which nodes get their name written beside them: the most important first, each only where it hides nothing.
 *
 * Placement is greedy on boxes in screen pixels; zooming in makes room for more names.
 */
import { s, tokenText } from "glassworks/dom";
import { chance, clip, shortName } from "glassworks/model";

const HEIGHT = 14;
const MOST = 60;
/** How far a name may stand out of the plot on the right. */
const OVERHANG = 18;

/** @typedef {{left: number, top: number, right: number, bottom: number}} Box */
/** @typedef {import("glassworks/views/edges").Scene} Scene */

/**
 * Writes the names into a group.
 * @param {SVGGElement} group
 * @param {Scene} scene
 * @param {(text: string) => number} measure
 */
export function drawLabels(group, scene, measure) {
  const bodies = shownBodies(scene);
  /** @type {Box[]} */
  const taken = [];
  const labels = [];
  const said = new Set();
  for (const { node, insistent } of candidates(scene)) {
    if (labels.length >= MOST) break;
    const text = labelText(scene, node);
    const { layer, position } = scene.store.graph.nodes[node];
    const saying = `${text} ${layer} ${position}`;
    if (said.has(saying)) continue;
    const width = measure(text) + 4;
    const box = findRoom(scene, node, width, bodies, taken) ?? (insistent ? findRoom(scene, node, width, [], taken) : null);
    if (!box) continue;
    taken.push(box);
    said.add(saying);
    const strong = insistent ? "label strong" : "label";
    labels.push(s("text", { class: strong, x: box.left + 2, y: box.bottom - 3.5 }, text));
  }
  group.replaceChildren(...labels);
}

/**
 * @param {Scene} scene
 * @param {number} node
 */
function labelText({ store, emphasis }, node) {
  const name = emphasis.names.get(node);
  if (name) return name;
  const each = store.graph.nodes[node];
  const group = store.groupOf(node);
  if (group >= 0) return clip(store.state.groups[group].name, 24);
  if (each.kind === "logit") return `${clip(tokenText(each.label), 14)} ${chance(each)}`.trim();
  return shortName(each);
}

/**
 * Nodes in the order of their right to a name; the insistent ones may cover other nodes, though no other name.
 * @param {Scene} scene
 */
function candidates({ store, emphasis }) {
  const { graph, state } = store;
  const shown = (/** @type {number} */ node) => state.kept.nodes[node] && graph.nodes[node].kind !== "embedding";
  const byShare = (/** @type {number} */ a, /** @type {number} */ b) => graph.nodes[a].share - graph.nodes[b].share;
  const first = [state.hovered, state.selected, ...state.marked].filter((node) => node !== null);
  const logits = [...graph.nodes.keys()].filter((node) => graph.nodes[node].kind === "logit");
  logits.sort((a, b) => (graph.nodes[b].probability ?? 0) - (graph.nodes[a].probability ?? 0));
  const outstanding = rankOutstanding(store, emphasis).filter((node) => graph.nodes[node].kind !== "error");
  const named = [...graph.nodes.keys()].filter((node) => store.groupOf(node) >= 0);
  const insistent = new Set([...first, ...logits.slice(0, 1), ...outstanding.slice(0, 14)]);
  const others = emphasis.mode === "summary" ? [...graph.nodes.keys()].filter((node) => graph.nodes[node].label && !emphasis.nodes.has(node)).sort(byShare) : [];
  const order = new Set([...insistent, ...logits, ...named, ...outstanding, ...others.slice(0, 150)]);
  return [...order].filter(shown).map((node) => ({ node, insistent: insistent.has(node) }));
}

/**
 * @param {import("glassworks/store").Store} store
 * @param {import("glassworks/emphasis").Emphasis} emphasis
 */
function rankOutstanding(store, emphasis) {
  if (emphasis.spines.length) return emphasis.spines.flatMap((spine) => [spine.source, spine.target]);
  if (emphasis.mode !== "node") return [...emphasis.nodes];
  const { source, target, weight } = store.graph.links;
  const links = [...emphasis.links].sort((a, b) => Math.abs(weight[b]) - Math.abs(weight[a]));
  return links.map((link) => (source[link] === emphasis.active ? target[link] : source[link]));
}

/**
 * @param {Scene} scene
 * @returns {Box[]}
 */
function shownBodies(scene) {
  const { kept } = scene.store.state;
  return [...kept.nodes.keys()].filter((node) => kept.nodes[node]).map((node) => body(scene, node, 1));
}

/**
 * @param {Scene} scene
 * @param {number} node
 * @param {number} air
 * @returns {Box}
 */
function body({ layout, transform }, node, air) {
  const x = transform.applyX(layout.x[node]);
  const y = transform.applyY(layout.y[node]);
  const radius = layout.radius[node] * Math.sqrt(transform.k) + air;
  return { left: x - radius, top: y - radius, right: x + radius, bottom: y + radius };
}

/**
 * The first free place of: right, left, above, below.
 * @param {Scene} scene
 * @param {number} node
 * @param {number} width
 * @param {Box[]} bodies
 * @param {Box[]} taken
 */
function findRoom(scene, node, width, bodies, taken) {
  const own = body(scene, node, 2);
  const y = (own.top + own.bottom) / 2;
  const x = (own.left + own.right) / 2;
  const logit = scene.store.graph.nodes[node].kind === "logit";
  const above = boxAt(Math.min(x - width / 2, scene.clip.right + OVERHANG - width), own.top - HEIGHT, width);
  const sides = [boxAt(own.right, y - HEIGHT / 2, width), boxAt(own.left - width, y - HEIGHT / 2, width)];
  const places = logit ? [above] : [...sides, above, boxAt(x - width / 2, own.bottom, width)];
  const others = bodies.filter((each) => !(each.left < x && each.right > x && each.top < y && each.bottom > y));
  return places.find((box) => inside(box, scene.clip) && !hits(box, taken) && !hits(box, others));
}

/**
 * @param {number} left
 * @param {number} top
 * @param {number} width
 * @returns {Box}
 */
function boxAt(left, top, width) {
  return { left, top, right: left + width, bottom: top + HEIGHT };
}

/**
 * @param {Box} box
 * @param {Box} frame
 */
function inside(box, frame) {
  return box.left >= frame.left && box.right <= frame.right + OVERHANG && box.top >= frame.top - 2 * HEIGHT && box.bottom <= frame.bottom;
}

/**
 * @param {Box} box
 * @param {Box[]} others
 */
function hits(box, others) {
  return others.some((each) => box.left < each.right && box.right > each.left && box.top < each.bottom && box.bottom > each.top);
}
