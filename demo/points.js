// The 3D point view. Positions arrive as 16-bit steps in a cube, colors as one byte a point.
const plot = element.querySelector(".points-plot");
const twin = element.querySelector(".points-twin");

let drawn = null; // the scene that is on the screen

const bytes = (text) => Uint8Array.from(atob(text), (ch) => ch.charCodeAt(0));

function axes(value) {
  const places = new Uint16Array(bytes(value.places).buffer);
  const count = places.length / 3;
  const out = [0, 1, 2].map(() => new Float32Array(count));
  for (let i = 0; i < count; i++)
    for (let axis = 0; axis < 3; axis++)
      out[axis][i] = value.low[axis] + (places[3 * i + axis] / 65535) * value.size;
  return out;
}

function palette() {
  const scale = [];
  for (let i = 0; i < 216; i++) {
    const parts = [Math.floor(i / 36), Math.floor(i / 6) % 6, i % 6].map((part) => part * 51);
    scale.push([i / 215, `rgb(${parts})`]);
  }
  return scale;
}

function marker(value) {
  if (value.shades)
    return { size: 2.4, color: Float32Array.from(bytes(value.shades)), cmin: 0, cmax: 215, colorscale: palette() };
  const scores = Float32Array.from(bytes(value.scores));
  const last = value.colors.length - 1;
  // A few must not get lost among thousands, nor behind them.
  const found = scores.filter((score) => score >= value.cut).length;
  const [large, small] = 0 < found && found < 200 ? [7, 1] : [4, 2];
  return {
    size: scores.map((score) => (score >= value.cut ? large : small)),
    color: scores, cmin: 0, cmax: 255,
    colorscale: value.colors.map((color, i) => [i / last, color]),
  };
}

function draw() {
  const value = props.value;
  if (!value || !value.places) return;
  twin.textContent = value.twin;
  plot.setAttribute("aria-label", value.twin);
  if (typeof Plotly === "undefined") {
    twin.textContent = "The 3D view could not be loaded. " + value.twin;
    return;
  }
  const [x, y, z] = axes(value);
  const axis = (i) => ({ visible: false, range: [value.low[i], value.low[i] + value.size] });
  const vector = ([x, y, z]) => ({ x, y, z });
  const trace = {
    type: "scatter3d", mode: "markers", x, y, z, hoverinfo: "skip",
    marker: { opacity: 1, line: { width: 0 }, showscale: false, ...marker(value) },
  };
  // New colors must not turn the view back: only another scene brings its own camera.
  const camera = drawn === value.scene ? plot.layout.scene.camera
    : { eye: vector(value.eye), up: vector(value.up), center: { x: 0, y: 0, z: 0 } };
  drawn = value.scene;
  const layout = {
    margin: { l: 0, r: 0, t: 0, b: 0 }, showlegend: false, autosize: true,
    paper_bgcolor: "rgba(0,0,0,0)",
    scene: {
      aspectmode: "cube", dragmode: "orbit", bgcolor: "rgba(0,0,0,0)",
      xaxis: axis(0), yaxis: axis(1), zaxis: axis(2),
      camera,
    },
  };
  // Only these two buttons: the default bar also offers to upload the data to a server.
  const config = {
    displaylogo: false, responsive: true, modeBarButtons: [["toImage", "resetCameraDefault3d"]],
  };
  Plotly.react(plot, [trace], layout, config);
}

// A moment after the next frame: while Plotly draws, the browser shows nothing else, neither the
// answer's words nor its picture.
let frame = 0, timer = 0;
function later() {
  cancelAnimationFrame(frame);
  clearTimeout(timer);
  frame = requestAnimationFrame(() => { timer = setTimeout(draw, 100); });
}

watch("value", later);
draw();
