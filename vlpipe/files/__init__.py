"""Files and directories, local or at an address: open and list them, read TFRecord, write directories complete or not at all."""
