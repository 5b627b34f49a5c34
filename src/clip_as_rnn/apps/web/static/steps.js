// The recurrence, one step at a time. Value: what `payload.steps_payload` makes, or nothing.
const make = (name, attributes = {}, ...children) => {
  const node = Object.assign(document.createElement(name), attributes);
  node.append(...children);
  return node;
};

let current = 0;

function cell(one, value) {
  const map = make("div", { className: "map" }, make("img", { src: value.image, alt: "" }));
  map.append(make("img", { src: one.heat, alt: `Where “${one.text}” was proposed` }));
  map.style.aspectRatio = `${value.width} / ${value.height}`;
  const verdict = one.kept ? `${one.score.toFixed(2)}, kept` : `${one.score.toFixed(2)}, dropped: ${one.reason}`;
  const caption = make("figcaption", {}, make("b", {}, one.text), make("span", {}, verdict));
  return make("figure", { className: one.kept ? "kept" : "dropped" }, map, caption);
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
  const last = value.steps.length - 1;
  const step = value.steps[current];
  const back = make("button", { type: "button", disabled: current === 0, onclick: () => go(current - 1) }, "Previous");
  const next = make("button", { type: "button", disabled: current === last, onclick: () => go(current + 1) }, "Next");
  const title = make("strong", {}, `Step ${step.number} of ${value.steps.length}`);
  title.setAttribute("aria-live", "polite");
  const end = step.cells.some((one) => one.kept) ? "so it ends here" : "nothing is left";
  const words = current === last ? `${said(step)}, ${end}` : said(step);
  const bar = make("nav", { ariaLabel: "Steps" }, back, next, title, make("span", {}, words));
  const cells = make("div", { className: "car-cells" }, ...step.cells.map((one) => cell(one, value)));
  const key = make("p", { className: "car-key" }, "not proposed", make("i"), "strongly proposed");
  place.replaceChildren(bar, cells, key);
}

watch("value", () => {
  current = 0;
  draw();
});
draw();
