"""The index of TFRecord files that vlpipe did not write, made once and kept beside them."""

from vlpipe.foreign.build import build_index, choose_layout
from vlpipe.foreign.moments import kept_moments
from vlpipe.foreign.sources import files_of, is_foreign

__all__ = ["build_index", "choose_layout", "files_of", "is_foreign", "kept_moments"]
