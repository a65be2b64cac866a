// Before the first paint, so that a chosen theme never flashes. Without a choice the system's counts.
"use strict";
(() => {
  try {
    const kept = localStorage.getItem("amux-bridge-theme");
    if (kept === "light" || kept === "dark") document.documentElement.dataset.theme = kept;
  } catch {
    // Storage may be forbidden; the system's theme is as good.
  }
})();
