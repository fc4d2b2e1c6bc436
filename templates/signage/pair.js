// A screen that has no name yet shows a code; who types it at the desk gives it one.

import { openStore } from "./store.js";

const AGAIN_MS = 5_000;
const pause = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

/** Who this screen is, kept beside the documents of single screens: `{screen, token}`. */
export const openIdentity = () => openStore("signage");

/** Until somebody has paired this screen. Then it goes to its own page, with the options it was started with. */
export async function pair(base, show, words) {
  const identity = await openIdentity();
  let known = await identity.get("screen");
  while (!known) {
    try {
      known = await paired(base, show, words);
      if (known) await identity.put("screen", known);
    } catch (error) {
      console.warn(`no code: ${error.message}`);
      show.code("", `${words.ja.no_code}\n${words.en.no_code}`);
      await pause(AGAIN_MS);
    }
  }
  location.replace(`${base}/${encodeURIComponent(known.screen)}${location.search}`);
}

/** One code, for as long as it lasts. Null when it is over. */
async function paired(base, show, words) {
  const { code, claim, ask_s } = await posted(`${base}/pair`, {}, [201]);
  show.code(code, `${words.ja.pairing}\n${words.en.pairing}`);
  let wait = ask_s;
  for (;;) {
    await pause(wait * 1000);
    const answer = await posted(`${base}/pair/claim`, { claim }, [200, 202, 410]);
    if (answer.token) return { screen: answer.screen, token: answer.token };
    if (!answer.ask_s) return null;
    wait = answer.ask_s;
  }
}

async function posted(address, body, expected) {
  const answer = await fetch(address, {
    method: "POST",
    headers: { "content-type": "application/json" },
    body: JSON.stringify(body),
    signal: AbortSignal.timeout(10_000),
  });
  if (!expected.includes(answer.status)) throw new Error(`answered ${answer.status}`);
  return answer.status === 410 ? {} : answer.json();
}
