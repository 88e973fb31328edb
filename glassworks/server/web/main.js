/**
 * The explorer's page: opens the graph, puts the views in their places and keeps what the reader groups.
 */
import { h } from "glassworks/dom";
import { indexGraph } from "glassworks/model";
import { openSource, Refused } from "glassworks/source";
import { Store } from "glassworks/store";
import { currentTheme, startTheme, toggleTheme } from "glassworks/theme";
import { showCircuit } from "glassworks/views/circuit";
import { showControls, searchField } from "glassworks/views/controls";
import { GraphView } from "glassworks/views/graph";
import { showGroups } from "glassworks/views/groups";
import { KEYS } from "glassworks/views/keyboard";
import { showPanel } from "glassworks/views/panel";
import { openQuery } from "glassworks/views/query";
import { showSummary } from "glassworks/views/summary";

/** @typedef {import("glassworks/source").Source} Source */

startTheme();
const app = /** @type {HTMLElement} */ (document.getElementById("app"));
try {
  build(app, await openSource());
} catch (error) {
  if (!(error instanceof Refused)) throw error;
  app.append(h("div", { class: "refused", role: "alert" }, h("h1", {}, "Nothing to show"), h("p", {}, error.message)));
}

/**
 * @param {HTMLElement} root
 * @param {Source} source
 */
function build(root, source) {
  const store = new Store(indexGraph(source.document));
  document.title = `${source.document.prompt} · Glassworks`;
  const part = (/** @type {string} */ name, /** @type {string} */ label) => h("section", { class: name, "aria-label": label });
  const summary = part("summary", "Prompt, predictions and scores");
  const stage = part("stage", "Attribution graph");
  const controls = part("controls", "Pruning and legend");
  const node = part("details", "Selected node");
  const groups = part("groups", "Circuit");
  const side = h("aside", {}, node, groups);
  root.append(bar(store, source), summary, h("main", {}, h("div", { class: "middle" }, stage, controls), side), notice(store));
  showSummary(summary, store);
  const view = new GraphView(stage, store);
  const circuit = h("div", { class: "circuit", hidden: true });
  stage.append(circuit);
  showCircuit(circuit, store);
  showControls(controls, store, view);
  showPanel(node, store, source);
  showGroups(groups, store);
  keepGroups(store, source);
  globalKeys(store);
  root.dataset.ready = "true";
}

/**
 * @param {Store} store
 * @param {Source} source
 */
function bar(store, source) {
  const { model, scope } = source.document;
  const theme = h("button", { type: "button", id: "theme", title: "Light or dark", "aria-label": "Light or dark", onclick: toggleTheme }, "◐");
  theme.addEventListener("click", () => theme.setAttribute("aria-pressed", String(currentTheme() === "dark")));
  const keep = h("button", { type: "button", id: "export", title: "Keep this graph as one file that needs no server", onclick: source.exportPage }, "Save as file");
  const query = source.open ? h("button", { type: "button", id: "query", title: "Explain another token, position, feature or direction of this prompt", onclick: () => openQuery(source) }, "Explain …") : null;
  const help = h("button", { type: "button", id: "help", title: "Keys", "aria-label": "Keys", onclick: showKeys }, "?");
  const brand = h("span", { class: "brand" }, h("span", { class: "mark", "aria-hidden": "true" }), "Glassworks");
  const origin = h("span", { class: "origin" }, [model, scope].filter((each, place, all) => each && all.indexOf(each) === place).join(" · "));
  return h("header", { class: "bar" }, brand, ...graphChoice(source), origin, searchField(store), query, keep, theme, help);
}

/** @param {Source} source */
function graphChoice({ graphs, document }) {
  if (graphs.length < 2) return [];
  const options = graphs.map(({ name, prompt }) => h("option", { value: name, selected: name === document.name }, prompt || name));
  const choice = h("select", { "aria-label": "Graph" }, ...options);
  choice.addEventListener("change", () => location.assign(`/graph/${encodeURIComponent(choice.value)}`));
  return [choice];
}

/** @param {Store} store */
function notice(store) {
  const line = h("p", { class: "notice", role: "status", "aria-live": "polite" });
  let timer = 0;
  store.on(["notice"], () => {
    line.textContent = store.state.notice;
    line.classList.toggle("shown", Boolean(store.state.notice));
    clearTimeout(timer);
    timer = window.setTimeout(() => store.set({ notice: "" }), 3500);
  });
  return line;
}

/**
 * Saves pins and groups whenever they change, one writing after the other.
 * @param {Store} store
 * @param {Source} source
 */
function keepGroups(store, source) {
  let first = true;
  let writing = Promise.resolve();
  store.on(["pinned", "groups"], () => {
    if (first) {
      first = false;
      return;
    }
    const { pinned, groups } = store.state;
    writing = writing
      .then(() => source.save({ pinned, supernodes: groups }))
      .then(() => store.set({ notice: `${store.state.notice || "Changed"}, saved ${source.saving}` }))
      .catch((error) => store.set({ notice: `Not saved: ${error.message}` }));
  });
}

/** @param {Store} store */
function globalKeys(store) {
  document.addEventListener("keydown", (event) => {
    const typing = event.target instanceof HTMLInputElement && event.target.type !== "range";
    if (event.key === "Escape" && !document.querySelector("dialog[open]")) {
      store.set({ selected: null, marked: [], query: "", path: null });
      if (typing) /** @type {HTMLElement} */ (event.target).blur();
    }
    if (typing || event.ctrlKey || event.metaKey) return;
    if (event.key === "/") {
      event.preventDefault();
      document.getElementById("search")?.focus();
    }
    if (event.key === "?") showKeys();
  });
}

function showKeys() {
  const rows = KEYS.flatMap(([keys, meaning]) => [h("dt", {}, ...keys.split(" ").map((key) => h("kbd", {}, key))), h("dd", {}, meaning)]);
  const dialog = h("dialog", { class: "query keys", "aria-label": "Keys" }, h("h2", {}, "Keys"), h("dl", {}, ...rows), h("form", { method: "dialog" }, h("button", { class: "main" }, "Close")));
  dialog.addEventListener("close", () => dialog.remove());
  document.body.append(dialog);
  dialog.showModal();
}
