"""The IPVS data plane: virtual servers, ipsets and the few iptables rules around them."""
