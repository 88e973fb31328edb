/**
 * A query for another graph of the same prompt: of other tokens, positions, features or directions.
 */
import { h } from "glassworks/dom";

/** @typedef {import("glassworks/source").Source} Source */

/** Targets as they are written, with what they mean; the command line reads the same words. */
const WORDS = [
  ["cold", "a token that may come next"],
  ["cold - hot", "the difference of two tokens"],
  ["cold@5", "a token after token 5; −1 is the last"],
  ["likely@5", "the likeliest tokens there"],
  ["next:3", "the three tokens that follow"],
  ["mlp_in.2/17@5", "feature 17 of a coder at token 5"],
  ["direction:FILE:SITE@5", "a direction from a file beside the graph"],
];

/**
 * Traces other targets and goes to their graph.
 * @param {Source} source
 * @param {string[]} targets
 * @param {(text: string) => void} report
 */
export async function explain(source, targets, report) {
  report("Tracing …");
  try {
    const name = await source.trace(targets);
    location.assign(`/graph/${encodeURIComponent(name)}`);
  } catch (error) {
    report(error instanceof Error ? error.message : String(error));
  }
}

/** @param {Source} source */
export function openQuery(source) {
  const field = h("input", { name: "targets", autocomplete: "off", required: true, placeholder: "cold; likely@5" });
  const answer = h("p", { class: "hint", role: "status" });
  const words = h("dl", { class: "wording" }, ...WORDS.flatMap(([word, meaning]) => [h("dt", {}, h("code", {}, word)), h("dd", {}, meaning)]));
  const cancel = h("button", { type: "button", onclick: () => dialog.close() }, "Cancel");
  const form = h("form", {}, h("h2", {}, "Explain something else in this prompt"), h("label", {}, "Targets, several with ; between them", field), words, answer);
  form.append(h("footer", {}, cancel, h("button", { class: "main", type: "submit" }, "Explain")));
  const dialog = h("dialog", { class: "query", "aria-label": "Explain something else" }, form);
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    const targets = field.value.split(";").map((each) => each.trim()).filter(Boolean);
    void explain(source, targets, (text) => (answer.textContent = text));
  });
  dialog.addEventListener("close", () => dialog.remove());
  document.body.append(dialog);
  dialog.showModal();
}
