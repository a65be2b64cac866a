// Elements are built, never parsed: whatever a field holds becomes text.

const SVG = "http://www.w3.org/2000/svg";

// What a stranger could hide or turn round: control characters, and those that change the direction of what follows.
const TRICKS = /[\u0000-\u0008\u000b\u000c\u000e-\u001f\u007f-\u009f\u200b\u200e\u200f\u202a-\u202e\u2028\u2029\u2060-\u206f\ufeff]/g;

const spelled = (mark) => `[U+${mark.charCodeAt(0).toString(16).toUpperCase().padStart(4, "0")}]`;

export const plain = (text) => String(text).replace(TRICKS, spelled);

function fill(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (typeof value === "function") node.addEventListener(name, value);
    else node.setAttribute(name, value === true ? "" : String(value));
  }
  for (const child of children.flat(Infinity)) {
    if (child === null || child === undefined || child === false) continue;
    node.append(child instanceof Node ? child : plain(child));
  }
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
  const shown = plain(text);
  if (node.textContent !== shown) node.textContent = shown;
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
