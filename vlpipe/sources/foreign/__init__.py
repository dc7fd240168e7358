"""The index of third-party TFRecord files, computed once and cached beside them."""
