// The 3D point view. Positions arrive as 16-bit steps in a cube, colors as one byte per point; what
// stays the same while a scene is asked arrives once, as `props.cloud`.
const plot = element.querySelector(".points-plot");
const twin = element.querySelector(".points-twin");

const SHADES = 216; // in the palette, 6 each of red, green and blue
let drawn = null; // the key of the cloud that is on the screen
let failed = false; // to load what draws

const bytes = (text) => Uint8Array.from(atob(text), (ch) => ch.charCodeAt(0));

function axes(cloud) {
  const places = new Uint16Array(bytes(cloud.places).buffer);
  const count = places.length / 3;
  const out = [0, 1, 2].map(() => new Float32Array(count));
  for (let i = 0; i < count; i++)
    for (let axis = 0; axis < 3; axis++)
      out[axis][i] = cloud.low[axis] + (places[3 * i + axis] / 65535) * cloud.size;
  return out;
}

// The scene's own colors, muted if others have to stand out.
function palette(muted) {
  return Array.from({ length: SHADES }, (_, i) => {
    const parts = [Math.floor(i / 36), Math.floor(i / 6) % 6, i % 6].map((part) => part * 51);
    const grey = (parts[0] + parts[1] + parts[2]) / 3;
    return `rgb(${muted ? parts.map((part) => Math.round(0.3 * part + 0.4 * grey + 30)) : parts})`;
  });
}

const scale = (colors, from, to, end) =>
  colors.map((color, i) => [(from + ((to - from) * i) / (colors.length - 1)) / end, color]);

function marker(cloud, value) {
  const shades = Float32Array.from(bytes(cloud.shades)), last = SHADES - 1;
  if (!value.scores)
    return { size: 2.4, color: shades, cmin: 0, cmax: last, colorscale: scale(palette(false), 0, last, last) };
  // What is found has the colors of the relevancy, which follow the palette in the color scale.
  const scores = bytes(value.scores), end = SHADES + 255;
  const found = (i) => scores[i] >= value.cut;
  // A few points must not get lost among thousands, or behind them.
  const count = scores.filter((_, i) => found(i)).length;
  const [large, small] = 0 < count && count < 200 ? [7, 1.5] : [4, 2];
  return {
    size: Array.from(shades, (_, i) => (found(i) ? large : small)),
    color: shades.map((shade, i) => (found(i) ? SHADES + scores[i] : shade)), cmin: 0, cmax: end,
    colorscale: [...scale(palette(true), 0, last, end), ...scale(value.colors, SHADES, end, end)],
  };
}

const vector = ([x, y, z]) => ({ x, y, z });
const start = ({ eye, up }) => ({ eye: vector(eye), up: vector(up), center: vector([0, 0, 0]) });

// One for all answers: Plotly writes to the first it gets where the visitor has turned the view.
const layout = {
  margin: { l: 0, r: 0, t: 0, b: 0 }, showlegend: false, autosize: true,
  paper_bgcolor: "rgba(0,0,0,0)",
  modebar: { bgcolor: "rgba(0,0,0,0)", color: "#475569", activecolor: "#0f172a" }, // else too faint
  scene: { aspectmode: "cube", dragmode: "orbit", bgcolor: "rgba(0,0,0,0)" },
};

// Plotly's own buttons have a way home to a camera of Plotly's, and one to upload the data.
let config; // once what draws is there; another one would have all drawn anew
const configured = () => ({
  displaylogo: false, responsive: true,
  modeBarButtons: [["toImage", {
    name: "home", title: "Reset the view of the points", icon: Plotly.Icons.home,
    click: () => Plotly.relayout(plot, { "scene.camera": start(props.cloud) }),
  }]],
});

function draw() {
  const { cloud, value } = props;
  if (!cloud || cloud.key !== value?.key) return; // another scene has opened: its answer follows
  twin.textContent = (failed ? "The 3D view could not be loaded: reload the page. " : "") + value.twin;
  if (typeof Plotly === "undefined") return; // not yet
  const [x, y, z] = axes(cloud);
  const trace = {
    type: "scatter3d", mode: "markers", x, y, z, hoverinfo: "skip",
    marker: { opacity: 1, line: { width: 0 }, showscale: false, ...marker(cloud, value) },
  };
  ["xaxis", "yaxis", "zaxis"].forEach((name, i) => {
    layout.scene[name] = { visible: false, range: [cloud.low[i], cloud.low[i] + cloud.size] };
  });
  // New colors must not reset the view: only another scene brings its own camera.
  if (drawn !== cloud.key) layout.scene.camera = start(cloud);
  drawn = cloud.key;
  config ??= configured();
  Plotly.react(plot, [trace], layout, config);
}

// Wait a moment after the next frame: while Plotly draws, the browser shows nothing else, neither
// the answer's words nor its picture.
let frame = 0, timer = 0;
function later() {
  cancelAnimationFrame(frame);
  clearTimeout(timer);
  frame = requestAnimationFrame(() => { timer = setTimeout(draw, 100); });
}

// For those who cannot drag and scroll: arrows turn the view around the scene's up, + and - zoom.
const steps = {
  ArrowLeft: [-1, 0, 0], ArrowRight: [1, 0, 0], ArrowUp: [0, 1, 0], ArrowDown: [0, -1, 0],
  "+": [0, 0, -1], "=": [0, 0, -1], "-": [0, 0, 1],
};
plot.addEventListener("keydown", (event) => {
  const step = steps[event.key];
  if (!step || !drawn || event.target !== plot || event.ctrlKey || event.metaKey || event.altKey) return;
  event.preventDefault();
  const [turn, tilt, zoom] = step, { up } = props.cloud;
  const { eye: { x, y, z }, center } = plot.layout.scene.camera;
  const from = [x - center.x, y - center.y, z - center.z], far = Math.hypot(...from);
  const height = up.reduce((sum, part, i) => sum + part * from[i], 0);
  const flat = from.map((part, i) => part - height * up[i]), across = Math.hypot(...flat) || 1;
  const side = [0, 1, 2].map((i) => up[(i + 1) % 3] * flat[(i + 2) % 3] - up[(i + 2) % 3] * flat[(i + 1) % 3]);
  const yaw = 0.15 * turn, pitch = Math.asin(Math.max(-1, Math.min(1, height / far))) + 0.15 * tilt;
  const level = Math.max(-1.5, Math.min(1.5, pitch)), out = far * 1.1 ** zoom; // radians; at the pole it would flip
  const to = up.map((part, i) =>
    out * (Math.sin(level) * part + (Math.cos(level) * (Math.cos(yaw) * flat[i] + Math.sin(yaw) * side[i])) / across));
  const eye = { x: center.x + to[0], y: center.y + to[1], z: center.z + to[2] };
  Plotly.relayout(plot, { "scene.camera": { eye, center, up: vector(up) } });
});

// Plotly keeps where a drag has ended, but of a scroll only what was seen before its last step.
plot.addEventListener("wheel", (event) => event.target.dispatchEvent(new MouseEvent("mouseup")));

watch("value", later);
draw();
const script = document.createElement("script");
const { pathname } = new URL(window.gradio_config.root); // behind a proxy this may be a folder
script.src = `${pathname.replace(/\/$/, "")}PLOTLY_JS`;
script.onload = draw;
script.onerror = () => {
  failed = true;
  draw();
};
document.head.append(script);
