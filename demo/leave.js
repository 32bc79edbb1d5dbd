// Whoever leaves the page ends the build that runs there: the browser asks first. Registered before
// gradio's own listener, which would cut the connection whatever the answer is.
addEventListener("beforeunload", (event) => {
  if (!document.querySelector('#build .status-text[data-kind="busy"]')) return;
  event.preventDefault();
  event.stopImmediatePropagation();
}, true);
