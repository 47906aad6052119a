// Pictures on their way: sent a few at a time, asked after until described, cancelled together.

import { Card } from "./cards.js";
import { Refusal, post, read } from "./server.js";

const IN_FLIGHT = 2; // one is being checked while the next is sent; more would overtake each other
const ASKED = 50; // pictures that one question is about; the server takes 64
const LOOK_MILLISECONDS = 1000;
const LOOK_HIDDEN_MILLISECONDS = 5000;
const FEW = 3; // pictures of which each is announced
const TRIES = 3; // after an answer that is the server's fault
const DISMISSED = "captionapp-dismissed";

const ON_SERVER = new Set(["queued", "describing"]);
const UNSENT = new Set(["waiting", "sending", "sent"]);
const UNDER_WAY = new Set([...ON_SERVER, ...UNSENT]);
const USELESS = new Set(["refused", "failed", "unsent"]);

export const announce = (text) => {
  document.getElementById("announcement").textContent = text;
};

const randomName = () =>
  Array.from(crypto.getRandomValues(new Uint8Array(16)), (n) => n.toString(16).padStart(2, "0")).join("");

const fill = (text, values) =>
  Object.entries(values).reduce((said, [name, value]) => said.replace(`{${name}}`, value), text);

const number = new Intl.NumberFormat(document.documentElement.lang);

export class Batch {
  constructor(form, tray) {
    this.form = form;
    this.tray = tray;
    this.texts = tray.dataset;
    this.template = tray.querySelector("template");
    this.list = tray.querySelector("[data-cards]");
    this.window = Math.max(IN_FLIGHT, Number(tray.dataset.window));
    this.maxBytes = Number(tray.dataset.maxBytes);
    this.id = randomName();
    this.items = [];
    this.next = 0; // the place of the next item that is sent
    this.heldUntil = 0;
    this.part = (name) => tray.querySelector(`[data-${name}]`);
    this.part("cancel").addEventListener("click", () => this.cancel());
    this.part("clear").addEventListener("click", () => this.clear());
    window.addEventListener("online", () => this.goOn());
    document.addEventListener("visibilitychange", () => {
      if (!document.hidden) this.goOn();
    });
    window.addEventListener("beforeunload", (event) => {
      if (this.items.some((item) => UNSENT.has(item.state))) event.preventDefault();
    });
  }

  // Adds what is not there already; returns how many were.
  add(sources) {
    if (this.restored && !this.missing && !this.count(UNDER_WAY)) this.reset(); // that was then
    const known = new Set(this.items.filter((item) => item.key).map((item) => item.key));
    let already = 0;
    const options = this.options();
    for (const source of sources) {
      const key = keyOf(source) + JSON.stringify(options);
      if (known.has(key)) {
        already += 1;
        continue;
      }
      known.add(key);
      const item = { ...source, key, restored: false, fields: { ...options, ...source.fields } };
      this.insert(item);
      if (source.file && source.file.size > this.maxBytes) {
        item.key = ""; // saved smaller, it may come again under the same name
        this.set(item, "refused", { problem: this.texts.textTooLarge }); // takes no place: never sent
      } else {
        this.place(item);
        this.set(item, "waiting");
      }
    }
    const added = sources.length - already;
    if (added) {
      this.restored = false; // it goes on now
      this.part("missing").hidden = true;
      announce(fill(this.texts.textAdded, { count: number.format(added) }));
      const first = this.tray.hidden;
      this.tray.hidden = false;
      if (first) this.part("heading").scrollIntoView({ block: "nearest" }); // on a phone it is below
      this.summarise();
      this.pump();
    }
    return already;
  }

  // What else the form says now holds for what is added now.
  options() {
    const fields = Object.fromEntries(
      Array.from(new FormData(this.form)).filter(([, value]) => typeof value === "string"));
    for (const name of ["csrf_token", "address"]) delete fields[name];
    return fields;
  }

  // Where the server is told that it stands, among as many as have a place.
  place(item, place = this.next) {
    item.place = place;
    this.next = Math.max(this.next, place + 1);
  }

  insert(item) {
    item.card = new Card(this.template, this.texts, item);
    item.card.part("retry").addEventListener("click", () => {
      item.tries = 0;
      this.set(item, "waiting");
      item.card.part("name").focus();
      this.pump();
    });
    this.items.push(item);
    this.list.append(item.card.element);
  }

