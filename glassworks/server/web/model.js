/**
 * The graph document that the page reads, and the indices that every view needs.
 *
 * One JSON document feeds the server's page, the one-file export and the notebook; `glassworks/server/document.py`
 * writes it. This module must not know how anything is drawn.
 */
import { percent, tokenText } from "glassworks/dom";

/**
 * @typedef {"embedding" | "feature" | "error" | "logit"} Kind
 *
 * @typedef {object} GraphNode
 * @property {string} id stable within the graph, what groups are saved with
 * @property {Kind} kind
 * @property {number} layer -1 for embeddings, the number of layers for logits
 * @property {string} part part of the layer that a feature or error belongs to, "mlp" or "attention"
 * @property {boolean} open a feature whose inputs were not computed
 * @property {number} position index into the prompt's tokens
 * @property {number} index feature number, vocabulary id, or -1
 * @property {string | null} coder name of the coder of a feature
 * @property {string} label
 * @property {number | null} activation
 * @property {number | null} probability of a logit
 * @property {"logit" | "difference" | "feature" | "direction" | null} target what an outcome is
 * @property {number} influence share of the flow into the outcomes that passes through this node
 * @property {number} share of all influence that lies in stronger nodes: kept where it is below the node threshold
 * @property {number} inflow sum of the absolute weights of everything that enters this node, left-out edges too
 * @property {number | null} bias constant part of what this node reads
 *
 * @typedef {object} Links edges as columns; source and target are places in `nodes`
 * @property {number[]} source
 * @property {number[]} target
 * @property {number[]} weight
 *
 * @typedef {object} Step
 * @property {string} name
 * @property {number[]} nodes places in `nodes`; one, or the members of a group that works as one
 *
 * @typedef {object} Path
 * @property {Step[]} steps from the input up to an outcome
 * @property {boolean[]} inhibits whether each step lowers the next
 * @property {number} weight signed share of the outcome's input that takes this path
 *
 * @typedef {object} Prediction an outcome that the graph explains
 * @property {string} token
 * @property {number} probability
 * @property {number} position
 * @property {"logit" | "difference" | "feature" | "direction"} target
 *
 * @typedef {object} HeadPart the part of an edge that a head moves
 * @property {number} layer
 * @property {number} head
 * @property {number} value signed
 * @property {number} share of the edge
 * @property {number} query position to which most of it goes
 * @property {number} key position from which that comes
 *
 * @typedef {object} EdgeHeads an edge, taken apart by heads
 * @property {{layer: number, below: number, passes: number}[]} layers
 * @property {HeadPart[]} heads the strongest first
 *
 * @typedef {object} Contributor a source of a score
 * @property {number | null} node its number, null where the graph does not hold it
 * @property {Kind | "bias"} kind
 * @property {number} layer
 * @property {number} position
 * @property {number} index
 * @property {string} label
 *
 * @typedef {object} HeadScore why a head looks from one position to another
 * @property {number} query
 * @property {number} key
 * @property {number} score
 * @property {number} weight attention
 * @property {{query: Contributor, key: Contributor, value: number}[]} pairs
 * @property {{source: Contributor, value: number}[]} queries
 * @property {{source: Contributor, value: number}[]} keys
 *
 * @typedef {object} Outcome what edits do to the prompt
 * @property {string[]} edits each in words
 * @property {{token: string, clean: number, edited: number}[]} choices the likeliest next tokens without and with them
 * @property {number[]} kl divergence after each token, in nats
 * @property {string} clean_text how the model goes on without them
 * @property {string} edited_text and with them
 *
 * @typedef {object} Attention
 * @property {Record<string, EdgeHeads>} edges by `SOURCE>TARGET`, ids of nodes
 * @property {Record<string, HeadScore>} scores by `LAYER.HEAD.QUERY.KEY`
 *
 * @typedef {object} Group
 * @property {string} name
 * @property {string[]} nodes ids
 *
 * @typedef {object} Scores
 * @property {number | null} replacement
 * @property {number | null} completeness
 * @property {number | null} conservation
 * @property {number} nodes
 * @property {number} edges
 * @property {number} features
 *
 * @typedef {object} Details evidence of one feature
 * @property {string} label
 * @property {number | null} density
 * @property {number | null} max_activation
 * @property {{token: string, weight: number}[]} top_tokens what it fires on
 * @property {string[]} context_tokens what was said there or before
 * @property {string[]} following_tokens what comes later
 * @property {{token: string, value: number}[]} top_logits
 * @property {{token: string, value: number}[]} bottom_logits
 * @property {{tokens: string[], activations: number[]}[]} examples
 *
 * @typedef {object} GraphDocument
 * @property {string} name
 * @property {string} prompt
 * @property {string} model
 * @property {string} scope
 * @property {number} layers
 * @property {string[]} tokens
 * @property {string} next what the model says next
 * @property {Prediction[]} predictions the graph's outcomes, the likeliest first
 * @property {Scores} scores
 * @property {GraphNode[]} nodes
 * @property {Links} links
 * @property {Path[]} paths
 * @property {Group[]} supernodes
 * @property {Group[]} proposals groups that the labels suggest
 * @property {string[]} pinned
 * @property {{node: number, edge: number}} pruning
 * @property {{nodes: number, edges: number}} omitted what was left out of this document because of its size
 * @property {Record<string, Details>} [details] evidence by `coder/index`, where the document carries it
 * @property {Attention} [attention] heads of the strongest edges, where the document carries them
 *
 * @typedef {object} Graph
 * @property {GraphDocument} document
 * @property {GraphNode[]} nodes
 * @property {Links} links
 * @property {number[][]} incoming links into each node, strongest first
 * @property {number[][]} outgoing links out of each node, strongest first
 * @property {Map<string, number>} places node id to place in `nodes`
 */

