"use strict";
// The trials of one sweep: brushing, filtering and selecting all act on the same two sets,
// `kept` (shown in the table, full in the front) and `selected` (drawn as curves).
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const colours = ["#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#7a5c00"];
  const grey = "#9a9a9a";
  // nothing leaves the page: by default Plotly offers to upload a chart
  const config = { displaylogo: false, responsive: true, showSendToCloud: false, plotlyServerURL: "" };
  const column = new Map(data.columns.map((one, i) => [one.name, i]));
  const rows = data.rows;
  const byUid = new Map(rows.map((row) => [row.uid, row]));
  const selected = new Set(data.leaders.slice(0, 3));
  let brushed = new Set(rows.map((row) => row.uid));
  let order = { by: null, down: false };

  const value = (row, name) =>
    column.has(name) ? row.values[column.get(name)] : row[name];
  const text = (one) =>
    one === null ? "" : typeof one === "number" ? String(Number(one.toPrecision(4))) : String(one);
  // Plotly reads a few tags in its texts
  const plain = (one) =>
    String(one).replaceAll("&", "&amp;").replaceAll("<", "&lt;").replaceAll(">", "&gt;");

  // ---- filter -------------------------------------------------------------------------------
  const comparisons = {
    "<": (a, b) => a < b, ">": (a, b) => a > b, "<=": (a, b) => a <= b, ">=": (a, b) => a >= b,
    "=": (a, b) => a === b,
  };
  function passes(row, words) {
    return words.every((word) => {
      const found = word.match(/^([\w.]+)(<=|>=|<|>|=)(.+)$/);
      if (!found || (!column.has(found[1]) && !["status", "uid", "label"].includes(found[1]))) {
        return `${row.label} ${row.uid} ${row.status}`.toLowerCase().includes(word.toLowerCase());
      }
      const here = value(row, found[1]);
      const wanted = typeof here === "number" ? Number(found[3]) : found[3];
      return here !== null && comparisons[found[2]](here, wanted);
    });
  }
  function kept() {
    const words = document.getElementById("filter").value.split(/\s+/).filter(Boolean);
    return rows.filter((row) => brushed.has(row.uid) && passes(row, words));
  }

  // ---- table --------------------------------------------------------------------------------
  const fields = ["label", "uid", "status", ...data.columns.map((one) => one.name)];
  function compare(a, b) {
    const [x, y] = [value(a, order.by), value(b, order.by)];
    if (x === null || y === null) return (x === null) - (y === null); // what is missing stands last
    const less = typeof x === "number" && typeof y === "number"
      ? x - y : String(x).localeCompare(String(y));
    return order.down ? -less : less;
  }
  function drawHead() {
    const line = document.createElement("tr");
    for (const name of fields) {
      const cell = document.createElement("th");
      const about = data.columns[column.get(name)] ?? {};
      const mark = order.by === name ? (order.down ? " ▼" : " ▲") : "";
      cell.textContent = name + mark;
      cell.title = [about.definition, about.unit, about.better && `${about.better} is better`]
        .filter(Boolean).join("; ");
      cell.setAttribute("aria-sort",
        order.by !== name ? "none" : order.down ? "descending" : "ascending");
      cell.addEventListener("click", () => {
        order = { by: name, down: order.by === name && !order.down };
        drawTable();
      });
      line.append(cell);
    }
    document.querySelector("#trials thead").replaceChildren(line);
  }
  function drawTable() {
    drawHead();
    const shown = kept();
    if (order.by !== null) shown.sort(compare);
    const lines = shown.map((row) => {
      const line = document.createElement("tr");
      line.dataset.uid = row.uid;
      line.className = selected.has(row.uid) ? "selected" : "";
      for (const name of fields) {
        const cell = document.createElement("td");
        const here = value(row, name);
        cell.textContent = text(here);
        if (typeof here === "number") cell.className = "number";
        line.append(cell);
      }
      line.addEventListener("click", () => toggle(row.uid));
      return line;
    });
    document.querySelector("#trials tbody").replaceChildren(...lines);
    document.getElementById("count").textContent =
      `${shown.length} of ${rows.length} trials, ${selected.size} selected`;
  }

  // ---- parallel coordinates -----------------------------------------------------------------
  const axes = data.columns.filter((one) => one.kind !== "metric" || one.main);
  const ranked = rows.filter((row) => row.ranked
    && axes.every((one) => one.kind !== "metric" || value(row, one.name) !== null));
  function dimension(one) {
    const given = ranked.map((row) => value(row, one.name));
    if (one.levels?.length) {
      const values = given.map((level) => one.levels.indexOf(level === null ? "(inactive)" : String(level)));
      return { label: one.name, values, tickvals: one.levels.map((_, i) => i), ticktext: one.levels };
    }
    const finite = given.filter((here) => here !== null);
    const isLog = one.log && finite.every((here) => here > 0);
    const onto = (here) => (isLog ? Math.log10(here) : here);
    const distinct = [...new Set(finite)].sort((a, b) => a - b);
    const [low, high] = [onto(distinct[0]), onto(distinct[distinct.length - 1])];
    const outside = low - 0.15 * (high - low || 1);
    const values = given.map((here) => (here === null ? outside : onto(here)));
    const few = distinct.length <= 8 ? distinct : [0, 1, 2, 3, 4].map((i) => {
      const at = low + (i / 4) * (high - low);
      return Number((isLog ? 10 ** at : at).toPrecision(3));
    });
    const tickvals = few.map(onto);
    const ticktext = few.map(text);
    if (given.includes(null)) {
      tickvals.unshift(outside);
      ticktext.unshift("(inactive)");
    }
    return { label: one.name, values, tickvals, ticktext };
  }
  function drawParallel() {
    const place = document.getElementById("parallel");
    if (ranked.length < 2) {
      place.remove();
      return;
    }
    const dimensions = axes.map(dimension);
    const fvu = ranked.map((row) => Math.log10(value(row, "fvu")));
    Plotly.newPlot(place, [{
      type: "parcoords", dimensions: dimensions.map((one) => ({ ...one, label: plain(one.label) })),
      line: { color: fvu, colorscale: "Cividis", reversescale: true },
    }], { height: 380, margin: { l: 70, r: 70, t: 60, b: 20 } }, config);
    place.on("plotly_restyle", () => {
      brushed = new Set(rows.map((row) => row.uid));
      const limits = place.data[0].dimensions.map((one) => one.constraintrange);
      if (limits.some(Boolean)) {
        brushed = new Set(ranked.filter((_, i) => limits.every((limit, j) => {
          if (!limit) return true;
          const ranges = Array.isArray(limit[0]) ? limit : [limit];
          return ranges.some(([a, b]) => a <= dimensions[j].values[i] && dimensions[j].values[i] <= b);
        })).map((row) => row.uid));
      }
      drawTable();
      drawFront();
    });
  }

  // ---- front --------------------------------------------------------------------------------
  const [up, across] = [data.front.objectives[0], data.front.objectives[1]];
  function hover(row) {
    const lines = data.columns
      .filter((one) => one.kind !== "metric" || one.main)
      .map((one) => `${plain(one.name)} ${plain(text(value(row, one.name)) || "(inactive)")}`);
    return [`<b>${plain(row.label)}</b>`, plain(row.uid), ...lines].join("<br>");
  }
  function drawFront() {
    const place = document.getElementById("front");
    if (!across) {
      place.remove();
      return;
    }
    const shown = new Set(kept().map((row) => row.uid));
    const points = ranked.filter((row) => value(row, across) !== null);
    const onFront = new Set(data.front.uids);
    const line = data.front.uids.map((uid) => byUid.get(uid));
    const colour = new Map([...selected].map((uid, i) => [uid, colours[i % colours.length]]));
    const axis = (name) => {
      const about = data.columns[column.get(name)];
      const isLog = about.log && points.every((row) => value(row, name) > 0);
      return { title: { text: `${name} (${about.unit ?? ""}), ${about.better ?? ""} is better` },
        type: isLog ? "log" : "linear" };
    };
    Plotly.react(place, [
      { x: line.map((row) => value(row, across)), y: line.map((row) => value(row, up)),
        mode: "lines", line: { color: "#222222", width: 1 }, hoverinfo: "skip", name: "front" },
      { x: points.map((row) => value(row, across)), y: points.map((row) => value(row, up)),
        mode: "markers", type: "scatter", name: "trials", customdata: points.map((row) => row.uid),
        text: points.map(hover), hovertemplate: "%{text}<extra></extra>",
        marker: {
          size: points.map((row) => (onFront.has(row.uid) ? 11 : 8)),
          symbol: points.map((row) => (onFront.has(row.uid) ? "diamond" : "circle")),
          color: points.map((row) => colour.get(row.uid) ?? (onFront.has(row.uid) ? "#222222" : grey)),
          opacity: points.map((row) => (shown.has(row.uid) ? 1 : 0.15)),
        } },
    ], { height: 460, showlegend: false, xaxis: axis(across), yaxis: axis(up),
      title: { text: `Pareto front: ${data.front.uids.length} of ${points.length} ranked trials` },
    }, config);
    if (!place.dataset.ready) {
      place.dataset.ready = "yes";
      place.on("plotly_click", (event) => {
        const uid = event.points[0].customdata;
        if (uid) toggle(uid);
      });
    }
  }

  // ---- curves -------------------------------------------------------------------------------
  function drawCurves() {
    const place = document.getElementById("curves");
    const names = Object.keys(data.curves).filter((name) => Object.keys(data.curves[name]).length);
    if (!names.length) {
      place.remove();
      return;
    }
    const traces = [];
    const layout = { height: 340, grid: { rows: 1, columns: names.length, pattern: "independent" },
      legend: { orientation: "h", y: -0.25 }, margin: { t: 40 }, annotations: [] };
    names.forEach((name, panel) => {
      const n = panel ? panel + 1 : "";
      layout[`xaxis${n}`] = { title: { text: "step" } };
      layout[`yaxis${n}`] = { title: { text: name },
        type: data.columns[column.get(name)]?.log ? "log" : "linear" };
      [...selected].forEach((uid, i) => {
        const curve = data.curves[name][uid];
        if (!curve) return;
        traces.push({ x: curve[0], y: curve[1], mode: curve[0].length > 1 ? "lines" : "markers",
          name: plain(byUid.get(uid).label), legendgroup: uid, showlegend: panel === 0,
          line: { color: colours[i % colours.length] }, xaxis: `x${n}`, yaxis: `y${n}` });
      });
    });
    Plotly.react(place, traces, layout, config);
    const missing = [...selected].filter((uid) => !names.some((name) => data.curves[name][uid]));
    document.getElementById("curves-note").textContent =
      (missing.length ? `No curve of ${missing.map((uid) => byUid.get(uid).label).join(", ")} is in this page. ` : "")
      + (data.with_curves < rows.length
        ? `The curves of ${data.with_curves} of ${rows.length} trials are in this page.` : "");
  }

  function toggle(uid) {
    if (!selected.delete(uid)) selected.add(uid);
    drawTable();
    drawFront();
    drawCurves();
  }
  document.getElementById("filter").addEventListener("input", () => {
    drawTable();
    drawFront();
  });
  document.getElementById("clear").addEventListener("click", () => {
    document.getElementById("filter").value = "";
    selected.clear();
    brushed = new Set(rows.map((row) => row.uid));
    drawParallel();
    drawTable();
    drawFront();
    drawCurves();
  });
  drawParallel();
  drawTable();
  drawFront();
  drawCurves();
  // a link to a folded topic opens it
  function unfold(hash) {
    const topic = /^#section-\d+$/.test(hash) && document.querySelector(`${hash} > details`);
    if (topic) topic.open = true;
  }
  document.querySelectorAll("a[href^='#section-']").forEach((link) =>
    link.addEventListener("click", () => unfold(link.hash)));
  unfold(location.hash);
})();
