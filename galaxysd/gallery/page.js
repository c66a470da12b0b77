
"use strict";
// Everything is built with textContent: what a set says is never read as markup.
const data = JSON.parse(document.getElementById("data").textContent);
const byId = (name) => document.getElementById(name);
const make = (tag, attributes, ...inside) => {
  const node = document.createElement(tag);
  Object.assign(node, attributes);
  node.append(...inside);
  return node;
};
const stamps = data.panels.map((panel, p) => panel.rows.map((_, r) => byId(`g-${p}-${r}`)));
const ends = [];
data.questions.reduce((end, question) => (ends.push(end + question.answers.length), end + question.answers.length), 0);
const column = (q, a) => ends[q] - data.questions[q].answers.length + a;
const title = (text) => text.charAt(0).toUpperCase() + text.slice(1);
const say = (value, digits = 2) => (value === null || value === undefined ? "–" : value.toFixed(digits));

// Filter: at most one answer a question, all of them must lead.
const wanted = new Map();
let basis = "lead";

const leads = (row) => row[basis] || [];
const passes = (row, but) => [...wanted].every(([q, a]) => q === but || leads(row)[q] === a);

function filter() {
  const shown = data.panels.map((panel, p) => {
    let count = 0;
    panel.rows.forEach((row, r) => {
      const visible = passes(row, -1);
      stamps[p][r].parentElement.hidden = !visible;
      count += visible;
    });
    const section = document.querySelector(`.panel[data-panel="${p}"]`);
    section.querySelector(".shown").textContent = count === panel.rows.length ? `${count}` : `${count} of ${panel.rows.length}`;
    section.querySelector(".empty").hidden = count > 0;
    rove(p, visibleRows(p)[0]);
    return `${count} ${panel.label}`;
  });
  for (const chip of document.querySelectorAll(".chip")) {
    const q = Number(chip.dataset.question), a = Number(chip.dataset.answer);
    const counts = data.panels.map((panel) => panel.rows.filter((row) => leads(row)[q] === a && passes(row, q)).length);
    chip.querySelectorAll(".n").forEach((node, p) => { node.textContent = counts[p]; });
    chip.setAttribute("aria-pressed", wanted.get(q) === a);
    chip.setAttribute("aria-label", `${data.questions[q].name}: ${data.questions[q].answers[a]}, ${counts.map((n, p) => `${n} ${data.panels[p].label}`).join(", ")}`);
    chip.classList.toggle("none", counts.every((n) => n === 0));
  }
  byId("clear").hidden = wanted.size === 0;
  const chosen = [...wanted].map(([q, a]) => `${data.questions[q].name}: ${data.questions[q].answers[a]}`).join(", ");
  byId("active").textContent = chosen ? `(${chosen})` : "";
  byId("status").textContent = `${shown.join(", ")} shown`;
  hideCard();
}

function buildFilters() {
  const place = byId("questions");
  data.questions.forEach((question, q) => {
    const chips = make("div", { className: "chips" });
    question.answers.forEach((answer, a) => {
      if (!data.panels.some((panel) => panel.rows.some((row) => row.lead[q] === a || (row.found || [])[q] === a))) return;
      const chip = make("button", { className: "chip", type: "button" }, answer);
      Object.assign(chip.dataset, { question: q, answer: a });
      data.panels.forEach(() => chip.append(make("span", { className: "n" })));
      chip.addEventListener("click", () => {
        if (wanted.get(q) === a) wanted.delete(q); else wanted.set(q, a);
        filter();
      });
      chips.append(chip);
    });
    if (chips.children.length) place.append(make("fieldset", { className: "question" }, make("legend", {}, question.text || question.name), chips));
  });
  if (!place.children.length) place.append(make("p", { className: "quiet" }, "No votes were asked for or cast, so there is nothing to filter by."));
  byId("clear").addEventListener("click", () => { wanted.clear(); filter(); });
  if (data.panels.some((panel) => panel.measured)) {
    const group = byId("basis");
    group.hidden = false;
    const words = [...new Set(data.panels.map((panel) => (panel.words === "requested" ? "requested" : "cast")))].join(" / ");
    for (const [key, text] of [["lead", words], ["found", "measured"]]) {
      const button = make("button", { type: "button" }, text);
      button.setAttribute("aria-pressed", key === basis);
      button.addEventListener("click", () => {
        basis = key;
        for (const other of group.children) other.setAttribute("aria-pressed", other === button);
        filter();
      });
      group.append(button);
    }
  }
  byId("filters").open = matchMedia("(min-width: 901px)").matches;
}

// Cards.
function cell(value, kind) {
  if (value === null || value === undefined) return "–";
  const bar = make("i");
  bar.style.width = `${100 * value}%`;
  return make("div", { className: `cell ${kind}` }, say(value), make("div", { className: "track" }, bar));
}

