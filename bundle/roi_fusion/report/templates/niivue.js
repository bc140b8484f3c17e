// NiiVue as the package ipyniivue ships it: a module with the widget interface of anywidget. This stands in for Jupyter:
// a model is a map of values that tells who listens when one changes. Nothing is fetched.
const bytesOf = (base64) => Uint8Array.from(atob(base64), (c) => c.charCodeAt(0));

const unpacked = async (base64) =>
  new Response(new Blob([bytesOf(base64)]).stream().pipeThrough(new DecompressionStream("gzip"))).arrayBuffer();

class WidgetModel {
  constructor(values, models) {
    this.values = values;
    this.listeners = new Map();
    this.widget_manager = { get_model: async (id) => models.get(id) };
  }
  get(name) { return this.values[name]; }
  set(name, value) { this.values[name] = value; }
  on(event, listener) { this.listeners.set(event, [...(this.listeners.get(event) ?? []), listener]); }
  off(event, listener) { this.listeners.set(event, listener ? (this.listeners.get(event) ?? []).filter((l) => l !== listener) : []); }
  save_changes() {}
  send_sync_message() { return ""; } // with no `_comm_live`: voxels are not sent back to where they came from
  send(message) { this.told?.(message); }
  async tell(event, ...values) { for (const listener of this.listeners.get(event) ?? []) await listener(...values); }
  async change(name, value) {
    this.values[name] = value;
    await this.tell(`change:${name}`);
  }
}

const niivueScript = () => new Promise((resolve, reject) => {
  const inside = document.getElementById("niivue");
  if (inside) return resolve(inside.textContent);
  if (window.roiNiivue) return resolve(window.roiNiivue);
  const beside = document.createElement("script");
  beside.src = "../niivue.js";
  beside.onload = () => resolve(window.roiNiivue);
  beside.onerror = () => reject(new Error("niivue.js does not lie beside this page"));
  document.head.append(beside);
});

const volumeModel = async (volume, id, models, opacity) => new WidgetModel({
  id, name: `${volume.name}.nii`, data: new DataView(await unpacked(volume.data)), url: "", path: {}, paired_img_path: {},
  paired_img_url: "", paired_img_data: null, colormap: volume.colormap, opacity, cal_min: volume.low, cal_max: volume.high,
  cal_min_neg: NaN, cal_max_neg: NaN, colormap_negative: "", colormap_type: 1, colorbar_visible: volume.name !== "Lesion",
  frame_4d: 0, colormap_label: null, colormap_invert: false, modulation_image: null, modulate_alpha: 0,
}, models);

async function openViewer(patient) {
  const volumes = JSON.parse(patient.querySelector("script.volumes").textContent);
  const place = patient.querySelector(".volume");
  const [base, over, opacity] = [".base", ".over", ".opacity"].map((c) => patient.querySelector(c));
  place.hidden = false;
  for (const control of patient.querySelectorAll(".viewer-control")) control.hidden = false;
  const source = new Blob([await unpacked(await niivueScript())], { type: "text/javascript" });
  const address = URL.createObjectURL(source);
  const { default: widget } = await import(address); // a module of its own, and so a NiiVue of its own, for each patient
  URL.revokeObjectURL(address);
  const models = new Map();
  const model = new WidgetModel({
    volumes: [], meshes: [], graph: {}, scene: {}, draw_lut: null, draw_opacity: 0.8, draw_fill_overwrites: true,
    height: place.clientHeight, background_masks_overlays: false, overlay_outline_width: 0, overlay_alpha_shader: 1,
    opts: { isRadiologicalConvention: true, isColorbar: true, backColor: [0, 0, 0, 1], crosshairColor: [1, 0.8, 0.2, 0.7],
      multiplanarShowRender: 1, isSliceMM: true, logLevel: "error", dragAndDropEnabled: true, showLegend: false, fontColor: [1, 1, 1, 1] },
  }, models);
  let number = 0;
  const choose = async () => {
    const chosen = [base.value, over.value].map((name) => volumes.find((v) => v.name === name)).filter(Boolean);
    const ids = [];
    for (const volume of chosen) {
      const id = `volume-${number++}`;
      models.set(id, await volumeModel(volume, id, models, volume.overlay ? Number(opacity.value) : 1));
      ids.push(id);
    }
    await model.change("volumes", ids.map((id) => `IPY_MODEL_${id}`));
  };
  // One slider for all: the crosshair follows the slices of the panels, and they follow it.
  const axis = "RAS".indexOf(patient.dataset.axis);
  const slices = JSON.parse(patient.dataset.positions).length;
  const place3d = [0.5, 0.5, 0.5];
  const follow = async (k) => {
    place3d[axis] = (k + 0.5) / slices;
    await model.change("scene", { crosshairPos: Float32Array.from(place3d) });
    await model.tell("msg:custom", { type: "draw_scene", data: [] }, []);
  };
  let following = false;
  model.told = ({ event, data }) => {
    if (event === "image_loaded") patient.dataset.viewer = "loaded";
    if (event !== "location_change" || following) return;
    data.frac.forEach((f, a) => { place3d[a] = f; });
    following = true;
    patient.toSlice(data.frac[axis] * slices - 0.5);
    following = false;
  };
  patient.addEventListener("slice", ({ detail }) => { if (!following) follow(detail); });
  await widget.initialize({ model });
  await widget.render({ model, el: place });
  await choose();
  await follow(Number(patient.querySelector(".slide").value));
  base.addEventListener("change", choose);
  over.addEventListener("change", choose);
  opacity.addEventListener("input", () => {
    const shown = model.get("volumes")[1];
    if (shown) models.get(shown.slice("IPY_MODEL_".length)).change("opacity", Number(opacity.value));
  });
}

for (const button of document.querySelectorAll(".open-viewer")) {
  button.addEventListener("click", async () => {
    button.disabled = true;
    button.textContent = "opening …";
    try {
      await openViewer(button.closest(".patient"));
      button.hidden = true;
    } catch (error) {
      button.textContent = `NiiVue cannot be opened here: ${error.message}`;
      button.closest(".patient").dataset.viewer = "failed";
    }
  });
}
