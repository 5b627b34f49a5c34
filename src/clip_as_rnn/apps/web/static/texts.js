// A list of texts as removable tags. Enter, a comma, or leaving the field makes a tag; a pasted list makes many.
// What is being typed counts as a text at once. Its tag is made late when the field is left: a tag that pushes the
// page down between press and release would take the click from under the pointer.
const LATE_MS = 250;
const field = () => element.querySelector("input");
const same = (a, b) => a.toLowerCase() === b.toLowerCase();
let tags = [];

function joined(words) {
  const texts = [...tags];
  for (const word of words.split(/[,;\n\t]+/)) {
    const text = word.trim().replace(/\s+/g, " ");
    if (text && !texts.some((other) => same(other, text))) texts.push(text);
  }
  return texts;
}

function set(texts) {
  tags = texts;
  props.value = texts;
  field().placeholder = tags.length ? "" : props.hint; // beside tags there is no room for it
  element.querySelector("ul").replaceChildren(...tags.map(tag));
}

function add(words) {
  set(joined(words));
  field().value = "";
}

function tag(text) {
  const item = document.createElement("li");
  const remove = document.createElement("button");
  item.append(text);
  remove.type = "button";
  remove.textContent = "×";
  remove.setAttribute("aria-label", `Remove ${text}`);
  remove.addEventListener("click", () => {
    set(tags.filter((other) => other !== text));
    field().focus();
  });
  item.append(remove);
  return item;
}

element.addEventListener("keydown", (event) => {
  if (event.target !== field() || event.isComposing) return;
  if (event.key === "Enter") {
    event.preventDefault();
    add(field().value);
  } else if (event.key === "Backspace" && field().value === "") {
    set(tags.slice(0, -1));
  }
});
element.addEventListener("input", (event) => {
  if (event.target !== field() || event.isComposing) return;
  if (/[,;]/.test(field().value)) add(field().value);
  else props.value = joined(field().value);
});
element.addEventListener("paste", (event) => {
  const words = event.clipboardData.getData("text");
  if (event.target !== field() || !/[,;\n\t]/.test(words)) return;
  event.preventDefault();
  add(`${field().value} ${words}`);
});
element.addEventListener("focusout", (event) => {
  if (event.target !== field()) return;
  setTimeout(() => document.activeElement === field() || add(field().value), LATE_MS);
});
watch(["value", "info"], () => set(Array.from(props.value || [])));
set(Array.from(props.value || []));
