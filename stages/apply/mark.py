"""The mark that says a picture is synthetic: IPTC's DigitalSourceType in XMP."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from stages.config import TristyleError

if TYPE_CHECKING:
    import numpy as np

SOURCE_TYPE = "http://cv.iptc.org/newscodes/digitalsourcetype/trainedAlgorithmicMedia"
XMP = f"""<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?>
<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">
<rdf:Description rdf:about="" xmlns:Iptc4xmpExt="http://iptc.org/std/Iptc4xmpExt/2008-02-29/"
 Iptc4xmpExt:DigitalSourceType="{SOURCE_TYPE}"/></rdf:RDF></x:xmpmeta>
<?xpacket end="w"?>"""


def write_marked(path: Path, image: np.ndarray) -> None:
    """Write uint8 [H, W, 3] as PNG, JPEG or WebP with XMP metadata that says it is synthetic (IPTC DigitalSourceType).

    Raises:
        TristyleError: the place cannot be written.
    """
    import io

    from PIL import Image
    from PIL.PngImagePlugin import PngInfo

    from stages.io import write_bytes

    picture, buffer = Image.fromarray(image), io.BytesIO()
    suffix = path.suffix.lower()
    if suffix == ".png":
        marks = PngInfo()
        marks.add_itxt("XML:com.adobe.xmp", XMP)
        marks.add_text("DigitalSourceType", SOURCE_TYPE)
        picture.save(buffer, "PNG", pnginfo=marks)
    elif suffix == ".webp":
        picture.save(buffer, "WEBP", quality=95, xmp=XMP.encode())
    else:
        picture.save(buffer, "JPEG", quality=95, xmp=XMP.encode())
    try:
        write_bytes(path, buffer.getvalue())
    except OSError as error:
        raise TristyleError(f"{path}: cannot be written ({error.strerror}). Choose another place for -o.") from None
