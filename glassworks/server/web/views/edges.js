/**
 * The edges of the graph, on a canvas: tens of thousands of them must not become elements.
 *
 * The strongest edges lie faintly in the background; those that stand out are drawn over them, blue-green where they
 * excite and red where they inhibit, as wide as their share of what they enter.
 */
import { h } from "glassworks/dom";
import { linkShare } from "glassworks/model";
import { colour, onTheme } from "glassworks/theme";

const BACKGROUND = 1600;

/**
 * @typedef {object} Scene
 * @property {import("glassworks/store").Store} store
 * @property {import("glassworks/layout").Layout} layout
 * @property {import("d3-zoom").ZoomTransform} transform
 * @property {import("glassworks/emphasis").Emphasis} emphasis
 * @property {{left: number, top: number, right: number, bottom: number}} clip
 */

export class EdgeCanvas {
  constructor() {
    this.back = canvas("edges back");
    this.front = canvas("edges front");
    this.pens = { positive: "", negative: "", quiet: "" };
    this.drawn = "";
    this.readColours();
    onTheme(() => this.readColours());
    /** @type {{kept: unknown, links: number[]}} */
    this.background = { kept: null, links: [] };
  }

  readColours() {
    this.pens = { positive: colour("positive"), negative: colour("negative"), quiet: colour("edge") };
    this.drawn = "";
  }

  /**
   * @param {number} width
   * @param {number} height
   */
  resize(width, height) {
    const ratio = window.devicePixelRatio || 1;
    for (const each of [this.back, this.front]) {
      each.width = Math.round(width * ratio);
      each.height = Math.round(height * ratio);
    }
    this.drawn = "";
  }

  /**
   * Draws what stands out anew, and the background only where it would change.
   * @param {Scene} scene
   */
  draw(scene) {
    const { kept } = scene.store.state;
    const state = `${scene.transform} ${this.back.width} ${this.back.height}`;
    if (this.background.kept !== kept || this.drawn !== state) {
      if (this.background.kept !== kept) this.background = { kept, links: strongest(kept) };
      within(this.back, scene, (pen) => this.drawBackground(pen, scene));
      this.drawn = state;
    }
    this.back.classList.toggle("calm", scene.emphasis.mode !== "summary");
    within(this.front, scene, (pen) => this.drawStrong(pen, scene));
  }

  /**
   * @param {CanvasRenderingContext2D} pen
   * @param {Scene} scene
   */
  drawBackground(pen, scene) {
    const { kept } = scene.store.state;
    const links = this.background.links;
    const { source, target } = scene.store.graph.links;
    const most = links.length ? kept.score[links[0]] : 1;
    pen.strokeStyle = this.pens.quiet;
    for (const link of links) {
      const part = Math.sqrt(kept.score[link] / most);
      pen.globalAlpha = 0.05 + 0.5 * part;
      pen.lineWidth = 0.6 + 1.6 * part;
      curve(pen, scene, source[link], target[link]);
    }
  }

  /**
   * @param {CanvasRenderingContext2D} pen
   * @param {Scene} scene
   */
  drawStrong(pen, scene) {
    const { store, emphasis } = scene;
    const { weight } = store.graph.links;
    const members = emphasis.spines.length > 0;
    const shares = emphasis.links.map((link) => linkShare(store.graph, link));
    const most = Math.max(...shares, 1e-9);
    for (let place = emphasis.links.length - 1; place >= 0; place--) {
      const link = emphasis.links[place];
      const part = Math.sqrt(shares[place] / most);
      pen.strokeStyle = weight[link] >= 0 ? this.pens.positive : this.pens.negative;
      pen.globalAlpha = members ? 0.3 * part : 0.1 + 0.85 * part;
      pen.lineWidth = members ? 1 : 0.6 + 4.4 * part;
      curve(pen, scene, store.graph.links.source[link], store.graph.links.target[link]);
    }
    this.drawSpines(pen, scene);
  }

  /**
   * Paths, step by step; a step that two paths share is drawn once, as wide as the stronger one.
   * @param {CanvasRenderingContext2D} pen
   * @param {Scene} scene
   */
  drawSpines(pen, scene) {
    pen.globalAlpha = 0.95;
    for (const { source, target, inhibits, part } of [...scene.emphasis.spines].reverse()) {
      pen.strokeStyle = inhibits ? this.pens.negative : this.pens.positive;
      pen.lineWidth = 1.4 + 3 * Math.sqrt(part);
      curve(pen, scene, source, target);
    }
  }
}

/** @param {string} name */
function canvas(name) {
  return h("canvas", { class: name, "aria-hidden": "true" });
}

/**
 * Clears a canvas and draws inside of the plot.
 * @param {HTMLCanvasElement} target
 * @param {Scene} scene
 * @param {(pen: CanvasRenderingContext2D) => void} draw
 */
function within(target, { clip }, draw) {
  const pen = target.getContext("2d");
  if (!pen) return;
  const ratio = window.devicePixelRatio || 1;
  pen.setTransform(ratio, 0, 0, ratio, 0, 0);
  pen.clearRect(0, 0, target.width, target.height);
  pen.save();
  pen.beginPath();
  pen.rect(clip.left, clip.top, clip.right - clip.left, clip.bottom - clip.top);
  pen.clip();
  draw(pen);
  pen.restore();
}

/** @param {import("glassworks/prune").Kept} kept */
function strongest(kept) {
  const links = [...kept.links.keys()].filter((link) => kept.links[link]);
  return links.sort((a, b) => kept.score[b] - kept.score[a]).slice(0, BACKGROUND);
}

/**
 * @param {CanvasRenderingContext2D} pen
 * @param {Scene} scene
 * @param {number} source
 * @param {number} target
 */
function curve(pen, { layout, transform }, source, target) {
  const x1 = transform.applyX(layout.x[source]);
  const y1 = transform.applyY(layout.y[source]);
  const x2 = transform.applyX(layout.x[target]);
  const y2 = transform.applyY(layout.y[target]);
  const middle = (y1 + y2) / 2;
  pen.beginPath();
  pen.moveTo(x1, y1);
  pen.bezierCurveTo(x1, middle, x2, middle, x2, y2);
  pen.stroke();
}
