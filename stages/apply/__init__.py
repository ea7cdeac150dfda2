"""`stylize`: pictures, folders and videos through an exported student. Needs onnxruntime, not torch (README.md)."""

from stages.apply.cli import arguments, main, parser_for
from stages.apply.model import model_path, open_model, run_padded
from stages.apply.picture import stylize
from stages.core.mark import write_marked

__all__ = ["arguments", "main", "model_path", "open_model", "parser_for", "run_padded", "stylize", "write_marked"]
