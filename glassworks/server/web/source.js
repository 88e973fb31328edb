/**
 * Where the page's graph comes from and where pins and groups go: the server, or the file itself.
 *
 * A served page asks the server. An exported page carries its document and keeps changes in the browser's own
 * storage, and can write a copy of itself. No other module talks to either.
 */
import { download } from "glassworks/dom";

/** @typedef {import("glassworks/model").GraphDocument} GraphDocument */
/** @typedef {import("glassworks/model").Details} Details */
/** @typedef {import("glassworks/model").EdgeHeads} EdgeHeads */
/** @typedef {import("glassworks/model").HeadScore} HeadScore */
/** @typedef {import("glassworks/model").Outcome} Outcome */
/** @typedef {{pinned: string[], supernodes: import("glassworks/model").Group[]}} Groups */
/** @typedef {{name: string, prompt: string}} Entry */

/**
 * @typedef {object} Source
 * @property {GraphDocument} document
 * @property {Entry[]} graphs all graphs that can be opened from here
 * @property {string} saving where groups are kept, in words
 * @property {(node: import("glassworks/model").GraphNode) => Promise<Details | null>} details
 * @property {(groups: Groups) => Promise<void>} save
 * @property {() => void} exportPage keeps the graph as one file
 * @property {(source: string, target: string) => Promise<EdgeHeads | null>} edge the heads of an edge
 * @property {(layer: number, head: number, query: number, key: number) => Promise<HeadScore | null>} head its score
 * @property {boolean} open whether the model can be run from here: other graphs traced, edits tried
 * @property {(targets: string[]) => Promise<string>} trace makes the graph of other targets, and tells its name
 * @property {(edits: object[]) => Promise<Outcome>} edit runs the prompt with and without edits
 */

/** An answer of the server that is an error, with its one clear sentence. */
export class Refused extends Error {}

/**
 * Opens the graph that this page is about.
 * @returns {Promise<Source>}
 */
export async function openSource() {
  const embedded = document.getElementById("document");
  return embedded ? embeddedSource(JSON.parse(embedded.textContent ?? "")) : serverSource();
}

/**
 * @param {string} address
 * @param {RequestInit} [options]
 */
async function request(address, options) {
  const answer = await fetch(address, options);
  const json = answer.headers.get("content-type")?.startsWith("application/json");
  const body = json ? await answer.json() : { error: `The server answered ${answer.status} ${answer.statusText}.` };
  if (!answer.ok) throw new Refused(body.error);
  return body;
}

/**
 * @param {string} method
 * @param {unknown} value
 * @returns {RequestInit}
 */
function sent(method, value) {
  return { method, headers: { "Content-Type": "application/json" }, body: JSON.stringify(value) };
}

/** @returns {Promise<Source>} */
async function serverSource() {
  /** @type {{graphs: Entry[]}} */
  const { graphs } = await request("/api/graphs");
  const address = /^\/graph\/([^/]+)$/.exec(location.pathname)?.[1];
  const name = address ? decodeURIComponent(address) : graphs[0]?.name;
  if (!name) throw new Refused("There is no graph here yet; make one with `glassworks trace`, then load this page again.");
  const base = `/api/graph/${encodeURIComponent(name)}`;
  return {
    document: await request(base),
    graphs,
    saving: "with the graph",
    details: async (node) => (node.coder ? request(`${base}/feature/${encodeURIComponent(node.coder)}/${node.index}`) : null),
    save: async (groups) => void (await request(`${base}/groups`, sent("PUT", groups))),
    edge: (source, target) => request(`${base}/edge/${source}/${target}`),
    head: (layer, head, query, key) => request(`${base}/head/${layer}/${head}/${query}/${key}`),
    open: true,
    trace: async (targets) => (await request(`${base}/trace`, sent("POST", { targets }))).name,
    edit: (edits) => request(`${base}/edit`, sent("POST", { edits })),
    exportPage: () => location.assign(`/graph/${encodeURIComponent(name)}.html`),
  };
}

/**
 * @param {GraphDocument} graph
 * @returns {Source}
 */
function embeddedSource(graph) {
  const key = `glassworks:${graph.name}:${graph.prompt}`;
  const kept = remembered(key);
  let current = { ...graph, ...kept };
  return {
    document: current,
    graphs: [],
    saving: "in this browser; save a copy to pass them on",
    details: async (node) => graph.details?.[`${node.coder}/${node.index}`] ?? null,
    save: async (groups) => {
      current = { ...graph, ...groups };
      remember(key, groups);
    },
    exportPage: () => download(`${graph.name}.html`, "text/html", pageWith(current)),
    edge: async (source, target) => graph.attention?.edges[`${source}>${target}`] ?? null,
    head: async (layer, head, query, key) => graph.attention?.scores[`${layer}.${head}.${query}.${key}`] ?? null,
    open: false,
    trace: async () => "",
    edit: () => Promise.reject(new Refused("Edits need the model: serve the graph with `glassworks serve`.")),
  };
}

/**
 * This page's own text with another document in it.
 * @param {GraphDocument} graph
 */
function pageWith(graph) {
  const json = JSON.stringify(graph).replaceAll("<", "\\u003c");
  const script = `<script type="application/json" id="document">${json}</script>`;
  return `<!doctype html>\n<html lang="en">${document.head.outerHTML}<body>${script}<div id="app"></div></body></html>\n`;
}

/**
 * Storage may be forbidden (a sandboxed frame); then changes last as long as the page.
 * @param {string} key
 * @returns {Partial<Groups>}
 */
function remembered(key) {
  try {
    return JSON.parse(localStorage.getItem(key) ?? "{}");
  } catch {
    return {};
  }
}

/**
 * @param {string} key
 * @param {unknown} value
 */
export function remember(key, value) {
  try {
    localStorage.setItem(key, JSON.stringify(value));
  } catch {
    // Nothing to do: the page itself still holds the value.
  }
}
