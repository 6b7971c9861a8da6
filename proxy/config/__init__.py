"""KubeProxyConfiguration v1alpha1: types, defaults, flags, decoding, validation."""
