// Pictures dropped on a page that is about others, or pasted there, go where those of the first page go.

import { filesOf, isDrag, welcome } from "./intake/dropped.js";

const form = document.querySelector("form[data-hand-over]");
const texts = form.dataset;
let ours = false; // a picture or a link of this page is being dragged

const say = (text) => {
  document.getElementById("announcement").textContent = text;
  form.querySelector(".notice").textContent = text;
  form.hidden = false;
  form.scrollIntoView({ block: "nearest" });
};
const written = () => [...document.querySelectorAll("textarea")].some((field) => (
  field.value !== field.defaultValue && !field.closest("details:not([open])")));

const handOver = (files) => {
  if (!files.length) return say(texts.nothing);
  if (written()) return say(texts.writing); // it would be gone with this page
  const transfer = new DataTransfer();
  files.forEach((file) => transfer.items.add(file));
  form.querySelector("input[type=file]").files = transfer.files;
  say(texts.sending);
  form.submit();
};

document.addEventListener("dragstart", () => { ours = true; });
document.addEventListener("dragend", () => { ours = false; });
const brings = (event) => !ours && isDrag(event.dataTransfer);
welcome(brings);
document.addEventListener("drop", async (event) => {
  document.body.classList.remove("dropping");
  if (!brings(event)) return;
  event.preventDefault(); // or the browser would leave the page for what was dropped
  handOver((await filesOf(event.dataTransfer)).files);
});
document.addEventListener("paste", (event) => {
  const files = Array.from(event.clipboardData.files);
  if (!files.length || event.target.closest("textarea, input:not([type=checkbox])")) return;
  event.preventDefault();
  handOver(files);
});
window.addEventListener("pageshow", () => { form.hidden = true; }); // come back to
