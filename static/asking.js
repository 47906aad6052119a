// The operator's pictures one after the other, without the mouse: the keys are those of the gallery.
// Without this, the field has the focus all the same, and Tab leads to the buttons.

import { complain, wish } from "./answering.js";

const section = document.querySelector("[data-asking]");

if (section) {
  const [accepting, correcting] = section.querySelectorAll("form");
  const field = correcting.querySelector("textarea");
  const press = (form) => form.requestSubmit(form.querySelector("button[name=verdict]"));
  const follow = (link) => { if (link) location.assign(link.href); };
  let sent = false; // pressed twice, it is one answer

  const does = {
    keep() {
      if (field.value.trim() !== section.dataset.caption.trim()) press(correcting);
      else complain(section, accepting, section.dataset.unchanged);
    },
    accept: () => press(accepting),
    skip: () => follow(section.querySelector(".skip-one")),
    back: () => follow(section.querySelector(".go-back")),
  };
  section.addEventListener("keydown", (event) => {
    const asked = does[wish(event)];
    if (!asked) return;
    event.preventDefault();
    asked();
  });
  section.addEventListener("submit", (event) => {
    if (sent) event.preventDefault();
    sent = true;
  });
  window.addEventListener("pageshow", () => { sent = false; });
  section.querySelector(".hints").hidden = false;
  field.setSelectionRange(field.value.length, field.value.length);
}
