// Pointing at a word of the description, or focusing it, shows where the model looked: the veil that
// the word's own page shows, laid over the picture here.

const PATIENCE_MILLISECONDS = 120; // passing over a word on the way to another asks for nothing
let timer;

const hide = () => {
  clearTimeout(timer);
  document.querySelectorAll(".exhibit > .print .veil").forEach((veil) => veil.remove());
  document.querySelectorAll(".looked.at").forEach((word) => word.classList.remove("at"));
};

const show = (word) => {
  const frame = word.closest(".exhibit")?.querySelector(":scope > .print .looking");
  if (!frame) return;
  hide();
  word.classList.add("at");
  timer = setTimeout(() => {
    const veil = new Image();
    veil.className = "veil";
    veil.alt = "";
    veil.addEventListener("load", () => {
      if (word.classList.contains("at")) frame.append(veil);
    });
    veil.src = word.dataset.veil;
  }, PATIENCE_MILLISECONDS);
};

const word = (event) => event.target.closest?.(".looked[data-veil]");
// The description may arrive later: the document listens.
document.addEventListener("pointerover", (event) => { if (word(event)) show(word(event)); });
document.addEventListener("pointerout", (event) => { if (word(event)) hide(); });
document.addEventListener("focusin", (event) => { if (word(event)) show(word(event)); });
document.addEventListener("focusout", (event) => { if (word(event)) hide(); });
document.addEventListener("keydown", (event) => { if (event.key === "Escape") hide(); });
