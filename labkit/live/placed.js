// Shows a widget of the kernel where a cell's output holds a sentence for who opens the notebook
// later. A saved notebook has no widgets, and JupyterLab says "model not found" where one was.

const SEARCH_MS = 200;
const ASK_EVERY = 20; // searches; the kernel may have been busy

const asWidget = new Map(); // id of a view -> how many outputs show it as a widget

export default {
  initialize({ model }) {
    const id = model.get("view_id");
    const shown = new Map(); // place -> promise of the view in it
    let asked = 0;
    const search = setInterval(() => {
      const ask = asWidget.get(id) > 0 && document.querySelector(".jp-Notebook");
      if (ask && asked % ASK_EVERY === 0) model.send({ type: "place" });
      asked = ask ? asked + 1 : 0;
      for (const place of document.querySelectorAll(`[data-labkit-view="${id}"]`)) {
        if (shown.has(place)) continue;
        place.firstElementChild.hidden = true;
        shown.set(place, show(model, place.appendChild(document.createElement("div"))));
      }
      for (const place of shown.keys()) if (!place.isConnected) shown.delete(place);
    }, SEARCH_MS);
    return () => clearInterval(search);
  },
  async render({ model, el }) {
    const id = model.get("view_id");
    asWidget.set(id, (asWidget.get(id) ?? 0) + 1);
    while (!el.isConnected) await new Promise(requestAnimationFrame);
    const view = await show(model, el);
    return () => {
      asWidget.set(id, asWidget.get(id) - 1);
      if (view.el.isConnected) view.remove(); // else the page has dropped it with the output
    };
  },
};

async function show(model, el) {
  const child = await model.widget_manager.get_model(model.get("child").slice("IPY_MODEL_".length));
  const view = await model.widget_manager.create_view(child);
  view.luminoWidget.constructor.attach(view.luminoWidget, el);
  return view;
}
