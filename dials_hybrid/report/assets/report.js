/* Draws the figures in the colours of the page, again when these change, and for printing. */
"use strict";
(function () {
  const content = JSON.parse(document.getElementById("content").textContent);

  function variable(name) {
    return getComputedStyle(document.documentElement).getPropertyValue("--" + name).trim();
  }

  // "@name" in a colour stands for the variable --name of the style sheet.
  function coloured(value, key) {
    if (Array.isArray(value)) return value.map((item) => coloured(item));
    if (value && typeof value === "object") {
      return Object.fromEntries(Object.entries(value).map(([k, v]) => [k, coloured(v, k)]));
    }
    if (key === "colorscale" && value === "@heat") {
      return variable("heat").split(" ").map((colour, i, all) => [i / (all.length - 1), colour]);
    }
    if ((key === "color" || key === "fillcolor") && value[0] === "@") return variable(value.slice(1));
    return value;
  }

  function axis(own) {
    return { gridcolor: variable("grid"), linecolor: variable("grid"), zeroline: false, automargin: true, ...own };
  }

  function draw(size) {
    for (const plot of content.plots) {
      const layout = coloured(plot.layout);
      for (const name of ["xaxis", "yaxis", "yaxis2"]) if (layout[name]) layout[name] = axis(layout[name]);
      const many = plot.data.filter((trace) => trace.showlegend !== false && trace.type === "scatter").length > 1;
      const common = {
        font: { color: variable("ink"), size: 12 },
        paper_bgcolor: "rgba(0,0,0,0)",
        plot_bgcolor: "rgba(0,0,0,0)",
        margin: { l: 56, r: 20, t: 24, b: 44 },
        hovermode: "closest",
        showlegend: many,
        modebar: { bgcolor: "rgba(0,0,0,0)", color: variable("muted"), activecolor: variable("c1") },
        legend: { orientation: "h", x: 0, y: 1.02, yanchor: "bottom" },
      };
      const where = document.getElementById("plot-" + plot.id);
      Plotly.react(where, coloured(plot.data), { ...common, ...layout, ...size }, {
        responsive: true,
        displaylogo: false,
        plotlyServerURL: "",
        modeBarButtons: [["toImage", "zoom2d", "pan2d", "resetScale2d"]],
      });
    }
  }

  draw();
  drawStructure(document.getElementById("drawing"), content.structure);
  const legend = document.getElementById("legend");
  for (const [element, colour] of Object.entries(content.structure.elements)) {
    const swatch = document.createElement("span");
    swatch.className = "swatch";
    swatch.style.background = colour;
    legend.append(swatch, element);
  }
  legend.append(".");

  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => draw());
  // A figure drawn in a closed panel has no size: draw it when the panel opens.
  document.querySelectorAll("details").forEach((panel) => panel.addEventListener("toggle", () => draw()));
  addEventListener("beforeprint", () => {
    document.querySelectorAll("details").forEach((panel) => (panel.open = true));
    draw({ width: 340, height: 220 });
  });
  addEventListener("afterprint", () => draw());
})();