  set(item, state, details) {
    item.state = state;
    item.card.show(state, details);
  }

  count(states) {
    return this.items.filter((item) => states.has(item.state)).length;
  }

  // Sending

  pump() {
    this.summarise();
    if (this.cancelling || Date.now() < this.heldUntil) return;
    let room = Math.min(
      IN_FLIGHT - this.count(new Set(["sending", "sent"])),
      // The queue of the server is everybody's: a part of it is enough for one page.
      this.window - this.count(new Set(["sending", "sent", ...ON_SERVER])));
    for (const item of this.items) {
      if (room <= 0) return;
      if (item.state !== "waiting") continue;
      this.send(item);
      room -= 1;
    }
  }

  async send(item) {
    this.set(item, item.file ? "sending" : "sent");
    const body = { ...item.fields, batch: this.id, place: item.place, total: this.next };
    if (item.file) body.images = item.file;
    try {
      const answer = await post(this.form.action, body, {
        abort: (stop) => { item.stop = stop; },
        progress: (share) => {
          if (share < 1) this.set(item, "sending", { share });
          else this.set(item, "sent");
        },
      });
      this.troubles = 0;
      item.file = null; // its memory is free again
      this.hear(item, answer.pictures[0]);
    } catch (refusal) {
      if (!(refusal instanceof Refusal)) throw refusal;
      this.refused(item, refusal);
    }
    this.pump();
    this.look();
  }

  refused(item, { kind, message, seconds }) {
    if (kind === "aborted" || this.cancelling) {
      this.set(item, "cancelled");
    } else if (kind === "busy") {
      this.set(item, "waiting");
      this.hold(seconds, fill(this.texts.textBusy, { reason: message }));
    } else if (kind === "offline") {
      this.set(item, "waiting");
      this.troubles = (this.troubles || 0) + 1;
      this.hold(Math.min(30, 2 ** this.troubles), this.texts.textOffline);
    } else if (kind === "broken" && (item.tries = (item.tries || 0) + 1) < TRIES) {
      this.set(item, "waiting");
      this.hold(item.tries * 2, "");
    } else {
      item.key = "";
      this.set(item, kind === "broken" ? "unsent" : "refused", { problem: message });
    }
  }

  hold(seconds, reason) {
    this.heldUntil = Math.max(this.heldUntil, Date.now() + seconds * 1000);
    this.reason = reason;
    clearTimeout(this.holding);
    this.holding = setTimeout(() => this.goOn(), this.heldUntil - Date.now() + 10);
  }

  goOn() {
    this.heldUntil = 0;
    this.reason = "";
    this.pump();
    this.look(0);
  }

  // Asking after them

  look(after = document.hidden ? LOOK_HIDDEN_MILLISECONDS : LOOK_MILLISECONDS) {
    if (this.looking && after) return;
    clearTimeout(this.looking);
    this.looking = setTimeout(async () => {
      const again = await this.ask();
      this.looking = null;
      if (again) this.look(again);
    }, after);
  }

  // Returns the milliseconds after which to ask again; nothing if there is nothing to ask.
  async ask() {
    const asked = this.items.filter((item) => ON_SERVER.has(item.state)).slice(0, ASKED);
    if (!asked.length) return 0;
    const question = new URLSearchParams();
    for (const id of new Set(asked.map((item) => item.image))) question.append("image", id);
    try {
      const { pictures } = await read(`${this.texts.statusAddress}?${question}`);
      const told = new Map(pictures.map((picture) => [picture.image_id, picture]));
      for (const item of asked) {
        if (told.has(item.image)) this.hear(item, told.get(item.image));
      }
      if (this.reason === this.texts.textOffline) this.goOn();
    } catch (refusal) {
      if (!(refusal instanceof Refusal)) throw refusal;
      if (refusal.kind === "offline") this.reason = this.texts.textOffline;
      this.summarise();
      return LOOK_HIDDEN_MILLISECONDS;
    }
    this.pump();
    return document.hidden ? LOOK_HIDDEN_MILLISECONDS : LOOK_MILLISECONDS;
  }

