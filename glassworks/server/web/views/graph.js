/**
 * The attribution graph: tokens along the bottom, layers upward, nodes by influence, edges of what is pointed at.
 *
 * Nodes are SVG elements (they take focus and have names for screen readers), edges lie on a canvas below them.
 */
import { select } from "d3-selection";
import { zoom, zoomIdentity } from "d3-zoom";
import { count, css, h, percent, s, tokenText } from "glassworks/dom";
import { emphasis } from "glassworks/emphasis";
import { layOut } from "glassworks/layout";
import { clip, nodeName, place } from "glassworks/model";
import { onTheme } from "glassworks/theme";
import { EdgeCanvas } from "glassworks/views/edges";
import { takeKeys } from "glassworks/views/keyboard";
import { drawLabels } from "glassworks/views/labels";

/** @typedef {import("glassworks/store").Store} Store */

/** In a notebook's frame the wheel scrolls the notebook, unless Ctrl is held. */
const scrollsHere = window.self === window.top;
const MARGIN = { left: 62, right: 24, top: 48, bottom: 40 };
/** Outlines with an extent of about 1 around the origin. */
const SHAPES = {
  feature: "M1,0A1,1,0,1,1,-1,0A1,1,0,1,1,1,0Z",
  error: "M0,-1.15L1.15,0L0,1.15L-1.15,0Z",
  embedding: "M-.9,-.9H.9V.9H-.9Z",
  logit: "M-1.1,0L-.55,-.95H.55L1.1,0L.55,.95H-.55Z",
};

export class GraphView {
  /**
   * @param {HTMLElement} root
   * @param {Store} store
   */
  constructor(root, store) {
    this.store = store;
    this.edges = new EdgeCanvas();
    this.transform = zoomIdentity;
    this.size = { width: 0, height: 0 };
    this.layout = this.layOut();
    this.frame = 0;
    /** @type {{layout: unknown, transform: string}} what the nodes' places were last computed from */
    this.placed = { layout: null, transform: "" };
    this.makeElements(root);
    this.makeNodes();
    this.zoom = this.makeZoom();
    takeKeys(this);
    new ResizeObserver(() => this.resize()).observe(root);
    onTheme(() => this.redraw());
    store.on(["kept"], () => this.arrange());
    store.on(["tab"], () => this.svg?.toggleAttribute("hidden", store.state.tab !== "graph"));
    store.on(["selected", "hovered", "pointed", "marked", "path", "query", "pinned", "groups"], () => this.redraw());
  }

  /** @param {HTMLElement} root */
  makeElements(root) {
    const clipPath = s("clipPath", { id: "plot" }, (this.clipRect = s("rect")));
    this.bands = s("g", { class: "bands" });
    this.nodes = s("g", { class: "nodes" });
    this.labels = s("g", { class: "labels", "aria-hidden": "true" });
    this.axes = s("g", { class: "axes", "aria-hidden": "true" });
    const inside = s("g", { "clip-path": "url(#plot)" }, this.bands);
    const { nodes, edges } = this.store.graph.document.scores;
    const name = `Attribution graph with ${nodes} nodes and ${edges} edges. Arrow keys move between nodes, Enter selects.`;
    this.under = s("svg", { class: "under", "aria-hidden": "true" }, clipPath, inside);
    this.svg = s("svg", { class: "graph", role: "group", "aria-label": name }, this.nodes, this.labels, this.axes);
    this.tip = h("div", { class: "tip", role: "status" });
    root.append(this.under, this.edges.back, this.edges.front, this.svg, this.tip);
    this.root = root;
  }

  makeNodes() {
    const { graph } = this.store;
    /** @type {SVGGElement[]} */
    this.elements = graph.nodes.map((node, at) => {
      const label = `${node.kind} ${nodeName(node)}, ${place(graph, node)}, ${percent(node.influence)} of the flow`;
      const shape = s("path", { d: SHAPES[node.kind], "vector-effect": "non-scaling-stroke" });
      const halo = s("path", { class: "halo", d: SHAPES[node.kind], "vector-effect": "non-scaling-stroke" });
      const element = s("g", { class: `node ${node.kind}`, role: "button", tabindex: -1, "aria-label": label }, halo, shape);
      element.dataset.node = String(at);
      const depth = node.kind === "logit" ? (node.probability ?? 0) : node.influence * 3;
      return css(element, { "--depth": `${Math.round(100 * Math.min(1, 0.22 + 0.95 * Math.sqrt(depth)))}%` });
    });
    this.nodes?.append(...this.elements);
    select(this.nodes ?? null)
      .on("click", (event) => this.click(event))
      .on("pointerover", (event) => this.store.set({ hovered: nodeOf(event) }))
      .on("pointerout", () => this.store.set({ hovered: null }));
  }

