// What is shown, in the query of the address: noise and classes of both ends, and the picture of the strip.
const NAMES = ["noise", "shape", "texture", "background", "noise_end", "shape_end", "texture_end", "background_end", "show"];
function write(values) {
  const query = new URLSearchParams(window.location.search);
  values.forEach((value, number) => query.set(NAMES[number], value));
  window.history.replaceState(null, "", "?" + query);
}
function read(values, classes) {
  const query = new URLSearchParams(window.location.search);
  const isNoise = (name) => name.startsWith("noise");
  const known = (name, text) => name === "show"
    ? ["shape", "texture", "background", "composite"].includes(text)
    : /^\d{1,15}$/.test(text) && (isNoise(name) || classes.includes(Number(text)));
  return values.map((value, number) => {
    const name = NAMES[number], text = query.get(name);
    return text === null || !known(name, text) ? value : name === "show" ? text : Number(text);
  });
}
