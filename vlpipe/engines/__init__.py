"""From a plan to batches of tensors: mapped, graph and stream."""
