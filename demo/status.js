// A status line: text is set as text, never as markup.
const line = element.querySelector(".status-text");
const show = () => {
  const value = props.value || {};
  line.textContent = value.text || "";
  line.dataset.kind = value.kind || "plain";
};
watch("value", show);
show();
