// What a screen shows at an instant, and what comes after it. Pure: a document and a time in, a section out.
//
// A section is one notice or one alert in one language. Everything is told in its first language each time round, and
// after that in one of its others, another one each time: whoever reads Japanese never waits for six languages.

/** 'takeover', 'items' or 'empty'; 'waiting' without a document. */
export function kindAt(document, now) {
  if (!document) return "waiting";
  if (alertsAt(document, now).length > 0) return "takeover";
  return itemsAt(document, now).length > 0 ? "items" : "empty";
}

/** The alerts that stand above everything else, gravest first. */
export function alertsAt({ takeover }, now) {
  if (takeover === null || Date.parse(takeover.expires) <= now) return [];
  return takeover.alerts.filter((alert) => isOn(alert.start, alert.expires, now));
}

/** The notices, in their order. */
export function itemsAt({ items }, now) {
  return items.filter((item) => isOn(item.start, item.end, now));
}

/** The section after this one, or the first; null when there is nothing to tell. */
export function next(document, now, last = null) {
  const kind = kindAt(document, now);
  if (kind !== "takeover" && kind !== "items") return null;
  const things = kind === "takeover" ? alertsAt(document, now) : itemsAt(document, now);
  const group = kind === "takeover" ? document.takeover.id : "";
  if (last === null || last.kind !== kind || last.group !== group) return sections(kind, group, things, 0)[0];
  const round = sections(kind, group, things, last.round);
  const place = round.findIndex((section) => isSame(section, last));
  const following = place >= 0 ? place + 1 : last.place; // whatever stood there is gone: its successor moved up
  return round[following] ?? sections(kind, group, things, last.round + 1)[0];
}

/** What takes the place of a section that may not stay: the same in its new words, or what comes after it. */
export function instead(section, document, now) {
  const first = next(document, now);
  if (first === null || first.kind !== section.kind || first.group !== section.group) return first;
  const things = section.kind === "takeover" ? alertsAt(document, now) : itemsAt(document, now);
  const same = sections(section.kind, section.group, things, section.round).find((each) => isSame(each, section));
  return same ?? next(document, now, section);
}

/** A notice that came with this document: it is told at once, and the round goes on from there. */
export function fresh(document, previous, now) {
  if (kindAt(document, now) !== "items") return null;
  const known = new Set(previous?.items.map((item) => item.id));
  return sections("items", "", itemsAt(document, now), 0).find((section) => !known.has(section.thing.id)) ?? null;
}

/** Whether this section may stay on the glass: it is still told, in the same words, and nothing stands above it. */
export function stays(section, document, now) {
  if (!document || section.kind !== kindAt(document, now)) return false;
  const things = section.kind === "takeover" ? alertsAt(document, now) : itemsAt(document, now);
  const group = section.kind === "takeover" ? document.takeover.id : "";
  const thing = things.find((each) => each.id === section.thing.id);
  return group === section.group && thing !== undefined && JSON.stringify(thing) === JSON.stringify(section.thing);
}

function sections(kind, group, things, round) {
  return things
    .flatMap((thing, number) => {
      const [first, ...others] = thing.languages;
      const told = others.length > 0 ? [first, others[round % others.length]] : [first];
      return told.map((each) => ({ kind, group, round, thing, told: each, isFirst: each === first, number: number + 1, of: things.length }));
    })
    .map((section, place) => ({ ...section, place }));
}

const isSame = (one, other) => one.thing.id === other.thing.id && one.told.language === other.told.language;
const isOn = (start, end, now) => Date.parse(start) <= now && now < Date.parse(end);