/**
 * Indexes a document.
 * @param {GraphDocument} document
 * @returns {Graph}
 */
export function indexGraph(document) {
  const { nodes, links } = document;
  const incoming = nodes.map(() => /** @type {number[]} */ ([]));
  const outgoing = nodes.map(() => /** @type {number[]} */ ([]));
  const order = [...links.weight.keys()].sort((a, b) => Math.abs(links.weight[b]) - Math.abs(links.weight[a]));
  for (const link of order) {
    incoming[links.target[link]].push(link);
    outgoing[links.source[link]].push(link);
  }
  const places = new Map(nodes.map((node, place) => [node.id, place]));
  return { document, nodes, links, incoming, outgoing, places };
}

/** @typedef {Pick<GraphNode, "label" | "layer" | "index"> & {kind: Kind | "bias"}} Named */

/**
 * The full name of a node. Labels are written with typewriter arrows; people get real ones.
 * @param {Named} node
 */
export function nodeName(node) {
  if (node.label) return node.label.replaceAll("~>", "⇝").replaceAll("->", "→").replaceAll(" .. ", " … ");
  if (node.kind === "error") return `error of layer ${node.layer}`;
  return node.kind === "feature" ? `feature ${node.index}` : node.kind;
}

/**
 * A name short enough to stand beside a node: the first words of what it reads, and of what it writes.
 * @param {Named} node
 */
export function shortName(node) {
  const [, reads, arrow, writes] = /^(.*?)(?:\s*([→⇝])\s*(.*))?$/.exec(nodeName(node)) ?? [];
  const left = (reads ?? "").split(" … ").map((part, at, all) => firstWords(part, all.length > 1 ? 9 : arrow ? 17 : 26)).join(" … ");
  return arrow ? `${left} ${arrow} ${firstWords(writes, 14)}` : clip(left, 26);
}

/**
 * As many words of a list as fit, one at least.
 * @param {string} list with commas
 * @param {number} most characters
 */
function firstWords(list, most) {
  const words = list.split(", ");
  let text = clip(words[0], Math.max(most, 12));
  for (const word of words.slice(1)) {
    if (text.length + word.length + 2 > most) break;
    text += `, ${word}`;
  }
  return text;
}

/**
 * @param {string} text
 * @param {number} most
 */
export function clip(text, most) {
  return text.length > most ? `${text.slice(0, most - 1).trimEnd()}…` : text;
}

/**
 * The probability of an outcome, where it is a token and not a difference, feature or direction.
 * @param {GraphNode} node
 */
export function chance(node) {
  return node.target === "logit" && node.probability !== null ? percent(node.probability) : "";
}

/**
 * Where a node lies, in words.
 * @param {Graph} graph
 * @param {GraphNode} node
 */
export function place(graph, node) {
  const token = tokenText(graph.document.tokens[node.position] ?? "");
  if (node.kind === "embedding") return `input token ${node.position}`;
  if (node.kind === "logit") return node.target === "feature" || node.target === "direction" ? `read at “${token}”` : `next token after “${token}”`;
  return `layer ${node.layer} at “${token}”`;
}

/**
 * The share of a target's whole input that one link carries.
 * @param {Graph} graph
 * @param {number} link
 */
export function linkShare(graph, link) {
  const inflow = graph.nodes[graph.links.target[link]].inflow;
  return inflow > 0 ? Math.abs(graph.links.weight[link]) / inflow : 0;
}
