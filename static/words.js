// A correction word by word: each word is a button that can be struck or replaced. The result is
// ordinary text in the field below, which is what is sent.

const render = (line, focus = -1) => {
  line.replaceChildren(...line.tokens.map((token, index) => {
    const word = document.createElement("button");
    word.type = "button";
    word.className = token.struck ? "word struck" : "word";
    word.textContent = token.word;
    if (token.struck) word.setAttribute("aria-label", line.dataset.struck.replace("{word}", token.word));
    word.tabIndex = index === Math.max(focus, 0) ? 0 : -1;
    return word;
  }));
  if (focus >= 0) line.children[focus]?.focus();
};

const read = (line) => {
  const parts = line.field.value.match(/\s*\S+/g) || [];
  line.tokens = parts.map((part) => {
    const word = part.trimStart();
    return { gap: part.slice(0, part.length - word.length), word, struck: false };
  });
  render(line);
};

const write = (line) => {
  const kept = line.tokens.filter((token) => !token.struck);
  line.field.value = kept.map((token, index) => (index ? token.gap || " " : "") + token.word).join("");
  line.field.dispatchEvent(new Event("words", { bubbles: true }));
};

const strike = (line, index) => {
  line.tokens[index].struck = !line.tokens[index].struck;
  write(line);
  render(line, index);
};

const replace = (line, index, typed = null) => {
  const token = line.tokens[index];
  const box = document.createElement("span");
  box.className = "replacing";
  const input = document.createElement("input");
  input.value = typed ?? token.word;
  input.size = Math.max(4, token.word.length + 2);
  input.setAttribute("aria-label", line.dataset.replace.replace("{word}", token.word));
  const button = document.createElement("button");
  button.type = "button";
  button.className = "secondary";
  button.textContent = line.dataset.strike;
  box.append(input, button);

  let over = false;
  const end = (keep, focus) => {
    if (over) return;
    over = true;
    if (keep) {
      const word = input.value.trim();
      if (word) Object.assign(token, { word, struck: false });
      else token.struck = true;
      write(line);
    }
    render(line, focus ? index : -1);
  };
  line.end = () => end(true, false);
  input.addEventListener("keydown", (event) => {
    if (event.isComposing || !["Enter", "Escape"].includes(event.key)) return;
    event.preventDefault();
    event.stopPropagation(); // it is the word that is done, not the description
    end(event.key === "Enter", true);
  });
  button.addEventListener("click", () => { input.value = ""; end(true, true); });
  box.addEventListener("focusout", (event) => { if (!box.contains(event.relatedTarget)) end(true, false); });
  line.children[index].replaceWith(box);
  input.focus();
  if (typed === null) input.select();
};

const press = (line, event) => {
  const word = event.target.closest(".word");
  if (!word || event.ctrlKey || event.metaKey || event.altKey) return;
  const index = [...line.children].indexOf(word);
  const forwards = getComputedStyle(line).direction === "rtl" ? "ArrowLeft" : "ArrowRight";
  const backwards = forwards === "ArrowRight" ? "ArrowLeft" : "ArrowRight";
  const to = { [forwards]: index + 1, [backwards]: index - 1, Home: 0, End: line.children.length - 1 }[event.key];
  if (to !== undefined) {
    const next = line.children[to];
    if (next) {
      word.tabIndex = -1;
      next.tabIndex = 0;
      next.focus();
    }
  } else if (event.key === "Delete" || event.key === "Backspace") {
    strike(line, index);
  } else if (event.key.length === 1 && event.key !== " ") {
    replace(line, index, event.key);
  } else {
    return;
  }
  event.preventDefault();
  event.stopPropagation();
};

const enhance = (line) => {
  if (line.field) return;
  line.field = document.getElementById(line.dataset.words);
  line.hidden = false;
  line.nextElementSibling.hidden = false;
  // Or the field of another word would lose the focus, and with it the button that is being pressed.
  line.addEventListener("mousedown", (event) => { if (event.target.closest("button")) event.preventDefault(); });
  line.addEventListener("click", (event) => {
    const index = [...line.children].indexOf(event.target.closest(".word"));
    if (index < 0) return;
    line.end?.();
    replace(line, index);
  });
  line.addEventListener("keydown", (event) => press(line, event));
  line.field.addEventListener("input", () => read(line));
  read(line);
};

// Those inside a closed <details> wait until it is opened.
const enhanceIn = (element) => {
  element.querySelectorAll("[data-words]").forEach((line) => {
    if (!line.closest("details:not([open])")) enhance(line);
  });
};
document.addEventListener("toggle", (event) => { if (event.target.open) enhanceIn(event.target); }, true);
document.addEventListener("put", (event) => enhanceIn(event.target)); // what app.js has put in place
enhanceIn(document);
