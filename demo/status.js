// A status line: text is set as text, never as markup.
const line = element.querySelector(".status-text");
const show = () => {
  const { text = "", kind = "plain" } = props.value || {};
  line.textContent = text;
  line.dataset.kind = kind;
};
watch("value", show);
show();
