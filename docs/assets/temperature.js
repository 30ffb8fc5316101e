// <gumbel-softmax-demo>: samples of a Gumbel-softmax as bars, with sliders for the temperature and the class probabilities.
// Plain JavaScript in one file: no build step, no dependency, nothing fetched.
(() => {
  "use strict";

  const MOST = 8; // classes
  const FEWEST = 2;
  const EXPONENTS = [-1.3, 1.3]; // of ten: temperatures from 0.05 to 20
  const MEAN_DRAWS = 4000; // of the estimated expectation
  const MANY = 1000; // draws of the second button
  const NAMES = "ABCDEFGH";
  const START = [0.1, 0.3, 0.05, 0.4, 0.15];

  // The mathematics. Noise is apart from the parameters, which is the point of the trick: sliders move what the same
  // noise is made into.

  /** Standard Gumbel noise; Math.random() may be 0, which the bound keeps from becoming infinite. */
  const gumbel = () => -Math.log(-Math.log(Math.max(Math.random(), Number.MIN_VALUE)));

  const noiseOf = (length) => Float64Array.from({ length }, gumbel);

  /** softmax((log p + g) / temperature), with g from `offset` on. A class of probability 0 stays at 0. */
  function relax(probs, noise, temperature, offset = 0) {
    const scores = probs.map((p, k) => (Math.log(p) + noise[offset + k]) / temperature);
    const top = Math.max(...scores);
    const weights = scores.map((score) => Math.exp(score - top));
    const total = weights.reduce((sum, weight) => sum + weight, 0);
    return weights.map((weight) => weight / total);
  }

  /** argmax(log p + g): no temperature occurs in it. */
  function choose(probs, noise) {
    let best = 0;
    let highest = -Infinity;
    probs.forEach((p, k) => {
      const score = Math.log(p) + noise[k];
      if (score > highest) [best, highest] = [k, score];
    });
    return best;
  }

  const oneHot = (choice, length) => Array.from({ length }, (_, k) => (k === choice ? 1 : 0));

  /** Mean of the relaxed sample over all rows of noise, each of MOST numbers. */
  function expectation(probs, noise, temperature) {
    const sums = probs.map(() => 0);
    const rows = noise.length / MOST;
    for (let row = 0; row < rows; row += 1) {
      relax(probs, noise, temperature, row * MOST).forEach((value, k) => { sums[k] += value; });
    }
    return sums.map((sum) => sum / rows);
  }

  /** The probabilities with that of class k set, and the others in their old proportions. */
  function withProbability(probs, k, value) {
    const rest = probs.reduce((sum, p, i) => (i === k ? sum : sum + p), 0);
    const share = (p) => (rest > 1e-9 ? (p * (1 - value)) / rest : (1 - value) / (probs.length - 1));
    return probs.map((p, i) => (i === k ? value : share(p)));
  }

  // The page.

  const STYLE = `
    :host { display: block; margin: 1.5em 0; color: var(--md-default-fg-color, CanvasText); line-height: 1.4;
      --line: var(--md-default-fg-color--lighter, #8888); --one: #e76300; --all: #3f90da; }
    button { font: inherit; }
    .panels { display: grid; grid-template-columns: repeat(auto-fit, minmax(15em, 1fr)); gap: 1.2em 2em; }
    fieldset, figure { margin: 0; padding: 0; border: 0; min-width: 0; }
    legend, figcaption, .name { font-weight: 600; padding: 0; }
    figcaption span { display: block; font-weight: 400; opacity: .8; }
    .temperature { display: flex; flex-wrap: wrap; align-items: center; gap: .3em .8em; margin-bottom: 1.2em; }
    .temperature input { flex: 1 1 12em; }
    .class { display: grid; grid-template-columns: 1.2em 1fr 2.6em; align-items: center; gap: .6em; margin: .25em 0; }
    .share, .value, #shown { font-variant-numeric: tabular-nums; }
    .share { text-align: right; }
    #shown { min-width: 3em; }
    input[type=range] { width: 100%; margin: 0; accent-color: var(--md-accent-fg-color, AccentColor); }
    button { color: inherit; background: transparent; border: 1px solid currentColor; border-radius: .2em;
      padding: .3em .8em; cursor: pointer; }
    button:hover:enabled { border-color: var(--md-accent-fg-color, AccentColor);
      color: var(--md-accent-fg-color, AccentColor); }
    button:disabled { opacity: .4; cursor: default; }
    :focus-visible { outline: 2px solid var(--md-accent-fg-color, Highlight); outline-offset: 2px; }
    .buttons { display: flex; flex-wrap: wrap; gap: .5em; margin: .8em 0 0; }
    .status { margin: .25em 0 0; min-height: 1.4em; }
    .plot { display: flex; margin-top: .4em; }
    .column { flex: 1 1 0; min-width: 0; text-align: center; }
    .track { position: relative; height: 7em; border: solid var(--line); border-width: 1px 0; }
    .bar, .mark { position: absolute; left: 12%; right: 12%; bottom: 0; }
    .bar { background: var(--colour); }
    .mark { left: 4%; right: 4%; border-top: 2px solid currentColor; }
    .value { display: block; font-size: .85em; opacity: .8; }
    @media (forced-colors: active) { .bar { background: CanvasText; forced-color-adjust: none; } }
  `;

  const FRAME = `
    <style>${STYLE}</style>
    <div class="temperature">
      <label class="name" for="temperature">Temperature τ</label>
      <input id="temperature" type="range" min="${EXPONENTS[0]}" max="${EXPONENTS[1]}" step="0.05" value="0">
      <span id="shown" aria-hidden="true"></span>
    </div>
    <div class="panels">
      <fieldset>
        <legend>Class probabilities π</legend>
        <div id="classes"></div>
        <div class="buttons">
          <button id="add" type="button">Add a class</button>
          <button id="remove" type="button">Remove the last</button>
        </div>
      </fieldset>
      <div>
        <div class="name">Samples</div>
        <p class="status" id="status" role="status"></p>
        <div class="buttons">
          <button id="again" type="button">Re-sample</button>
          <button id="many" type="button">Re-sample ${MANY.toLocaleString("en")} times</button>
        </div>
      </div>
      <figure id="relaxed" style="--colour: var(--one)">
        <figcaption>Relaxed sample y <span>softmax((log π + g) / τ)</span></figcaption><div class="plot" role="img"></div>
      </figure>
      <figure id="hard" style="--colour: var(--one)">
        <figcaption>Straight-through sample z <span>one-hot of the largest log π + g</span></figcaption>
        <div class="plot" role="img"></div>
      </figure>
      <figure id="mean" style="--colour: var(--all)">
        <figcaption>Expectation of y <span>mean of ${MEAN_DRAWS.toLocaleString("en")} draws; lines: π</span></figcaption>
        <div class="plot" role="img"></div>
      </figure>
      <figure id="frequencies" style="--colour: var(--all)">
        <figcaption>Frequencies of z <span id="draws"></span></figcaption>
        <div class="plot" role="img"></div>
      </figure>
    </div>
  `;

  class GumbelSoftmaxDemo extends HTMLElement {
    connectedCallback() {
      if (this.shadowRoot) return; // moved within the page
      this.attachShadow({ mode: "open" }).innerHTML = FRAME;
      this.probs = START;
      this.meanNoise = noiseOf(MEAN_DRAWS * MOST);
      this.forget();
      this.sample(1);
      this.on("temperature", "input", () => this.draw());
      this.on("again", "click", () => { this.sample(1); this.draw(); });
      this.on("many", "click", () => { this.sample(MANY); this.draw(); });
      this.on("add", "click", () => {
        const { length } = this.probs;
        this.change([...this.probs.map((p) => (p * length) / (length + 1)), 1 / (length + 1)]);
      });
      this.on("remove", "click", () => this.change(withProbability(this.probs, this.probs.length - 1, 0).slice(0, -1)));
      this.layOut();
      this.draw();
    }

    part(id) { return this.shadowRoot.getElementById(id); }

    on(id, event, action) { this.part(id).addEventListener(event, action); }

    /** Rounded to what is shown. */
    get temperature() { return Number((10 ** Number(this.part("temperature").value)).toPrecision(2)); }

    /** Draw noise so many times, and keep the last. */
    sample(times) {
      for (let i = 0; i < times; i += 1) {
        this.noise = noiseOf(MOST);
        this.counts[choose(this.probs, this.noise)] += 1;
      }
      this.draws += times;
    }

    /** Frequencies of other probabilities than the present ones say nothing. */
    forget() {
      this.counts = new Array(MOST).fill(0);
      this.draws = 0;
    }

    change(probs) {
      const others = probs.length !== this.probs.length;
      this.probs = probs;
      this.forget();
      // The sample on show stays, made from the same noise, and is the first that is counted.
      this.counts[choose(probs, this.noise)] += 1;
      this.draws = 1;
      if (others) this.layOut();
      this.draw();
    }

    /** A slider, and a column in every plot, for each class. */
    layOut() {
      const names = [...NAMES.slice(0, this.probs.length)];
      this.part("classes").innerHTML = names.map((name, k) => `
        <div class="class">
          <label for="p${k}">${name}</label>
          <input id="p${k}" type="range" min="0" max="1" step="0.01" aria-label="Probability of class ${name}">
          <span class="share" aria-hidden="true"></span>
        </div>`).join("");
      names.forEach((_, k) => this.on(`p${k}`, "input", (event) => {
        this.change(withProbability(this.probs, k, Number(event.target.value)));
      }));
      for (const plot of this.shadowRoot.querySelectorAll(".plot")) {
        const mark = ["mean", "frequencies"].includes(plot.parentElement.id) ? '<div class="mark"></div>' : "";
        plot.innerHTML = names.map((name) => `
          <div class="column"><div class="track"><div class="bar"></div>${mark}</div>
          ${name}<span class="value"></span></div>`).join("");
      }
      this.part("add").disabled = names.length >= MOST;
      this.part("remove").disabled = names.length <= FEWEST;
    }

    draw() {
      const { probs, noise, temperature } = this;
      const shown = temperature.toPrecision(2);
      this.part("shown").textContent = shown;
      this.part("temperature").setAttribute("aria-valuetext", shown);
      probs.forEach((p, k) => {
        const slider = this.part(`p${k}`);
        slider.value = p;
        slider.setAttribute("aria-valuetext", p.toFixed(2));
        slider.nextElementSibling.textContent = p.toFixed(2);
      });
      const draws = this.draws.toLocaleString("en");
      this.part("draws").textContent = `${draws} ${this.draws === 1 ? "draw" : "draws"}; lines: π`;
      // Read out by screen readers when it changes: at every draw, and not at every move of a slider.
      const status = `Draw ${draws} is class ${NAMES[choose(probs, noise)]}.`;
      if (this.part("status").textContent !== status) this.part("status").textContent = status;
      this.plot("relaxed", "Relaxed sample", relax(probs, noise, temperature));
      this.plot("hard", "Straight-through sample", oneHot(choose(probs, noise), probs.length));
      this.plot("mean", "Expectation", expectation(probs, this.meanNoise, temperature));
      this.plot("frequencies", "Frequencies", probs.map((_, k) => this.counts[k] / this.draws));
    }

    plot(id, what, values) {
      const plot = this.part(id).querySelector(".plot");
      [...plot.children].forEach((column, k) => {
        column.dataset.value = values[k];
        column.querySelector(".bar").style.height = `${100 * values[k]}%`;
        column.querySelector(".value").textContent = values[k].toFixed(2);
        const mark = column.querySelector(".mark");
        if (mark) mark.style.bottom = `${100 * this.probs[k]}%`;
      });
      plot.setAttribute("aria-label", `${what}: ${values.map((v, k) => `${NAMES[k]} ${v.toFixed(2)}`).join(", ")}`);
    }
  }

  // The script runs again when a reader comes back to the page without a reload.
  if (!customElements.get("gumbel-softmax-demo")) customElements.define("gumbel-softmax-demo", GumbelSoftmaxDemo);
})();
