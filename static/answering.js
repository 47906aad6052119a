// What the forms that correct a description have in common: their keys, and what is wrong.

/** What a key asks for while a description is corrected; nothing for most of them. */
export const wish = (event) => {
  if (event.isComposing) return "";
  const command = event.ctrlKey || event.metaKey;
  const writes = event.target.matches("textarea") && !event.shiftKey && !event.altKey;
  if (event.key === "Enter" && command) return "accept";
  if (event.key === "Enter" && writes) return "keep";
  if (event.key === "ArrowDown" && event.altKey) return "skip";
  if (event.key === "ArrowUp" && event.altKey) return "back";
  if (event.key === "Escape") return "close";
  return "";
};

/** Say what is wrong in this box, before one of its parts; nothing is wrong without a text. */
export const complain = (box, before, text) => {
  box.querySelector(":scope > .notice")?.remove();
  if (!text) return;
  const notice = document.createElement("p");
  notice.className = "notice problem";
  notice.setAttribute("role", "alert");
  notice.textContent = text;
  box.insertBefore(notice, before);
};
