// The pictures of the notices: fetched, verified by their SHA-256, kept for the time without network. One is shown whole or
// not at all.

const FIRST_PAUSE_MS = 30_000;
const LONGEST_PAUSE_MS = 600_000;
const PATIENCE_MS = 30_000;

export class Pictures {
  #cacheName;
  #clock;
  #shown = new Map(); // digest → address of the verified picture in this page
  #failed = new Map(); // digest → when to try again, and the pause after that

  constructor(cacheName, clock) {
    this.#cacheName = cacheName;
    this.#clock = clock;
  }

  /** The address of a picture that was verified, or null. */
  of(image) {
    return (image && this.#shown.get(image.digest)) ?? null;
  }

  /** Takes what this document needs and lets go of the rest. Gives whether anything came. */
  async take(document) {
    const wanted = new Map(document.items.filter((item) => item.image).map((item) => [item.image.digest, item.image]));
    await this.#keepOnly(wanted);
    const missing = [...wanted.values()].filter((image) => !this.#shown.has(image.digest) && this.#mayTry(image.digest));
    const came = await Promise.all(missing.map((image) => this.#takeOne(image)));
    return came.some(Boolean);
  }

  async #takeOne(image) {
    try {
      const cache = await caches.open(this.#cacheName);
      const kept = await cache.match(`/${image.digest}`);
      const blob = kept ? await kept.blob() : await fetched(image);
      await verify(blob, image.digest);
      const address = await decoded(blob);
      if (!kept) await cache.put(`/${image.digest}`, new Response(blob));
      this.#shown.set(image.digest, address);
      this.#failed.delete(image.digest);
      return true;
    } catch (error) {
      console.warn(`picture ${image.digest.slice(0, 12)} is not shown: ${error.message}`);
      this.#putOff(image.digest);
      return false;
    }
  }

  #mayTry(digest) {
    return this.#clock.now() >= (this.#failed.get(digest)?.again ?? 0);
  }

  #putOff(digest) {
    const pause = this.#failed.get(digest)?.pause ?? FIRST_PAUSE_MS;
    this.#failed.set(digest, { again: this.#clock.now() + pause, pause: Math.min(pause * 2, LONGEST_PAUSE_MS) });
  }

  async #keepOnly(wanted) {
    for (const [digest, address] of this.#shown) {
      if (wanted.has(digest)) continue;
      URL.revokeObjectURL(address);
      this.#shown.delete(digest);
    }
    const cache = await caches.open(this.#cacheName);
    for (const request of await cache.keys()) {
      if (!wanted.has(new URL(request.url).pathname.slice(1))) await cache.delete(request);
    }
  }
}

/** From the host that served the document, whatever the address names: it is the hash that says whether it is right. */
async function fetched(image) {
  const path = new URL(image.url, location.href).pathname;
  const answer = await fetch(path, { cache: "no-store", signal: AbortSignal.timeout(PATIENCE_MS) });
  if (!answer.ok) throw new Error(`answered ${answer.status}`);
  return answer.blob();
}

async function verify(blob, digest) {
  const found = new Uint8Array(await crypto.subtle.digest("SHA-256", await blob.arrayBuffer()));
  const hex = Array.from(found, (byte) => byte.toString(16).padStart(2, "0")).join("");
  if (hex !== digest) throw new Error("its SHA-256 is another");
}

async function decoded(blob) {
  const address = URL.createObjectURL(blob);
  const image = new Image();
  image.src = address;
  try {
    await image.decode();
  } catch (error) {
    URL.revokeObjectURL(address);
    throw error;
  }
  return address;
}