  /** @param {MouseEvent} event */
  click(event) {
    const node = nodeOf(event);
    if (node === null) return;
    if (event.shiftKey) this.store.mark(node);
    else this.store.select(node);
    event.stopPropagation();
  }

  makeZoom() {
    const behaviour = /** @type {import("d3-zoom").ZoomBehavior<SVGSVGElement, unknown>} */ (zoom());
    behaviour.filter((event) => (event.type === "wheel" ? scrollsHere || event.ctrlKey : !event.button));
    behaviour.scaleExtent([1, 16]).on("zoom", (event) => {
      this.transform = event.transform;
      this.redraw();
    });
    const target = select(/** @type {SVGSVGElement} */ (this.svg));
    target.call(behaviour).on("dblclick.zoom", null);
    target.on("dblclick", () => target.call(behaviour.transform, zoomIdentity));
    target.on("click", () => this.store.set({ selected: null, marked: [], path: null }));
    return behaviour;
  }

  /** Changes the magnification about the middle. @param {number} factor */
  scaleBy(factor) {
    this.zoom.scaleBy(select(/** @type {SVGSVGElement} */ (this.svg)), factor);
  }

  resize() {
    const { width, height } = this.root?.getBoundingClientRect() ?? { width: 0, height: 0 };
    if (!width || !height || (width === this.size.width && height === this.size.height)) return;
    this.size = { width, height };
    this.edges.resize(width, height);
    this.zoom.extent([[0, 0], [width, height]]).translateExtent([[0, 0], [width, height]]);
    const { left, top, right, bottom } = this.plot();
    for (const [name, value] of Object.entries({ x: left, y: top, width: right - left, height: bottom - top })) {
      this.clipRect?.setAttribute(name, String(Math.max(0, value)));
    }
    this.arrange();
  }

  plot() {
    const { width, height } = this.size;
    return { left: MARGIN.left, top: MARGIN.top, right: width - MARGIN.right, bottom: height - MARGIN.bottom };
  }

  layOut() {
    const { left, top, right, bottom } = this.plot();
    const space = { width: Math.max(1, right - left), height: Math.max(1, bottom - top), labelWidth: tokenWidth };
    const layout = layOut(this.store.graph, this.store.state.kept.nodes, space);
    for (const node of layout.x.keys()) {
      layout.x[node] += left;
      layout.y[node] += top;
    }
    layout.columns.forEach((column) => (column.left += left));
    layout.rows.forEach((row) => (row.top += top));
    return layout;
  }

  /** Lays out again: the shown nodes or the size have changed. */
  arrange() {
    this.layout = this.layOut();
    const { columns, rows } = this.layout;
    const { left, right } = this.plot();
    const bands = rows.filter((row) => (row.layer & 1) === 0);
    this.bands?.replaceChildren(
      ...bands.map((row) => s("rect", { x: left, width: Math.max(0, right - left), y: row.top, height: row.height })),
      ...columns.slice(1).map((column) => {
        return s("line", { x1: column.left, x2: column.left, y1: rows[0].top, y2: rows[rows.length - 1].top + rows[rows.length - 1].height });
      }),
    );
    this.redraw();
  }

  /** Draws at the next frame, once for all that changed. */
  redraw() {
    cancelAnimationFrame(this.frame);
    this.frame = requestAnimationFrame(() => this.draw());
  }

  draw() {
    if (!this.size.width || !this.labels) return;
    const shown = emphasis(this.store);
    const scene = { store: this.store, layout: this.layout, transform: this.transform, emphasis: shown, clip: this.plot() };
    this.bands?.setAttribute("transform", this.transform.toString());
    this.edges.draw(scene);
    const place = `${this.transform}`;
    if (this.placed.layout !== this.layout || this.placed.transform !== place) {
      this.placed = { layout: this.layout, transform: place };
      this.placeNodes();
    }
    this.markNodes(shown);
    this.drawAxes(shown);
    drawLabels(this.labels, scene, textWidth);
    this.drawTip();
  }

  placeNodes() {
    const { kept } = this.store.state;
    const scale = Math.sqrt(this.transform.k);
    const clipped = this.plot();
    this.elements?.forEach((element, node) => {
      const x = this.transform.applyX(this.layout.x[node]);
      const y = this.transform.applyY(this.layout.y[node]);
      const out = x < clipped.left - 4 || x > clipped.right + 4 || y < clipped.top - 4 || y > clipped.bottom + 4;
      element.toggleAttribute("hidden", !kept.nodes[node] || out);
      const radius = this.layout.radius[node] * scale;
      element.setAttribute("transform", `translate(${x.toFixed(1)},${y.toFixed(1)}) scale(${radius.toFixed(2)})`);
    });
  }

