"use strict";
(() => {
  const byId = (id) => document.getElementById(id);
  const data = JSON.parse(byId("data").textContent);
  const articles = [...document.querySelectorAll(".example")];
  const card = byId("card"), page = byId("page"), pick = byId("pick"), query = byId("query");
  let current = 0;   // example
  let chosen = -1;   // token of it
  const spans = articles.map(() => null);
  const texts = articles.map(() => null);

  const tokensOf = (example) => (spans[example] ??= [...articles[example].querySelectorAll(".tokens .t")]);
  const bytesOf = (id) => data.vocabulary[id][0];
  const textOf = (id) => data.vocabulary[id][1];
  const format = (number) => number === null ? "none" : String(+number.toPrecision(6));

  document.documentElement.classList.remove("nojs");

  // -- examples

  function show(example) {
    if (example < 0 || example >= articles.length) return;
    letGo();
    current = example;
    articles.forEach((article, i) => { article.hidden = i !== example; });
    pick.value = example;
    byId("previous").disabled = example === 0;
    byId("next").disabled = example === articles.length - 1;
    const first = tokensOf(example)[0];
    if (first) first.tabIndex = 0;
  }
  pick.addEventListener("change", () => { show(+pick.value); scrollTo(0, 0); });
  byId("previous").addEventListener("click", () => { show(current - 1); scrollTo(0, 0); });
  byId("next").addEventListener("click", () => { show(current + 1); scrollTo(0, 0); });

  // -- one token

  function element(name, text, className) {
    const made = document.createElement(name);
    if (text !== undefined) made.textContent = text;
    if (className) made.className = className;
    return made;
  }
  function facts(pairs) {
    const list = element("dl", undefined, "facts");
    for (const [name, value] of pairs) {
      list.append(element("dt", name));
      list.append(element("dd", value, "mono"));
    }
    return list;
  }
  function describe(example, index) {
    const row = data.rows[example], id = row.ids[index];
    const message = row.messages[index];
    const here = element("div");
    here.append(element("h2", `Position ${row.positions[index]}`));
    here.append(element("div", id === null ? row.images[index] : textOf(id), "big"));
    const role = row.roles[index] === null ? "template" : row.roles[index];
    const part = row.runs.find(([start, size]) => start <= index && index < start + size);
    here.append(facts([
      ["id", id === null ? "image" : String(id)],
      ["bytes", id === null ? "none" : bytesOf(id).replace(/../g, "$& ").trim().toUpperCase() || "none"],
      ...(part ? [["part of", decode(row, ...part)]] : []),
      ["weight", row.weights[index] === null ? "none: nothing predicts it" : format(row.weights[index])],
      ["role", message === null ? role : `${role}, message ${message}`],
      ["offset", `byte ${row.offsets[index]}`],
      ...Object.entries(row.inputs).filter(([, values]) => index < values.length)
        .map(([name, values]) => [name, format(values[index])]),
    ]));
    card.replaceChildren(here, shift(row, index));
    card.classList.remove("empty");
  }
  function shift(row, index) {
    const box = element("div", undefined, "shift");
    box.append(element("h3", "This position predicts"));
    const targets = row.targets === null
      ? (index + 1 < row.ids.length && row.ids[index + 1] !== null ? [[row.ids[index + 1], row.weights[index + 1]]] : [])
      : (row.targets[index] ?? []);
    if (!targets.length) box.append(element("p", "nothing: it has no target", "muted"));
    for (const [id, weight] of targets) {
      box.append(element("div", textOf(id), "big"));
      box.append(facts([["target", String(id)], ["weight", format(weight)]]));
    }
    return box;
  }
  function choose(index, focus) {
    const all = tokensOf(current);
    if (index < 0 || index >= all.length) return;
    letGo();
    chosen = index;
    all.forEach((span) => { if (span.tabIndex === 0) span.tabIndex = -1; });
    all[index].tabIndex = 0;
    all[index].classList.add("sel");
    if (data.rows[current].targets === null && all[index + 1]) all[index + 1].classList.add("next");
    if (focus) all[index].focus();
    describe(current, index);
  }
  function letGo() {
    const all = tokensOf(current);
    if (chosen >= 0) {
      all[chosen].classList.remove("sel");
      all[chosen + 1]?.classList.remove("next");
    }
    chosen = -1;
  }
  const indexOf = (event) => {
    const span = event.target.closest?.(".tokens .t");
    return span ? tokensOf(current).indexOf(span) : -1;
  };
  const examples = byId("examples");
  examples.addEventListener("pointerover", (event) => {
    const index = event.pointerType === "mouse" ? indexOf(event) : -1;
    if (index >= 0 && index !== chosen && document.activeElement !== tokensOf(current)[chosen]) choose(index, false);
  });
  examples.addEventListener("click", (event) => { const index = indexOf(event); if (index >= 0) choose(index, true); });
  examples.addEventListener("focusin", (event) => { const i = indexOf(event); if (i >= 0 && i !== chosen) choose(i, false); });

  // -- what is shown

  function toggle(id, className) {
    const button = byId(id);
    button.addEventListener("click", () => {
      const on = button.getAttribute("aria-pressed") !== "true";
      button.setAttribute("aria-pressed", String(on));
      page.classList.toggle(className, on);
    });
  }
  toggle("only", "only");
  toggle("heat", "heat");
  const isShown = (span) => span.getClientRects().length > 0;
  function step(by) {
    const all = tokensOf(current);
    let index = chosen < 0 ? (by > 0 ? 0 : all.length - 1) : chosen + by;
    while (all[index] && !isShown(all[index])) index += by;
    choose(index, true);
  }

  // -- search: in the text as it reads, so that a character of several tokens is found

  const decoder = new TextDecoder();
  function decode(row, start, size) {
    const hex = row.ids.slice(start, start + size).map((id) => id === null ? "" : bytesOf(id)).join("");
    return decoder.decode(Uint8Array.from(hex.match(/../g) ?? [], (pair) => parseInt(pair, 16)));
  }
  function piecesOf(example) {
    if (texts[example]) return texts[example];
    const row = data.rows[example], starts = new Map(row.runs);
    const pieces = [];
    let text = "";
    for (let i = 0; i < row.ids.length;) {
      const size = starts.get(i) ?? 1;
      const piece = decode(row, i, size).toLowerCase();
      pieces.push({ from: text.length, to: text.length + piece.length, first: i, last: i + size - 1 });
      text += piece;
      i += size;
    }
    return (texts[example] = { text, pieces });
  }
  let matches = [], at = -1, searched = "";
  function search(wanted) {
    matches = [];
    at = -1;
    searched = wanted;
    for (const hit of document.querySelectorAll(".hit")) hit.classList.remove("hit", "now");
    if (!wanted) return;
    articles.forEach((_, example) => {
      const { text, pieces } = piecesOf(example);
      for (let from = text.indexOf(wanted), p = 0; from >= 0; from = text.indexOf(wanted, from + wanted.length)) {
        while (p > 0 && pieces[p].from > from) p--;
        while (pieces[p].to <= from) p++;
        const match = { example, first: pieces[p].first, last: pieces[p].last };
        for (let q = p; q < pieces.length && pieces[q].from < from + wanted.length; q++) match.last = pieces[q].last;
        matches.push(match);
        for (let i = match.first; i <= match.last; i++) tokensOf(example)[i].classList.add("hit");
      }
    });
  }
  function find(by) {
    const wanted = query.value.toLowerCase();
    if (wanted !== searched) search(wanted);
    if (!matches.length) {
      byId("found").textContent = wanted ? "not found" : "";
      return;
    }
    if (at < 0) {
      const ahead = matches.findIndex((match) => match.example >= current);
      at = ahead < 0 ? 0 : ahead;
    } else at = (at + by + matches.length) % matches.length;
    const match = matches[at];
    for (const hit of document.querySelectorAll(".now")) hit.classList.remove("now");
    if (match.example !== current) show(match.example);
    const all = tokensOf(current);
    for (let i = match.first; i <= match.last; i++) all[i].classList.add("now");
    all[match.first].scrollIntoView({ block: "center" });
    choose(match.first, false);
    byId("found").textContent = `${at + 1} of ${matches.length}`;
  }
  byId("find").addEventListener("click", () => find(1));
  query.addEventListener("keydown", (event) => {
    if (event.key === "Enter") { event.preventDefault(); find(event.shiftKey ? -1 : 1); }
    if (event.key === "Escape") query.blur();
  });
  query.addEventListener("input", () => { if (!query.value) { search(""); byId("found").textContent = ""; } });

  // -- keys

  const keys = {
    ArrowRight: () => step(1), ArrowLeft: () => step(-1),
    n: () => show(current + 1), p: () => show(current - 1),
    t: () => byId("only").click(), h: () => byId("heat").click(),
    "/": () => query.focus(),
    Escape: () => { letGo(); document.activeElement.blur(); },
  };
  document.addEventListener("keydown", (event) => {
    const writing = event.target.closest?.("input, select, textarea");
    if (writing || event.ctrlKey || event.metaKey || event.altKey || !keys[event.key]) return;
    event.preventDefault();
    keys[event.key]();
  });

  // -- `page.html#3:17`: the third example, its token at 17

  function follow() {
    const [, example, index] = /^#(\d+)(?::(\d+))?$/.exec(location.hash) ?? [];
    show(example && articles[example - 1] ? example - 1 : 0);
    if (index) choose(+index, true);
  }
  addEventListener("hashchange", follow);
  follow();
})();
