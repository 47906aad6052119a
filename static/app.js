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
const poll = async () => {
  let page;
  try {
    const answer = await fetch(location.href, { headers: { Accept: "text/html" } });
    if (answer.status === 404) return;
    page = new DOMParser().parseFromString(await answer.text(), "text/html");
  } catch {
    page = new DOMParser().parseFromString("", "text/html"); // the network is away: later
  }
  let arrived = 0;
  for (const old of document.querySelectorAll("[data-status=waiting]")) {
    if (old.contains(document.activeElement)) continue; // somebody may be writing in it
    const fresh = page.getElementById(old.id) ?? await moved(old);
    if (!fresh || fresh.dataset.status === "waiting") continue;
    fresh.querySelectorAll("button[data-copy]").forEach((button) => {
      button.hidden = !navigator.clipboard;
    });
    old.replaceWith(fresh);
    fresh.dispatchEvent(new Event("put", { bubbles: true }));
    if (fresh.dataset.arrived) announce(fresh.dataset.arrived);
    else arrived += 1;
  }
  const { one, many } = document.getElementById("announcement").dataset;
  if (arrived) announce(arrived === 1 ? one : many.replace("{count}", arrived));
  if (document.querySelector("[data-status=waiting]")) setTimeout(poll, POLL_MILLISECONDS);
};
if (document.querySelector("[data-status=waiting]")) setTimeout(poll, POLL_MILLISECONDS);
