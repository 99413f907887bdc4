// The picture viewer: one large picture, its views on top of one another, so that toggling shows
// nothing but what differs.  Without this script all views stand side by side.
"use strict";
for (const viewer of document.querySelectorAll(".viewer")) {
  const pictures = [...viewer.querySelectorAll(".picture")];
  const buttons = [...viewer.querySelectorAll("button[data-view]")];
  const position = viewer.querySelector("output");
  const views = buttons.map((button) => button.dataset.view);
  let picture = 0;
  let view = 0;

  const show = () => {
    pictures.forEach((figure, index) => {
      figure.hidden = index !== picture;
      for (const layer of figure.querySelectorAll("figure[data-view]")) {
        const shown = layer.dataset.view === views[view];
        layer.classList.toggle("off", !shown);
        layer.setAttribute("aria-hidden", String(!shown));
      }
    });
    buttons.forEach((button, index) => button.setAttribute("aria-pressed", String(index === view)));
    position.textContent = `${picture + 1} of ${pictures.length}`;
  };
  const turn = (value, step, count) => (value + step + count) % count;
  const nextPicture = (step) => { picture = turn(picture, step, pictures.length); show(); };
  const nextView = (step) => { view = turn(view, step, views.length); show(); };

  buttons.forEach((button, index) => button.addEventListener("click", () => { view = index; show(); }));
  for (const button of viewer.querySelectorAll("button[data-step]")) {
    button.addEventListener("click", () => nextPicture(Number(button.dataset.step)));
  }
  viewer.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.altKey || event.metaKey) return;
    const number = Number(event.key) - 1;
    if (event.key === "ArrowRight") nextPicture(1);
    else if (event.key === "ArrowLeft") nextPicture(-1);
    else if (event.key === "ArrowDown") nextView(1);
    else if (event.key === "ArrowUp") nextView(-1);
    else if (Number.isInteger(number) && number >= 0 && number < views.length) { view = number; show(); }
    else return;
    event.preventDefault();
  });

  for (const part of viewer.querySelectorAll(".controls, .keys")) part.hidden = false;
  viewer.classList.add("live");
  viewer.tabIndex = 0;
  show();
}
