"use strict";
{
  const form = document.querySelector(".filter");
  const samples = [...document.querySelectorAll(".sample")];
  const apply = () => {
    const wanted = Object.fromEntries(new FormData(form));
    for (const sample of samples)
      sample.hidden = Object.entries(wanted).some(([name, value]) => value && sample.dataset[name] !== value);
    form.querySelector("output").textContent = `${samples.filter((s) => !s.hidden).length} of ${samples.length} shown`;
  };
  form.addEventListener("change", apply);
  form.hidden = false;
  apply();
}
