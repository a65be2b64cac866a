// Builds and updates elements. Markup is never parsed: every value becomes text.

const SVG = "http://www.w3.org/2000/svg";

// Characters that hide text or change its direction: control characters, zero-width spaces and bidirectional marks.
const UNSAFE_CHARACTERS = /[\u0000-\u0008\u000b\u000c\u000e-\u001f\u007f-\u009f\u200b\u200e\u200f\u202a-\u202e\u2028\u2029\u2060-\u206f\ufeff]/g;

const codePoint = (character) => `[U+${character.charCodeAt(0).toString(16).toUpperCase().padStart(4, "0")}]`;

const visible = (text) => String(text).replace(UNSAFE_CHARACTERS, codePoint);

function fill(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (typeof value === "function") node.addEventListener(name, value);
    else node.setAttribute(name, value === true ? "" : String(value));
  }
  for (const child of children.flat(Infinity)) {
    if (child === null || child === undefined || child === false) continue;
    node.append(child instanceof Node ? child : visible(child));
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
  return svg("svg", { class: `icon icon-${name}`, "aria-hidden": "true" }, svg("use", { href: `#icon-${name}` }));
}

export const byId = (id) => document.getElementById(id);

export function setText(node, text) {
  const shown = visible(text);
  if (node.textContent !== shown) node.textContent = shown;
}

export function setHidden(node, hidden) {
  if (node.hidden !== hidden) node.hidden = hidden;
}

// Makes a parent's children match a list. An item whose JSON has not changed keeps its node, with its focus, selection
// and scroll position. `build(item)` makes a node. For a changed item, `update(node, item)` changes its node if it is
// given; otherwise the item gets a new node in the same place.
export function reconcile(parent, items, keyOf, build, update = null) {
  const known = new Map([...parent.children].map((node) => [node.reconcileKey, node]));
  let place = parent.firstElementChild;
  for (const item of items) {
    const key = keyOf(item);
    const json = JSON.stringify(item);
    let node = known.get(key);
    known.delete(key);
    if (node !== undefined && node.reconcileJson !== json && update !== null) {
      update(node, item);
    } else if (node === undefined || node.reconcileJson !== json) {
      const fresh = build(item);
      if (node !== undefined) {
        if (place === node) place = fresh;
        replace(node, fresh);
      }
      node = fresh;
    }
    node.reconcileKey = key;
    node.reconcileJson = json;
    if (node === place) place = place.nextElementSibling;
    else parent.insertBefore(node, place);
  }
  for (const node of known.values()) node.remove();
}

function replace(node, fresh) {
  const focused = focusedName(node);
  node.replaceWith(fresh);
  node.replacedBy = fresh;
  if (focused !== null) fresh.querySelector(`[data-focus="${focused}"]`)?.focus({ preventScroll: true });
}

// Returns the `data-focus` name of the focused element inside a node that is replaced. The element with the same name
// in the new node gets the focus.
function focusedName(node) {
  const active = document.activeElement;
  return active !== null && node.contains(active) ? (active.dataset.focus ?? null) : null;
}

// Returns an element itself while it is on the page. If `reconcile` has replaced it, returns the element with the same
// `data-focus` name in the newest node; null if there is none.
export function currentElement(element) {
  if (element.isConnected) return element;
  let node = element;
  while (node !== null && !node.replacedBy) node = node.parentElement;
  while (node?.replacedBy) node = node.replacedBy;
  return node?.querySelector(`[data-focus="${element.dataset.focus}"]`) ?? null;
}
