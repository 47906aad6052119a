// What makes the pages nicer; every page works without it.

const POLL_MILLISECONDS = 2000;
const announce = (text) => { document.getElementById("announcement").textContent = text; };

// Copying the description.
if (navigator.clipboard) {
  document.querySelectorAll("button[data-copy]").forEach((button) => { button.hidden = false; });
  document.addEventListener("click", async (event) => {
    const button = event.target.closest("button[data-copy]");
    if (!button) return;
    button.dataset.label ??= button.textContent;
    const { label } = button.dataset;
    try {
      await navigator.clipboard.writeText(button.dataset.copy);
      announce(button.dataset.copiedNews);
      button.textContent = button.dataset.copied;
    } catch {
      announce(button.dataset.refusedNews);
      button.textContent = button.dataset.refused;
    }
    setTimeout(() => { button.textContent = label; }, 2000);
  });
}

// Descriptions and judgements on their way: ask again, and put in place what has arrived.
const moved = async (card) => { // its description has put it on another page of the gallery
  if (!card.dataset.card) return null;
  try {
    const answer = await fetch(card.dataset.card);
    return new DOMParser().parseFromString(await answer.text(), "text/html").getElementById(card.id);
  } catch {
    return null;
  }
};
/** Whether somebody is at this card: what is written there, or about to be pressed, is theirs. */
const inUse = (card) => {
  const at = document.activeElement;
  if (card.contains(at) && (at.closest("details[open]") || at.closest("form")?.querySelector("textarea"))) return true;
  const fields = [...card.querySelectorAll("textarea, input:not([name=picture])")];
  return card.classList.contains("sending") || fields.some((field) => (
    (field.defaultValue ?? field.value) !== field.value || field.checked !== field.defaultChecked
    || (field.matches("[aria-invalid]") && field.value))); // refused: it came back as it was written
};
/** The same kind of thing in a card that takes the place of another. */
const alike = (element, card) => [...card.querySelectorAll(element.localName)].find((one) => (
  one.className === element.className && one.name === element.name
  && one.textContent.trim() === element.textContent.trim())) ?? card.querySelector("a[href]");
const put = (fresh, old) => {
  fresh.querySelectorAll("button[data-copy]").forEach((button) => {
    button.hidden = !navigator.clipboard;
  });
  const focused = old.contains(document.activeElement) && document.activeElement;
  const box = fresh.querySelector("[name=picture]");
  if (box) box.checked = old.querySelector("[name=picture]").checked;
  old.replaceWith(fresh);
  fresh.dispatchEvent(new Event("put", { bubbles: true }));
  if (focused) alike(focused, fresh)?.focus({ preventScroll: true });
};
const poll = async () => {
  let page;
  try {
    // Not where the page came from: that may have been a form that was refused.
    const { again } = document.querySelector("[data-again]").dataset;
    const answer = await fetch(again, { headers: { Accept: "text/html" } });
    if (answer.status === 404) return;
    page = new DOMParser().parseFromString(await answer.text(), "text/html");
  } catch {
    page = new DOMParser().parseFromString("", "text/html"); // the network is away: later
  }
  let arrived = 0;
  for (const old of document.querySelectorAll("[data-status=waiting]")) {
    if (inUse(old)) continue;
    const fresh = page.getElementById(old.id) ?? await moved(old);
    if (!fresh || fresh.dataset.status === "waiting" || inUse(old)) continue;
    put(fresh, old);
    if (fresh.dataset.arrived) announce(fresh.dataset.arrived);
    else arrived += 1;
  }
  const { one, many } = document.getElementById("announcement").dataset;
  if (arrived) announce(arrived === 1 ? one : many.replace("{count}", arrived));
  if (document.querySelector("[data-status=waiting]")) setTimeout(poll, POLL_MILLISECONDS);
};
if (document.querySelector("[data-status=waiting]")) setTimeout(poll, POLL_MILLISECONDS);
