// The recurrence, one step at a time. Value: what `payload.steps_payload` makes, or nothing.
const make = (name, attributes = {}, ...children) => {
  const node = Object.assign(document.createElement(name), attributes);
  node.append(...children);
  return node;
};

let current = 0;

function over(value, ...layers) {
  const map = make("div", { className: "map" }, make("img", { src: value.image, alt: "" }), ...layers);
  map.style.aspectRatio = `${value.width} / ${value.height}`;
  return map;
}

function cell(one, value) {
  const map = over(value, make("img", { src: one.heat, alt: `Where “${one.text}” was proposed` }));
  const verdict = one.kept ? `${one.score.toFixed(2)}, kept` : `${one.score.toFixed(2)}, dropped: ${one.reason}`;
  const caption = make("figcaption", {}, make("b", {}, one.text), make("span", {}, verdict));
  return make("figure", { className: one.kept ? "kept" : "dropped" }, map, caption);
}

const NAMES = { before: "Before SAM", SAM: "What SAM saw", after: "After SAM" };

function refined(one, value) {
  const pictures = one.pictures.map(({ name, layer }) => {
    const drawn = over(value, make("img", { src: layer, alt: `${NAMES[name]}: “${one.text}”` }));
    return make("div", {}, drawn, make("small", {}, NAMES[name]));
  });
  const caption = make("figcaption", {}, make("b", {}, one.text), make("span", {}, one.reason));
  return make("figure", { className: "refined" }, make("div", { className: "row" }, ...pictures), caption);
}

function said(step) {
  const dropped = step.cells.filter((one) => !one.kept).length;
  const texts = step.cells.length === 1 ? "1 text" : `${step.cells.length} texts`;
  return `${texts} proposed, ${dropped || "none"} dropped`;
}

function go(to) {
  const button = document.activeElement?.textContent;
  current = to;
  draw();
  [...element.querySelectorAll("button")].find((one) => one.textContent === button)?.focus(); // the old one is gone
}

function draw() {
  const value = props.value;
  const place = element.querySelector(".car-steps");
  if (!value) {
    place.replaceChildren(make("p", { className: "car-empty" }, "Step by step, what was proposed and what was dropped."));
    return;
  }
  const showsSam = value.refined.length > 0;
  const last = value.steps.length - 1 + (showsSam ? 1 : 0);
  const back = make("button", { type: "button", disabled: current === 0, onclick: () => go(current - 1) }, "Previous");
  const next = make("button", { type: "button", disabled: current === last, onclick: () => go(current + 1) }, "Next");
  const page = showsSam && current === last ? samPage(value) : stepPage(value);
  const title = make("strong", {}, page.title);
  title.setAttribute("aria-live", "polite");
  const bar = make("nav", { ariaLabel: "Steps" }, back, next, title, make("span", {}, page.words));
  const cells = make("div", { className: "car-cells" }, ...page.cells);
  place.replaceChildren(bar, cells, page.key);
}

function stepPage(value) {
  const step = value.steps[current];
  const end = step.cells.some((one) => one.kept) ? "so it ends here" : "nothing is left";
  return {
    title: `Step ${step.number} of ${value.steps.length}`,
    words: step.number === value.steps.length ? `${said(step)}, ${end}` : said(step),
    cells: step.cells.map((one) => cell(one, value)),
    key: make("p", { className: "car-key" }, "not proposed", make("i"), "strongly proposed"),
  };
}

function samPage(value) {
  const replaced = value.refined.filter((one) => one.replaced).length;
  return {
    title: "Then SAM",
    words: `${replaced || "no"} of ${value.refined.length} masks replaced`,
    cells: value.refined.map((one) => refined(one, value)),
    key: make("p", { className: "car-key" }, "What SAM saw: one color per mask. Scores stay as they are."),
  };
}

watch("value", () => {
  current = 0;
  draw();
});
draw();
