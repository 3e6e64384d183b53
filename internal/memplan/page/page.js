"use strict";
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const $ = (id) => document.getElementById(id);
  const steps = {
    batch: [1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128],
    seq: [128, 256, 512, 768, 1024, 1536, 2048, 3072, 4096, 6144, 8192, 12288, 16384, 24576, 32768, 49152, 65536, 98304, 131072],
    rank: [1, 2, 4, 8, 16, 32, 64, 128, 256, 512],
  };
  const names = ["weights", "adapters", "optimizer", "gradients", "activations", "layer at work", "logits", "workspace and context"];
  const moments = {
    "forward": "forward, loss", "loss": "backward, loss", "last layer": "backward, last layer", "first layer": "backward, first layer",
    "embedding": "backward, embedding", "optimizer": "optimizer step", "generation": "generation",
  };
  const gib = (n) => {
    const v = n / 2 ** 30;
    return v >= 100 ? v.toFixed(0) + " GiB" : v >= 1 ? v.toFixed(2) + " GiB" : (n / 2 ** 20).toFixed(n < 10 * 2 ** 20 ? 1 : 0) + " MiB";
  };
  const count = (n) => n.toLocaleString("en-US");
  const make = (tag, text, cls) => {
    const e = document.createElement(tag);
    if (text !== undefined) e.textContent = text;
    if (cls) e.className = cls;
    return e;
  };
  const fill = (e, ...kids) => { e.replaceChildren(...kids); return e; };
  const row = (...cells) => {
    const tr = make("tr");
    for (const c of cells) tr.append(c instanceof Node ? c : make("td", c));
    return tr;
  };

  const sizes = ["batch", "seq", "rank"];
  const size = Object.fromEntries(sizes.map((id) => [id, data[id]])); // what is planned for
  let more = 1; // times the accumulation of the variant's script
  const slide = {}; // puts a slider where the size is
  const wrong = (id, is) => {
    $(id).setAttribute("aria-invalid", is);
    $(id + "-wrong").textContent = is ? "a whole number from 1 to " + $(id).max : "";
  };
  const show = (id) => {
    $(id).value = size[id];
    wrong(id, false);
    slide[id]();
  };

  const limit = 2 ** 53;
  const at = (v, b, s, r) => memoryAt(v.k, b, s, r);
  // largest is the search of memplan: the last n for which ok holds.
  const largest = (ok) => {
    if (!ok(1)) return 0;
    let lo = 1, hi = 2;
    while (hi < 2 ** 24 && ok(hi)) { lo = hi; hi *= 2; }
    while (lo + 1 < hi) {
      const mid = Math.floor((lo + hi) / 2);
      if (ok(mid)) lo = mid; else hi = mid;
    }
    return lo;
  };
  const fits = (x, usable) => x.process <= (usable - usable % 10) / 10 * 9 ? "fits" : x.process <= usable ? "tight" : x.least <= usable ? "pages" : "no";
  // all: the process, else what the allocator has.
  const parts = (x, p, all) => [x.weights, x.adapters, x.optimizer + (all ? x.optimizer_paged : 0), p.gradients, p.activations, p.work, p.logits,
    x.workspace + (all ? x.process - x.optimizer_paged - x.allocated : 0)];

  const bar = (e, values, full) => fill(e, ...values.map((v, i) => {
    const s = make("span");
    s.style.width = (100 * Math.max(v, 0) / full) + "%";
    s.style.background = "var(--c" + i + ")";
    s.title = names[i] + ": " + gib(v);
    return s;
  }));

  function draw() {
    const v = data.variants[$("method").value], card = data.gpus[$("gpu").value];
    const [b, s, r] = sizes.map((id) => size[id]);
    const adapters = (v.k.adapters || []).length > 0;
    $("rank").disabled = $("rank-slider").disabled = !adapters;
    const x = at(v, b, s, r);
    const verdict = fits(x, card.usable);

    const words = { fits: "fits", tight: "fits, tight", pages: "fits with paging", no: "does not fit" };
    fill($("figures"), ...[
      [card.name, words[verdict], verdict === "no" ? gib(x.process - card.usable) + " too much" : gib(Math.max(card.usable - x.process, 0)) + " left", verdict],
      ["allocated", gib(x.allocated), "tensors"], ["reserved", gib(x.reserved), "with the allocator's slack"], ["needs at least", gib(x.process), "with the CUDA context"],
      ...(x.host > 0 ? [["host memory", gib(x.host), "at most, for paged or offloaded data"]] : []),
    ].map(([label, value, note, cls]) => {
      const d = make("div", label, "dim"), big = make("b", value, cls);
      if (!cls) big.style.color = "var(--ink)";
      d.append(big, make("span", note));
      return d;
    }));

    const peak = x.phases.find((p) => p.name === x.peak_phase);
    const values = parts(x, peak, true);
    const full = Math.max(x.process, card.usable) * 1.02;
    bar($("peak"), values, full);
    const mark = make("i");
    mark.style.left = (100 * card.usable / full) + "%";
    $("peak").append(mark);
    const tick = make("span", card.name + ", " + gib(card.usable));
    const place = 100 * card.usable / full; // the words end at the mark where they would run out of the page
    tick.style.left = place + "%";
    tick.style.transform = place > 60 ? "translateX(-100%)" : place < 15 ? "none" : "";
    fill($("scale"), tick);
    fill($("key"), ...values.map((n, i) => {
      const k = make("span"), dot = make("i");
      dot.style.background = "var(--c" + i + ")";
      k.append(dot, names[i] + " ", make("b", gib(n)));
      return k;
    }).filter((_, i) => values[i] > 0));

    const most = Math.max(...x.phases.map((p) => p.allocated));
    fill($("phases").tBodies[0], ...x.phases.map((p) => {
      const cell = make("td", undefined, "wide"), e = make("div", undefined, "bar");
      bar(e, parts(x, p, false), most);
      cell.append(e);
      const tr = row(moments[p.name], gib(p.allocated), cell);
      if (p.name === x.peak_phase) tr.className = "chosen";
      return tr;
    }));

    fill($("variants").tBodies[0], ...data.variants.map((w, i) => {
      if (i >= data.ways && w !== v) return "";
      const y = at(w, b, s, r), own = (w.k.adapters || []).reduce((n, a) => n + a.count * r * (a.in + a.out), 0);
      const trained = w.trained || own, f = fits(y, card.usable);
      const tr = row(w.name, w.bits.toFixed(2), count(trained), (100 * trained / (w.trained ? w.params : w.params + own)).toFixed(trained * 100 < w.params ? 3 : 1) + " %",
        own ? (own * w.k.adapter_size / 1e6).toFixed(1) + " MB" : "-", gib(y.process), make("td", f, f));
      if (w === v) tr.className = "chosen";
      return tr;
    }).filter((tr) => tr));

    drawChanges(v, x, card);
    $("snippet").textContent = v.snippet.replace(/^(BATCH|SEQ|RANK) = .*$/gm, (_, name) => name + " = " + { BATCH: b, SEQ: s, RANK: r }[name])
      .replace(/(gradient_accumulation_steps=)(\d+)/g, (_, name, n) => name + n * more);

    fill($("gpus").tBodies[0], ...data.gpus.map((g) => {
      const f = fits(x, g.usable);
      const ok = (bb, ss) => {
        const y = at(v, bb, ss, r);
        return y.process < limit && y.process <= g.usable;
      };
      const mb = largest((n) => ok(n, s)), ms = Math.min(largest((n) => ok(b, n)), data.context || Infinity);
      const tr = row(g.name, gib(g.mib * 2 ** 20), make("td", f, f), x.process <= g.usable ? gib(g.usable - x.process) : "-", mb ? count(mb) : "-", ms ? count(ms) : "-");
      if (g === card) tr.className = "chosen";
      return tr;
    }));
    document.body.dataset.allocated = x.allocated;
    document.body.dataset.process = x.process;
  }

  // halved is the sizes after a change.
  const halved = (c) => ({ ...size, ...(c.halve ? { [c.halve]: c.halve === "batch" ? Math.ceil(size.batch / 2) : Math.floor(size[c.halve] / 2) } : {}) });

  function drawChanges(v, x, card) {
    const list = (v.changes || []).filter((c) => !c.halve || size[c.halve] >= (c.halve === "seq" ? 256 : 2)).map((c) => {
      const n = halved(c), after = at(data.variants[c.to], n.batch, n.seq, n.rank).process;
      return { c, after, saved: x.process - after };
    }).filter((e) => e.saved > 0).sort((p, q) => q.saved * p.c.weight - p.saved * q.c.weight);
    $("changes-note").textContent = list.length ? "Most saved for its price first. A click makes the change here, in the figures and in the script." : "";
    if (v.cut) $("changes-note").textContent += " There is more than this page holds: nf4kit plan with the flags so far lists it.";
    else if (!list.length) $("changes-note").textContent = "Nothing that is known here makes it smaller.";
    $("changes").parentNode.hidden = !list.length;
    fill($("changes").tBodies[0], ...list.map((e) => {
      const button = make("button", e.c.what), first = make("td"), f = fits(e.after, card.usable);
      button.type = "button";
      button.addEventListener("click", () => take(e.c));
      first.append(button);
      return row(first, gib(e.saved), gib(e.after), make("td", f, f), make("td", e.c.price, "text"), make("td", e.c.flag, "text"));
    }));
  }

  // take makes a change, and leaves the keyboard where the next one is.
  function take(c) {
    if (c.halve === "batch" && data.variants[c.to] === data.variants[$("method").value]) more *= 2;
    Object.assign(size, halved(c));
    for (const id of sizes) show(id);
    offer(c.to);
    $("method").value = c.to;
    draw();
    ($("changes").querySelector("button") || $("method")).focus({ preventScroll: true });
  }

  // offer has a variant among the methods.
  const offer = (i) => {
    if (![...$("method").options].some((o) => Number(o.value) === i)) $("method").append(new Option(data.variants[i].name, i));
  };
  data.variants.slice(0, data.ways).forEach((_, i) => offer(i));
  data.gpus.forEach((g, i) => $("gpu").append(new Option(g.name + " (" + gib(g.mib * 2 ** 20) + ")", i)));
  $("method").value = data.chosen;
  $("gpu").value = Math.max(data.gpus.findIndex((g) => g.name === data.gpu), 0);
  for (const id of sizes) {
    const own = [...new Set([...steps[id], data[id]])].sort((a, b) => a - b), slider = $(id + "-slider");
    slider.min = 0;
    slider.max = own.length - 1;
    const nearest = () => own.reduce((best, n, i) => Math.abs(n - size[id]) < Math.abs(own[best] - size[id]) ? i : best, 0);
    slide[id] = () => {
      slider.value = nearest();
      slider.setAttribute("aria-valuetext", count(size[id]) + " " + { batch: "sequences", seq: "tokens", rank: "" }[id]);
    };
    show(id);
    slider.addEventListener("input", () => { size[id] = own[slider.value]; show(id); draw(); });
    $(id).addEventListener("input", () => {
      const n = Number($(id).value), good = $(id).value !== "" && Number.isInteger(n) && n >= 1 && n <= Number($(id).max);
      wrong(id, !good);
      if (!good) return; // the figures stay those of the last good number
      size[id] = n;
      slide[id]();
      draw();
    });
    $(id).addEventListener("change", () => show(id));
  }
  for (const id of ["method", "gpu"]) $(id).addEventListener("change", draw);
  $("theme").addEventListener("click", () => {
    const root = document.documentElement, dark = matchMedia("(prefers-color-scheme: dark)").matches;
    const now = root.dataset.theme || (dark ? "dark" : "light");
    root.dataset.theme = now === "dark" ? "light" : "dark";
  });
  draw();
})();
