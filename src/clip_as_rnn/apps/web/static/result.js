// The picture with its masks, and what became of every text. Value: what `payload.result_payload` makes, or nothing.
const make = (name, attributes = {}, ...children) => {
  const node = Object.assign(document.createElement(name), attributes);
  node.append(...children);
  return node;
};
const percent = (share) => (share < 0.0005 ? "less than 0.1 %" : `${(100 * share).toFixed(share < 0.1 ? 1 : 0)} %`);
const load = (url) =>
  new Promise((resolve, reject) => Object.assign(new Image(), { onload: (event) => resolve(event.target), onerror: reject, src: url }));

let drawn = 0; // only the latest value is drawn, however long an earlier one takes to load

async function layer(one, width, height) {
  // One mask: which pixels it covers, its tint, and its outline as canvases.
  const [tint, outline] = [0, 1].map(() => make("canvas", { width, height }));
  const pen = tint.getContext("2d", { willReadFrequently: true });
  pen.drawImage(await load(one.mask), 0, 0);
  const data = pen.getImageData(0, 0, width, height);
  const inside = Uint8Array.from({ length: width * height }, (_, i) => (data.data[4 * i] > 127 ? 1 : 0));
  const edge = new ImageData(width, height);
  const color = [1, 3, 5].map((start) => parseInt(one.color.slice(start, start + 2), 16));
  for (let i = 0; i < inside.length; i++) {
    data.data.set([...color, 255 * inside[i]], 4 * i);
    const [x, y] = [i % width, Math.floor(i / width)];
    const within = (dx, dy) => x + dx < 0 || x + dx >= width || y + dy < 0 || y + dy >= height || inside[i + dx + dy * width];
    const border = inside[i] && !(within(2, 0) && within(-2, 0) && within(0, 2) && within(0, -2));
    if (border) edge.data.set([...color, 255], 4 * i);
  }
  pen.putImageData(data, 0, 0);
  outline.getContext("2d").putImageData(edge, 0, 0);
  return { ...one, inside, tint, outline, shown: true };
}

function paint(canvas, picture, layers, opacity, lit) {
  const pen = canvas.getContext("2d");
  pen.globalAlpha = 1;
  pen.drawImage(picture, 0, 0);
  for (const one of layers.filter((one) => one.shown)) {
    pen.globalAlpha = one === lit ? Math.max(opacity, 0.8) : opacity;
    pen.drawImage(one.tint, 0, 0);
    pen.globalAlpha = opacity > 0 || one === lit ? 1 : 0;
    pen.drawImage(one.outline, 0, 0);
  }
}

function foundRow(one, redraw) {
  const box = make("input", { type: "checkbox", checked: true });
  box.addEventListener("change", () => redraw(() => (one.shown = box.checked)));
  const swatch = make("span", { className: "swatch" });
  const label = make("label", {}, box, swatch, make("span", { className: "text" }, one.text));
  const row = make("tr", {}, make("td", {}, label), make("td", { className: "number" }, one.score.toFixed(2)));
  row.append(make("td", {}, `found, covers ${percent(one.share)}`));
  row.style.setProperty("--mask", one.color);
  row.addEventListener("pointerenter", () => redraw(() => {}, one));
  row.addEventListener("pointerleave", () => redraw(() => {}));
  return row;
}

function rejectedRow(one) {
  const text = make("td", {}, make("span", { className: "text" }, one.text));
  const why = make("td", {}, `rejected at step ${one.step}: ${one.reason}`);
  return make("tr", { className: "rejected" }, text, make("td", { className: "number" }, one.score.toFixed(2)), why);
}

function table(rows) {
  const heads = ["Text", "Score", "Result"].map((head) => make("th", { scope: "col" }, head));
  heads[1].className = "number";
  return make("table", { className: "car-table" }, make("thead", {}, make("tr", {}, ...heads)), make("tbody", {}, ...rows));
}

function follow(canvas, tip, layers) {
  // The text and the score under the pointer; the mask on top speaks.
  canvas.addEventListener("pointermove", (event) => point(event));
  canvas.addEventListener("pointerdown", (event) => point(event));
  canvas.addEventListener("pointerleave", () => (tip.hidden = true));
  function point(event) {
    const box = canvas.getBoundingClientRect();
    const [left, top] = [event.clientX - box.left, event.clientY - box.top];
    const x = Math.floor((left / box.width) * canvas.width);
    const y = Math.floor((top / box.height) * canvas.height);
    const hit = layers.findLast((one) => one.shown && one.inside[y * canvas.width + x]);
    tip.hidden = !hit;
    if (!hit) return;
    tip.textContent = `${hit.text} ${hit.score.toFixed(2)}`;
    tip.style.left = `${Math.max(0, Math.min(left + 12, box.width - tip.offsetWidth))}px`;
    tip.style.top = `${top < 40 ? top + 20 : top - 32}px`;
  }
}

async function draw() {
  const turn = ++drawn;
  const value = props.value;
  const place = element.querySelector(".car-result");
  if (!value) {
    place.replaceChildren(make("p", { className: "car-empty" }, "The masks will appear here."));
    return;
  }
  const picture = await load(value.image);
  const layers = await Promise.all(value.found.map((one) => layer(one, value.width, value.height)));
  if (turn !== drawn) return;
  const stacked = [...layers].sort((a, b) => a.score - b.score); // the highest score on top
  const canvas = make("canvas", { width: value.width, height: value.height });
  canvas.setAttribute("role", "img");
  canvas.setAttribute("aria-label", `The picture with masks for: ${layers.map((one) => one.text).join(", ") || "nothing"}`);
  const slider = make("input", { type: "range", min: 0, max: 100, value: 50 });
  const redraw = (change, lit) => {
    change();
    paint(canvas, picture, stacked, slider.value / 100, lit);
  };
  slider.addEventListener("input", () => redraw(() => {}));
  const tip = make("div", { className: "car-tip", hidden: true });
  follow(canvas, tip, stacked);
  const opacity = make("label", { className: "car-opacity" }, "Opacity of the masks", slider);
  const rows = [...layers.map((one) => foundRow(one, redraw)), ...value.rejected.map(rejectedRow)];
  const frame = make("div", { className: "car-picture" }, canvas, tip);
  frame.style.setProperty("--aspect", value.width / value.height);
  place.replaceChildren(frame, ...(layers.length ? [opacity] : []), table(rows));
  redraw(() => {});
}

watch("value", draw);
draw();
