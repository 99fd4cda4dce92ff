(function () {
  "use strict";
  const data = JSON.parse(document.getElementById("report-data").textContent);
  const config = {
    responsive: true, displaylogo: false, displayModeBar: "hover",
    // Named one by one: the default bar has a button that uploads the picture.
    modeBarButtons: [["toImage", "zoom2d", "pan2d", "resetScale2d"]],
    toImageButtonOptions: { format: "svg", filename: data.file },
  };

  // Figures: one place per picture, one picture per metric, a selector where there are several.
  function draw(place) {
    const figure = structuredClone(data.figures[place.dataset.figure][place.dataset.key]);
    if (window.innerWidth < 720) {
      figure.layout.margin.l = 46;
      if (figure.layout.legend) { figure.layout.legend.font.size = 11; }
    }
    Plotly.react(place, figure.data, figure.layout, config);
  }
  const places = document.querySelectorAll("[data-figure]");
  places.forEach(draw);
  document.querySelectorAll("button[data-for]").forEach(function (button) {
    button.addEventListener("click", function () {
      const group = button.dataset.for;
      document.querySelectorAll("button[data-for]").forEach(function (other) {
        if (other.dataset.for === group) { other.setAttribute("aria-pressed", String(other === button)); }
      });
      places.forEach(function (place) {
        if (place.dataset.figure === group) { place.dataset.key = button.dataset.key; draw(place); }
      });
    });
  });

  // Gate maps.
  const SVG = "http://www.w3.org/2000/svg";
  const HEAD = "#0072b2", BLOCK = "#009e73", EMPTY = "#eef1f4";
  function add(parent, name, attributes, text) {
    const node = document.createElementNS(SVG, name);
    for (const key in attributes) { node.setAttribute(key, attributes[key]); }
    if (text !== undefined) { node.textContent = text; }
    parent.appendChild(node);
    return node;
  }
  function cells(rows, x0, y0, size, step, wanted) {
    let path = "";
    rows.forEach(function (row, layer) {
      row.forEach(function (kept, column) {
        if (Boolean(kept) === wanted) {
          path += "M" + (x0 + column * step) + " " + (y0 + layer * step) + "h" + size + "v" + size + "h-" + size + "z";
        }
      });
    });
    return path;
  }
  function both(svg, member, x0, y0, size, step, between) {
    const heads = member.heads.length ? member.heads[0].length : 0;
    const x1 = x0 + (heads ? heads * step + between : 0);
    [[member.heads, x0, HEAD], [member.blocks, x1, BLOCK]].forEach(function (part) {
      add(svg, "path", { d: cells(part[0], part[1], y0, size, step, false), fill: EMPTY });
      add(svg, "path", { d: cells(part[0], part[1], y0, size, step, true), fill: part[2] });
    });
    return x1;
  }
  function columns(rows) { return rows.length ? rows[0].length : 0; }
  function total(row) { return row ? row.reduce(function (sum, kept) { return sum + kept; }, 0) : 0; }

  function thumbnail(member) {
    const layers = Math.max(member.heads.length, member.blocks.length);
    const wide = columns(member.heads) + columns(member.blocks);
    const step = Math.max(1.5, Math.min(4, 96 / Math.max(wide, layers)));
    const svg = document.createElementNS(SVG, "svg");
    svg.setAttribute("width", wide * step + 5);
    svg.setAttribute("height", layers * step);
    svg.setAttribute("aria-hidden", "true");
    both(svg, member, 0, 0, step * 0.86, step, 5);
    return svg;
  }
  function show(member, place) {
    const layers = Math.max(member.heads.length, member.blocks.length);
    const wide = columns(member.heads) + columns(member.blocks);
    const step = Math.max(9, Math.min(27, 730 / Math.max(wide, 1)));
    const left = 62, top = 44, between = 30, size = step - Math.max(1.5, step * 0.12);
    const svg = document.createElementNS(SVG, "svg");
    svg.setAttribute("width", left + wide * step + between + 170);
    svg.setAttribute("height", top + layers * step + 12);
    svg.setAttribute("role", "img");
    svg.setAttribute("aria-label", "Kept heads and FFN blocks per layer of " + member.name);
    const x1 = both(svg, member, left, top, size, step, between);
    // Two digits need about 20 pixels across, a line of text 13 down.
    const across = step < 12 ? 4 : step < 20 ? 2 : 1, down = step < 13 ? 4 : 1;
    const titles = [[left, "Attention heads", member.heads], [x1, "Feed-forward blocks", member.blocks]];
    titles.forEach(function (title) {
      if (!columns(title[2])) { return; }
      add(svg, "text", { x: title[0], y: 14, "class": "title" }, title[1]);
      for (let column = 0; column < columns(title[2]); column += across) {
        add(svg, "text", { x: title[0] + column * step + size / 2, y: top - 9, "text-anchor": "middle", "class": "small" }, column + 1);
      }
    });
    for (let layer = 0; layer < layers; layer += 1) {
      const y = top + layer * step + size / 2 + 4;
      if (layer % down === 0) { add(svg, "text", { x: left - 12, y: y, "text-anchor": "end", "class": "small" }, "layer " + (layer + 1)); }
      const heads = member.attention[layer] ? total(member.heads[layer]) + " heads" : "no attention";
      const blocks = member.ffn[layer] ? total(member.blocks[layer]) + " blocks" : "no feed-forward";
      if (step >= 13) { add(svg, "text", { x: x1 + columns(member.blocks) * step + 10, y: y, "class": "small" }, heads + ", " + blocks); }
    }
    place.replaceChildren(svg);
  }
  const strip = document.getElementById("gate-strip");
  if (strip) {
    const place = document.getElementById("gate-map");
    const buttons = data.gates.map(function (member) {
      const button = document.createElement("button");
      button.type = "button";
      button.appendChild(thumbnail(member));
      button.appendChild(document.createTextNode(member.name));
      button.addEventListener("click", function () {
        buttons.forEach(function (other) { other.setAttribute("aria-pressed", String(other === button)); });
        show(member, place);
      });
      strip.appendChild(button);
      return button;
    });
    buttons[Math.min(buttons.length - 1, Math.floor(buttons.length / 2))].click();
  }
})();
