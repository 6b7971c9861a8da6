"""Which addresses of a Service's slices this node uses, and why the others are not."""
