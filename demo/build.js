// The progress of a build: a sentence, a bar, and the last lines of its log, all set as text.
const line = element.querySelector(".status-text");
const bar = element.querySelector("progress");
const log = element.querySelector(".log");

function show() {
  const value = props.value || {};
  element.hidden = !value.text;
  line.textContent = value.text || "";
  line.dataset.kind = value.kind || "plain";
  bar.hidden = value.kind !== "busy";
  if (value.share == null) bar.removeAttribute("value");
  else bar.value = value.share;
  log.replaceChildren(
    ...(value.log || []).map((text) => {
      const item = document.createElement("li");
      item.textContent = text;
      return item;
    }),
  );
}

watch("value", show);
show();
