/**
 * Trying an edit: the selected feature, those marked with it or its group changed, and what the model says then.
 */
import { css, h, number, percent, tokenText } from "glassworks/dom";

/** @typedef {import("glassworks/store").Store} Store */
/** @typedef {import("glassworks/source").Source} Source */

/** What can be done: word, operation of an edit, amount that is proposed (null for none). */
const OPERATIONS = /** @type {[string, string, number | null][]} */ ([
  ["Ablate", "zero", null],
  ["Multiply by", "scale", 2],
  ["Set to", "set", 1],
  ["Add", "add", 1],
]);
/** What was chosen last, for the next feature. */
const chosen = { operation: "zero", amount: 2, everywhere: "" };
const MOST = 5;

/**
 * @param {Store} store
 * @param {Source} source
 * @param {number} at the selected feature
 */
export function changeSection(store, source, at) {
  const targets = choices(store, at);
  const target = select("What", targets.map(([name], place) => [String(place), name]), "0");
  const operation = select("How", OPERATIONS.map(([word, name]) => [name, word]), chosen.operation);
  const amount = h("input", { type: "number", step: "any", value: String(chosen.amount), "aria-label": "Amount", required: true });
  const where = select("Where", [["", "at its token"], ["all", "at every token"]], chosen.everywhere);
  const run = h("button", { class: "main", type: "submit" }, "Try");
  const result = h("div", { class: "outcome", "aria-live": "polite" });
  const form = h("form", { class: "change-form" }, targets.length > 1 ? target : null, operation, amount, where, run);
  const arrange = () => {
    amount.hidden = OPERATIONS.find(([, name]) => name === operation.value)?.[2] === null;
  };
  operation.addEventListener("change", () => {
    amount.value = String(OPERATIONS.find(([, name]) => name === operation.value)?.[2] ?? amount.value);
    arrange();
  });
  arrange();
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    Object.assign(chosen, { operation: operation.value, amount: Number(amount.value), everywhere: where.value });
    const features = [...new Set(targets[Number(target.value)][1].map((node) => written(store, node, Boolean(where.value))))];
    const amounts = amount.hidden ? [] : [Number(amount.value)];
    void attempt(source, { operation: operation.value, target: { features }, amounts }, run, result);
  });
  const title = h("h3", {}, "Try an edit", h("small", {}, "in the model itself"));
  return h("section", { class: "change" }, title, form, result);
}

/**
 * What can be changed together: the feature, those marked with it, its group.
 * @param {Store} store
 * @param {number} at
 */
function choices(store, at) {
  const { graph, state } = store;
  const features = (/** @type {number[]} */ nodes) => nodes.filter((node) => graph.nodes[node].coder);
  const found = /** @type {[string, number[]][]} */ ([["This feature", [at]]]);
  const marked = features(state.marked);
  if (marked.length > 1) found.unshift([`${marked.length} marked features`, marked]);
  const group = state.groups[store.groupOf(at)];
  const members = features((group?.nodes ?? []).flatMap((id) => graph.places.get(id) ?? []));
  if (members.length > 1) found.push([`Group “${group.name}”, ${members.length} features`, members]);
  return found;
}

/**
 * A feature as edits write it.
 * @param {Store} store
 * @param {number} at
 * @param {boolean} everywhere
 */
function written({ graph }, at, everywhere) {
  const { coder, index, position } = graph.nodes[at];
  return everywhere ? `${coder}/${index}` : `${coder}/${index}@${position}`;
}

/**
 * @param {string} name
 * @param {[string, string][]} options value and text
 * @param {string} value
 */
function select(name, options, value) {
  return h("select", { "aria-label": name }, ...options.map(([each, text]) => h("option", { value: each, selected: each === value }, text)));
}

/**
 * @param {Source} source
 * @param {object} edit
 * @param {HTMLButtonElement} button
 * @param {HTMLElement} result
 */
async function attempt(source, edit, button, result) {
  button.disabled = true;
  try {
    result.replaceChildren(...shown(await source.edit([edit])));
  } catch (error) {
    result.replaceChildren(h("p", { class: "hint", role: "alert" }, error instanceof Error ? error.message : String(error)));
  } finally {
    button.disabled = false;
  }
}

/** @param {import("glassworks/model").Outcome} outcome */
function shown(outcome) {
  const bar = (/** @type {number} */ value, /** @type {string} */ kind) => h("td", {}, css(h("span", { class: `amount ${kind}` }, percent(value)), { "--part": value }));
  const rows = outcome.choices.slice(0, MOST).map(({ token, clean, edited }) => h("tr", {}, h("th", { scope: "row" }, tokenText(token)), bar(clean, "clean"), bar(edited, "edited")));
  const head = h("tr", {}, h("th", { scope: "col" }, "Next token"), h("th", { scope: "col" }, "As it is"), h("th", { scope: "col" }, "Edited"));
  const line = (/** @type {string} */ name, /** @type {string} */ text) => h("p", { class: "words" }, h("small", {}, name), text.trim() || "(nothing)");
  const moved = h("p", { class: "hint", title: "Divergence of the edited prediction from the model's own, KL(as it is || edited)" }, `The prediction moved by ${number(outcome.kl[outcome.kl.length - 1])} nats.`);
  return [h("table", {}, h("thead", {}, head), h("tbody", {}, ...rows)), line("As it is", outcome.clean_text), line("Edited", outcome.edited_text), moved];
}
