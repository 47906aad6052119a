// What makes the pages nicer; every page works without it.

const POLL_MILLISECONDS = 2000;
const announce = (text) => { document.getElementById("announcement").textContent = text; };

// Previews of the chosen pictures, and files dropped anywhere on the page.
const upload = document.querySelector("form[data-upload]");
if (upload) {
  const input = upload.querySelector("input[type=file]");
  const previews = upload.querySelector("[data-previews]");
  const button = upload.querySelector("button[type=submit]");
  const label = button.textContent;

  const show = () => {
    previews.querySelectorAll("img").forEach((image) => URL.revokeObjectURL(image.src));
    previews.replaceChildren(...Array.from(input.files, (file) => {
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
    previews.hidden = input.files.length === 0;
    const most = Number(input.dataset.maxFiles);
    input.setCustomValidity(input.files.length > most
      ? input.dataset.tooMany.replace("{most}", most).replace("{count}", input.files.length) : "");
  };
  input.addEventListener("change", show);

  document.addEventListener("dragover", (event) => {
    event.preventDefault();
    document.body.classList.add("dropping");
  });
  document.addEventListener("dragleave", (event) => {
    if (!event.relatedTarget) document.body.classList.remove("dropping");
  });
  document.addEventListener("drop", (event) => {
    event.preventDefault();
    document.body.classList.remove("dropping");
    if (event.dataTransfer.files.length) {
      input.files = event.dataTransfer.files;
      show();
    }
  });

  upload.addEventListener("submit", () => {
    button.setAttribute("aria-busy", "true");
    button.textContent = button.dataset.busy;
    announce(button.dataset.sending);
  });
  window.addEventListener("pageshow", () => { // also when coming back
    button.removeAttribute("aria-busy");
    button.textContent = label;
    show();
  });
}

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
  document.querySelectorAll("[data-status=waiting]").forEach((old) => {
    const fresh = page.getElementById(old.id);
    if (!fresh || fresh.dataset.status === "waiting") return;
    fresh.querySelectorAll("button[data-copy]").forEach((button) => {
      button.hidden = !navigator.clipboard;
    });
    old.replaceWith(fresh);
    if (fresh.dataset.arrived) announce(fresh.dataset.arrived);
    else arrived += 1;
  });
  const { one, many } = document.getElementById("announcement").dataset;
  if (arrived) announce(arrived === 1 ? one : many.replace("{count}", arrived));
  if (document.querySelector("[data-status=waiting]")) setTimeout(poll, POLL_MILLISECONDS);
};
if (document.querySelector("[data-status=waiting]")) setTimeout(poll, POLL_MILLISECONDS);
