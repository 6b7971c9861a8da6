"""Where cluster state comes from: the Kubernetes API or manifest files."""
