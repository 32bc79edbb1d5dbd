// The progress of a build: a sentence, a bar, and the last lines of its log, all set as text.
const line = element.querySelector(".status-text");
const bar = element.querySelector("progress");
const log = element.querySelector(".log");
let stage; // as announced last

function show() {
  const value = props.value || {};
  element.hidden = !value.text;
  // The counts and the time left change twice a second: while it runs, only a new stage is announced.
  const [now] = (value.text || "").split(",");
  line.ariaLive = value.kind === "busy" && now === stage ? "off" : "polite";
  stage = now;
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
