/**
 * Pins and groups: the circuit that the reader is cutting out of the graph, as a list, and the question for a name.
 */
import { css, h, tokenText } from "glassworks/dom";
import { nodeName, place, shortName } from "glassworks/model";

/** @typedef {import("glassworks/store").Store} Store */

/** Groups of so many nodes list them at once. */
const FEW = 4;

/**
 * @param {HTMLElement} root
 * @param {Store} store
 */
export function showGroups(root, store) {
  store.on(["pinned", "groups"], () => {
    const { groups, pinned } = store.state;
    const loose = pinned.filter((id) => store.graph.places.has(id));
    const empty = !groups.length && !loose.length;
    const hint = h("p", { class: "hint" }, "Nothing yet. Select a node and press ", h("kbd", {}, "P"), " to pin it or ", h("kbd", {}, "G"), " to put it into a named group; Shift-click marks several.");
    const { proposals } = store.graph.document;
    const propose = h("button", { type: "button", class: "quiet", id: "propose", onclick: () => store.propose() }, "Propose groups");
    root.replaceChildren(
      h("header", {}, h("h2", {}, "Circuit"), proposals.length && !groups.length ? propose : null),
      ...(empty ? [hint] : []),
      ...groups.map((group, place) => groupCard(store, group, place)),
      ...(loose.length ? [h("div", { class: "card" }, h("h3", {}, "Pinned"), memberList(store, loose, "pin"))] : []),
    );
  });
}

/**
 * @param {Store} store
 * @param {import("glassworks/model").Group} group
 * @param {number} index
 */
function groupCard(store, group, index) {
  const name = h("input", { class: "name", value: group.name, title: group.name, "aria-label": "Name of the group" });
  name.addEventListener("change", () => store.renameGroup(group.name, name.value.trim()));
  const colour = css(h("span", { class: "swatch" }), { background: `var(--group-${index % 8})` });
  const away = h("button", { class: "quiet", type: "button", title: "Dissolve the group", "aria-label": `Dissolve ${group.name}`, onclick: () => store.ungroup(group.name) }, "×");
  const size = h("summary", {}, `${group.nodes.length} ${group.nodes.length === 1 ? "node" : "nodes"}`);
  const members = h("details", { open: group.nodes.length <= FEW }, size, memberList(store, group.nodes, "group"));
  return h("div", { class: "card" }, h("header", {}, colour, name, away), members);
}

/**
 * @param {Store} store
 * @param {string[]} ids
 * @param {"pin" | "group"} how
 */
function memberList(store, ids, how) {
  const { graph } = store;
  const rows = ids.flatMap((id) => {
    const at = graph.places.get(id);
    if (at === undefined) return [];
    const node = graph.nodes[at];
    const leave = () => (how === "pin" ? store.togglePin([at]) : store.group(null, [at]));
    const name = node.kind === "feature" ? nodeName(node) : node.label ? tokenText(node.label) : nodeName(node);
    const go = h("button", { class: "member", type: "button", title: nodeName(node), onclick: () => store.select(at) }, h("span", { class: `glyph ${node.kind}` }), h("span", { class: "text" }, name), h("small", {}, place(graph, node)));
    return [h("li", {}, go, h("button", { class: "quiet", type: "button", title: "Take out", "aria-label": `Take out ${name}`, onclick: leave }, "×"))];
  });
  return h("ul", { class: "members" }, ...rows);
}

/**
 * Asks for the group that nodes shall go into.
 * @param {Store} store
 * @param {number[]} nodes
 */
export function askGroup(store, nodes) {
  if (!nodes.length) return;
  const back = /** @type {HTMLElement | SVGElement | null} */ (document.activeElement);
  const proposal = shortName(store.graph.nodes[nodes[0]]);
  const name = h("input", { name: "group", list: "groups", value: proposal, autocomplete: "off", required: true });
  const options = store.state.groups.map((group) => h("option", { value: group.name }));
  const what = nodes.length > 1 ? `${nodes.length} nodes` : `“${proposal}”`;
  const cancel = h("button", { type: "button", onclick: () => dialog.close() }, "Cancel");
  const form = h("form", { method: "dialog" }, h("h2", {}, `Group ${what}`), h("label", {}, "Name of a new or existing group", name), h("datalist", { id: "groups" }, ...options));
  form.append(h("footer", {}, cancel, h("button", { class: "main", type: "submit" }, "Group")));
  const dialog = h("dialog", { class: "query", "aria-label": "Group nodes" }, form);
  form.addEventListener("submit", () => name.value.trim() && store.group(name.value.trim(), nodes));
  dialog.addEventListener("close", () => {
    dialog.remove();
    back?.focus();
  });
  document.body.append(dialog);
  dialog.showModal();
  name.select();
}
