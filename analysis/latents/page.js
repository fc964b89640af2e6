"use strict";
// A trial's latents. Whatever a text says is put in as text, never as HTML.
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const PAGE = 200;
  const make = (tag, text, name) => {
    const element = document.createElement(tag);
    if (text !== undefined) element.textContent = text;
    if (name) element.className = name;
    return element;
  };
  const number = (value) => (value === 0 ? "0" : Number(value.toPrecision(3)).toString());
  document.title = `Latents of ${data.name}`;
  document.querySelector("h1").textContent = `Latents of ${data.name} (${data.uid})`;

  const latents = data.latents.map((one, id) => {
    const frequency = data.frequency[id];
    const shares = data.shares[id] || [];
    const best = shares.length ? shares.indexOf(Math.max(...shares)) : -1;
    const top = one.contexts[0];
    let token = "";
    if (top) {
      const peak = top[3].reduce((a, b) => (b[1] > a[1] ? b : a));
      token = data.pieces[data.tokens[peak[0]]];
    }
    return {
      id, frequency, token,
      largest: data.largest[id],
      share: best < 0 ? 0 : shares[best],
      group: best < 0 || shares[best] === 0 ? "" : data.groups[best],
      nearest: one.neighbours.length ? one.neighbours[0][0] : -1,
      cosine: one.neighbours.length ? one.neighbours[0][1] : 0,
      state: frequency === 0 ? "dead" : frequency > data.alwaysOn ? "always_on" : "",
      contexts: one.contexts, histogram: one.histogram, neighbours: one.neighbours,
    };
  });

  const columns = [
    ["latent", "id", (one) => String(one.id)],
    ["frequency", "frequency", (one) => number(one.frequency)],
    ["largest", "largest", (one) => number(one.largest)],
    ["nearest cosine", "cosine", (one) => `${number(one.cosine)} (${one.nearest})`],
    ...(data.groups.length > 1
      ? [["group", "share", (one) => (one.group ? `${one.group} ${number(one.share)}` : "")]] : []),
    ["state", "state", (one) => one.state],
    ["top token", "token", (one) => one.token],
  ];
  let sorted = "frequency", down = true, shown = PAGE, chosen = -1, rows = [];

  const head = document.querySelector("#latents thead tr");
  for (const [title, key] of columns) {
    const cell = make("th", title);
    cell.addEventListener("click", () => {
      down = sorted === key ? !down : key !== "id" && key !== "token";
      sorted = key;
      shown = PAGE;
      draw();
    });
    head.append(cell);
  }

  const search = document.getElementById("search");
  const named = { freq: "frequency", frequency: "frequency", cos: "cosine", largest: "largest" };
  const fits = (one, word) => {
    const bound = word.match(/^(\w+)(<=|>=|<|>)([\d.e+-]+)$/);
    if (bound && bound[1] in named) {
      const value = one[named[bound[1]]], limit = Number(bound[3]);
      return { "<": value < limit, ">": value > limit, "<=": value <= limit, ">=": value >= limit }[
        bound[2]];
    }
    if (/^\d+$/.test(word) && String(one.id) === word) return true;
    if (word === "always_on" || word === "dead") return one.state === word;
    return one.token.toLowerCase().includes(word) || one.group.toLowerCase() === word;
  };

  function draw() {
    const words = search.value.toLowerCase().split(/\s+/).filter(Boolean);
    rows = latents.filter((one) => words.every((word) => fits(one, word)));
    rows.sort((a, b) => {
      const order = a[sorted] < b[sorted] ? -1 : a[sorted] > b[sorted] ? 1 : 0;
      return (down ? -order : order) || a.id - b.id;
    });
    document.getElementById("count").textContent = `${rows.length} of ${latents.length} latents`;
    const body = document.querySelector("#latents tbody");
    body.replaceChildren(...rows.slice(0, shown).map((one) => {
      const row = make("tr", undefined, one.id === chosen ? "chosen" : "");
      row.dataset.id = one.id;
      for (const [, , text] of columns) row.append(make("td", text(one)));
      row.addEventListener("click", () => open(one.id));
      return row;
    }));
    document.getElementById("more").hidden = rows.length <= shown;
  }

  function context([kind, start, stop, fired], largest) {
    const line = make("div", undefined, "context");
    const values = new Map(fired);
    for (let row = start; row < stop; row += 1) {
      const value = values.get(row);
      const token = make("span", data.pieces[data.tokens[row]]);
      if (value !== undefined) {
        token.style.background = `rgba(213, 94, 0, ${(0.12 + 0.7 * value / largest).toFixed(3)})`;
        token.title = `${number(value)}, ${kind}`;
        token.className = "on";
      }
      line.append(token);
    }
    return line;
  }

  function open(id) {
    chosen = id;
    const one = latents[id], place = document.getElementById("latent");
    const title = make("h2", `Latent ${id}`);
    if (one.state) title.append(make("span", one.state, "tag"));
    const parts = [title, make("p", `fires on ${(100 * one.frequency).toPrecision(3)} % of the ` +
      `validation tokens, at most ${number(one.largest)}`)];
    if (one.histogram.length) {
      const bars = make("div", undefined, "bars"), most = Math.max(...one.histogram);
      one.histogram.forEach((count, i) => {
        const bar = make("div");
        bar.style.height = `${100 * Math.log1p(count) / Math.log1p(most)}%`;
        bar.title = `${count} tokens from ${number(i / one.histogram.length * one.largest)}`;
        bars.append(bar);
      });
      parts.push(make("p", "Activations above 0, logarithm of the counts", "note"), bars);
    }
    const links = make("p", "Nearest decoder rows: ");
    for (const [other, cosine] of one.neighbours) {
      const link = make("button", `${other} (${number(cosine)})`);
      link.addEventListener("click", () => { open(other); draw(); });
      links.append(link, " ");
    }
    parts.push(links);
    let kind = "";
    for (const each of one.contexts) {
      if (each[0] !== kind) parts.push(make("h2", each[0] === "top" ? "Largest activations" :
        `Windows at ${each[0]} of its largest activations`));
      kind = each[0];
      parts.push(context(each, one.largest));
    }
    if (!one.contexts.length) parts.push(make("p", "It fires on no validation token.", "note"));
    place.replaceChildren(...parts);
    place.scrollTop = 0;
    for (const row of document.querySelectorAll("#latents tbody tr")) {
      row.className = Number(row.dataset.id) === id ? "chosen" : "";
    }
  }

  search.addEventListener("input", () => { shown = PAGE; draw(); });
  document.getElementById("more").addEventListener("click", () => { shown += PAGE; draw(); });
  draw();
})();
