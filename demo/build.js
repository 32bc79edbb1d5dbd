// The progress of a build: a sentence, a bar, and the last lines of its log, all set as text.
const line = element.querySelector(".status-text");
const bar = element.querySelector("progress");
const log = element.querySelector(".log");
let stage; // as announced last

function show() {
  const { text = "", kind = "plain", share, log: lines = [] } = props.value || {};
  element.hidden = !text;
  // The counts and the time left change twice a second: while it runs, only a new stage is announced.
  const [now] = text.split(",");
  line.ariaLive = kind === "busy" && now === stage ? "off" : "polite";
  stage = now;
  line.textContent = text;
  line.dataset.kind = kind;
  bar.hidden = kind !== "busy";
  if (share == null) bar.removeAttribute("value");
  else bar.value = share;
  const items = lines.map((textContent) => Object.assign(document.createElement("li"), { textContent }));
  log.replaceChildren(...items);
}

watch("value", show);
show();
