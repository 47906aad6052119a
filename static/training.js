// A training as it goes on, by server-sent events; without them the page is simply loaded again.

const RELOAD_MILLISECONDS = 5000;
const panel = document.querySelector("[data-events]");

if (panel) {
  const source = new EventSource(panel.dataset.events);
  const title = panel.querySelector("[data-title]");
  const figures = panel.querySelector("[data-figures]");
  const bar = panel.querySelector("progress");

  const show = (news) => {
    if (title.textContent !== news.title) {
      title.textContent = news.title;
      document.getElementById("announcement").textContent = news.title;
    }
    figures.textContent = news.figures;
    if (news.steps) {
      bar.max = news.steps;
      bar.value = news.step;
    }
  };
  source.addEventListener("news", (event) => show(JSON.parse(event.data)));
  source.addEventListener("end", () => {
    source.close();
    location.reload();
  });
  // A stream that has had its time is opened again by the browser; one that is refused is not.
  source.addEventListener("error", () => {
    if (source.readyState === EventSource.CLOSED) {
      setTimeout(() => location.reload(), RELOAD_MILLISECONDS);
    }
  });
}
