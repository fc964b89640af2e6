"use strict";
// One sweep: brushing, filtering and selecting act on the same two sets, `brushed` (bright in the
// front, shown in the table) and `selected` (coloured, listed, drawn as curves).
(() => {
  const $ = (id) => document.getElementById(id);
  const hues = ["#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00"];
  // nothing leaves the page: by default Plotly offers to upload a chart
  const config = { displayModeBar: false, responsive: true, showSendToCloud: false, plotlyServerURL: "" };
  let data, column, rows, byUid, pointOf, brushed;
  let selected = new Set();
  let isChosen = false; // whether the reader has selected anything: until then the picks are
  let order = { by: null, down: false };
  let curve = "fvu";

  function read(text) {
    data = JSON.parse(text);
    column = new Map(data.columns.map((one, i) => [one.name, i]));
    rows = data.rows;
    byUid = new Map(rows.map((row) => [row.uid, row]));
    pointOf = new Map(data.front.points.flatMap((one) => one.members.map((uid) => [uid, one])));
    brushed = new Set(byUid.keys());
  }

  const about = (name) => data.columns[column.get(name)] ?? {};
  const value = (row, name) => (column.has(name) ? row.values[column.get(name)] : row[name]);
  const digits = (one) => String(Number(one.toPrecision(4)));
  const text = (one, name) => {
    if (one === null || one === undefined) return "";
    if (typeof one !== "number") return String(one);
    return about(name).unit === "share" ? `${Number((100 * one).toPrecision(3))} %` : digits(one);
  };
  // Plotly reads a few tags in its texts
  const plain = (one) =>
    String(one).replaceAll("&", "&amp;").replaceAll("<", "&lt;").replaceAll(">", "&gt;");
  const element = (tag, content, className = "") => {
    const made = document.createElement(tag);
    made.textContent = content;
    made.className = className;
    return made;
  };

  // ---- looks ---------------------------------------------------------------------------------
  const css = (name) => getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();
  function layout(more) {
    const axis = { gridcolor: css("line"), linecolor: css("faint"), zeroline: false, ticks: "" };
    const { xaxis, yaxis, ...rest } = more;
    return {
      paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", showlegend: false,
      font: { family: getComputedStyle(document.body).fontFamily, size: 12, color: css("quiet") },
      hoverlabel: { bgcolor: css("panel"), bordercolor: css("faint"), font: { color: css("ink"), size: 12 }, align: "left" },
      margin: { l: 48, r: 16, t: 26, b: 38 },
      xaxis: { ...axis, ...xaxis }, yaxis: { ...axis, ...yaxis }, ...rest,
    };
  }
  // a value's axis, its name above it; log ticks at 1, 2 and 5
  function scale(name, values, exact) {
    const found = values.filter((one) => one !== null && Number.isFinite(one));
    const isLog = Boolean(about(name).log) && found.length > 0 && found.every((one) => one > 0);
    const axis = { type: isLog ? "log" : "linear" };
    if (about(name).unit === "share" && !isLog) axis.tickformat = ".3~%";
    if (exact?.length && exact.length <= 8) {
      axis.tickvals = exact;
    } else if (isLog) {
      const [low, high] = [Math.min(...found), Math.max(...found)];
      const steps = high / low > 300 ? [1] : [1, 2, 5];
      const all = [];
      for (let i = Math.floor(Math.log10(low)) - 1; i <= Math.log10(high) + 1; i++)
        all.push(...steps.map((one) => one * 10 ** i));
      if (all.filter((one) => one >= low && one <= high).length >= 2) axis.tickvals = all;
      else axis.nticks = 5;
    }
    if (axis.tickvals) axis.ticktext = axis.tickvals.map((one) => text(one, name));
    return axis;
  }
  const better = (name) => {
    const { unit, better: way } = about(name);
    return `${plain(name)}${unit && unit !== "ratio" && unit !== "share" ? ` (${unit})` : ""}${way ? `, ${way} is better` : ""}`;
  };
  const above = (words) => ({
    text: words, x: 0, y: 1, xref: "paper", yref: "paper", xanchor: "left", yanchor: "bottom",
    showarrow: false, xshift: -48, yshift: 6,
  });
  // a hue for each selected configuration: its seeds share it
  function colours() {
    const found = new Map();
    const keys = new Map();
    for (const uid of selected) {
      const key = pointOf.get(uid)?.uid ?? uid;
      if (!keys.has(key)) keys.set(key, hues[keys.size % hues.length]);
      found.set(uid, keys.get(key));
    }
    return found;
  }

  // ---- filter --------------------------------------------------------------------------------
  const comparisons = {
    "<": (a, b) => a < b, ">": (a, b) => a > b, "<=": (a, b) => a <= b, ">=": (a, b) => a >= b,
    "=": (a, b) => a === b,
  };
  function wanted(words) {
    return words.endsWith("%") ? Number(words.slice(0, -1)) / 100 : Number(words);
  }
  function passes(row, words) {
    return words.every((word) => {
      const found = word.match(/^([\w.]+)(<=|>=|<|>|=)(.+)$/);
      if (!found || (!column.has(found[1]) && !["status", "uid", "label"].includes(found[1]))) {
        return `${row.label} ${row.uid} ${row.status}`.toLowerCase().includes(word.toLowerCase());
      }
      const here = value(row, found[1]);
      return here !== null
        && comparisons[found[2]](here, typeof here === "number" ? wanted(found[3]) : found[3]);
    });
  }
  function kept() {
    const words = $("filter").value.split(/\s+/).filter(Boolean);
    return rows.filter((row) => brushed.has(row.uid) && passes(row, words));
  }

  // ---- table ---------------------------------------------------------------------------------
  function compare(a, b) {
    const [x, y] = [value(a, order.by), value(b, order.by)];
    if (x === null || y === null) return (x === null) - (y === null); // what is missing stands last
    const less = typeof x === "number" && typeof y === "number"
      ? x - y : String(x).localeCompare(String(y));
    return order.down ? -less : less;
  }
  function drawTable() {
    const fields = ["label", ...data.columns.map((one) => one.name), "status", "uid"];
    const shown = kept();
    const hue = colours();
    if (order.by !== null) shown.sort(compare);
    const head = document.createElement("tr");
    for (const name of fields) {
      const { definition, unit, better: way } = about(name);
      const isNumber = rows.some((row) => typeof value(row, name) === "number");
      const cell = element("th", name + (order.by === name ? (order.down ? " ↓" : " ↑") : ""),
        isNumber ? "number" : "");
      cell.title = [definition, unit, way && `${way} is better`].filter(Boolean).join("; ");
      cell.setAttribute("aria-sort",
        order.by !== name ? "none" : order.down ? "descending" : "ascending");
      cell.addEventListener("click", () => {
        order = { by: name, down: order.by === name && !order.down };
        drawTable();
      });
      head.append(cell);
    }
    document.querySelector("#trials thead").replaceChildren(head);
    const lines = shown.map((row) => {
      const line = document.createElement("tr");
      line.dataset.uid = row.uid;
      line.className = selected.has(row.uid) ? "selected" : "";
      if (hue.has(row.uid)) line.style.boxShadow = `inset 3px 0 0 ${hue.get(row.uid)}`;
      for (const name of fields) {
        const here = value(row, name);
        line.append(element("td", text(here, name), typeof here === "number" ? "number" : ""));
      }
      line.addEventListener("click", () => toggle([row.uid]));
      return line;
    });
    document.querySelector("#trials tbody").replaceChildren(...lines);
    $("count").textContent = `${shown.length} of ${rows.length} trials, ${selected.size} selected`;
  }

  // ---- parallel coordinates ------------------------------------------------------------------
  function dimension(one, ranked) {
    const label = plain(one.name);
    const given = ranked.map((row) => value(row, one.name));
    if (one.levels?.length) {
      const values = given.map((level) => one.levels.indexOf(level === null ? "(inactive)" : String(level)));
      return { label, values, tickvals: one.levels.map((_, i) => i), ticktext: one.levels.map(plain) };
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
    const ticktext = few.map((here) => text(here, one.name));
    if (given.includes(null)) {
      tickvals.unshift(outside);
      ticktext.unshift("(inactive)");
    }
    return { label, values, tickvals, ticktext };
  }
  function drawParallel() {
    const place = $("parallel");
    const axes = data.columns.filter((one) => one.kind !== "metric" || one.main);
    const ranked = rows.filter((row) => row.ranked
      && axes.every((one) => one.kind !== "metric" || value(row, one.name) !== null));
    $("parallel-box").hidden = ranked.length < 2;
    if (ranked.length < 2) return;
    const dimensions = axes.map((one) => dimension(one, ranked));
    const fvu = ranked.map((row) => Math.log10(value(row, "fvu")));
    const ends = [css("accent"), css("faint")];
    Plotly.newPlot(place, [{
      type: "parcoords", dimensions,
      line: { color: fvu, colorscale: [[0, ends[0]], [1, ends[1]]] },
      unselected: { line: { color: css("line"), opacity: 0.6 } },
      labelfont: { size: 12, color: css("quiet") }, tickfont: { size: 11, color: css("quiet") },
    }], layout({ height: 300, margin: { l: 56, r: 56, t: 44, b: 16 } }), config);
    place.removeAllListeners?.("plotly_restyle");
    place.on("plotly_restyle", () => {
      brushed = new Set(byUid.keys());
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

  // ---- front ---------------------------------------------------------------------------------
  function hover(point) {
    const row = byUid.get(point.uid);
    const settings = data.columns.filter((one) => one.kind !== "metric");
    const line = (name, here) => `${plain(name)} ${plain(text(here, name) || "(inactive)")}`;
    const seeds = point.members.length > 1 ? `means of ${point.members.length} trials` : plain(row.uid);
    return [`<b>${plain(row.label)}</b>`, seeds, "",
      ...settings.map((one) => line(one.name, value(row, one.name))), "",
      ...Object.entries(point.means).map(([name, here]) => line(name, here))].join("<br>");
  }
  function drawFront() {
    const place = $("front");
    if (!data.front.objectives.length) return;
    const { objectives: [up, across], uids, points, band, lost, references } = data.front;
    const [x, y] = [(one) => one.means[across], (one) => one.means[up]];
    const shown = new Set(kept().map((row) => row.uid));
    const hue = colours();
    const at = new Map(points.map((one) => [one.uid, one]));
    const members = uids.map((uid) => at.get(uid));
    const settled = { "on front": css("ink"), "within noise": css("paper"), "clearly beaten": css("faint") };
    const edges = { ...settled, "within noise": css("quiet") };
    const hueOf = (one) => one.members.map((uid) => hue.get(uid)).find(Boolean);
    const dim = (one) => (one.members.some((uid) => shown.has(uid)) ? 1 : 0.12);
    // what is drawn last lies on top: the beaten, the near, the front
    const rank = ["clearly beaten", "within noise", "on front"];
    const sorted = [...points].sort((a, b) => rank.indexOf(a.standing) - rank.indexOf(b.standing));
    const isStaircase = data.front.objectives.length === 2;
    const steps = { mode: "lines", hoverinfo: "skip", x: members.map(x) };
    const xs = [...points.map(x), ...references.map((one) => one[across])];
    const ys = [...points.map(y), ...references.map((one) => one[up])];
    // what has no fvu below 1 stands above all others
    const [low, high] = [Math.min(...ys), Math.max(...ys)];
    const top = low > 0 && about(up).log ? high * (high / low) ** 0.07 : high + 0.07 * (high - low);
    const traces = [
      { ...steps, y: isStaircase ? members.map(y) : [],
        line: { color: css("ink"), width: 1.25, shape: "hv" }, name: "front" },
      { ...steps, y: isStaircase ? band : [], fill: "tonexty", fillcolor: css("line"),
        line: { width: 0, shape: "hv" }, name: "band" },
      { x: sorted.map(x), y: sorted.map(y), mode: "markers",
        name: "trials", customdata: sorted.map((one) => one.members), text: sorted.map(hover),
        hovertemplate: "%{text}<extra></extra>",
        marker: {
          size: sorted.map((one) => (one.standing === "on front" ? 11 : points.length > 300 ? 6 : 9)),
          color: sorted.map((one) => hueOf(one) ?? settled[one.standing]),
          opacity: sorted.map(dim),
          line: { width: sorted.map((one) => (one.standing === "within noise" || hueOf(one) ? 1.5 : 0)),
            color: sorted.map((one) => hueOf(one) ?? edges[one.standing]) },
        } },
      { x: lost.map((one) => one.across), y: lost.map(() => top), mode: "markers", name: "lost",
        customdata: lost.map((one) => [one.uid]),
        text: lost.map((one) => `<b>${plain(byUid.get(one.uid).label)}</b><br>${plain(byUid.get(one.uid).status)}`),
        hovertemplate: "%{text}<extra></extra>", cliponaxis: false,
        marker: { symbol: "x-thin", size: 9, line: { width: 2, color: css("red") } } },
      { x: references.map((one) => one[across]), y: references.map((one) => one[up]), mode: "markers",
        name: "references", hovertemplate: "%{text}<extra></extra>",
        text: references.map((one) => [`<b>${plain(one.name)}</b>`, `trained elsewhere (${plain(one.layout)})`,
          ...[up, across].map((name) => `${plain(name)} ${text(one[name], name)}`)].join("<br>")),
        marker: { symbol: "diamond-open", size: 10, line: { width: 1.75 }, color: css("red") } },
    ];
    // the band lies under the line
    traces.splice(0, 2, { ...traces[0], showlegend: false }, traces[1]);
    const exact = [...new Set(points.map(x))].sort((a, b) => a - b);
    const xaxis = scale(across, xs, exact);
    const yaxis = scale(up, ys);
    const onto = (axis, one) => (axis.type === "log" ? Math.log10(one) : one);
    const numbers = members.length <= 12 ? members.map((one, i) => ({
      x: onto(xaxis, x(one)), y: onto(yaxis, y(one)), text: String(i + 1),
      showarrow: false, xshift: 11, yshift: 10, font: { size: 11, color: css("ink") },
    })) : [];
    Plotly.react(place, traces, layout({
      height: 380, hovermode: "closest", dragmode: false,
      xaxis: { ...xaxis, showgrid: false, showline: true, title: { text: better(across), standoff: 8, font: { size: 12 } } },
      yaxis, annotations: [above(better(up)), ...numbers], margin: { l: 48, r: 16, t: 26, b: 48 },
    }), config);
    document.querySelector("figcaption .near").hidden = !points.some((one) => one.standing === "within noise");
    document.querySelector("figcaption .band").hidden = !(isStaircase && band.length);
    document.querySelector("figcaption .lost").hidden = !lost.length;
    document.querySelector("figcaption .references").hidden = !references.length;
    if (!place.dataset.ready) {
      place.dataset.ready = "yes";
      place.on("plotly_click", (event) => {
        const uids = event.points[0].customdata;
        if (uids) toggle(uids);
      });
    }
  }

  // ---- what is selected ------------------------------------------------------------------------
  function drawSelected() {
    const hue = colours();
    const seen = new Map();
    for (const uid of selected) {
      const key = pointOf.get(uid)?.uid ?? uid;
      seen.set(key, [...(seen.get(key) ?? []), uid]);
    }
    const lines = [...seen].map(([key, uids]) => {
      const row = byUid.get(uids[0]);
      const line = document.createElement("div");
      const name = element("code", uids.length > 1 ? `${row.label} · ${uids.length} trials` : row.label);
      const swatch = element("i", "", "swatch");
      swatch.style.background = hue.get(uids[0]);
      name.prepend(swatch);
      line.append(name);
      for (const one of data.columns.filter((each) => each.kind !== "metric" || each.main)) {
        const part = element("span", `${one.name} `);
        const means = uids.length > 1 ? pointOf.get(uids[0]).means : {};
        const here = means[one.name] ?? value(row, one.name);
        part.append(element("b", text(here, one.name) || "inactive"));
        line.append(part);
      }
      line.dataset.uid = key;
      return line;
    });
    $("chosen").replaceChildren(...lines.slice(0, 6));
    if (!lines.length) $("chosen").replaceChildren(element("p", "Nothing is selected: click a point, a card or a row.", "note"));
    if (lines.length > 6) $("chosen").append(element("p", `and ${lines.length - 6} more`, "note"));
    document.querySelectorAll(".card").forEach((card) => {
      const on = selected.has(card.dataset.uid);
      card.setAttribute("aria-pressed", String(on));
      card.style.setProperty("--hue", hue.get(card.dataset.uid) ?? "");
    });
  }
  function drawCurves() {
    const place = $("curves");
    const names = Object.keys(data.curves).filter((name) => Object.keys(data.curves[name]).length);
    place.hidden = !names.length || !selected.size;
    $("metrics").replaceChildren(...names.map((name) => {
      const button = element("button", name);
      button.type = "button";
      button.setAttribute("aria-pressed", String(name === curve));
      button.addEventListener("click", () => {
        curve = name;
        drawCurves();
      });
      return button;
    }));
    if (!names.includes(curve)) [curve] = names;
    const missing = [...selected].filter((uid) => !names.some((name) => data.curves[name][uid]));
    $("curves-note").textContent = !names.length ? "No training curves are kept of this sweep."
      : (missing.length ? `No curve of ${missing.map((uid) => byUid.get(uid).label).join(", ")} is in this page. ` : "")
        + (data.with_curves < rows.length
          ? `The curves of ${data.with_curves} of ${rows.length} trials are in this page.` : "");
    if (place.hidden) return;
    const hue = colours();
    drawLines(place, curve, [...selected].filter((uid) => data.curves[curve][uid])
      .map((uid) => ({ uid, hue: hue.get(uid), points: data.curves[curve][uid] })), 210);
  }
  function drawLines(place, name, lines, height) {
    Plotly.react(place, lines.map(({ uid, hue, points: [x, y] }) => ({
      x, y, mode: x.length > 1 ? "lines" : "markers", name: plain(byUid.get(uid).label), legendgroup: uid,
      line: { color: hue, width: 1.5 }, marker: { color: hue },
      hovertemplate: `${plain(byUid.get(uid).label)}<br>step %{x}: %{y:.4~g}<extra></extra>`,
    })), layout({
      height, hovermode: "closest", dragmode: false,
      xaxis: { showgrid: false, showline: true, nticks: 6 },
      yaxis: scale(name, lines.flatMap((one) => one.points[1])),
      annotations: [above(`${better(name)}, by step`)], margin: { l: 48, r: 16, t: 26, b: 26 },
    }), config);
  }
  function drawRunning() {
    const place = $("running-curves");
    if (!place) return;
    const running = data.live.running.filter((one) => data.live.curves[one.uid]);
    document.querySelectorAll("[data-running]").forEach((one) => {
      one.style.background = hues[Number(one.dataset.running) % hues.length];
    });
    drawLines(place, "fvu", running.map((one) => ({
      uid: one.uid, points: data.live.curves[one.uid],
      hue: hues[data.live.running.indexOf(one) % hues.length],
    })), 200);
  }

  function preselect() {
    selected = new Set(data.leaders.slice(0, 3).flatMap((uid) => pointOf.get(uid)?.members ?? [uid]));
  }
  function toggle(uids) {
    isChosen = true;
    const all = uids.every((uid) => selected.has(uid));
    uids.forEach((uid) => (all ? selected.delete(uid) : selected.add(uid)));
    drawTable();
    drawFront();
    drawSelected();
    drawCurves();
  }
  function draw() {
    drawParallel();
    drawTable();
    drawFront();
    drawSelected();
    drawCurves();
    drawRunning();
    document.querySelectorAll(".card").forEach((card) => {
      card.onclick = () => toggle(pointOf.get(card.dataset.uid)?.members ?? [card.dataset.uid]);
    });
    // words stand left, numbers right
    document.querySelectorAll("main table:not(#trials)").forEach((table) => {
      const body = [...table.tBodies[0]?.rows ?? []];
      [...table.tHead.rows[0].cells].forEach((cell, i) => {
        const words = body.map((row) => row.cells[i]?.textContent.trim() ?? "");
        if (words.some((word) => /^[a-z“(]/i.test(word) && !/^n(one|ot) /.test(word)))
          [cell, ...body.map((row) => row.cells[i])].forEach((one) => one && (one.style.textAlign = "left"));
      });
    });
  }

  $("filter").addEventListener("input", () => {
    drawTable();
    drawFront();
  });
  $("clear").addEventListener("click", () => {
    $("filter").value = "";
    selected.clear();
    isChosen = true;
    brushed = new Set(byUid.keys());
    draw();
  });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);
  // a link to a folded topic opens it
  function unfold() {
    const topic = /^#topic-\d+$/.test(location.hash) && document.querySelector(location.hash);
    if (topic) topic.open = true;
  }
  addEventListener("hashchange", unfold);

  // ---- a running sweep: what changed is asked for, and put in the old one's place ---------------
  function renew(page) {
    for (const id of ["live", "lead", "cards", "parts"])
      $(id).replaceChildren(...page.getElementById(id).childNodes);
    for (const id of ["picks", "front-box"]) $(id).hidden = page.getElementById(id).hidden;
    read(page.getElementById("data").textContent);
    if (!isChosen) preselect();
    draw();
  }
  async function follow(version) {
    for (;;) {
      let answer;
      try {
        answer = await fetch(`/now?after=${version}`);
      } catch {
        $("live").replaceChildren(element("p", "This page follows the sweep no longer: watch has ended.", "note"));
        return;
      }
      if (answer.status !== 200) {
        await new Promise((done) => setTimeout(done, answer.status === 204 ? 0 : 5000));
        continue;
      }
      version = answer.headers.get("X-Version");
      const text = await answer.text();
      if (!text) { // the finished report
        location.reload();
        return;
      }
      renew(new DOMParser().parseFromString(text, "text/html"));
    }
  }

  read($("data").textContent);
  preselect();
  draw();
  unfold();
  if (data.live && location.protocol === "http:") follow(0);
})();
