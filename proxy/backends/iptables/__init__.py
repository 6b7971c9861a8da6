"""The iptables data plane: kube-proxy's chains, written service by service."""
