/* The structure as SVG: bonds, 50 % ellipsoids with their principal ellipses, cell edges. Drag to turn. */
"use strict";
function drawStructure(svg, structure) {
  const START = spin(-0.28, 0.32);
  let view = START;
  const turn = (m, v) => m.map((row) => row[0] * v[0] + row[1] * v[1] + row[2] * v[2]);
  const points = structure.atoms.map((atom) => atom.position).concat(...structure.cell);
  const [width, height] = [0, 1].map((i) => 0.7 + Math.max(...points.map((p) => Math.abs(turn(START, p)[i])))); // [A]

  // Rotation by a radians about the vertical, then by b about the horizontal axis.
  function spin(a, b) {
    const ca = Math.cos(a), sa = Math.sin(a), cb = Math.cos(b), sb = Math.sin(b);
    return [[ca, 0, sa], [-sa * sb, cb, ca * sb], [-sa * cb, -sb, ca * cb]];
  }

  function element(name, attributes, parent) {
    const node = document.createElementNS("http://www.w3.org/2000/svg", name);
    for (const key in attributes) node.setAttribute(key, attributes[key]);
    parent.appendChild(node);
    return node;
  }

  function line(a, b, colour, width, parent) {
    element("line", { x1: a[0], y1: -a[1], x2: b[0], y2: -b[1], stroke: colour, "stroke-width": width }, parent);
  }

  function ellipsoid(atom, at, parent) {
    const group = element("g", { transform: `translate(${at[0]},${-at[1]}) scale(1,-1)` }, parent);
    const axes = atom.axes.map((axis) => turn(view, axis));
    // Outline: unit circle by the Cholesky factor of the projected matrix sum_i a_i a_i^T.
    const sum = (i, j) => axes.reduce((total, a) => total + a[i] * a[j], 0);
    const l = Math.sqrt(sum(0, 0)), m = sum(0, 1) / l, n = Math.sqrt(Math.max(sum(1, 1) - m * m, 0));
    const style = { stroke: "var(--outline)", "vector-effect": "non-scaling-stroke" };
    const outline = { r: 1, transform: `matrix(${l},${m},0,${n},0,0)`, fill: atom.colour, "stroke-width": 1.2 };
    if (!atom.positive) outline["stroke-dasharray"] = "4 3";
    const circle = element("circle", { ...outline, ...style }, group);
    element("title", {}, circle).textContent = atom.label;
    // Front halves of the principal ellipses cos(f) a + sin(f) b: half circles from q to -q over p.
    for (const [a, b] of [[axes[0], axes[1]], [axes[1], axes[2]], [axes[2], axes[0]]]) {
      const front = Math.atan2(b[2] / dot(b, b), a[2] / dot(a, a)), c = Math.cos(front), s = Math.sin(front);
      const p = [c * a[0] + s * b[0], c * a[1] + s * b[1]], q = [c * b[0] - s * a[0], c * b[1] - s * a[1]];
      const arc = { d: "M 0 -1 A 1 1 0 0 1 0 1", transform: `matrix(${p},${q},0,0)`, "stroke-width": 0.7 };
      element("path", { ...arc, ...style, fill: "none" }, group);
    }
  }

  // The name, above and to the right of the atom.
  function label(atom, at, parent) {
    const size = 0.065 * Math.max(height, 0.6 * width);
    const outline = { stroke: "var(--page)", "stroke-width": 0.25 * size, "paint-order": "stroke" };
    const place = { x: at[0] + size, y: -at[1] - size, "font-size": size, "pointer-events": "none" };
    element("text", { ...place, ...outline, fill: "var(--ink)" }, parent).textContent = atom.label;
  }

  function dot(a, b) {
    return a[0] * b[0] + a[1] * b[1] + a[2] * b[2];
  }

  function draw() {
    svg.replaceChildren();
    svg.setAttribute("viewBox", `${-width} ${-height} ${2 * width} ${2 * height}`);
    const at = structure.atoms.map((atom) => turn(view, atom.position));
    const items = structure.atoms.map((atom, i) => [at[i][2], () => ellipsoid(atom, at[i], svg)]);
    for (const [a, b] of structure.bonds.map((bond) => bond.map((end) => turn(view, end)))) {
      items.push([(a[2] + b[2]) / 2, () => line(a, b, "var(--bond)", 0.11, svg)]);
    }
    for (const [a, b] of structure.cell.map((edge) => edge.map((corner) => turn(view, corner)))) {
      items.push([Math.min(a[2], b[2]), () => line(a, b, "var(--muted)", 0.02, svg)]);
    }
    items.sort((a, b) => a[0] - b[0]).forEach((item) => item[1]()); // far ones first
    structure.atoms.forEach((atom, i) => atom.named && label(atom, at[i], svg));
  }

  svg.addEventListener("pointerdown", (event) => svg.setPointerCapture(event.pointerId));
  svg.addEventListener("pointermove", (event) => {
    if (!svg.hasPointerCapture(event.pointerId)) return;
    const by = spin(event.movementX / 120, -event.movementY / 120);
    const columns = [0, 1, 2].map((k) => turn(by, view.map((row) => row[k])));
    view = [0, 1, 2].map((i) => columns.map((column) => column[i]));
    draw();
  });
  svg.addEventListener("dblclick", () => {
    view = START;
    draw();
  });
  draw();
}