const heads = (panel) => [panel.words === "requested" ? "requested" : "votes", ...(panel.measured ? ["measured"] : [])];

function pairs(items) {
  const list = make("dl", { className: "pairs" });
  for (const [name, value] of items) if (value !== null && value !== undefined && value !== "") list.append(make("dt", {}, name), make("dd", {}, String(value)));
  return list;
}

const numbers = (row) => data.numbers.map((name, i) => [name, row.numbers[i]]);

function origin(panel, row) {
  const model = panel.about.model ? `${panel.about.model} ${(panel.about.model_sha256 || "").slice(0, 12)}` : panel.about.simulated;
  return [["seed", row.seed], ["index", row.index], ["made by", panel.about.made_by], [panel.words === "requested" ? "model" : "population", model]];
}

// The questions that matter for a galaxy: those its votes lead to, or that the judge was led to.
function brief(panel, row) {
  const body = make("tbody");
  data.questions.forEach((question, q) => {
    const asked = row.lead[q], found = row.found ? row.found[q] : -1;
    if (asked < 0 && found < 0) return;
    const a = asked < 0 ? found : asked;
    const line = make("tr", {}, make("th", { scope: "row" }, question.name), make("td", {}, question.answers[a]));
    line.append(make("td", {}, cell(asked < 0 ? null : row.votes[column(q, a)], "")));
    if (panel.measured) {
      const measured = make("td", {}, cell(row.measured ? row.measured[column(q, a)] : null, "measured"));
      if (asked >= 0 && found >= 0 && found !== asked) measured.append(make("div", { className: "other" }, `${question.answers[found]} ${say(row.measured[column(q, found)])}`));
      line.append(measured);
    }
    body.append(line);
  });
  if (!body.children.length) return make("p", { className: "quiet" }, panel.words === "requested" ? "No votes were requested." : "No votes.");
  const head = make("tr", {}, ...["question", "answer", ...heads(panel)].map((text) => make("th", { scope: "col" }, text)));
  return make("table", { className: "votes" }, make("thead", {}, head), body);
}

function showCard(p, r) {
  const panel = data.panels[p], row = panel.rows[r], card = byId("card"), stamp = stamps[p][r];
  card.className = p === 1 ? "second" : "";
  card.replaceChildren(
    make("div", { className: "who" }, make("b", {}, title(panel.label)), make("code", {}, row.id)),
    brief(panel, row), make("div", { className: "columns" }, pairs(numbers(row)), pairs(origin(panel, row))),
  );
  if (panel.measured && !row.measured) card.append(make("p", { className: "quiet" }, "Not measured."));
  card.hidden = false;
  stamp.setAttribute("aria-describedby", "card");
  const at = stamp.getBoundingClientRect(), size = card.getBoundingClientRect();
  const right = at.right + 12 + size.width < innerWidth;
  card.style.left = `${right ? at.right + 12 : Math.max(8, at.left - size.width - 12)}px`;
  card.style.top = `${Math.max(8, Math.min(at.top - 20, innerHeight - size.height - 8))}px`;
}

function hideCard() {
  byId("card").hidden = true;
  document.querySelector("[aria-describedby=card]")?.removeAttribute("aria-describedby");
}

// One tab stop a panel; arrows move inside it.
const visibleRows = (p) => stamps[p].map((_, r) => r).filter((r) => !stamps[p][r].parentElement.hidden);
const roving = data.panels.map(() => undefined);

function rove(p, r) {
  if (roving[p] !== undefined) stamps[p][roving[p]].tabIndex = -1;
  roving[p] = r;
  if (r !== undefined) stamps[p][r].tabIndex = 0;
}

function step(p, r, key) {
  const rows = visibleRows(p), here = rows.indexOf(r), top = (i) => stamps[p][rows[i]].offsetTop;
  let across = 1;
  while (across < rows.length && top(across) === top(0)) across += 1;
  const to = { ArrowRight: here + 1, ArrowLeft: here - 1, ArrowDown: here + across, ArrowUp: here - across, Home: 0, End: rows.length - 1 }[key];
  return to === undefined ? undefined : rows[to];
}

// The enlarged galaxy.
let current = null;

function enlarge(p, r) {
  current = [p, r];
  const panel = data.panels[p], row = panel.rows[r], dialog = byId("large");
  hideCard();
  rove(p, r);
  dialog.className = p === 1 ? "second" : "";
  byId("large-title").textContent = `${title(panel.label)}: ${row.id}`;
  byId("pixels").src = stamps[p][r].firstElementChild.src;
  byId("pixels").alt = `${panel.label} galaxy ${row.id}, enlarged`;
  byId("saved").textContent = r < panel.fits ? "" : panel.why;
  byId("save").disabled = r >= panel.fits;
  byId("facts").replaceChildren(...facts(panel, row));
  byId("facts").parentElement.scrollTop = 0;
  if (!dialog.open) dialog.showModal();
}

