"""The index of TFRecord files that vlpipe did not write, made once and kept beside them."""
