/**
 * What the user is looking at: selection, thresholds, search, pins and groups; views listen to what they show.
 *
 * The store must not know the page; it holds values and says which of them changed.
 */
import { prune } from "glassworks/prune";

/** @typedef {import("glassworks/model").Graph} Graph */

/**
 * @typedef {object} State
 * @property {number | null} selected
 * @property {number | null} hovered
 * @property {number | null} pointed node that a list points at
 * @property {number[]} marked nodes chosen together, for grouping
 * @property {number[]} trail selections before this one, for going back
 * @property {number} node threshold
 * @property {number} edge threshold
 * @property {import("glassworks/prune").Kept} kept
 * @property {string} query
 * @property {number | null} path the strongest path pointed at, or none
 * @property {"graph" | "circuit"} tab
 * @property {string[]} pinned ids
 * @property {import("glassworks/model").Group[]} groups
 * @property {string} notice what happened last, for everyone to see and for screen readers to say
 */

export class Store {
  /** @param {Graph} graph */
  constructor(graph) {
    const { pruning, pinned, supernodes } = graph.document;
    this.graph = graph;
    /** @type {{keys: (keyof State)[], listener: () => void}[]} */
    this.listeners = [];
    /** @type {State} */
    this.state = {
      selected: null,
      hovered: null,
      pointed: null,
      marked: [],
      trail: [],
      node: pruning.node,
      edge: pruning.edge,
      kept: prune(graph, pruning.node, pruning.edge),
      query: "",
      path: null,
      tab: "graph",
      pinned: [...pinned],
      groups: supernodes.map((group) => ({ name: group.name, nodes: [...group.nodes] })),
      notice: "",
    };
  }

  /**
   * Calls a listener now and whenever one of the keys changes.
   * @param {(keyof State)[]} keys
   * @param {() => void} listener
   */
  on(keys, listener) {
    this.listeners.push({ keys, listener });
    listener();
  }

  /** @param {Partial<State>} patch */
  set(patch) {
    if (patch.node !== undefined || patch.edge !== undefined) {
      const { node, edge } = { ...this.state, ...patch };
      patch = { ...patch, kept: prune(this.graph, node, edge) };
    }
    const keys = /** @type {(keyof State)[]} */ (Object.keys(patch));
    const changed = keys.filter((key) => this.state[key] !== patch[key]);
    if (!changed.length) return;
    Object.assign(this.state, patch);
    for (const each of this.listeners) if (each.keys.some((key) => changed.includes(key))) each.listener();
  }

  /**
   * Selects a node (or nothing), remembering where we came from.
   * @param {number | null} node
   */
  select(node) {
    const { selected, trail } = this.state;
    if (node === selected) return;
    this.set({ selected: node, hovered: null, pointed: null, marked: [], trail: selected === null ? trail : [...trail.slice(-49), selected] });
  }

  /** Goes back to the node selected before. */
  back() {
    const trail = [...this.state.trail];
    const node = trail.pop();
    if (node !== undefined) this.set({ selected: node, trail });
  }

  /** @param {number} node added to the nodes chosen together, or taken out */
  mark(node) {
    const { marked, selected } = this.state;
    const chosen = marked.length || selected === null ? marked : [selected];
    this.set({ marked: chosen.includes(node) ? chosen.filter((each) => each !== node) : [...chosen, node] });
  }

  /** Nodes that a command applies to: the marked ones, else the selected one. */
  chosen() {
    const { marked, selected } = this.state;
    return marked.length ? marked : selected === null ? [] : [selected];
  }

  /** @param {number[]} nodes pinned, or unpinned where all of them are */
  togglePin(nodes) {
    const ids = nodes.map((node) => this.graph.nodes[node].id);
    const rest = this.state.pinned.filter((id) => !ids.includes(id));
    const all = rest.length === this.state.pinned.length - ids.length;
    this.set({ pinned: all ? rest : [...rest, ...ids], notice: `${ids.length} ${all ? "unpinned" : "pinned"}` });
  }

  /**
   * Puts nodes into a named group; a node lies in one group at most, an empty group vanishes.
   * @param {string | null} name null takes them out of their group
   * @param {number[]} nodes
   */
  group(name, nodes) {
    const ids = nodes.map((node) => this.graph.nodes[node].id);
    const others = this.state.groups.map((each) => ({ ...each, nodes: each.nodes.filter((id) => !ids.includes(id)) }));
    const home = others.find((each) => each.name === name);
    if (home) home.nodes.push(...ids);
    else if (name) others.push({ name, nodes: ids });
    const notice = name ? `${ids.length} in the group ${name}` : `${ids.length} taken out of their group`;
    this.set({ groups: others.filter((each) => each.nodes.length), marked: [], notice });
  }

  /**
   * @param {string} old
   * @param {string} name
   */
  renameGroup(old, name) {
    const taken = this.state.groups.some((each) => each.name === name);
    if (!name || name === old || taken) return;
    this.set({ groups: this.state.groups.map((each) => (each.name === old ? { ...each, name } : each)) });
  }

  /** Takes over the groups that the labels suggest, for nodes that are in none. */
  propose() {
    const taken = new Set(this.state.groups.flatMap((group) => group.nodes));
    const names = new Set(this.state.groups.map((group) => group.name));
    const fresh = this.graph.document.proposals.filter((group) => !names.has(group.name));
    const groups = fresh.map((group) => ({ ...group, nodes: group.nodes.filter((id) => !taken.has(id)) }));
    const added = groups.filter((group) => group.nodes.length);
    this.set({ groups: [...this.state.groups, ...added], notice: `${added.length} groups proposed` });
  }

  /** @param {string} name */
  ungroup(name) {
    this.set({ groups: this.state.groups.filter((each) => each.name !== name), notice: `The group ${name} is dissolved` });
  }

  /** Places of all nodes whose label, token or number holds the query. */
  matches() {
    const wanted = this.state.query.trim().toLowerCase();
    if (!wanted) return [];
    const found = [...this.graph.nodes.keys()].filter((place) => searchText(this.graph, place).includes(wanted));
    return found.sort((a, b) => this.graph.nodes[a].share - this.graph.nodes[b].share);
  }

  /** The place of a node's group in the list of groups, or -1. @param {number} node */
  groupOf(node) {
    const id = this.graph.nodes[node].id;
    return this.state.groups.findIndex((group) => group.nodes.includes(id));
  }
}

/**
 * @param {Graph} graph
 * @param {number} place
 */
function searchText(graph, place) {
  const node = graph.nodes[place];
  return `${node.label} ${node.kind} ${node.index} ${node.coder ?? ""}`.toLowerCase();
}
