// Elements are built, never parsed: whatever a field holds becomes text.

const SVG = "http://www.w3.org/2000/svg";

function fill(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (typeof value === "function") node.addEventListener(name, value);
    else node.setAttribute(name, value === true ? "" : String(value));
  }
  node.append(...children.flat(Infinity).filter((child) => child !== null && child !== undefined && child !== false));
  return node;
}

export function el(name, attributes = {}, ...children) {
  return fill(document.createElement(name), attributes, children);
}

export function svg(name, attributes = {}, ...children) {
  return fill(document.createElementNS(SVG, name), attributes, children);
}

export function icon(name) {
  return svg("svg", { class: `icon i-${name}`, "aria-hidden": "true" }, svg("use", { href: `#i-${name}` }));
}

export const byId = (id) => document.getElementById(id);

export function setText(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

export function setHidden(node, hidden) {
  if (node.hidden !== hidden) node.hidden = hidden;
}

// Keep the nodes of items that stay, so that focus, selection and scrolling stay with them. `build(item)` makes a node;
// an item whose JSON is as it was keeps its node. One that changed is brought up to date by `update(node, item)` where
// that is given, else built anew in its place.
export function reconcile(parent, items, keyOf, build, update = null) {
  const known = new Map([...parent.children].map((node) => [node.reconcileKey, node]));
  let place = parent.firstElementChild;
  for (const item of items) {
    const key = keyOf(item);
    const mark = JSON.stringify(item);
    let node = known.get(key);
    known.delete(key);
    if (node !== undefined && node.reconcileMark !== mark && update !== null) {
      update(node, item);
    } else if (node === undefined || node.reconcileMark !== mark) {
      const fresh = build(item);
      if (node !== undefined) {
        if (place === node) place = fresh;
        replace(node, fresh);
      }
      node = fresh;
    }
    node.reconcileKey = key;
    node.reconcileMark = mark;
    if (node === place) place = place.nextElementSibling;
    else parent.insertBefore(node, place);
  }
  for (const node of known.values()) node.remove();
}

function replace(node, fresh) {
  const focused = focusInside(node);
  node.replaceWith(fresh);
  if (focused !== null) fresh.querySelector(`[data-focus="${focused}"]`)?.focus({ preventScroll: true });
}

// The name of what has the focus in a node that goes; its like in the new one takes it over.
function focusInside(node) {
  const active = document.activeElement;
  return active !== null && node.contains(active) ? (active.dataset.focus ?? null) : null;
}
