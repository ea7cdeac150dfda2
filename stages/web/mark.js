/* A PNG that says it is synthetic, in the words that `stylize` writes and `stylize verify` reads. */

const SOURCE_TYPE = 'http://cv.iptc.org/newscodes/digitalsourcetype/trainedAlgorithmicMedia';

/** canvas -> Blob: PNG with XMP after its header. digest: SHA-256 of the model's file, hex. */
export async function markedPng(canvas, digest) {
  const blob = await new Promise((resolve) => canvas.toBlob(resolve, 'image/png'));
  const header = 8 + 25; // signature and IHDR
  const text = `XML:com.adobe.xmp\0\0\0\0\0${xmp(digest)}`; // uncompressed, no language, no translated keyword
  return new Blob([blob.slice(0, header), chunk('iTXt', new TextEncoder().encode(text)), blob.slice(header)], {
    type: 'image/png',
  });
}

function xmp(digest) {
  return `<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?>
<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">
<rdf:Description rdf:about="" xmlns:Iptc4xmpExt="http://iptc.org/std/Iptc4xmpExt/2008-02-29/"
 Iptc4xmpExt:DigitalSourceType="${SOURCE_TYPE}"
 Iptc4xmpExt:AISystemUsed="tristyle"
 Iptc4xmpExt:AISystemVersionUsed="sha256:${digest}"/></rdf:RDF></x:xmpmeta>
<?xpacket end="w"?>`;
}

/** Length, type, data, CRC-32 of type and data (PNG specification 5.3). */
function chunk(type, data) {
  const bytes = new Uint8Array(12 + data.length);
  const view = new DataView(bytes.buffer);
  view.setUint32(0, data.length);
  bytes.set(new TextEncoder().encode(type), 4);
  bytes.set(data, 8);
  view.setUint32(8 + data.length, crc32(bytes.subarray(4, 8 + data.length)));
  return bytes;
}

function crc32(bytes) {
  let crc = ~0;
  for (const byte of bytes) {
    crc ^= byte;
    for (let bit = 0; bit < 8; bit++) crc = (crc >>> 1) ^ (crc & 1 ? 0xedb88320 : 0);
  }
  return ~crc >>> 0;
}
