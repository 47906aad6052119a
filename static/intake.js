// The first page: pictures are dropped, pasted, photographed or chosen, and each becomes a card.
// Without this the form sends them all at once.

import { Batch, announce } from "./intake/batch.js";
import { filesOf, isDrag, isPicture, welcome } from "./intake/dropped.js";

const form = document.querySelector("form[data-upload]");
const tray = document.querySelector("[data-tray]");
const input = form.querySelector("input[name=images]");
const address = form.querySelector("input[name=address]");
const previews = form.querySelector("[data-previews]");
const button = form.querySelector("button[type=submit]");
const label = button.textContent;
const texts = tray.dataset;
const batch = new Batch(form, tray);

const complain = (message) => {
  const notice = tray.querySelector("[data-complaint]");
  notice.textContent = message; // role=alert: it is read out
  notice.hidden = !message;
  if (message) tray.hidden = false;
};

// ``sources``: {name, file} or {name, fields}, what the form would have sent.
const add = (sources, leftOut = 0) => {
  const already = batch.add(sources);
  complain([
    already && texts.textAlready.replace("{count}", already),
    // A folder comes with much that is no picture.
    leftOut && texts.textLeftOut.replace("{count}", leftOut),
    !sources.length && !leftOut && texts.textNothing,
  ].filter(Boolean).join(" "));
};

const take = ({ files, leftOut }) => add(files.map((file) => ({ file, name: file.name })), leftOut);

// Chosen with the form: shown until "Describe" is pressed.
const show = () => {
  previews.querySelectorAll("img").forEach((image) => URL.revokeObjectURL(image.src));
  previews.replaceChildren(...Array.from(input.files).slice(0, 24).map((file) => {
    const item = document.createElement("li");
    const image = document.createElement("img");
    image.alt = "";
    image.src = URL.createObjectURL(file);
    image.addEventListener("error", () => image.remove()); // formats the browser cannot show
    const name = document.createElement("span");
    name.textContent = file.name;
    item.append(image, name);
    return item;
  }));
  const more = input.files.length - 24;
  if (more > 0) {
    const item = document.createElement("li");
    item.textContent = texts.textMore.replace("{count}", more);
    previews.append(item);
  }
  previews.hidden = input.files.length === 0;
};
input.addEventListener("change", show);
window.addEventListener("pageshow", () => { // coming back, a browser may remember the choice
  button.removeAttribute("aria-busy");
  button.textContent = label;
  show();
});

form.addEventListener("submit", (event) => {
  const files = Array.from(input.files);
  const typed = address?.value.trim();
  if (!files.length && !typed) {
    event.preventDefault();
    input.focus();
    complain(texts.textChoose);
    return;
  }
  const sources = files.map((file) => ({ file, name: file.name }));
  if (typed) sources.push({ fields: { address: typed }, name: typed });
  if (sources.length === 1 && !batch.items.length) { // one alone: the form leads to its page
    button.setAttribute("aria-busy", "true");
    button.textContent = button.dataset.busy;
    announce(button.dataset.sending);
    return;
  }
  event.preventDefault();
  add(sources);
  input.value = "";
  if (address) address.value = "";
  show();
});

for (const other of form.querySelectorAll("input[data-at-once]")) { // camera, folder
  other.closest("label").hidden = false;
  other.addEventListener("change", () => {
    const chosen = Array.from(other.files);
    const files = other.webkitdirectory ? chosen.filter(isPicture) : chosen;
    if (chosen.length) take({ files, leftOut: chosen.length - files.length });
    other.value = "";
  });
}
form.querySelector("[data-with-script]").hidden = false;

document.querySelector("[data-examples]").addEventListener("submit", (event) => {
  event.preventDefault();
  const { value, dataset } = event.submitter;
  add([{ fields: { example: value }, name: dataset.name, preview: dataset.src }]);
});

welcome((event) => isDrag(event.dataTransfer)); // text goes where text can go
document.addEventListener("drop", async (event) => {
  document.body.classList.remove("dropping");
  if (event.target.closest?.("input[type=text], input[type=url], textarea")
      && !isDrag(event.dataTransfer)) return;
  event.preventDefault(); // or the browser would leave the page for what was dropped
  take(await filesOf(event.dataTransfer));
});

document.addEventListener("paste", (event) => {
  const files = Array.from(event.clipboardData.files);
  if (!files.length) {
    const text = event.clipboardData.getData("text/plain").trim();
    if (address && /^https?:\/\/\S+$/i.test(text) && !event.target.closest("input, textarea")) {
      address.closest("details").open = true;
      address.value = text;
      address.focus();
      announce(texts.textAddressPasted);
    }
    return;
  }
  const field = event.target.closest("input:not([type=file]), textarea");
  if (field && event.clipboardData.getData("text/plain")) return; // text that brings its picture along
  event.preventDefault();
  // A browser calls whatever was copied "image.png".
  const renamed = (file) => new File([file], texts.textPasted, { type: file.type });
  take({ files: files.map((file) => (file.name === "image.png" ? renamed(file) : file)) });
});

batch.restore();
