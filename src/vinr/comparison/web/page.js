"use strict";
// Draws the plots of the page with uPlot and lets two crops be compared by a slider. All texts are set as text.
(() => {
  // Okabe and Ito's colours, which most people tell apart, without yellow; on dark ground the dark ones are lighter.
  const COLORS = {
    light: ["#d55e00", "#0072b2", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000", "#8c8c8c"],
    dark: ["#ff8033", "#4f9be8", "#1fc79a", "#dd9cbe", "#e69f00", "#8fd0f5", "#ffffff", "#9a9a9a"],
  };
  const WIDTHS = { vinr: 2.5, anchor: 1.5, published: 1 };
  const DASHES = [[], [8, 4], [2, 3], [10, 3, 2, 3]];
  const NEAR = 30; // pixels from the mouse within which a point is described
  const darkness = matchMedia("(prefers-color-scheme: dark)");

  const element = (tag, name, parent) => {
    const made = document.createElement(tag);
    made.className = name;
    parent.append(made);
    return made;
  };

  const colorOf = (number) => {
    const colors = COLORS[darkness.matches ? "dark" : "light"];
    return colors[number % colors.length];
  };

  // Lines of networks are solid, unless others have their colour.
  const dashOf = (line) => {
    const number = line.kind === "vinr" ? line.dash + Math.floor(line.number / COLORS.light.length) : line.number;
    return DASHES[number % DASHES.length];
  };

  // What stands beside a line's name: a piece of the line, as a background.
  const sampleOf = (line) => {
    const color = colorOf(line.number);
    let end = 0;
    const stops = dashOf(line).map((length, index) => {
      const start = end;
      end += length;
      return `${index % 2 ? "transparent" : color} ${start}px ${end}px`;
    });
    return stops.length ? `repeating-linear-gradient(to right, ${stops.join(", ")})` : color;
  };

  // uPlot wants one list of x for all lines: a line has null where it has no point.
  const aligned = (lines) => {
    const xs = [...new Set(lines.flatMap((line) => line.points.map((point) => point.x)))].sort((a, b) => a - b);
    const places = new Map(xs.map((x, index) => [x, index]));
    const columns = lines.map((line) => {
      const column = new Array(xs.length).fill(null);
      for (const point of line.points) column[places.get(point.x)] = point.y;
      return column;
    });
    return [xs, ...columns];
  };

  // What the mouse is nearest to, among the points of the lines that are shown.
  const nearest = (chart, plot) => {
    if (chart.cursor.left < 0) return null; // the mouse is elsewhere
    let best = null;
    let shortest = NEAR;
    plot.lines.forEach((line, index) => {
      if (!chart.series[index + 1].show) return;
      for (const point of line.points) {
        const left = chart.valToPos(point.x, "x");
        const top = chart.valToPos(point.y, "y");
        const distance = Math.hypot(left - chart.cursor.left, top - chart.cursor.top);
        if (distance < shortest) [best, shortest] = [{ text: point.text, left, top }, distance];
      }
    });
    return best;
  };

  const describing = (plot) => {
    let tip;
    return {
      hooks: {
        init: (chart) => {
          tip = element("div", "tip", chart.over);
          tip.hidden = true;
        },
        setCursor: (chart) => {
          const point = nearest(chart, plot);
          tip.hidden = point === null;
          if (point === null) return;
          tip.textContent = point.text;
          // On the side of the point where there is room.
          const isRight = point.left > chart.over.clientWidth / 2;
          tip.style.left = isRight ? "auto" : `${point.left + 10}px`;
          tip.style.right = isRight ? `${chart.over.clientWidth - point.left + 10}px` : "auto";
          tip.style.top = `${Math.max(point.top - 30, 0)}px`;
        },
      },
    };
  };

  const draw = (place, plot) => {
    place.replaceChildren();
    const style = getComputedStyle(document.body);
    const axis = (label) => ({
      label,
      stroke: style.color,
      grid: { stroke: style.getPropertyValue("--line"), width: 1 },
      ticks: { stroke: style.getPropertyValue("--line"), width: 1 },
    });
    const width = Math.min(place.clientWidth, 960);
    const lines = plot.lines.map((line) => ({
      label: line.name,
      stroke: colorOf(line.number),
      width: WIDTHS[line.kind],
      dash: dashOf(line),
      spanGaps: true,
      points: { show: line.points.length === 1 || plot.isLog, size: line.kind === "vinr" ? 8 : 6 },
    }));
    // Of the ticks of a logarithmic axis those are labelled that begin with 1, 2 or 5.
    const isLabelled = (tick) => !plot.isLog || "125".includes(tick.toExponential()[0]);
    const xAxis = {
      ...axis(plot.xLabel),
      filter: (_, ticks) => ticks,
      values: (_, ticks) => ticks.map((tick) => (isLabelled(tick) ? String(+tick.toPrecision(3)) : "")),
    };
    return new uPlot(
      {
        width,
        height: Math.round(Math.max(width * 0.5, 260)),
        scales: { x: { time: false, distr: plot.isLog ? 3 : 1 } },
        axes: [xAxis, { ...axis(plot.yLabel), size: 60 }],
        series: [{}, ...lines],
        legend: { live: false, markers: { width: 0, fill: (_, index) => sampleOf(plot.lines[index - 1]) } },
        cursor: { drag: { x: true, y: true, uni: 20 }, points: { show: false } },
        plugins: [describing(plot)],
      },
      aligned(plot.lines),
      place,
    );
  };

  const plots = JSON.parse(document.getElementById("plots").textContent);
  document.querySelectorAll(".plot").forEach((place, number) => {
    const redraw = () => draw(place, plots[number]);
    let width = place.clientWidth;
    redraw();
    darkness.addEventListener("change", redraw);
    new ResizeObserver(() => {
      if (place.clientWidth !== width) {
        width = place.clientWidth;
        redraw();
      }
    }).observe(place);
  });

  // -- the slider: two of the crops below, one over the other, cut where the slider stands --

  const figures = [...document.querySelectorAll(".crops figure")];
  const slider = document.querySelector(".slider");
  if (slider === null || figures.length < 2) return;
  const [left, right, frame] = slider.querySelectorAll("select");
  const [under, over] = slider.querySelectorAll(".pair img");
  const range = slider.querySelector("input");
  figures.forEach((figure, number) => {
    const name = figure.querySelector("figcaption").textContent;
    for (const choice of [left, right]) choice.add(new Option(name, String(number)));
  });
  figures[0].querySelectorAll("img").forEach((picture, number) => {
    frame.add(new Option(picture.dataset.frame, String(number)));
  });
  right.value = "1";
  const show = () => {
    const picture = (choice) => figures[choice.value].querySelectorAll("img")[frame.value].src;
    under.src = picture(right);
    over.src = picture(left);
    over.style.clipPath = `inset(0 ${100 - range.value}% 0 0)`;
  };
  for (const control of [left, right, frame]) control.addEventListener("change", show);
  range.addEventListener("input", show);
  const follow = (event) => {
    const { left: start, width } = over.getBoundingClientRect();
    range.value = String((100 * (event.clientX - start)) / width);
    show();
  };
  slider.querySelector(".pair").addEventListener("pointermove", follow);
  slider.hidden = false;
  show();
})();
