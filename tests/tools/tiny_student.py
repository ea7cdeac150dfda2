"""A student of six operators for the tests of `stylize`, and photos and clips to feed it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np


def tiny_model(path: Path, size: str = "64") -> Path:
    """A hand-made student: inverts what is bright. alpha = 1 where red is above 0; output = photo - 2 alpha photo."""
    import onnx

    helper = onnx.helper
    dims = [1, 3, "height", "width"]
    photo = helper.make_tensor_value_info("photo", onnx.TensorProto.FLOAT, dims)
    output = helper.make_tensor_value_info("output", onnx.TensorProto.FLOAT, dims)
    alpha = helper.make_tensor_value_info("alpha", onnx.TensorProto.FLOAT, [1, 1, "height", "width"])

    def constant(name: str, values: list[float], kind: int = onnx.TensorProto.FLOAT) -> onnx.TensorProto:
        return helper.make_tensor(name, kind, [len(values)], values)

    nodes = [
        helper.make_node("Slice", ["photo", "first", "second", "axis"], ["red"]),
        helper.make_node("Greater", ["red", "zero"], ["bright"]),
        helper.make_node("Cast", ["bright"], ["alpha"], to=onnx.TensorProto.FLOAT),
        helper.make_node("Mul", ["photo", "gain"], ["change"]),
        helper.make_node("Mul", ["change", "alpha"], ["painted"]),
        helper.make_node("Add", ["photo", "painted"], ["output"]),
    ]
    whole = onnx.TensorProto.INT64
    constants = [constant("zero", [0.0]), constant("gain", [-2.0])]
    constants += [constant("first", [0], whole), constant("second", [1], whole), constant("axis", [1], whole)]
    graph = helper.make_graph(nodes, "tiny", [photo], [output, alpha], constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    helper.set_model_props(model, {"tristyle.size": size})
    onnx.checker.check_model(model)
    onnx.save(model, path)
    return path


def half_bright(height: int, width: int) -> np.ndarray:
    """Left half bright (to be painted), right half dark with fine grain (to be left alone)."""
    image = np.random.default_rng(0).integers(0, 100, (height, width, 3), dtype=np.uint8)
    image[:, : width // 2] = 230
    return image


def write_clip(path: Path, frames: list[np.ndarray], rate: int = 10, sound: str | None = "aac") -> Path:
    """A video of uint8 [H, W, 3] frames with a tone; what a phone would say of the place is in it."""
    import av

    with av.open(str(path), "w") as clip:
        clip.metadata["location"] = "+48.8577+002.2950/"
        clip.metadata["title"] = "made at home"
        pictures: Any = clip.add_stream("libx264" if "libx264" in av.codecs_available else "mpeg4", rate=rate)
        pictures.height, pictures.width = frames[0].shape[:2]
        pictures.pix_fmt, pictures.options = "yuv420p", {"crf": "10"}
        tone: Any = clip.add_stream(sound, rate=48000) if sound else None
        if tone:
            tone.layout = "stereo"
        heard = 0
        for number, frame in enumerate(frames):
            clip.mux(pictures.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
            while tone and heard < 48000 * (number + 1) / rate:
                wave = (0.3 * np.sin(2 * np.pi * 440 * np.arange(heard, heard + 1024) / 48000)).astype(np.float32)
                piece = av.AudioFrame.from_ndarray(np.stack([wave, wave]), format="fltp", layout="stereo")
                piece.rate, piece.pts = 48000, heard
                heard += 1024
                clip.mux(tone.encode(piece))
        for stream in filter(None, (pictures, tone)):
            clip.mux(stream.encode(None))
    return path
