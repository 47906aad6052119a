// What was dropped: files, and the files in folders, in an order that a person expects.

const EXTENSIONS = /\.(jpe?g|jfif|png|webp|gif|bmp|tiff?|avif|hei[cf])$/i;

export const isDrag = (transfer) => Array.from(transfer.types).includes("Files");

/** The page shows that it takes what is dragged over it, if it does; the drop is its own affair. */
export const welcome = (takes) => {
  document.addEventListener("dragover", (event) => {
    if (!takes(event)) return;
    event.preventDefault();
    event.dataTransfer.dropEffect = "copy";
    document.body.classList.add("dropping");
  });
  document.addEventListener("dragleave", (event) => {
    if (!event.relatedTarget) document.body.classList.remove("dropping");
  });
};

// Only for what lies in folders: whatever a person picks by itself is judged by the server.
export const isPicture = (file) =>
  !file.name.startsWith(".") && (file.type.startsWith("image/") || EXTENSIONS.test(file.name));

const inOrder = new Intl.Collator(undefined, { numeric: true });

const entriesOf = async (folder) => {
  const reader = folder.createReader();
  const found = [];
  for (;;) { // a browser gives a hundred at a time
    const some = await new Promise((resolve) => reader.readEntries(resolve, () => resolve([])));
    if (!some.length) return found.sort((a, b) => inOrder.compare(a.name, b.name));
    found.push(...some);
  }
};

const fileOf = (entry) => new Promise((resolve) => entry.file(resolve, () => resolve(null)));

const walk = async (folder, into) => {
  for (const entry of await entriesOf(folder)) {
    if (entry.isDirectory) await walk(entry, into);
    else into.push(await fileOf(entry));
  }
};

// {files, leftOut}: leftOut counts what lay in folders and is no picture.
export const filesOf = async (transfer) => {
  // After the first await the browser empties the transfer.
  const dropped = Array.from(transfer.items)
    .filter((item) => item.kind === "file")
    .map((item) => ({ entry: item.webkitGetAsEntry?.(), file: item.getAsFile() }));
  const files = [];
  let leftOut = 0;
  for (const { entry, file } of dropped) {
    if (!entry?.isDirectory) {
      if (file) files.push(file);
      continue;
    }
    const inside = [];
    await walk(entry, inside);
    const pictures = inside.filter((one) => one && isPicture(one));
    leftOut += inside.length - pictures.length;
    files.push(...pictures);
  }
  return { files, leftOut };
};
