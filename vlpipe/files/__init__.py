"""Files and directories, local or at an address: opened, listed, framed as TFRecord, written complete or not at all."""
