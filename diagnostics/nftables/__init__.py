"""
Reads nftables rulesets, as ``nft -j`` and as ``nft list`` print them, into one model.

Statements have the shape of libnftables-JSON(5) wherever they were read from, constants are the
names that ``nft`` prints, and what is not understood is the statement ``{"opaque": text}``.
"""
