// The gallery by keyboard: answers are sent in the background while the next picture is at hand.
// Without this, the same forms lead from picture to picture, and every page works.

import { complain as complainIn, wish } from "./answering.js";

const wall = document.querySelector("[data-wall]");
const dialog = document.getElementById("keys");
const announce = (text) => { document.getElementById("announcement").textContent = text; };

const cards = () => [...document.querySelectorAll("[data-wall] .card")];
const cardOf = (element) => element?.closest?.(".card") ?? null;
const form = (card) => card.querySelector(".correct");
const waits = (card) => card.dataset.answered === "no" && form(card) && !card.classList.contains("sending");
const sent = new Set(); // answers on their way
const visited = []; // ids of the pictures that were open, the last one at the end
// Where the keyboard was: at a picture whose card has been put anew, or beside the one that was deleted.
let last = location.hash.startsWith("#picture-") ? location.hash.slice(1) : null;

// Moving

const focusCard = (card) => {
  if (!card) return;
  last = card.id;
  card.querySelector(".print").focus();
};
const current = () => cardOf(document.activeElement) ?? (last && document.getElementById(last));
const beside = (card, step) => (card ? cards()[cards().indexOf(card) + step] : cards()[0]);
const nextWaiting = (card) => {
  const all = cards();
  return all.slice(card ? all.indexOf(card) + 1 : 0).find(waits);
};

const open = (card) => {
  const details = form(card);
  if (!details) return;
  cards().forEach((other) => { if (other !== card && form(other)) form(other).open = false; });
  details.open = true;
  details.querySelector(".hints").hidden = false;
  last = card.id;
  const field = details.querySelector("textarea");
  field.focus({ preventScroll: true });
  field.setSelectionRange(field.value.length, field.value.length);
  card.scrollIntoView({ block: "nearest" });
};
const close = (card) => {
  form(card).open = false;
  focusCard(card);
};
const leave = (card, next) => {
  visited.push(card.id);
  open(next);
};

/** What comes after the last picture of this page is known to the server only. */
const leaveFor = async (address) => {
  if ((await Promise.all(sent)).every(Boolean)) location.assign(address);
};

// Answering

const complain = (card, text) => complainIn(card.querySelector(".told"), form(card), text);

const fresh = async (card) => {
  const answer = await fetch(card.dataset.card);
  if (!answer.ok) return null;
  return new DOMParser().parseFromString(await answer.text(), "text/html").querySelector(".card");
};

const recount = (from, to) => {
  const format = new Intl.NumberFormat(document.documentElement.lang);
  [[from, -1], [to, 1]].forEach(([state, step]) => {
    const count = document.querySelector(`[data-count="${state}"]`);
    if (!count) return;
    count.number ??= Number(count.textContent.replace(/\D/g, ""));
    count.number += step;
    count.textContent = format.format(count.number);
  });
};

/** Send the form as the browser would; true if the answer is kept. */
const send = async (card, its, submitter) => {
  complain(card, "");
  card.classList.add("sending");
  let problem = "";
  try {
    const body = new URLSearchParams(new FormData(its, submitter));
    const answer = await fetch(its.action, { method: "POST", body, redirect: "manual" });
    if (answer.type !== "opaqueredirect") {
      const page = new DOMParser().parseFromString(await answer.text(), "text/html");
      problem = page.querySelector(".notice.problem, .error p:not(.code)")?.textContent.trim() || wall.dataset.failed;
    }
  } catch {
    problem = wall.dataset.failed;
  }
  card.classList.remove("sending");
  if (problem) {
    open(card);
    complain(card, problem);
    return false;
  }
  const before = card.dataset.answered === "no" ? "unanswered" : card.querySelector(".words.person") ? "corrected" : "accepted";
  recount(before, submitter.value);
  card.dataset.answered = "yes";
  const its_new = await fresh(card).catch(() => null);
  if (its_new && !form(card)?.open) { // opened again since: what is written there stays
    const focused = card.contains(document.activeElement);
    const chosen = card.querySelector("[name=picture]").checked;
    its_new.querySelector("[name=picture]").checked = chosen;
    card.replaceWith(its_new);
    if (focused) focusCard(its_new);
  }
  return true;
};

const accept = (card) => {
  const its = card.querySelector(".accept");
  if (its) its.requestSubmit(its.querySelector("button"));
};

