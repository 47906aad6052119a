// A card in the list: a picture, how far it is, and its description.

// Pictures are decoded only where somebody looks: a thousand of them would fill the memory.
const seen = new IntersectionObserver((entries) => {
  for (const { isIntersecting, target } of entries) {
    if (!isIntersecting) continue;
    seen.unobserve(target);
    target.captionappShow?.();
  }
}, { rootMargin: "300px" });

const percent = new Intl.NumberFormat(document.documentElement.lang, { style: "percent" });

export class Card {
  constructor(template, texts, item) {
    this.texts = texts;
    this.element = template.content.firstElementChild.cloneNode(true);
    this.part = (name) => this.element.querySelector(`[data-${name}]`);
    this.part("name").textContent = item.name;
    this.image = new Image();
    this.image.alt = "";
    this.image.hidden = true;
    this.part("thumb").append(this.image);
    this.image.addEventListener("error", () => { this.image.hidden = true; }); // HEIC, or broken
    if (item.preview) this.picture(item.preview);
    else if (item.file) this.preview(item.file);
  }

  preview(file) {
    this.element.captionappShow = () => {
      const address = URL.createObjectURL(file);
      this.image.addEventListener("load", () => URL.revokeObjectURL(address), { once: true });
      this.picture(address);
    };
    seen.observe(this.element);
  }

  picture(address) {
    delete this.element.captionappShow;
    this.image.src = address;
    this.image.hidden = false;
  }

  say(key, values = {}) {
    const text = Object.entries(values).reduce(
      (said, [name, value]) => said.replace(`{${name}}`, value), this.texts[key]);
    const state = this.part("state");
    if (state.textContent !== text) state.textContent = text;
  }

  // ``state`` is one of those in docs/intake.md, or of this page: waiting, sending, sent, cancelled.
  show(state, details = {}) {
    this.element.dataset.state = state;
    const bar = this.part("progress");
    bar.hidden = !["sending", "sent"].includes(state);
    if (state === "sending") bar.value = details.share ?? 0;
    else bar.removeAttribute("value"); // no telling how far
    this.part("state").classList.toggle("working", state === "describing");
    const problem = this.part("problem");
    problem.hidden = !details.problem;
    problem.textContent = details.problem || "";
    this.part("retry").hidden = state !== "unsent";
    if (state === "sending") this.say("textSending", { share: percent.format(details.share ?? 0) });
    else if (state === "queued") this.say("textQueued", { place: details.ahead + 1 });
    else this.say(`text${state[0].toUpperCase()}${state.slice(1)}`);
  }

  // What the server knows of the picture.
  tell(picture) {
    this.show(picture.status, picture);
    if (picture.thumbnail && this.shown !== picture.thumbnail) {
      this.shown = picture.thumbnail;
      this.picture(picture.thumbnail);
    }
    if (picture.name) this.part("name").textContent = picture.name;
    const link = this.part("link");
    if (picture.url) {
      link.href = picture.url;
      link.hidden = !["done", "failed"].includes(picture.status);
      link.textContent = this.texts[picture.status === "done" ? "textCheck" : "textOpen"];
    } else {
      link.hidden = true;
    }
    const said = picture.description;
    const words = this.part("words");
    const label = this.part("label");
    const hint = this.part("hint"); // in place of the words, which its own page has as well
    hint.textContent = picture.hint ?? "";
    hint.hidden = !picture.hint;
    words.hidden = label.hidden = !said || Boolean(picture.hint);
    if (!said) return;
    words.textContent = said.text;
    words.lang = said.source === "machine" ? "en" : "";
    label.textContent = said.label;
    words.classList.toggle("machine", said.source === "machine");
    words.classList.toggle("person", said.source === "person");
    for (const one of [words, label]) {
      one.classList.toggle("checked", said.checked);
      one.classList.toggle("unchecked", !said.checked);
    }
  }
}