function facts(panel, row) {
  const parts = [];
  data.questions.forEach((question, q) => {
    const asked = row.voters[q] > 0, found = row.found && row.found[q] >= 0;
    if (!asked && !found) return;
    const voters = asked ? `${say(row.voters[q], Number.isInteger(row.voters[q]) ? 0 : 1)} ${panel.words === "requested" ? "votes requested" : "votes"}` : "not asked";
    const head = make("tr", {}, ...["answer", ...heads(panel)].map((text) => make("th", { scope: "col" }, text)));
    const body = make("tbody");
    question.answers.forEach((answer, a) => {
      const line = make("tr", { className: a === row.lead[q] ? "lead" : "" }, make("td", {}, answer));
      line.append(make("td", {}, cell(asked ? row.votes[column(q, a)] : null, "")));
      if (panel.measured) line.append(make("td", {}, cell(row.measured ? row.measured[column(q, a)] : null, "measured")));
      body.append(line);
    });
    parts.push(make("h3", {}, title(question.name), " ", make("span", {}, voters)), make("table", { className: "votes" }, make("thead", { className: parts.length ? "unseen" : "" }, head), body));
  });
  if (!parts.length) parts.push(make("p", { className: "quiet" }, panel.words === "requested" ? "No votes were requested." : "No votes."));
  if (numbers(row).some(([, value]) => value !== null)) parts.push(make("h3", {}, panel.words === "requested" ? "Numbers requested" : "Numbers"), pairs(numbers(row)));
  parts.push(make("h3", {}, "Origin"), pairs([...origin(panel, row), ...Object.entries(row.extra)]));
  if (panel.recipe) parts.push(make("h3", {}, "The same galaxy again"), make("pre", {}, make("code", {}, panel.recipe.replaceAll("INDEX", row.index))));
  return parts;
}

function turn(by) {
  const [p, r] = current, rows = visibleRows(p), to = rows[rows.indexOf(r) + by];
  if (to !== undefined) enlarge(p, to);
}

async function save() {
  const [p, r] = current;
  const bytes = Uint8Array.from(atob(byId(`fits-${p}-${r}`).textContent), (letter) => letter.charCodeAt(0));
  let blob = new Blob([bytes], { type: "application/gzip" }), ending = ".fits.gz";
  if ("DecompressionStream" in window) {
    const plain = await new Response(blob.stream().pipeThrough(new DecompressionStream("gzip"))).arrayBuffer();
    blob = new Blob([plain], { type: "application/fits" });
    ending = ".fits";
  }
  const name = (data.panels[p].rows[r].id.replace(/[^A-Za-z0-9._-]+/g, "_").replace(/^[._]+/, "").slice(0, 120) || "galaxy") + ending;
  const link = make("a", { href: URL.createObjectURL(blob), download: name });
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60000);
  byId("saved").textContent = `${name}, ${blob.size.toLocaleString("en")} bytes`;
}

const where = (target) => {
  const stamp = target.closest?.(".stamp");
  return stamp && [Number(stamp.dataset.panel), Number(stamp.dataset.row)];
};
const main = byId("galaxies");
// A finger has no hover: a tap enlarges, and the enlarged galaxy carries the whole card.
main.addEventListener("pointerover", (event) => { const at = where(event.target); if (at && event.pointerType !== "touch") showCard(...at); else hideCard(); });
main.addEventListener("pointerleave", hideCard);
main.addEventListener("focusin", (event) => { const at = where(event.target); if (at && event.target.matches(":focus-visible")) showCard(...at); });
main.addEventListener("focusout", hideCard);
main.addEventListener("click", (event) => { const at = where(event.target); if (at) enlarge(...at); });
main.addEventListener("keydown", (event) => {
  const at = where(event.target);
  if (event.key === "Escape") hideCard();
  if (!at || event.ctrlKey || event.metaKey || event.altKey) return;
  const to = step(...at, event.key);
  if (to === undefined) return;
  event.preventDefault();
  rove(at[0], to);
  stamps[at[0]][to].focus();
});
addEventListener("scroll", hideCard, { passive: true });
byId("back").addEventListener("click", () => turn(-1));
byId("on").addEventListener("click", () => turn(1));
byId("close").addEventListener("click", () => byId("large").close());
byId("save").addEventListener("click", () => { save().catch((error) => { byId("saved").textContent = `Could not be saved: ${error.message}`; }); });
byId("large").addEventListener("click", (event) => { if (event.target === byId("large")) byId("large").close(); });
byId("large").addEventListener("keydown", (event) => { const by = { ArrowLeft: -1, ArrowRight: 1 }[event.key]; if (by) { event.preventDefault(); turn(by); } });
byId("large").addEventListener("close", () => { if (current) stamps[current[0]][current[1]].focus({ preventScroll: false }); });

for (const panel of stamps) for (const stamp of panel) stamp.tabIndex = -1;
buildFilters();
filter();