if (wall) {
  wall.addEventListener("submit", (event) => {
    const its = event.target;
    if (!its.matches("[data-answer]")) return;
    event.preventDefault();
    const card = cardOf(its);
    if (card.classList.contains("sending")) return;
    const correcting = form(card).open;
    const next = correcting ? nextWaiting(card) : null;
    const sending = send(card, its, event.submitter);
    sent.add(sending);
    sending.finally(() => sent.delete(sending));
    if (!correcting) return;
    form(card).open = false;
    if (next) {
      leave(card, next);
    } else {
      focusCard(card);
      leaveFor(card.querySelector(".skip-one").href);
    }
  });

  const keep = (card) => {
    const its = form(card).querySelector("form");
    const text = its.querySelector("textarea").value.trim();
    if (text === its.dataset.caption.trim()) {
      complain(card, its.dataset.unchanged);
      return;
    }
    its.requestSubmit(its.querySelector("button[value=corrected]"));
  };
  const skip = (card) => {
    const next = nextWaiting(card);
    if (next) {
      leave(card, next);
    } else {
      leaveFor(card.querySelector(".skip-one").href);
    }
  };
  const back = (card) => {
    const before = visited.pop();
    const address = card.querySelector(".go-back")?.href;
    if (before && document.getElementById(before)) open(document.getElementById(before));
    else if (address) leaveFor(address);
  };

  wall.addEventListener("keydown", (event) => {
    const card = cardOf(event.target);
    if (!card || !form(card)?.contains(event.target)) return;
    const asked = { keep, accept, skip, back, close }[wish(event)];
    if (!asked) return;
    asked(card);
    event.preventDefault();
  });
  wall.addEventListener("click", (event) => {
    const card = cardOf(event.target);
    if (event.target.closest(".skip-one") && nextWaiting(card)) {
      event.preventDefault();
      skip(card);
    }
  });
  wall.addEventListener("toggle", (event) => { // opened with the mouse, or by Enter on it
    if (event.target.matches(".correct") && event.target.open) {
      const card = cardOf(event.target);
      if (!card.contains(document.activeElement) || document.activeElement.matches("summary")) open(card);
    }
  }, true);
  wall.addEventListener("focusin", (event) => { last = cardOf(event.target)?.id ?? last; });
  document.querySelector("[data-begin]")?.addEventListener("click", (event) => {
    const first = nextWaiting(null);
    if (!first) return;
    event.preventDefault();
    open(first);
  });
  const already = wall.querySelector(".correct[open]");
  if (already) open(cardOf(already));

  // Choosing

  const selection = document.getElementById("selection");
  const boxes = () => [...wall.querySelectorAll("[name=picture]")];
  const page = selection.querySelector("[data-page]");
  const told = selection.querySelector("[data-chosen]");
  let anchor = null;
  const tell = () => {
    const count = boxes().filter((box) => box.checked).length;
    const { none, one, some } = told.dataset;
    told.textContent = count > 1 ? some.replace("{number}", count) : count ? one : none;
    page.querySelector("input").checked = count === boxes().length;
    page.querySelector("input").indeterminate = count > 0 && count < boxes().length;
    selection.classList.toggle("active", count > 0);
  };
  page.hidden = false;
  page.addEventListener("change", (event) => {
    boxes().forEach((box) => { box.checked = event.target.checked; });
    tell();
  });
  wall.addEventListener("click", (event) => { // with Shift, all from the last one on
    if (!event.target.matches("[name=picture]")) return;
    const all = boxes();
    if (event.shiftKey && all.includes(anchor)) {
      const [from, to] = [all.indexOf(anchor), all.indexOf(event.target)].sort((a, b) => a - b);
      all.slice(from, to + 1).forEach((box) => { box.checked = event.target.checked; });
    }
    anchor = event.target;
  });
  wall.addEventListener("change", tell);
  tell();
}

// Single keys, where there are no pictures too: never while something is written, and only as long
// as the person wants them.

const SETTING = "single keys";
const single = dialog.querySelector("[data-single]");
single.checked = localStorage.getItem(SETTING) !== "off";
single.addEventListener("change", () => localStorage.setItem(SETTING, single.checked ? "on" : "off"));

const keys = {
  j: () => focusCard(beside(current(), 1)),
  k: () => focusCard(beside(current(), -1)),
  c: () => {
    const [begin, next] = [document.querySelector("[data-begin]"), nextWaiting(null)];
    if (next) open(next);
    else begin?.click(); // what waits on another page is known to the server only
  },
  e: () => { if (current()) open(current()); },
  a: () => {
    const card = current();
    if (!card?.querySelector(".accept")) return;
    const next = nextWaiting(card);
    accept(card);
    focusCard(next);
  },
  x: () => { current()?.querySelector("[name=picture]").click(); },
  Delete: () => { current()?.querySelector(".delete").requestSubmit(); },
  u: () => { document.querySelector(".undo")?.requestSubmit(); },
  "/": () => document.querySelector("[data-search]")?.focus(),
  "?": () => dialog.showModal(),
};
document.addEventListener("keydown", (event) => {
  if (event.defaultPrevented || event.ctrlKey || event.metaKey || event.altKey || event.isComposing) return;
  if (dialog.open || event.target.closest("input:not([type=checkbox]), textarea, select, [data-words]")) return;
  const key = event.key.length === 1 ? event.key.toLowerCase() : event.key;
  if (!keys[key] || (!single.checked && event.key.length === 1)) return;
  event.preventDefault();
  keys[key]();
});

document.querySelector("[data-keys]")?.addEventListener("click", (event) => {
  event.preventDefault();
  dialog.showModal();
});
