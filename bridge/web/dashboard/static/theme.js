// Applies the saved theme before the first paint. Without a saved theme the system's setting applies.
"use strict";
(() => {
  try {
    const saved = localStorage.getItem("amux-bridge-theme");
    if (saved === "light" || saved === "dark") document.documentElement.dataset.theme = saved;
  } catch {
    // Browser settings can forbid storage. Then the system's theme is used.
  }
})();
