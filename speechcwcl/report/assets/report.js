(() => {
  const root = document.documentElement;
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const keep = (value) => { try { localStorage.setItem("speechcwcl-theme", value); } catch { /* file: pages may not store */ } };
  try { const kept = localStorage.getItem("speechcwcl-theme"); if (kept) root.dataset.theme = kept; } catch { /* as above */ }
  document.getElementById("theme").addEventListener("click", () => {
    const now = root.dataset.theme || (dark.matches ? "dark" : "light");
    root.dataset.theme = now === "dark" ? "light" : "dark";
    keep(root.dataset.theme);
  });

  // Cells carry their text as an SVG <title>; it is shown at once beside the pointer.
  const tip = document.getElementById("tip");
  const show = (event) => {
    const cell = event.target.closest && event.target.closest("svg.heat rect");
    const title = cell && cell.querySelector("title");
    if (title) { cell.dataset.says = title.textContent; title.remove(); }
    if (!cell || !cell.dataset.says) { tip.hidden = true; return; }
    tip.textContent = cell.dataset.says;
    tip.hidden = false;
    const box = tip.getBoundingClientRect();
    tip.style.left = Math.max(4, Math.min(event.clientX + 14, innerWidth - box.width - 8)) + "px";
    tip.style.top = Math.max(4, event.clientY - box.height - 10) + "px";
  };
  document.addEventListener("pointermove", show);
  document.addEventListener("pointerdown", show);
  document.addEventListener("scroll", () => { tip.hidden = true; }, { passive: true, capture: true });
})();