  /** @param {import("glassworks/emphasis").Emphasis} shown */
  markNodes(shown) {
    const { state, graph } = this.store;
    const pinned = new Set(state.pinned);
    const groups = new Map(state.groups.flatMap((group, at) => group.nodes.map((id) => /** @type {const} */ ([id, at]))));
    this.elements?.forEach((element, node) => {
      if (!state.kept.nodes[node]) return;
      const { id } = graph.nodes[node];
      const group = groups.get(id);
      const classes = element.classList;
      classes.toggle("dim", shown.mode !== "summary" && !shown.nodes.has(node));
      classes.toggle("summary", shown.mode === "summary" && shown.nodes.has(node));
      classes.toggle("selected", state.selected === node);
      classes.toggle("pointed", state.pointed === node);
      classes.toggle("marked", state.marked.includes(node));
      classes.toggle("pinned", pinned.has(id));
      const mark = group === undefined ? "" : String(group % 8);
      if (element.dataset.group !== mark) element.dataset.group = mark;
      const pressed = String(state.selected === node);
      if (element.getAttribute("aria-pressed") !== pressed) element.setAttribute("aria-pressed", pressed);
    });
  }

  /** @param {import("glassworks/emphasis").Emphasis} shown */
  drawAxes(shown) {
    const { document } = this.store.graph;
    const { left, right, bottom, top } = this.plot();
    const at = shown.active === null ? null : this.store.graph.nodes[shown.active].position;
    const layers = this.layout.rows.map((row) => {
      const y = this.transform.applyY(row.top + row.height / 2);
      const text = row.layer < 0 ? "tokens" : row.layer === document.layers ? "output" : `layer ${row.layer}`;
      return s("text", { class: "layer", x: left - 10, y: y + 3.5, hidden: y < top - 8 || y > bottom + 8 || row.height * this.transform.k < 7 }, text);
    });
    const tokens = this.layout.columns.map((column) => {
      const x = this.transform.applyX(column.left + column.width / 2);
      const most = Math.max(2, Math.floor((column.width * this.transform.k) / 6.6));
      const active = column.position === at ? "token active" : "token";
      const text = clip(tokenText(document.tokens[column.position]), most);
      return s("text", { class: active, x, y: bottom + 24, hidden: x < left || x > right }, text);
    });
    this.axes?.replaceChildren(...layers, ...tokens);
  }

  drawTip() {
    const { hovered } = this.store.state;
    if (!this.tip) return;
    this.tip.hidden = hovered === null;
    if (hovered === null) return;
    const { graph } = this.store;
    const node = graph.nodes[hovered];
    const ins = graph.incoming[hovered].filter((link) => this.store.state.kept.links[link]).length;
    const outs = graph.outgoing[hovered].filter((link) => this.store.state.kept.links[link]).length;
    const facts = `${percent(node.influence)} of the flow to the output · ${count(ins)} in, ${count(outs)} out`;
    const name = node.kind === "embedding" || node.kind === "logit" ? `“${tokenText(node.label)}”` : nodeName(node);
    this.tip.replaceChildren(h("b", {}, name), h("span", {}, `${node.kind} · ${place(graph, node)}`), h("span", {}, facts));
    const x = this.transform.applyX(this.layout.x[hovered]);
    const y = this.transform.applyY(this.layout.y[hovered]);
    const right = x > this.size.width / 2;
    css(this.tip, { left: right ? "auto" : `${x + 16}px`, right: right ? `${this.size.width - x + 16}px` : "auto" });
    css(this.tip, { top: y > this.size.height / 2 ? "auto" : `${y + 12}px`, bottom: y > this.size.height / 2 ? `${this.size.height - y + 12}px` : "auto" });
  }
}

/** @param {Event} event */
export function nodeOf(event) {
  const element = /** @type {Element} */ (event.target).closest?.("[data-node]");
  return element instanceof SVGElement ? Number(element.dataset.node) : null;
}

const pen = document.createElement("canvas").getContext("2d");

/** @param {string} text */
function textWidth(text) {
  return measure(text, "600 11.5px");
}

/** @param {string} token */
function tokenWidth(token) {
  return measure(tokenText(token), "600 13px");
}

/**
 * @param {string} text
 * @param {string} font weight and size
 */
function measure(text, font) {
  if (!pen) return text.length * 7;
  pen.font = `${font} ${getComputedStyle(document.body).fontFamily}`;
  return pen.measureText(text).width;
}