  hear(item, picture) {
    const before = this.items.find((one) => one.restored && one.image === picture.image_id);
    if (before && !item.restored) { // given again after the page was left
      this.items.splice(this.items.indexOf(item), 1);
      item.card.element.remove();
      item = before;
    }
    if (picture.status === "gone") item.key = "";
    item.image = picture.image_id;
    item.url = picture.url;
    item.state = picture.status;
    item.card.tell(picture);
    const arrived = picture.status === "done" && this.items.length <= FEW && picture.description;
    if (arrived && !item.told) announce(`${picture.name}: ${picture.description.text}`);
    item.told = picture.status === "done";
  }

  // All together

  summarise() {
    const total = this.items.length;
    const left = this.count(UNDER_WAY);
    const done = this.count(new Set(["done"]));
    const useless = this.count(USELESS);
    const said = [fill(this.texts.textProgress, { done: number.format(done), total: number.format(total) })];
    if (useless) said.push(fill(this.texts.textUseless, { count: number.format(useless) }));
    if (left && this.reason) said.push(this.reason);
    const text = said.join(" ");
    const summary = this.part("summary");
    if (summary.textContent !== text) summary.textContent = text;
    const bar = this.part("overall");
    bar.hidden = total < 2 || !left;
    bar.max = total;
    bar.value = total - left;
    this.part("cancel").hidden = !left;
    this.part("clear").hidden = !total || Boolean(left);
    if (this.busy && !left && total > FEW) announce(text); // of a few, each was announced
    this.busy = Boolean(left);
  }

  async cancel() {
    this.cancelling = true;
    this.part("cancel").disabled = true;
    for (const item of this.items) {
      if (item.state === "waiting") this.set(item, "cancelled");
      else if (item.state === "sending") item.stop();
    }
    // What has been sent is being taken in: wait, so that it is cancelled with the others.
    while (this.count(new Set(["sending", "sent"]))) await new Promise((go) => setTimeout(go, 100));
    try {
      const { cancelled } = await post(this.texts.cancelAddress, { batch: this.id });
      const dropped = new Set(cancelled);
      for (const item of this.items) {
        if (ON_SERVER.has(item.state) && dropped.has(item.image)) this.set(item, "cancelled");
      }
      this.begin(); // of what comes now, nothing is missing
    } catch (refusal) {
      if (!(refusal instanceof Refusal)) throw refusal;
      this.reason = refusal.message || this.texts.textOffline;
    }
    for (const item of this.items) if (item.state === "cancelled") item.key = "";
    this.cancelling = false;
    this.part("cancel").disabled = false;
    this.part("heading").focus();
    announce(this.texts.textCancelledAll);
    this.summarise();
    this.look();
  }

  clear() {
    this.reset();
    this.tray.hidden = true;
    this.form.querySelector("input[type=file]").focus();
  }

  reset() {
    remember(this.id);
    this.items = [];
    this.begin();
    this.list.replaceChildren();
  }

  // Another batch, for the server; what can still be sent is sent with it.
  begin() {
    this.id = randomName();
    this.next = this.missing = 0;
    this.restored = false;
    this.part("missing").hidden = true;
    for (const item of this.items) if (["waiting", "unsent"].includes(item.state)) this.place(item);
  }

  // What this browser gave last, as the server knows it.
  async restore() {
    let last;
    try {
      last = await read(this.texts.statusAddress);
    } catch (refusal) {
      if (refusal instanceof Refusal) return; // nothing to show is no problem
      throw refusal;
    }
    if (!last.pictures.length || last.batch === dismissed() || this.items.length) return;
    this.id = last.batch;
    for (const picture of last.pictures) {
      const item = { name: picture.name ?? "", told: true, restored: true };
      this.insert(item);
      this.place(item, picture.place);
      this.hear(item, picture);
    }
    this.restored = true;
    this.missing = last.missing;
    const missing = this.part("missing");
    missing.hidden = !last.missing;
    missing.textContent = fill(this.texts.textMissing, { count: number.format(last.missing) });
    this.tray.hidden = false;
    this.summarise();
    this.look(0);
  }
}

// The same file dropped twice is sent once.
const keyOf = ({ file, fields }) => (file
  ? [file.webkitRelativePath, file.name, file.size, file.lastModified].join("/")
  : JSON.stringify(fields));

// Which batch was put away; where a browser keeps nothing, it comes back.
const remember = (id) => {
  try { localStorage.setItem(DISMISSED, id); } catch { /* storage is switched off */ }
};
const dismissed = () => {
  try { return localStorage.getItem(DISMISSED); } catch { return null; }
};
