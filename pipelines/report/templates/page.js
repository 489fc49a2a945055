// Draws the charts of the page and draws them again when the reader's theme changes.
"use strict";
const tables = JSON.parse(document.getElementById("tables").textContent);
const charts = JSON.parse(document.getElementById("charts").textContent);
const dark = window.matchMedia("(prefers-color-scheme: dark)");

function look() {
  const style = getComputedStyle(document.documentElement);
  const ink = style.getPropertyValue("--ink").trim();
  const soft = style.getPropertyValue("--soft").trim();
  const rule = style.getPropertyValue("--rule").trim();
  const category = dark.matches
    ? ["#6cb6ff", "#f2a65a", "#7ee0a1", "#ff8fa3", "#c5a3ff", "#ffd866", "#63d4e0", "#b0b8c1", "#e39ff6", "#9ccc65", "#ff9e80", "#80cbc4", "#bcaaa4", "#f48fb1"]
    : ["#0b63ce", "#c2571a", "#1a7f4b", "#b3265e", "#6f42c1", "#8a6d00", "#0e7c86", "#6b7580", "#9b2fae", "#4d7c0f", "#d1495b", "#00796b", "#6d4c41", "#5c6bc0"];
  return {
    background: "transparent", font: "inherit", view: { stroke: null }, range: { category },
    axis: { labelColor: soft, titleColor: soft, gridColor: rule, domainColor: rule, tickColor: rule, titleFontWeight: "normal" },
    header: { labelColor: ink }, legend: { labelColor: ink, titleColor: soft, labelLimit: 220, columns: window.innerWidth < 600 ? 3 : 8 },
    mark: { color: category[0] }, rule: { color: soft }, text: { color: ink }, title: { color: ink },
  };
}

function withRows(spec) {
  // A chart names its table; the rows are shared by all charts of the page.
  if (Array.isArray(spec)) return spec.map(withRows);
  if (spec === null || typeof spec !== "object") return spec;
  const filled = {};
  for (const [key, value] of Object.entries(spec)) {
    filled[key] = key === "data" && value && value.name in tables ? { values: tables[value.name] } : withRows(value);
  }
  return filled;
}

async function draw() {
  for (const [name, spec] of Object.entries(charts)) {
    const place = document.getElementById("chart-" + name);
    if (!place) continue;
    const width = "facet" in spec ? {} : { width: "container" };
    const autosize = { type: "fit-x", contains: "padding" };
    const whole = { ...withRows(spec), ...width, ...("facet" in spec ? {} : { autosize }) };
    await window.vegaEmbed(place, whole, { actions: false, renderer: "svg", config: look(), tooltip: { theme: dark.matches ? "dark" : "light" } });
  }
  document.documentElement.dataset.drawn = "yes";
}

dark.addEventListener("change", draw);
draw();
