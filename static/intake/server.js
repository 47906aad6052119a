// Requests to the application, and the ways in which they are refused.

// kind: "busy" (again after so many seconds), "offline", "broken" (the server's fault), "aborted",
// or "refused", for good, with a message to show.
export class Refusal extends Error {
  constructor(kind, message = "", seconds = 0) {
    super(message);
    this.kind = kind;
    this.seconds = seconds;
  }
}

const token = () => document.querySelector("input[name=csrf_token]");

// A page that was open for a day has a token that is no longer taken: a new page has another.
const renewToken = async () => {
  const answer = await fetch(location.pathname, { headers: { Accept: "text/html" } });
  const page = new DOMParser().parseFromString(await answer.text(), "text/html");
  const fresh = page.querySelector("input[name=csrf_token]")?.value;
  if (!fresh || fresh === token()?.value) return false;
  document.querySelectorAll("input[name=csrf_token]").forEach((field) => { field.value = fresh; });
  return true;
};

const judge = (status, content, retryAfter) => {
  const message = content?.error?.message ?? "";
  const seconds = Number(retryAfter) || 5;
  if (status === 429 || status === 503) return new Refusal("busy", message, seconds);
  if (status === 0) return new Refusal("offline");
  if (status >= 500 && status !== 507) return new Refusal("broken", message);
  return new Refusal("refused", message);
};

const parsed = (text) => {
  try { return JSON.parse(text); } catch { return null; }
};

const sendOnce = (address, fields, { abort, progress } = {}) => new Promise((resolve, reject) => {
  const request = new XMLHttpRequest(); // fetch does not tell how far a body has been sent
  request.open("POST", address);
  request.setRequestHeader("Accept", "application/json");
  const body = new FormData();
  if (token()) body.append("csrf_token", token().value);
  for (const [name, value] of Object.entries(fields)) body.append(name, value);
  if (progress) {
    request.upload.addEventListener("progress", ({ loaded, total }) => progress(loaded / total));
    request.upload.addEventListener("load", () => progress(1));
  }
  abort?.(() => request.abort());
  request.addEventListener("load", () => {
    const content = parsed(request.responseText);
    if (request.status >= 200 && request.status < 300 && content) resolve(content);
    else reject(Object.assign(
      judge(request.status, content, request.getResponseHeader("Retry-After")),
      { status: request.status }));
  });
  request.addEventListener("error", () => reject(new Refusal("offline")));
  request.addEventListener("abort", () => reject(new Refusal("aborted")));
  request.send(body);
});

export const post = async (address, fields, watching) => {
  try {
    return await sendOnce(address, fields, watching);
  } catch (refusal) {
    if (refusal.status !== 400) throw refusal;
    let renewed = false;
    try { renewed = await renewToken(); } catch { throw new Refusal("offline"); }
    if (!renewed) throw refusal;
    return sendOnce(address, fields, watching);
  }
};

export const read = async (address) => {
  let answer, text;
  try {
    answer = await fetch(address, { headers: { Accept: "application/json" } });
    text = await answer.text();
  } catch {
    throw new Refusal("offline");
  }
  const content = parsed(text);
  if (!answer.ok || !content) throw judge(answer.status, content, answer.headers.get("Retry-After"));
  return content;
};
