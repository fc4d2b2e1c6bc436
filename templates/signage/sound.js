// An emergency that is heard, on screens that have sound (?sound=1): a chime, then the words, twice.
//
// A drill says 訓練 first and has no chime. The browser has to be started so that it may sound: docs/signage-feed.md.

const NOTES_HZ = [659.25, 523.25, 587.33, 392]; // as in public buildings, and not like an alarm
const NOTE_S = 0.55;

export class Sound {
  #words;
  #mode;
  #said = null;

  constructor(words, mode) {
    this.#words = words;
    this.#mode = mode;
  }

  /** Once for each takeover. */
  async announce(takeover, alert) {
    if (this.#said === takeover.id) return;
    this.#said = takeover.id;
    speechSynthesis.cancel();
    if (this.#mode !== "drill") await chime();
    for (const { lang, text } of this.#spoken(alert)) {
      const said = new SpeechSynthesisUtterance(text);
      said.lang = lang;
      speechSynthesis.speak(said);
    }
  }

  /** The emergency is over or was replaced: nobody hears the rest of it. */
  stop() {
    if (this.#said === null) return;
    this.#said = null;
    speechSynthesis.cancel();
  }

  #spoken(alert) {
    const said = [
      { language: "ja", lang: "ja-JP" },
      { language: "en", lang: "en-US" },
    ];
    return said.flatMap(({ language, lang }) => {
      const told = alert.languages.find((each) => each.language === language);
      if (!told) return [];
      const words = this.#words[language];
      const opening = this.#opening(words, alert);
      const text = told.lines.map((line) => line.replace(/^【訓練】/u, "")).join(language === "ja" ? "。" : ". ");
      return [{ lang, text: `${opening} ${text}。 ${words.say_again} ${opening} ${text}。 ${words.say_end}` }];
    });
  }

  /** 緊急放送 opens the ward's own orders only, which are those that have a level. */
  #opening(words, alert) {
    if (this.#mode === "drill") return words.say_drill;
    return alert.level === null ? "" : words.say_alert;
  }
}

async function chime() {
  const context = new AudioContext();
  const begin = context.currentTime;
  NOTES_HZ.forEach((hertz, place) => {
    const [tone, loudness, at] = [context.createOscillator(), context.createGain(), begin + place * NOTE_S];
    tone.frequency.value = hertz;
    loudness.gain.setValueAtTime(0, at);
    loudness.gain.linearRampToValueAtTime(0.5, at + 0.02);
    loudness.gain.exponentialRampToValueAtTime(0.001, at + NOTE_S * 1.6);
    tone.connect(loudness).connect(context.destination);
    tone.start(at);
    tone.stop(at + NOTE_S * 1.6);
  });
  await new Promise((resolve) => setTimeout(resolve, (NOTES_HZ.length + 1) * NOTE_S * 1000));
  await context.close();
}
