/* The sliders of an editor: what the network gets beside the photo. */

const STRONGEST = 2; // strength of an edit, either way, as for `stylize edit`
const WHOLE = 'background'; // the label that is not a region of the face

/** No edit, shown everywhere; null for a model that edits nothing. -> {attributes, regions}: a number each */
export const noEdit = ({ attributes, regions }) =>
  attributes ? { attributes: attributes.map(() => 0), regions: regions.map(() => 1) } : null;

/** Make the sliders and the choice of a region for an editor in `place`, which is hidden for another model. Each
    change of theirs calls `changed` with the edit. -> the edit at first, as `noEdit` */
export function showSliders(place, model, changed) {
  place.hidden = !model.attributes;
  place.replaceChildren();
  if (!model.attributes) return null;

  const sliders = model.attributes.map((name) =>
    element('input', { type: 'range', id: `edit-${name}`, min: -STRONGEST, max: STRONGEST, step: 0.1, value: 0 }),
  );
  const values = sliders.map(() => element('output'));
  const region = element('select', { id: 'region' });
  const places = model.regions.filter((name) => name !== WHOLE);
  region.append(new Option('everywhere', ''), ...places.map((name) => new Option(name, name)));
  const reset = element('button', { id: 'reset', type: 'button', textContent: 'Reset' });

  const read = () => {
    sliders.forEach(({ value }, index) => {
      values[index].textContent = `${value > 0 ? '+' : ''}${Number(value).toFixed(1)}`;
    });
    return {
      attributes: sliders.map(({ value }) => Number(value)),
      regions: model.regions.map((name) => Number(!region.value || name === region.value)),
    };
  };
  for (const control of [...sliders, region]) control.oninput = () => changed(read());
  reset.onclick = () => {
    for (const slider of sliders) slider.value = 0;
    region.value = '';
    changed(read());
  };

  const last = element('div', { className: 'last' });
  last.append(labelled('where', region), reset);
  place.append(...sliders.map((slider, index) => labelled(model.attributes[index], slider, values[index])), last);
  return read();
}

const element = (tag, values = {}) => Object.assign(document.createElement(tag), values);

function labelled(text, ...controls) {
  const label = element('label');
  label.append(element('span', { textContent: text }), ...controls);
  return label;
}
