// Corrections to how gradio handles the visitor's input.
//
// gradio's sliders send a value when the pointer releases them, and whatever their number field holds
// when it is clicked or left. Here keys and the wheel send values, too, and a field sends only what
// was entered in it, clamped to the slider's range: clicking into it, or passing it with Tab, sends
// nothing. Also: Tab does not open lists, Enter chooses in them, a key that is held down sends once,
// and the arrow buttons have names for screen readers.
() => {
  const ranges = 'input[data-testid="range-input"]';
  const numbers = 'input[data-testid="number-input"]';
  const keys = ["ArrowLeft", "ArrowRight", "ArrowUp", "ArrowDown", "Home", "End", "PageUp", "PageDown"];
  const entered = new Set(); // fields whose value has not been sent yet
  const before = new WeakMap(); // a field's value when it got the focus
  let turning;
  let wanted; // a view's sliders as the visitor set them: the one of the photos, or an orbit's three

  const on = (type, selector, handle) =>
    document.addEventListener(type, (event) => event.target.matches?.(selector) && handle(event, event.target), true);
  const tell = (input) => input.dispatchEvent(new PointerEvent("pointerup", { bubbles: true }));
  const pass = (event, input) => {
    if (!entered.delete(input)) event.stopPropagation();
  };

  // When a slider asks for a view, the answer for an earlier one may still arrive and move the sliders:
  // what the visitor entered is sent anyway, and restored once its picture is shown.
  const views = "#photo, .orbit", rangesIn = (place) => [...place.querySelectorAll(ranges)];
  const enter = (event, input) => {
    const shared = (range) => range.closest(".block").contains(input);
    const place = input.closest(views);
    wanted = { place, values: rangesIn(place).map((range) => Number(shared(range) ? input.value : range.value)) };
  };
  on("input", `:is(${views}) input`, enter);
  on("pointerdown", `:is(${views}) ${ranges}`, enter); // a click may leave the value as it is
  const restore = () => {
    const asked = wanted;
    if (asked) rangesIn(asked.place).forEach((range, place) => {
      if (Number(range.value) === asked.values[place]) return;
      range.value = asked.values[place];
      range.dispatchEvent(new Event("input", { bubbles: true }));
    });
    return asked?.values;
  };
  on("keydown", `:is(${views}) ${ranges}`, (event, input) => {
    restore();
    if (keys.includes(event.key)) enter(event, input);
  });
  // A value that had to wait for the previous one may come when the visitor has moved elsewhere: drop it.
  window.viewAsked = (shown) => {
    const asked = restore(), left = asked?.length !== shown.length - 1;
    return left ? [...shown.slice(0, -1), true] : [...asked, false];
  };
  window.leaveView = () => (wanted = undefined);
  const elsewhere = (event) => event.target.closest?.("#before, #after, #reset") && window.leaveView();
  document.addEventListener("click", elsewhere, true);
  new MutationObserver(() => {
    const seen = document.querySelector("#picture img")?.alt ?? "";
    const [value, more] = wanted?.values ?? [];
    if (more === undefined ? seen.endsWith(`, view ${value}`) : seen.includes(", orbit at ")) restore();
  }).observe(document.querySelector("#picture"), { subtree: true, childList: true, attributeFilter: ["alt"] });

  // Opening a scene, or choosing an example, offers a text for the field. It must not overwrite what was
  // typed since then, nor what was typed but not asked yet.
  const typed = { at: 0, sent: 0, opened: 0 };
  const now = () => performance.now();
  document.addEventListener("input", (event) => event.target.closest?.("#text") && (typed.at = now()), true);
  document.addEventListener("keydown", (event) => {
    if (event.key === "Enter" && event.target.closest?.("#text")) typed.sent = now();
  }, true);
  document.addEventListener("click", (event) => {
    if (event.target.closest?.("#find")) typed.sent = now();
    if (event.target.closest?.("#examples")) typed.opened = typed.sent = now();
  }, true);
  window.sceneOpens = () => (typed.opened = now());
  window.textToShow = (offered, shown) => {
    const own = typed.at > Math.min(typed.opened, typed.sent);
    const early = !typed.opened && !typed.at; // typed before this script was loaded
    return offered === null || (shown && (own || early)) ? shown : offered;
  };

  // The address says what is shown: a reload keeps it, and a link shows it to others. Other fields are
  // kept: gradio has its own.
  window.showAddress = (address) => {
    if (!address) return;
    const all = new URLSearchParams(location.search), own = new URLSearchParams(address);
    for (const name of ["scene", "from", "q"]) own.has(name) ? all.set(name, own.get(name)) : all.delete(name);
    const shown = String(all).replaceAll("%2C", ",").replaceAll("%2F", "/");
    try { history.replaceState(history.state, "", `?${shown}${location.hash}`); } catch {} // not in every frame
  };
  // gradio reloads a page that has lost its server: what was asked meanwhile is then asked again, unless it
  // is longer than a query may be: every request carries the address, and servers limit its length.
  window.keepWords = (text, most) => {
    const shown = new URLSearchParams(location.search);
    if (text?.trim() && text.length <= most) shown.set("q", text);
    window.showAddress(String(shown));
  };

  // On a small screen the answer is below the question: scroll to it.
  const asked = (event) => {
    if (!matchMedia("(max-width: 700px), (max-height: 500px)").matches) return;
    if (event.target.closest?.("#find, #examples button") || (event.key === "Enter" && event.target.closest?.("#text")))
      document.querySelector("#line")?.scrollIntoView({ block: "start" });
  };
  for (const type of ["click", "keydown"]) document.addEventListener(type, asked);

  // gradio makes a picture a button that does nothing: let it toggle full screen.
  document.addEventListener("click", (event) => {
    const picture = event.target.closest?.("#picture, #found");
    if (picture && event.target.matches("img, button:has(> .image-frame)"))
      picture.querySelector(".icon-button-wrapper button")?.click();
  });

  // gradio removes a file after an hour: write it again then, and download that. The link is one that
  // gradio makes for the click; it is no longer in the page when it is clicked again here.
  const missed = new Set();
  let offered;
  document.addEventListener("click", async (event) => {
    const link = event.target;
    offered = link.closest?.(".downloads button") ?? offered;
    if (!link.matches?.('body > a[download][href*="/file="]')) return;
    const button = offered;
    event.preventDefault();
    const { ok } = await fetch(link.href, { method: "HEAD" }).catch(() => ({}));
    if (ok) return link.click();
    missed.add(button);
    document.querySelector("#again").click();
  }, true);
  window.download = () => {
    for (const button of missed) button.click();
    missed.clear();
  };

  // A busy button is disabled and loses the focus: give it back afterwards.
  const busy = "#find, #fetch, #start, .downloads button";
  let pressed;
  document.addEventListener("click", (event) => {
    if (event.isTrusted) pressed = event.target.closest?.(busy);
  }, true);
  new MutationObserver(() => {
    if (!pressed || pressed.disabled || document.activeElement !== document.body) return;
    pressed.focus({ preventScroll: true });
    pressed = undefined;
  }).observe(document.body, { subtree: true, attributeFilter: ["disabled"] });

  // A key that is held down sends once: thirty times a second would fill the server's queue.
  on("keydown", "button, #ask :is(textarea, input), #hub :is(textarea, input)", (event) => {
    if (event.key !== "Enter" || !event.repeat) return;
    event.preventDefault();
    event.stopPropagation();
  });

  // A list would open when Tab passes it, and stay open; and it reports only choices by the pointer.
  on("keydown", '[role="combobox"]', (event, input) => {
    if (event.key === "Tab") event.stopPropagation();
    const option = event.key === "Enter" && document.getElementById(input.getAttribute("aria-activedescendant"));
    if (!option) return;
    event.stopPropagation();
    option.dispatchEvent(new MouseEvent("mousedown", { bubbles: true }));
    if (document.activeElement === input) return;
    input.focus(); // which gradio takes away, but opens the list again
    input.dispatchEvent(new KeyboardEvent("keydown", { key: "Escape", bubbles: true }));
  });
  document.querySelector("#before")?.setAttribute("aria-label", "View before");
  document.querySelector("#after")?.setAttribute("aria-label", "Next view");
  on("keyup", ranges, (event, input) => keys.includes(event.key) && tell(input));
  on("focus", numbers, (event, input) => before.set(input, input.value));
  on("input", numbers, (event, input) => entered.add(input));
  on("change", numbers, (event, input) => {
    const value = Number(input.value === "" ? before.get(input) : input.value);
    const within = Math.min(Math.max(value, Number(input.min)), Number(input.max));
    if (input.value === String(within)) return;
    input.value = within;
    input.dispatchEvent(new Event("input", { bubbles: true }));
  });
  on("keyup", numbers, (event, input) => ["Enter", "ArrowUp", "ArrowDown"].includes(event.key) && tell(input));
  on("wheel", numbers, (event, input) => {
    clearTimeout(turning);
    turning = setTimeout(tell, 300, input);
  });
  on("pointerup", numbers, pass);
  on("blur", numbers, pass);
}
