"""A typed language of nftables rules with two renderers: netlink and nft text."""
