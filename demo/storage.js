// A browser may deny storage to a page, above all to one in a frame of another site, as on a Space. gradio's
// BrowserState would then fail, and the whole page with it: it gets a storage that keeps nothing.
try {
  localStorage.length; // null where it is switched off
} catch {
  const none = { getItem: () => null, setItem() {}, removeItem() {} };
  Object.defineProperty(window, "localStorage", { value: none });
}
