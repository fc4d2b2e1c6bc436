// A link as a QR code: black on white with its quiet zone, drawn as one path. The link comes from the document alone.

import { correction, generate, mode } from "./lean-qr.js";

const QUIET = 4; // modules, ISO/IEC 18004
const SVG = "http://www.w3.org/2000/svg";

export function qrOf(link) {
  const text = new URL(link).href; // nothing but ASCII
  const code = generate(text, { modes: [mode.ascii], minCorrectionLevel: correction.M, maxCorrectionLevel: correction.M });
  const dots = [];
  for (let y = 0; y < code.size; y += 1) {
    for (let x = 0; x < code.size; x += 1) {
      if (code.get(x, y)) dots.push(`M${x + QUIET} ${y + QUIET}h1v1h-1z`);
    }
  }
  const drawing = document.createElementNS(SVG, "svg");
  const path = document.createElementNS(SVG, "path");
  const size = code.size + 2 * QUIET;
  drawing.setAttribute("viewBox", `0 0 ${size} ${size}`);
  drawing.setAttribute("shape-rendering", "crispEdges");
  drawing.setAttribute("role", "img");
  drawing.setAttribute("aria-label", link);
  path.setAttribute("d", dots.join(""));
  drawing.append(path);
  return drawing;
}
