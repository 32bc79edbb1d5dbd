// Sliders tell the server of a value when the pointer lets go of them, and of any value when their
// number field is clicked or left. Here keys tell it too, and the field only tells what is new and
// within the slider's range: a click into it, or the way past it with Tab, moves nothing.
() => {
  const ranges = 'input[data-testid="range-input"]';
  const numbers = 'input[data-testid="number-input"]';
  const keys = ["ArrowLeft", "ArrowRight", "ArrowUp", "ArrowDown", "Home", "End", "PageUp", "PageDown"];
  const on = (type, selector, handle) =>
    document.addEventListener(type, (event) => event.target.matches?.(selector) && handle(event, event.target), true);
  const tell = (input) => input.dispatchEvent(new PointerEvent("pointerup", { bubbles: true }));
  const quiet = (event, input) => {
    if (input.value === input.dataset.told) event.stopPropagation();
    input.dataset.told = input.value;
  };

  on("keyup", ranges, (event, input) => keys.includes(event.key) && tell(input));
  on("focus", numbers, (event, input) => { input.dataset.told = input.value; });
  on("change", numbers, (event, input) => {
    const value = input.value === "" ? Number(input.dataset.told) : input.valueAsNumber;
    const within = Math.min(Math.max(value, Number(input.min)), Number(input.max));
    if (input.value === String(within)) return;
    input.value = within;
    input.dispatchEvent(new Event("input", { bubbles: true }));
  });
  on("keyup", numbers, (event, input) => event.key === "Enter" && tell(input));
  on("pointerup", numbers, quiet);
  on("blur", numbers, quiet);
}
