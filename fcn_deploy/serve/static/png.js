// The class of each pixel, read from the mask's PNG itself.  A browser that decodes a PNG gives
// colours: two classes may have one colour, and browsers that guard against fingerprinting alter the
// pixels that a page reads back from a canvas.  The indices stand in the file; the browser's own
// DecompressionStream unpacks them.
const SIGNATURE = [0x89, 0x50, 0x4e, 0x47, 0x0d, 0x0a, 0x1a, 0x0a];

/**
 * Read a PNG of 8-bit palette indices, as the server packs them: one pass, rows without filters.
 * @param {ArrayBuffer} buffer the file
 * @returns {Promise<{width: number, height: number, indices: Uint8Array, palette: Uint8Array}>}
 */
export async function readIndexedPng(buffer) {
  const bytes = new Uint8Array(buffer);
  const view = new DataView(buffer);
  if (SIGNATURE.some((value, place) => bytes[place] !== value)) throw new Error("the mask is no PNG");
  let width = 0;
  let height = 0;
  let palette = new Uint8Array(0);
  const packed = [];
  for (let place = 8; place + 12 <= bytes.length;) {
    const length = view.getUint32(place);
    const kind = String.fromCharCode(...bytes.subarray(place + 4, place + 8));
    const content = bytes.subarray(place + 8, place + 8 + length);
    if (kind === "IHDR") {
      width = view.getUint32(place + 8);
      height = view.getUint32(place + 12);
      const [depth, colourType, , , interlaced] = content.subarray(8);
      if (depth !== 8 || colourType !== 3 || interlaced) throw new Error("the mask is no 8-bit palette PNG");
    } else if (kind === "PLTE") palette = content;
    else if (kind === "IDAT") packed.push(content);
    place += length + 12;
  }
  const unpacked = new Blob(packed).stream().pipeThrough(new DecompressionStream("deflate"));
  const rows = new Uint8Array(await new Response(unpacked).arrayBuffer());
  if (!width || rows.length !== (width + 1) * height) throw new Error("the mask's PNG is incomplete");
  const indices = new Uint8Array(width * height);
  for (let y = 0; y < height; y += 1) {
    const start = y * (width + 1); // each row begins with the number of its filter
    if (rows[start] !== 0) throw new Error("the mask's PNG has filtered rows");
    indices.set(rows.subarray(start + 1, start + 1 + width), y * width);
  }
  return { width, height, indices, palette };
}
