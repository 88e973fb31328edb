/**
 * Light and dark: what the system prefers, until the user chooses.
 *
 * Colours live in the style sheet as custom properties; canvases read them from here.
 */
import { remember } from "glassworks/source";

const KEY = "glassworks:theme";
const listeners = /** @type {(() => void)[]} */ ([]);
const system = matchMedia("(prefers-color-scheme: dark)");

/** Applies the theme that was chosen before, and follows the system where none was. */
export function startTheme() {
  apply(chosen());
  system.addEventListener("change", () => apply(chosen()));
}

/** @returns {"light" | "dark"} */
export function currentTheme() {
  return document.documentElement.dataset.theme === "dark" ? "dark" : "light";
}

/** Changes from light to dark or back, and remembers it. */
export function toggleTheme() {
  const theme = currentTheme() === "dark" ? "light" : "dark";
  remember(KEY, theme);
  apply(theme);
}

/** @param {() => void} listener called when the colours have changed */
export function onTheme(listener) {
  listeners.push(listener);
}

/** @param {string} name of a custom property, without its dashes */
export function colour(name) {
  return getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();
}

/** @returns {string} */
function chosen() {
  try {
    const theme = JSON.parse(localStorage.getItem(KEY) ?? "null");
    if (theme === "light" || theme === "dark") return theme;
  } catch {
    // No storage here: follow the system.
  }
  return system.matches ? "dark" : "light";
}

/** @param {string} theme */
function apply(theme) {
  document.documentElement.dataset.theme = theme;
  for (const listener of listeners) listener();
}
